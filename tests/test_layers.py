"""Several layers of an extractor in one pass: folds, references, scores, the command line."""

import json
import sys
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import console
import numpy as np
import pytest
import torch
from torch import Tensor

from bench import features, judge, metrics
from bench.features import Features, InceptionV3Compat, fold, fold_layers, load_reference
from bench.judge import Judge
from bench.types import Extractor

CALLS: list[tuple[str, ...]] = []  # layers asked of `Layered`, a call each


@dataclass(frozen=True)
class Layered(Extractor):
    """An extractor without a network that has the layers of the Inception."""

    name = "layered"
    digest = "1"
    layers: ClassVar[tuple[str, ...]] = ("features", "spatial", "logits_unbiased")

    def __call__(self, images: Tensor) -> Tensor:
        return self.of_layers(images, ("features",))["features"]

    def of_layers(self, images: Tensor, wanted: Collection[str]) -> dict[str, Tensor]:
        CALLS.append(tuple(wanted))
        rows = images[:, 0].flatten(1).float() / 255
        parts = {"features": rows[:, :5], "spatial": rows[:, 5:12], "logits_unbiased": rows[:, 12:]}
        return {layer: parts[layer] for layer in wanted}


def pictures(n: int, seed: int, side: int = 4) -> Tensor:
    return torch.randint(
        0, 256, (n, 3, side, side), generator=torch.Generator().manual_seed(seed)
    ).byte()


def adm_file(path: Path, images: Tensor, extractor: Any, **change: Any) -> str:
    """A reference with the arrays of ADM's."""
    whole = fold_layers(extractor, images.split(50), {"features": 0, "spatial": 0})
    arrays = {
        "mu": whole["features"].mean, "sigma": whole["features"].cov,
        "mu_s": whole["spatial"].mean, "sigma_s": whole["spatial"].cov,
        "arr_0": images.permute(0, 2, 3, 1),
    }  # fmt: skip
    held = {key: np.asarray(value) for key, value in (arrays | change).items() if value is not None}
    np.savez(path, allow_pickle=False, **held)
    return str(path)


def crs(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    return console.crs(monkeypatch, *arguments, "--device", "cpu")


# ---------------------------------------------------------------- folds


def test_layers_fold_in_one_pass_to_their_own_features() -> None:
    images = pictures(50, 0)
    CALLS.clear()
    found = fold_layers(Layered(), images.split(13), {"spatial": 0, "features": 20, **LOGITS})
    assert len(CALLS) == 4 and set(CALLS[0]) == {"spatial", "features", "logits_unbiased"}
    for layer, keep in (("features", 20), ("spatial", 0), ("logits_unbiased", 50)):
        alone = Features.of(Layered().of_layers(images, [layer])[layer], keep)
        assert torch.equal(found[layer].bank, alone.bank)
        torch.testing.assert_close(found[layer].cov, alone.cov, rtol=1e-12, atol=1e-14)
    assert torch.equal(fold(Layered(), images.split(13), 20).sum, found["features"].sum)


LOGITS = {"logits_unbiased": 10**9}


def test_a_layer_that_is_not_there_is_named() -> None:
    images = pictures(4, 0)
    with pytest.raises(ValueError, match="flatten has no layer 'spatial', only features"):
        fold_layers(features.Flatten(), [images], {"spatial": 0})
    with pytest.raises(ValueError, match="layered has no layer 'logits', only features, spatial"):
        fold_layers(Layered(), [images], {"features": 0, "logits": 0})
    assert features.Flatten().layers == features.EffNetLite0.layers == ("features",)


def test_metrics_are_refused_where_the_extractor_has_not_their_layer() -> None:
    says = "sfid reads the layer 'spatial', which flatten does not have; .*: InceptionV3Compat$"
    with pytest.raises(ValueError, match=says):
        judge.metrics_of(["fd", "sfid"], features.Flatten())
    with pytest.raises(ValueError, match="is reads the layer 'logits', .*: InceptionV3Compat$"):
        judge.metrics_of(["is(layer='logits')"], Layered())
    with pytest.raises(ValueError, match="'odd', which layered does not have; .* none$"):
        judge.metrics_of(["is(layer='odd')"], Layered())
    with pytest.raises(ValueError, match="metric kid is asked for twice"):
        judge.metrics_of(["KID()", "kid"], Layered())
    both = Judge(Layered(), judge.metrics_of(["KID(10)", "kid", "Recall(k=5)"], Layered()))
    assert [*both.columns] == ["kid(subsets=10)", "kid", "recall"]
    made = Judge(Layered(), judge.metrics_of(["fd", "is", "sfid", "recall"], Layered()), 7)
    assert made.layers == {"features": 7, "spatial": 0, "logits_unbiased": sys.maxsize}


def test_a_reference_is_read_for_the_layers_that_need_it(tmp_path: Path) -> None:
    real = adm_file(tmp_path / "real.npz", pictures(40, 0), Layered())
    mine = f"{__name__}:Layered"
    assert Judge.open(real, mine, ["fd", "is", "sfid"], "cpu").real.keys() == {
        "features", "spatial",
    }  # IS reads no reference  # fmt: skip
    assert not Judge.open("nowhere.npz", mine, ["is"], "cpu").real


# ---------------------------------------------------------------- references


def test_adm_references_hold_the_spatial_layer(tmp_path: Path) -> None:
    real, fake = pictures(200, 0), pictures(150, 1)
    path = adm_file(tmp_path / "adm.npz", real, Layered())
    read = load_reference(path, Layered(), layers=("spatial",))
    plain = load_reference(path, Layered())
    assert (read.digest, list(plain.layers)) == (plain.digest, [])
    assert torch.equal(read.mean, plain.mean) and torch.equal(read.bank, plain.bank)
    made = fold_layers(Layered(), fake.split(60), {"spatial": 0})["spatial"]
    rows = [Layered().of_layers(images, ["spatial"])["spatial"].double() for images in (fake, real)]
    (mu1, cov1), (mu2, cov2) = ((x.mean(0), torch.cov(x.T)) for x in rows)
    expected = metrics.frechet_distance(mu1, cov1, mu2, cov2)
    found = metrics.SFID()(fake=made, real=read.by_layer["spatial"]).value
    assert found == pytest.approx(expected, rel=1e-9) and found > 1e-3


def test_references_made_here_hold_layers_as_an_option(tmp_path: Path) -> None:
    made = fold_layers(Layered(), [pictures(60, 0)], {"features": 30, "spatial": 0})
    who = {"extractor": "layered", "extractor_digest": "1"}
    bare = features.save_reference(tmp_path / "bare.npz", made["features"], who)
    full = features.save_reference(tmp_path / "full.npz", made["features"], who, layers=made)
    with np.load(bare) as file:
        assert file.files == ["n", "mean", "cov_upper", "provenance", "bank"]
    read = load_reference(full, Layered(), layers=("spatial",))
    torch.testing.assert_close(read.layers["spatial"].cov, made["spatial"].cov)
    assert (read.layers["spatial"].n, read.layers["spatial"].bank.shape) == (60, (0, 7))
    assert torch.equal(load_reference(bare, Layered()).cov, read.cov)
    with pytest.raises(ValueError, match="has no statistics of spatial; .* --layers spatial"):
        load_reference(bare, Layered(), layers=("spatial",))


def test_references_without_the_layer_are_refused(tmp_path: Path) -> None:
    images, nothing = pictures(40, 0), {"mu_s": None, "sigma_s": None}
    whole = {"mu": None, "sigma": None} | nothing
    half = adm_file(tmp_path / "half.npz", images, Layered(), **nothing)
    # the 10k images of such a file are not the whole set that mu is of
    with pytest.raises(ValueError, match=r"no statistics of spatial \(mu_s, sigma_s\)"):
        load_reference(half, Layered(), layers=("spatial",))
    bare = adm_file(tmp_path / "bare.npz", images, Layered(), **whole)
    assert load_reference(bare, Layered(), layers=("spatial",)).layers["spatial"].n == 40
    odd = adm_file(tmp_path / "odd.npz", images, Layered(), mu_s=np.zeros(3))
    with pytest.raises(ValueError, match=r"mean \[3\] .* gives 7 spatial"):
        load_reference(odd, Layered(), layers=("spatial",))
    with pytest.raises(ValueError, match="flatten has no layer 'spatial'"):
        load_reference(bare, features.Flatten(), layers=("spatial",))


# ---------------------------------------------------------------- scores


def test_all_scores_of_an_inception_in_one_pass(
    inception_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    extractor = InceptionV3Compat(str(inception_file))
    real = adm_file(tmp_path / "real.npz", pictures(12, 0, 16), extractor)
    fake = pictures(20, 1, 16)
    np.savez(tmp_path / "fake.npz", arr_0=fake.permute(0, 2, 3, 1).numpy())
    how = ["--features", f"inception-v3-compat({str(inception_file)!r})", "--json"]
    wanted = "fd,is,sfid,recall,KID(5, 10)"
    assert (
        crs(monkeypatch, "score", str(tmp_path / "fake.npz"), real, "--metrics", wanted, *how) == 0
    )
    said = json.loads(capsys.readouterr().out)
    found = fold_layers(extractor, [fake], {"features": 20, "spatial": 0, "logits_unbiased": 20})
    known = load_reference(real, extractor, layers=("spatial",)).by_layer
    logits = found["logits_unbiased"]
    score = metrics.InceptionScore()(fake=logits, real=logits)
    assert (said["is"], said["error"]["is"]) == (score.value, score.error)
    pair = {"fake": found["spatial"], "real": known["spatial"]}
    assert said["sfid"] == pytest.approx(metrics.SFID()(**pair).value, rel=1e-9)
    assert said["sfid"] != pytest.approx(said["fd"], rel=0.01)
    assert {"fd", "is", "sfid", "recall", "kid"} < said.keys() and "kid" in said["error"]


def test_is_alone_opens_no_reference() -> None:
    found = judge.score(
        pictures(30, 0), reference="nowhere.npz", features=f"{__name__}:Layered", metrics=["is"]
    )
    assert list(found) == ["is"] and found["is"] > 1


def test_a_missing_layer_stops_a_score_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    np.savez(tmp_path / "x.npz", arr_0=np.zeros((9, 4, 4, 3), np.uint8))
    how = [str(tmp_path / "x.npz"), "--features", "flatten", "--metrics"]
    assert crs(monkeypatch, "score", *how, "fd,sfid") == 2
    error = capsys.readouterr().err
    assert "extractors that do: InceptionV3Compat" in error and error.count("\n") == 1


def test_a_reference_of_layers_from_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    np.savez(tmp_path / "x.npz", arr_0=pictures(60, 0).permute(0, 2, 3, 1).numpy())
    out = str(tmp_path / "made.npz")
    how = ["--images", str(tmp_path / "x.npz"), "--features", f"{__name__}:Layered"]
    assert crs(monkeypatch, "reference", out, "--layers", "logits", *how) == 2
    assert "has no layer 'logits'" in capsys.readouterr().err and not Path(out).exists()
    assert crs(monkeypatch, "reference", out, "--layers", "spatial", "--bank", "50", *how) == 0
    found = judge.score(pictures(60, 0), out, f"{__name__}:Layered", ["fd", "sfid", "recall"])
    assert found["fd"] == pytest.approx(0, abs=1e-9) == found["sfid"] and found["recall"] == 1
