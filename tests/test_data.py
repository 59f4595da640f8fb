"""Images from files, and errors that name the file."""

import gzip
import hashlib
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from torch import Tensor

from bench import data
from bench.data import FashionMNIST

STEM = "train-images-idx3-ubyte"


def some(n: int = 5, c: int = 1, size: int = 6) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (n, c, size, size), generator=generator, dtype=torch.uint8)


def idx(images: Tensor, magic: int = 0x803) -> bytes:
    n, _, h, w = images.shape
    return struct.pack(">IIII", magic, n, h, w) + images.numpy().tobytes()


@pytest.mark.parametrize(("split", "stem"), [("train", "train"), ("test", "t10k")])
@pytest.mark.parametrize("zipped", [True, False])
def test_idx_files_are_read(split: str, stem: str, zipped: bool, tmp_path: Path) -> None:
    raw = idx(some())
    name = f"{stem}-images-idx3-ubyte" + (".gz" if zipped else "")
    (tmp_path / name).write_bytes(gzip.compress(raw) if zipped else raw)
    dataset = FashionMNIST(split, tmp_path)
    assert torch.equal(dataset.images(), some())
    assert dataset.name == f"fashion-mnist-{split}"


def test_missing_dataset_says_where_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"{STEM}.*dataset-fashion-mnist"):
        FashionMNIST("train", tmp_path).images()


def _flipped(raw: bytes) -> bytes:
    return raw[:40] + bytes(255 - byte for byte in raw[40:80]) + raw[80:]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        (STEM, b""),
        (STEM, idx(some())[:10]),
        (STEM, idx(some())[:-1]),
        (STEM, idx(some()) + b"x"),
        (STEM, idx(some(), 0x801)),
        (f"{STEM}.gz", idx(some())),
        (f"{STEM}.gz", gzip.compress(idx(some()))[:-20]),
        (f"{STEM}.gz", _flipped(gzip.compress(idx(some(200) % 8)))),
        (f"{STEM}.gz", gzip.compress(b"")),
    ],
    ids=["empty", "head", "short", "long", "labels", "not gzip", "cut", "flipped", "gz of none"],
)
def test_damaged_idx_files_are_named(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=name):
        FashionMNIST("train", tmp_path).images()


def test_digest_is_of_the_bytes() -> None:
    images = some()
    assert data.digest(images) == hashlib.sha256(images.numpy().tobytes()).hexdigest()
    turned = images.transpose(2, 3)  # not contiguous
    assert data.digest(turned) == data.digest(turned.contiguous()) != data.digest(images)


@pytest.mark.parametrize(("c", "mode"), [(1, "L"), (3, "RGB")])
def test_a_folder_of_pngs_is_read_in_the_order_of_paths(c: int, mode: str, tmp_path: Path) -> None:
    images = some(4, c)
    for path, image in zip(["a/1.PNG", "a/2.png", "b.bmp", "c/d/e.png"], images, strict=True):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        pixels = image.permute(1, 2, 0).numpy()
        Image.fromarray(pixels[..., 0] if c == 1 else pixels, mode).save(tmp_path / path)
    (tmp_path / "notes.txt").write_text("not an image")
    read = data.read_images(tmp_path)
    assert read.dtype == torch.uint8
    assert torch.equal(read, images)


@pytest.mark.parametrize("c", [1, 3])
def test_an_adm_batch_is_read(c: int, tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", some(4, c).permute(0, 2, 3, 1).numpy())
    assert torch.equal(data.read_images(tmp_path / "x.npz"), some(4, c))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({"images": np.zeros((2, 4, 4, 1), np.uint8)}, "arr_0"),
        ({"arr_0": np.zeros((2, 4, 4, 1), np.float32)}, "uint8"),
        ({"arr_0": np.zeros((2, 4), np.uint8)}, "x.npz"),
        ({"arr_0": np.zeros((2, 4, 4, 1, 1), np.uint8)}, "x.npz"),
    ],
)
def test_wrong_npz_is_named(content: dict, says: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", **content)
    with pytest.raises(ValueError, match=says) as caught:
        data.read_images(tmp_path / "x.npz")
    assert "x.npz" in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"not a zip", b"PK\x03\x04 cut short"])
def test_damaged_npz_is_named(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.npz").write_bytes(content)
    with pytest.raises(ValueError, match="x.npz"):
        data.read_images(tmp_path / "x.npz")


@pytest.mark.parametrize("mode", ["RGBA", "I;16", "LA"])
def test_other_modes_are_refused(mode: str, tmp_path: Path) -> None:
    Image.new(mode, (4, 4)).save(tmp_path / "odd.png")
    with pytest.raises(ValueError, match="odd.*mode"):
        data.read_images(tmp_path)


def test_mixed_sizes_and_damaged_images_are_named(tmp_path: Path) -> None:
    Image.new("L", (4, 4)).save(tmp_path / "a.png")
    Image.new("L", (5, 4)).save(tmp_path / "b.png")
    with pytest.raises(ValueError, match="b.png is 4 x 5.*one size"):
        data.read_images(tmp_path)
    whole = (tmp_path / "a.png").read_bytes()
    for broken in (b"", b"not a picture", whole[: len(whole) // 2]):
        (tmp_path / "b.png").write_bytes(broken)
        with pytest.raises(ValueError, match="b.png.*cannot be read"):
            data.read_images(tmp_path)


@pytest.mark.parametrize("kind", ["png", "tiff"])
@pytest.mark.parametrize("orientation", range(1, 10))
def test_photos_are_turned_as_their_exif_says(orientation: int, kind: str, tmp_path: Path) -> None:
    stored = Image.fromarray(np.arange(24, dtype=np.uint8).reshape(4, 6) * 10)
    exif = Image.Exif()
    exif[0x0112] = orientation  # 9 is none
    stored.save(tmp_path / f"photo.{kind}", exif=exif)
    found = data.open_images(tmp_path)
    made = found.everything()[0, 0]
    stored.save(beside := tmp_path.parent / "beside.png", exif=exif)
    shown = np.asarray(ImageOps.exif_transpose(Image.open(beside)))  # of a TIFF it turns twice
    assert np.array_equal(made.numpy(), shown)
    assert found.found.turned == (1 < orientation < 9)
    assert any("1 image was turned" in note for note in found.notes()) == (1 < orientation < 9)


def test_of_a_photo_with_a_depth_map_the_first_picture_is_taken(tmp_path: Path) -> None:
    first, second = (Image.new("RGB", (8, 8), colour) for colour in ("red", "blue"))
    first.save(tmp_path / "photo.jpg", format="MPO", save_all=True, append_images=[second])
    red, _, blue = data.open_images(tmp_path).everything()[0, :, 0, 0].tolist()
    assert red > 200 > 50 > blue


@pytest.mark.parametrize(("count", "n"), [(10, 7), (10, 10), (300, 160), (5, 1)])
def test_spaced_images_reach_over_the_whole_set(count: int, n: int, tmp_path: Path) -> None:
    images = np.zeros((count, 4, 4, 1), np.uint8) + np.arange(count).reshape(-1, 1, 1, 1).astype(
        "u1"
    )
    np.save(tmp_path / "a.npy", images)
    chosen = data.open_images(tmp_path / "a.npy").spaced(n)[:, 0, 0, 0].tolist()
    steps = {(b - a) % 256 for a, b in zip(chosen, chosen[1:], strict=False)}
    assert len(chosen) == n and chosen[0] == 0 and steps <= {count // n, count // n + 1}
    assert (count - 1) % 256 - chosen[-1] <= count // n


def test_grey_images_among_colour_images_become_colour(tmp_path: Path) -> None:
    grey, colour = Image.new("L", (4, 4), 9), Image.new("RGB", (4, 4), (1, 2, 3))
    for i in range(600):
        (colour if i == 500 else grey).save(tmp_path / f"{i}.png")
    found = data.open_images(tmp_path)
    read = torch.cat([one.expand(-1, 3, -1, -1) for one in found.stream(256)])
    assert torch.equal(data.read_images(tmp_path), read) and len(read) == 600
    assert read[500].flatten(1)[:, 0].tolist() == [1, 2, 3] and read[0, :, 0, 0].tolist() == [9] * 3
    assert torch.equal(found.spaced(600), read)


@pytest.mark.parametrize("name", ["", "nowhere", "nowhere.npz"])
def test_nothing_there(name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there is no file" if name else "no images"):
        data.read_images(tmp_path / name)
