"""Extractors of other tools: their features, their scores, and what is said without weights.

No weights are fetched: random ones are written in each library's own format, and the libraries
read the same file. The real inceptions differ in their numbers alone.
"""

import hashlib
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from bench import cli, data, features, lab, metrics
from bench.features import (
    VGG16,
    Clean,
    Features,
    InceptionV3Compat,
    InceptionV3CompatHalf,
    clean,
    fidelity,
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


@pytest.fixture(scope="module")
def inception_file(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """torch-fidelity's state dict with random weights."""
    from torch_fidelity import feature_extractor_inceptionv3 as theirs

    path = tmp_path_factory.mktemp("weights") / "inception.pth"
    with pytest.MonkeyPatch.context() as patch, torch.random.fork_rng():
        torch.manual_seed(0)
        net = theirs.FeatureExtractorInceptionV3
        patch.setattr(theirs, "load_state_dict_from_url", lambda *_, **__: {})
        patch.setattr(net, "load_state_dict", lambda *_: None)
        made = net("inception-v3-compat", ["2048"])
        for module in made.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)
        torch.save(made.state_dict(), path)
    yield path
    fidelity._inception.cache_clear()


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
    monkeypatch.setattr(clean, "_INCEPTION", replace(clean._INCEPTION, folders=()))
    return tmp_path / "hub" / "checkpoints"


# ---------------------------------------------------------------- agreement


@WARNINGS
def test_inception_scores_equal_torch_fidelity(inception_file: Path, tmp_path: Path) -> None:
    """N < D: torch-fidelity's square root of a singular product is 1e-5 off there."""
    import torch_fidelity

    folders = [
        folder_of(pictures(n, 3, 32, seed), tmp_path / str(seed)) for n, seed in ((20, 1), (24, 2))
    ]
    theirs = torch_fidelity.calculate_metrics(
        input1=str(folders[0]), input2=str(folders[1]), cuda=False, fid=True, prc=True,
        feature_extractor="inception-v3-compat", feature_extractor_weights_path=inception_file,
        batch_size=16, cache=False, verbose=False,
    )  # fmt: skip
    extractor = InceptionV3Compat(str(inception_file))
    fake, real = (
        features.fold(extractor, data.read_images(folder).split(7), keep=100) for folder in folders
    )
    ours = metrics.FrechetDistance()(fake=fake, real=real)
    assert ours == pytest.approx(theirs["frechet_inception_distance"], rel=1e-4)
    assert ours > 1e-3 * float(real.cov.trace())  # it compares more than rounding
    # theirs are float32 means: the same to the last sample
    assert metrics.Precision()(fake=fake, real=real) * 20 == round(theirs["precision"] * 20, 4)
    assert metrics.Recall()(fake=fake, real=real) * 24 == round(theirs["recall"] * 24, 4)


def test_inception_features_are_torch_fidelitys(inception_file: Path) -> None:
    from torch_fidelity.utils import create_feature_extractor

    theirs = create_feature_extractor(
        "inception-v3-compat", ["2048"], cuda=False, verbose=False,
        feature_extractor_weights_path=str(inception_file),
    )  # fmt: skip
    ours = InceptionV3Compat(str(inception_file))
    half = InceptionV3CompatHalf(str(inception_file))
    for images in (pictures(9, 3, 40), pictures(9, 1, 28), pictures(9, 3, 310)):
        want = theirs(images.expand(-1, 3, -1, -1).contiguous())[0]
        spread, found = want.std(0).mean(), ours(images)
        assert found.shape == (9, 2048) and found.dtype == torch.float32
        assert float((found - want).abs().max()) < 1e-4 * float(spread)
        off = float((half(images) - want).square().mean().sqrt() / spread)
        assert 1e-4 < off < 0.3  # eight bits through a hundred layers
    assert half.name == "inception-v3-compat-half"
    assert half.digest.startswith(ours.digest) and half.digest != ours.digest


@pytest.mark.parametrize("size", [28, 256, 299, 320])
def test_resize_is_tensorflows(size: int) -> None:
    from torch_fidelity.interpolate_compat_tensorflow import (
        interpolate_bilinear_2d_like_tensorflow1x as theirs,
    )

    images = pictures(2, 3, size)[:, :, : size - 3]
    want = theirs(images.float(), size=(299, 299), align_corners=False)
    assert torch.allclose(fidelity._resized(images, 299), (want - 128) / 128, rtol=0, atol=1e-6)


def test_batches_shrink_until_they_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    class Small(nn.Conv2d):
        def forward(self, x: Tensor) -> Tensor:
            seen.append(len(x))
            if len(x) > 3:
                raise torch.OutOfMemoryError("no room")
            return super().forward(x).mean((2, 3), keepdim=True)

    net = Small(3, 5, 1)
    images = pictures(10, 3, 20)
    found = fidelity._pooled(images, net)
    assert seen == [10, 5, 2, 2, 2, 2, 2] and found.shape == (10, 5)
    monkeypatch.setattr(Small, "forward", lambda self, x: (_ for _ in ()).throw(
        torch.OutOfMemoryError("no room")))  # fmt: skip
    with pytest.raises(torch.OutOfMemoryError):
        fidelity._pooled(images, net)


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


# ---------------------------------------------------------------- weights

EXTRACTORS = pytest.mark.parametrize(
    ("label", "kind", "file"),
    [
        ("inception-v3-compat", InceptionV3Compat, "weights-inception-2015-12-05-6726825d.pth"),
        ("vgg16", VGG16, "vgg16-397923af.pth"),
        ("clean", Clean, "inception-2015-12-05.pt"),
    ],
)


@EXTRACTORS
def test_missing_weights_say_what_goes_where(
    label: str, kind: Any, file: str, nothing_published: Path
) -> None:
    with pytest.raises(ValueError, match=f"no weights for {label}: download https.*{file}") as told:
        lab.extractor_of(label, "cpu")
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
        assert lab.extractor_of(label, "cpu").name == label
        path.write_bytes(clean_file.read_bytes()[:-100])
        with pytest.raises(ValueError, match="not a whole TorchScript file"):
            kind()
    else:
        with pytest.raises(ValueError, match="is not the file that its name says .* again"):
            kind()


def test_digest_is_the_files_and_the_label_takes_arguments(inception_file: Path) -> None:
    made = lab.extractor_of(f"inception-v3-compat(weights={str(inception_file)!r})", "cpu")
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
    assert lab.extractor_of("flatten", "cpu") == features.Flatten()
    assert isinstance(features.fold(features.Flatten(), [pictures(3, 1, 4)], 0), Features)


def test_list_tells_what_is_usable(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["crs-bench", "list", "extractors"])
    with pytest.raises(SystemExit) as end:
        cli.main()
    first, *others = capsys.readouterr().out.splitlines()
    assert end.value.code == 0 and first == "extractors: EffNetLite0, Flatten"
    assert [line.split(": ")[1] for line in others] == [
        "Clean",
        "InceptionV3Compat",
        "InceptionV3CompatHalf",
        "VGG16",
    ]
    assert all("download https" in line for line in others)
