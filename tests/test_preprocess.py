"""How datasets are squared: as their papers did, and as part of a reference's identity."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from console import crs
from PIL import Image
from torch import Tensor

from bench import data
from bench.data import ADMLSUN, LDMLSUN, AsIs
from bench.features import Flatten, fold, load_reference
from bench.features.sums import spread


def picture(h: int, w: int, c: int = 3, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (h, w, c), dtype=np.uint8)


def folder_of(sizes: list[tuple[int, int]], folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    for i, (h, w) in enumerate(sizes):
        Image.fromarray(picture(h, w, seed=i)).save(folder / f"{i:03d}.png")
    return folder


@pytest.mark.parametrize(("h", "w"), [(32, 48), (48, 32), (37, 53), (16, 16), (10, 23)])
@pytest.mark.parametrize("c", [1, 3])
@pytest.mark.parametrize("kind", [ADMLSUN, LDMLSUN])
def test_any_image_becomes_a_square(kind: Any, h: int, w: int, c: int) -> None:
    made = kind(size=16)(picture(h, w, c))
    assert made.shape == (16, 16, c) and made.dtype == np.uint8


def test_adm_is_box_means_of_the_whole_then_the_centre() -> None:
    image = picture(32, 48)
    means = image.astype(float).reshape(16, 2, 24, 2, 3).mean((1, 3))  # BOX at half the size
    found = ADMLSUN(size=16)(image).astype(float)
    assert np.abs(found - means[:, 4:20]).max() <= 1  # PIL rounds after each of two passes


def test_ldm_is_the_centre_then_bicubic() -> None:
    image = picture(32, 48)
    assert np.array_equal(LDMLSUN(size=32)(image), image[:, 8:40])
    centre = Image.fromarray(np.ascontiguousarray(image[:, 8:40]))
    want = np.asarray(centre.resize((16, 16), Image.Resampling.BICUBIC))
    assert np.array_equal(LDMLSUN(size=16)(image), want)
    assert not np.array_equal(LDMLSUN(size=16)(image), ADMLSUN(size=16)(image))


@pytest.mark.parametrize("kind", [ADMLSUN, LDMLSUN])
def test_sizes_are_checked_and_told(kind: Any) -> None:
    assert kind().size == 256 and kind(64).name.endswith("-64")
    for size in (0, -1, 2.5):
        with pytest.raises(ValueError, match="whole number above 0"):
            kind(size)


# ---------------------------------------------------------------- crs-bench reference


def made_by(path: Path) -> dict[str, Any]:
    with np.load(path) as file:
        return json.loads(str(file["provenance"]))


def reference(monkeypatch: pytest.MonkeyPatch, out: Path, folder: Path, *more: str) -> int:
    images = ("--images", str(folder), "--features", "flatten", "--bank", "9", "--device", "cpu")
    return crs(monkeypatch, "reference", str(out), *images, *more)


@pytest.mark.parametrize(
    ("text", "prepare"),
    [("none", AsIs()), ("adm-lsun(size=8)", ADMLSUN(8)), ("ldm(size=8)", LDMLSUN(8))],
)
def test_a_reference_of_a_folder_tells_its_preprocessing(
    text: str, prepare: data.Preprocess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = [(8, 8)] * 12 if text == "none" else [(16 + i, 40 - i) for i in range(12)]
    folder = folder_of(sizes, tmp_path / "images")
    assert reference(monkeypatch, out := tmp_path / "x.npz", folder, "--preprocess", text) == 0
    images = torch.cat(list(data.open_images(folder).stream(5, prepare)))
    whole = fold(Flatten(), [images], keep=12)
    read = load_reference(out, Flatten())
    assert read.n == 12 and torch.equal(read.bank, whole.bank[spread(12, 9)])
    torch.testing.assert_close(read.cov, whole.cov)
    told = made_by(out)
    assert (told["preprocess"], told["data_digest"]) == (prepare.name, data.digest(images))


def test_two_preparations_are_two_references(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = folder_of([(8, 8)] * 4, tmp_path / "images")  # where both leave the pixels alone
    paths = [tmp_path / "adm.npz", tmp_path / "ldm.npz"]
    for path, text in zip(paths, ("adm-lsun(size=8)", "ldm(size=8)"), strict=True):
        assert reference(monkeypatch, path, folder, "--preprocess", text) == 0
    one, two = (load_reference(path, Flatten()) for path in paths)
    assert torch.equal(one.mean, two.mean) and one.digest != two.digest
    assert reference(monkeypatch, paths[0], folder, "--preprocess", "adm-lsn") == 2
    assert "did you mean adm-lsun?" in capsys.readouterr().err
    assert reference(monkeypatch, paths[0], folder, "--preprocess", "ldm", "--size", "8") == 2
    assert "--preprocess 'ldm(size=8)' alone" in capsys.readouterr().err


def test_a_reference_is_folded_a_batch_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []

    def watched(self: Flatten, images: Tensor) -> Tensor:
        sizes.append(len(images))
        return images.float().flatten(1)

    monkeypatch.setattr(Flatten, "__call__", watched)
    folder = folder_of([(4, 4)] * 600, tmp_path / "images")
    assert reference(monkeypatch, tmp_path / "x.npz", folder) == 0
    assert sizes == [256, 256, 88]
