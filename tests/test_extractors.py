"""Extractors of other tools: their features, their scores, and what is said without weights.

No weights are fetched: random ones are written in each library's own format, and the libraries
read the same file. The real inceptions differ in their numbers alone.
"""

import hashlib
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch_fidelity.feature_extractor_base import FeatureExtractorBase

from bench import cli, data, features, judge, metrics
from bench.features import (
    VGG16,
    Clean,
    Features,
    InceptionV3Compat,
    fidelity,
    known,
)

WARNINGS = pytest.mark.filterwarnings("ignore")  # of the libraries


def pictures(n: int, channels: int, size: int, seed: int = 0) -> Tensor:
    """Images with structure at all scales, uint8 [n, channels, size, size]."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(n, channels, 5, 5, generator=generator) * 200
    smooth = nn.functional.interpolate(coarse, (size, size), mode="bilinear")
    return (smooth + 55 * torch.rand(smooth.shape, generator=generator)).byte()


def folder_of(images: Tensor, folder: Path) -> Path:
    folder.mkdir()
    for i, image in enumerate(images.permute(0, 2, 3, 1).numpy()):
        Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image).save(
            folder / f"{i:04d}.png"
        )
    return folder


class _Layers(nn.Module):
    """Stands for the inception's layers: float [n, 3, 299, 299] -> [n, 2048]."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 128, 7, stride=8)

    def forward(self, x: Tensor) -> Tensor:
        return torch.nn.functional.adaptive_avg_pool2d(self.conv(x).relu(), 4).flatten(1)


class _Whole(nn.Module):
    """Has `layers`, which is all that clean-fid asks of NVIDIA's file."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = _Layers()

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


@pytest.fixture(scope="module")
def clean_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A TorchScript file with the interface of NVIDIA's; a small network, not an inception."""
    path = tmp_path_factory.mktemp("clean") / "inception-2015-12-05.pt"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        torch.jit.script(_Whole()).save(str(path))
    return path


@pytest.fixture(autouse=True)
def nothing_published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No published weights on this machine: -> the checkpoints folder of torch.hub's cache."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    monkeypatch.setattr(Clean, "published", replace(Clean.published, folders=()))
    return tmp_path / "hub" / "checkpoints"


# ---------------------------------------------------------------- agreement


@pytest.mark.slow
@WARNINGS
def test_inception_scores_equal_torch_fidelity(inception_file: Path, tmp_path: Path) -> None:
    """One call of each. N < D: torch-fidelity's square root of a singular product is 1e-5 off."""
    import torch_fidelity
    from torch_fidelity import metric_kid

    real_images = pictures(24, 3, 32, 2)
    real_images[:10] //= 2  # of another law, for KID is 0 in float32 on one
    images = pictures(20, 3, 32, 1), real_images
    folders = [folder_of(one, tmp_path / str(i)) for i, one in enumerate(images)]
    theirs = torch_fidelity.calculate_metrics(
        input1=str(folders[0]), input2=str(folders[1]), cuda=False, batch_size=16, cache=False,
        isc=True, isc_splits=3, fid=True, kid=True, kid_subsets=10, kid_subset_size=15, prc=True,
        feature_extractor="inception-v3-compat", feature_extractor_weights_path=inception_file,
        verbose=False,
    )  # fmt: skip
    extractor = InceptionV3Compat(str(inception_file))
    rows = {"features": 100, "logits_unbiased": 100}
    fake, real = (
        features.fold_layers(extractor, data.read_images(folder).split(7), rows)
        for folder in folders
    )
    pair = {"fake": fake["features"], "real": real["features"]}
    fd, kid = metrics.FrechetDistance()(**pair).value, metrics.KID(10, 15)(**pair).value
    assert fd == pytest.approx(theirs["frechet_inception_distance"], rel=1e-4)
    assert fd > 1e-3 * float(pair["real"].cov.trace())  # it compares more than rounding
    # theirs computes the kernel, which is about 1, in float32, unless the features are float64
    assert kid == pytest.approx(theirs["kernel_inception_distance_mean"], abs=3e-7) and kid > 1e-3
    again = metric_kid.kid_features_to_metric(
        pair["fake"].bank.double(), pair["real"].bank.double(), kid_subsets=10, kid_subset_size=15,
        verbose=False,
    )  # fmt: skip
    assert kid == pytest.approx(again["kernel_inception_distance_mean"], rel=1e-9)
    # theirs are float32 means: the same to the last sample
    assert metrics.Precision()(**pair).value * 20 == round(theirs["precision"] * 20, 4)
    assert metrics.Recall()(**pair).value * 24 == round(theirs["recall"] * 24, 4)
    logits = {"fake": fake["logits_unbiased"], "real": real["logits_unbiased"]}
    found = metrics.InceptionScore(3)(**logits)
    want = theirs["inception_score_mean"]
    assert found.value == pytest.approx(want, rel=1e-6) and found.value > 1.1
    # of three near equal numbers, which makes rounding of the features several times larger
    want = theirs["inception_score_std"]
    assert found.error == pytest.approx(want, rel=1e-5) and want > 1e-3


class _Pixels(FeatureExtractorBase):
    """Features of torch-fidelity's that cost nothing: 27 pixels of the middle, as float64."""

    def __init__(self, name: str, features_list: list[str], **_: object) -> None:
        super().__init__(name, features_list)

    @staticmethod
    def get_provided_features_list() -> tuple[str, ...]:
        return ("27",)

    @staticmethod
    def get_default_feature_layer_for_metric(metric: str) -> str:
        return "27"

    @staticmethod
    def can_be_compiled() -> bool:
        return False

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return (images[:, :, 3:6, 3:6].flatten(1).double() / 255,)


def test_scores_equal_torch_fidelitys_where_images_outnumber_dimensions(tmp_path: Path) -> None:
    import torch_fidelity

    torch_fidelity.register_feature_extractor("pixels", _Pixels)
    images = pictures(300, 3, 8, 1), pictures(280, 3, 8, 2) // 2
    folders = [str(folder_of(one, tmp_path / str(i))) for i, one in enumerate(images)]
    theirs = torch_fidelity.calculate_metrics(
        input1=folders[0], input2=folders[1], cuda=False, cache=False, fid=True, kid=True,
        kid_subsets=10, kid_subset_size=100, prc=True, feature_extractor="pixels", verbose=False,
    )  # fmt: skip
    fake, real = (Features.of(one[:, :, 3:6, 3:6].flatten(1).double() / 255, 300) for one in images)
    pair = {"fake": fake, "real": real}
    want = theirs["frechet_inception_distance"]
    assert metrics.FrechetDistance()(**pair).value == pytest.approx(want, rel=1e-6) and want > 0.1
    want = theirs["kernel_inception_distance_mean"]
    assert metrics.KID(10, 100)(**pair).value == pytest.approx(want, rel=1e-6) and want > 1e-2
    precision, recall = metrics.Precision()(**pair).value, metrics.Recall()(**pair).value
    assert precision * 300 == pytest.approx(theirs["precision"] * 300, abs=1e-3)
    assert recall * 280 == pytest.approx(theirs["recall"] * 280, abs=1e-3)


def test_layers_of_one_pass_are_torch_fidelitys_and_adms(inception_file: Path) -> None:
    from torch_fidelity.utils import create_feature_extractor

    names = ["2048", "logits_unbiased", "logits"]
    theirs = create_feature_extractor(
        "inception-v3-compat", names, cuda=False, verbose=False,
        feature_extractor_weights_path=str(inception_file),
    )  # fmt: skip
    seen: list[Tensor] = []
    theirs.Mixed_6d.branch1x1.register_forward_hook(lambda *call: seen.append(call[2]))
    images, ours = pictures(18, 3, 24), InceptionV3Compat(str(inception_file))  # more than a batch
    pooled, unbiased, biased = theirs(images)
    found = ours.of_layers(images, ours.layers)
    assert tuple(found) == ours.layers == ("features", "spatial", "logits_unbiased", "logits")
    for layer, expected in (("features", pooled), ("logits_unbiased", unbiased)):
        torch.testing.assert_close(found[layer], expected, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(found["logits"], biased, rtol=1e-5, atol=1e-4)
    assert (found["logits"] - unbiased).abs().max() > 0.1  # the bias counts
    # ADM: the first 7 channels of [n, 17, 17, 192], flattened as they lie
    conv = seen[0].permute(0, 2, 3, 1)[..., :7].reshape(18, -1)
    assert found["spatial"].shape == (18, 2023)
    torch.testing.assert_close(found["spatial"], conv, rtol=1e-5, atol=1e-4)
    assert torch.equal(found["features"], ours(images))
    assert list(ours.of_layers(images[:1], ["spatial"])) == ["spatial"]


def test_inception_features_are_torch_fidelitys(inception_file: Path) -> None:
    from torch_fidelity.utils import create_feature_extractor

    theirs = create_feature_extractor(
        "inception-v3-compat", ["2048"], cuda=False, verbose=False,
        feature_extractor_weights_path=str(inception_file),
    )  # fmt: skip
    ours = InceptionV3Compat(str(inception_file))
    colour, grey = pictures(3, 3, 40), pictures(3, 1, 28)
    for images, want in ((colour, theirs(colour)[0]), (grey, theirs(grey.repeat(1, 3, 1, 1))[0])):
        assert (ours(images) - want).abs().max() < 1e-4 * want.std(0).mean()
    assert ours(grey).shape == (3, 2048) and ours(grey).dtype == torch.float32


@pytest.mark.slow  # half a gigabyte of weights
def test_vgg_features_are_torch_fidelitys(tmp_path: Path) -> None:
    import torchvision
    from torch_fidelity.feature_extractor_vgg16 import FeatureExtractorVGG16

    with torch.random.fork_rng():
        torch.manual_seed(0)
        torch.save(torchvision.models.vgg16().state_dict(), path := tmp_path / "vgg.pth")
    theirs = FeatureExtractorVGG16("vgg16", ["fc2_relu"], feature_extractor_weights_path=str(path))
    images = pictures(2, 3, 40)
    found = VGG16(str(path))(images)
    assert torch.equal(found, theirs(images)[0]) and found.shape == (2, 4096)
    fidelity._vgg.cache_clear()


@WARNINGS
@pytest.mark.parametrize(("channels", "size"), [(3, 32), (3, 320), (1, 28)])
def test_clean_features_equal_clean_fid(
    channels: int, size: int, clean_file: Path, tmp_path: Path
) -> None:
    from cleanfid import fid
    from cleanfid.inception_torchscript import InceptionV3W

    images = pictures(5, channels, size)
    folder = folder_of(images, tmp_path / "images")
    theirs = fid.get_folder_features(
        str(folder), InceptionV3W(str(clean_file.parent), download=False), num_workers=0,
        batch_size=2, device=torch.device("cpu"), mode="clean", verbose=False,
    )  # fmt: skip
    ours = Clean(str(clean_file))(images)
    assert ours.shape == (5, 2048) and ours.dtype == torch.float32
    np.testing.assert_allclose(ours.numpy(), theirs, rtol=1e-5, atol=1e-5)


@WARNINGS
def test_fid_is_that_of_clean_fids_compute_fid(clean_file: Path, tmp_path: Path) -> None:
    from cleanfid import fid
    from cleanfid.inception_torchscript import InceptionV3W

    network = InceptionV3W(str(clean_file.parent), download=False)
    part = slice(None, None, 256)  # of the features: theirs takes long for the root of a matrix
    sets = pictures(12, 3, 32), pictures(10, 3, 40).flip(0)
    folders = [str(folder_of(one, tmp_path / str(i))) for i, one in enumerate(sets)]
    theirs = fid.compute_fid(
        *folders, mode="clean", custom_feat_extractor=lambda x: network(x)[:, part], num_workers=0,
        verbose=False, device=torch.device("cpu"),
    )  # fmt: skip
    ours = Clean(str(clean_file))
    fake, real = (Features.of(ours(one)[:, part], 0) for one in sets)
    found = metrics.frechet_distance(fake.mean, fake.cov, real.mean, real.cov)
    assert found == pytest.approx(theirs, rel=1e-5) and found > 1e-3


@WARNINGS
def test_statistics_in_clean_fids_own_folder_are_references(
    clean_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import cleanfid
    from cleanfid import fid
    from cleanfid.inception_torchscript import InceptionV3W

    home = Path(str(cleanfid.__file__)).parent
    assert known.clean_fid_folder() == home / "stats"
    network = InceptionV3W(str(clean_file.parent), download=False)
    monkeypatch.setattr(cleanfid, "__file__", str(tmp_path / "__init__.py"))
    monkeypatch.setattr(fid, "build_feature_extractor", lambda *_: network)
    monkeypatch.setattr(known, "clean_fid_folder", lambda: tmp_path / "stats")
    real, fake = pictures(12, 3, 32), pictures(10, 3, 32).flip(0)
    cpu = torch.device("cpu")
    fid.make_custom_stats("toy", str(folder_of(real, tmp_path / "real")), device=cpu)
    ours = Clean(str(clean_file))
    name = "clean-fid:toy_clean_custom_na"
    assert known.known_references()[name] == ["clean"]
    found = metrics.frechet_distance(
        *(part for one in (Features.of(ours(fake), 0), features.load_reference(name, ours))
          for part in (one.mean, one.cov))
    )  # fmt: skip
    theirs = fid.get_folder_features(
        str(folder_of(fake, tmp_path / "fake")), network, num_workers=0, mode="clean",
        device=cpu, verbose=False,
    )  # fmt: skip
    mu, sigma = fid.get_reference_statistics("toy", "na", split="custom")
    want = metrics.frechet_distance(theirs.mean(0), np.cov(theirs, rowvar=False), mu, sigma)
    assert found == pytest.approx(want, rel=1e-4)
    with pytest.raises(ValueError, match="has statistics for clean, not effnet-lite0"):
        features.load_reference(name, features.EffNetLite0())


# ---------------------------------------------------------------- weights

EXTRACTORS = pytest.mark.parametrize(
    ("label", "kind", "file"),
    [
        ("inception-v3-compat", InceptionV3Compat, "weights-inception-2015-12-05-6726825d.pth"),
        ("vgg16", VGG16, "vgg16-397923af.pth"),
        ("clean", Clean, "inception-2015-12-05.pt"),
        ("dinov2-vits14", features.DINOv2ViTS14, "dinov2_vits14_pretrain.pth"),
        ("dinov2-vitb14", features.DINOv2ViTB14, "dinov2_vitb14_pretrain.pth"),
        ("dinov2-vitl14", features.DINOv2ViTL14, "dinov2_vitl14_pretrain.pth"),
        ("dinov2-vitg14", features.DINOv2ViTG14, "dinov2_vitg14_pretrain.pth"),
    ],
)


@EXTRACTORS
def test_missing_weights_say_what_goes_where(
    label: str, kind: Any, file: str, nothing_published: Path
) -> None:
    with pytest.raises(
        ValueError, match=f"no weights for {label}: run crs-bench fetch {label}, or .*{file}"
    ) as told:
        judge.extractor_of(label, "cpu")
    assert str(nothing_published / file) in str(told.value)
    with pytest.raises(ValueError, match="no weights file nowhere.pt"):
        kind("nowhere.pt")


@EXTRACTORS
def test_published_weights_are_found_and_verified(
    label: str, kind: Any, file: str, nothing_published: Path, clean_file: Path
) -> None:
    nothing_published.mkdir(parents=True)
    path = nothing_published / file
    path.write_bytes(clean_file.read_bytes())
    if kind is Clean:
        assert judge.extractor_of(label, "cpu").name == label
        path.write_bytes(clean_file.read_bytes()[:-100])
        with pytest.raises(ValueError, match="not a complete TorchScript file"):
            kind()
    elif file.startswith("dinov2"):  # Meta's names tell no digest: the weights are looked at
        path.write_bytes(b"")
        with pytest.raises(ValueError, match=f"{file} is not a plain state dict"):
            kind()
        torch.save({"cls_token": torch.zeros(1, 1, 8)}, path)
        with pytest.raises(ValueError, match=f"{file} does not hold the weights of vit_.* differs"):
            kind()
    else:
        with pytest.raises(ValueError, match="is damaged or was changed: .* again"):
            kind()


def test_digest_is_the_files_and_the_label_takes_arguments(inception_file: Path) -> None:
    made = judge.extractor_of(f"inception-v3-compat(weights={str(inception_file)!r})", "cpu")
    assert made == InceptionV3Compat(str(inception_file), "cpu")
    assert made.name == "inception-v3-compat"
    assert made.digest == hashlib.sha256(inception_file.read_bytes()).hexdigest()


class _Payload:
    def __reduce__(self) -> Any:
        return print, ("code ran",)


@pytest.mark.parametrize("content", [_Payload(), {"weight": torch.zeros(3)}, None])
def test_other_files_are_refused(
    content: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "odd.pth"
    torch.save(content, path) if content is not None else path.write_bytes(b"not weights")
    with pytest.raises(ValueError, match="odd.pth"):
        InceptionV3Compat(str(path))(pictures(1, 3, 32))
    assert "code ran" not in capsys.readouterr().out


def test_clean_asks_for_the_files_own_name(clean_file: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.pt").write_bytes(clean_file.read_bytes())
    with pytest.raises(ValueError, match="rename .*mine.pt"):
        Clean(str(tmp_path / "mine.pt"))


def test_an_extractor_needs_no_device() -> None:
    assert judge.extractor_of("flatten", "cpu") == features.Flatten()
    assert isinstance(features.fold(features.Flatten(), [pictures(3, 1, 4)], 0), Features)


def test_list_tells_what_is_usable(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["crs-bench", "list", "extractors"])
    with pytest.raises(SystemExit) as end:
        cli.main()
    first, *rest = capsys.readouterr().out.splitlines()
    assert end.value.code == 0 and first == "extractors:"
    about = {name.strip().partition("(")[0]: text.strip()
             for name, text in zip(rest[::2], rest[1::2], strict=True)}  # fmt: skip
    lacking = [name for name, text in about.items() if text.startswith("unavailable: ")]
    dino = [f"DINOv2ViT{size}14" for size in "BGLS"]
    usable = {"EffNetLite0", "EffNetLite2", "EffNetLites", "Flatten"}
    assert about.keys() - set(lacking) == usable
    assert lacking == ["Clean", *dino, "InceptionV3Compat", "VGG16"]
    for name in lacking:
        assert "download https" in about[name] and "crs-bench fetch " in about[name]
