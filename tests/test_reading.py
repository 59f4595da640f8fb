"""Every kind of file that images may come in: read exactly, or refused in one clear line."""

import io
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from bench import data
from bench.data import arrays, sets
from bench.features import Flatten, load_reference


def pixels(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def png(image: Image.Image, **options: Any) -> bytes:
    image.save(file := io.BytesIO(), "png", **options)
    return file.getvalue()


def png_rgb16() -> bytes:
    """PIL reads 16-bit colour as if it were 8-bit, and cannot write it."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    rows = b"".join(b"\0" + bytes(range(24)) for _ in range(4))
    head = struct.pack(">IIBBBBB", 4, 4, 16, 2, 0, 0, 0)
    body = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


RGB = Image.fromarray(pixels(4, 4, 3))
GREY = Image.fromarray(pixels(4, 4))
OPAQUE, LA, HALF = RGB.convert("RGBA"), GREY.convert("LA"), RGB.convert("RGBA")
HALF.putalpha(GREY)
PALETTE = RGB.quantize(16)
TWO_TONES = GREY.convert("1")


@pytest.mark.parametrize(
    ("raw", "want"),
    [
        (png(RGB), RGB),
        (png(GREY), GREY),
        (png(OPAQUE), RGB),
        (png(LA), GREY),
        (png(PALETTE), PALETTE.convert("RGB")),
        (png(TWO_TONES), TWO_TONES.convert("L")),
    ],
    ids=["rgb", "grey", "opaque alpha", "grey and opaque alpha", "palette", "1-bit"],
)
def test_conversions_are_exact(raw: bytes, want: Image.Image, tmp_path: Path) -> None:
    (tmp_path / "x.PNG").write_bytes(raw)
    found = data.read_images(tmp_path)[0].permute(1, 2, 0).numpy()
    assert np.array_equal(found, np.atleast_3d(np.asarray(want)))


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        (png(HALF), "transparency"),
        (png(RGB, transparency=(1, 2, 3)), "transparency"),
        (png(PALETTE, transparency=3), "transparency"),
        (png(Image.fromarray(pixels(4, 4).astype(np.uint16) * 257)), "more than 8 bits"),
        (png_rgb16(), "more than 8 bits"),
        (png(RGB, save_all=True, append_images=[OPAQUE.convert("RGB").rotate(90)]), "2 pictures"),
        (png(RGB)[:-40], "cannot be read as an image"),
        (png(RGB)[:60] + b"\0\0" + png(RGB)[62:], "cannot be read as an image"),
        (b"", "it is empty"),
        (b"<html>404</html>", "cannot be read as an image"),
    ],
    ids=["alpha", "keyed", "keyed palette", "16-bit grey", "16-bit colour", "animation",
         "truncated", "flipped", "empty", "a web page"],
)  # fmt: skip
@pytest.mark.parametrize("zipped", [False, True])
def test_bad_images_are_named(raw: bytes, says: str, zipped: bool, tmp_path: Path) -> None:
    if zipped:
        with zipfile.ZipFile(path := tmp_path / "all.zip", "w") as archive:
            archive.writestr("a/good.png", png(RGB))
            archive.writestr("a/odd.png", raw)
    else:
        (path := tmp_path / "all" / "a").mkdir(parents=True)
        (path / "good.png").write_bytes(png(RGB))
        (path / "odd.png").write_bytes(raw)
    with pytest.raises(ValueError, match=f"a/odd.png .*{says}") as told:
        data.read_images(path)
    assert "\n" not in str(told.value)


def test_a_zip_is_its_folder(tmp_path: Path) -> None:
    names = ["b.PNG", "a/2.png", "a/deep/1.Png", "a.png"]
    with zipfile.ZipFile(tmp_path / "all.ZIP", "w") as archive:
        archive.writestr("notes.txt", "not an image")
        for i, name in enumerate(names):
            raw = png(Image.fromarray(pixels(5, 4, 3, seed=i)))
            archive.writestr(name, raw)
            (tmp_path / "all" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "all" / name).write_bytes(raw)
    folder, zipped = data.read_images(tmp_path / "all"), data.read_images(tmp_path / "all.ZIP")
    assert folder.shape == (4, 3, 5, 4) and torch.equal(folder, zipped)


@pytest.mark.parametrize("content", [b"", b"not a zip", b"PK\x03\x04 cut short"])
def test_damaged_zips_are_named(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.zip").write_bytes(content)
    with pytest.raises(ValueError, match="x.zip cannot be read"):
        data.read_images(tmp_path / "x.zip")


# ---------------------------------------------------------------- arrays


def save(path: Path, array: np.ndarray) -> Path:
    np.save(path, array) if path.suffix == ".npy" else np.savez(path, array)
    return path


@pytest.mark.parametrize("file", ["x.npy", "x.npz"])
@pytest.mark.parametrize("c", [1, 3])
def test_both_layouts_are_read(file: str, c: int, tmp_path: Path) -> None:
    images = pixels(3, 5, 4, c)
    want = torch.from_numpy(images.transpose(0, 3, 1, 2).copy())
    assert torch.equal(data.read_images(save(tmp_path / file, images)), want)
    assert torch.equal(data.read_images(save(tmp_path / file, want.numpy())), want)


@pytest.mark.parametrize("file", ["x.npy", "x.npz"])
@pytest.mark.parametrize(
    ("array", "says"),
    [
        (pixels(2, 4, 4, 3) / 255.0, r"float64 in 0(\.\d+)?\.\.\d.*scale to 0..255"),
        (np.full((2, 4, 4, 3), -1, np.float32), r"float32 in -1\.\.-1"),
        (pixels(2, 4, 4, 3).astype(np.int64), "int64 in .*astype"),
        (pixels(4, 4, 3), r"uint8 \[4, 4, 3\]"),
        (pixels(2, 16), r"uint8 \[2, 16\]"),
        (pixels(2, 4, 4, 4), "no axis of 1 or 3"),
        (pixels(2, 3, 8, 3), "fits both layouts"),
        (pixels(0, 4, 4, 3), "n at least 1"),
        (pixels(2, 0, 4, 3), r"uint8 \[2, 0, 4, 3\]"),
        (np.array([{}]), "x.np"),
    ],
    ids=["0..1", "-1..1", "integers", "one image", "flat", "alpha", "ambiguous", "none", "no rows",
         "objects"],
)  # fmt: skip
def test_other_arrays_are_refused(array: np.ndarray, says: str, file: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=says) as told:
        data.read_images(save(tmp_path / file, array))
    assert file in str(told.value) and "\n" not in str(told.value)


@pytest.mark.parametrize("content", [b"", b"not an array", b"\x93NUMPY\x01\x00 cut short"])
def test_damaged_npy_is_named(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.npy").write_bytes(content)
    with pytest.raises(ValueError, match="x.npy cannot be read as an .npy"):
        data.read_images(tmp_path / "x.npy")


@pytest.mark.parametrize(
    "read", [data.read_images, lambda path: load_reference(path, Flatten())], ids=["images", "refs"]
)
def test_pickles_are_refused_with_the_way_out(read: Callable[[Path], Any], tmp_path: Path) -> None:
    (tmp_path / "edm2.pkl").write_bytes(b"cos\nsystem\n(S'touch ran'\ntR.")
    with pytest.raises(ValueError, match=r"edm2.pkl is a pickle.*np.savez\(.*mu.*sigma"):
        read(tmp_path / "edm2.pkl")


@given(
    n=st.integers(1, 9), h=st.integers(4, 9), w=st.integers(4, 9), c=st.sampled_from([1, 3]),
    size=st.integers(1, 10), seed=st.integers(0, 2**32 - 1),
)  # fmt: skip
def test_any_array_streams_to_itself(
    n: int, h: int, w: int, c: int, size: int, seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    images = pixels(n, h, w, c, seed=seed)
    path = save(tmp_path_factory.mktemp("any") / "x.npy", images)
    made = list(data.open_images(path).stream(size))
    assert torch.equal(torch.cat(made), torch.from_numpy(images).permute(0, 3, 1, 2))
    assert [len(batch) for batch in made[:-1]] == [size] * (len(made) - 1)


@given(
    n=st.integers(1, 5), h=st.integers(4, 9), w=st.integers(4, 9), c=st.sampled_from([1, 3]),
    kind=st.sampled_from(["folder", "zip", "npz", "small npz"]), seed=st.integers(0, 2**32 - 1),
)  # fmt: skip
def test_every_kind_of_set_holds_the_same_images(
    n: int, h: int, w: int, c: int, kind: str, seed: int,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:  # fmt: skip
    images, home = pixels(n, h, w, c, seed=seed), tmp_path_factory.mktemp("kinds")
    pngs = {f"{i}.png": png(Image.fromarray(one.squeeze())) for i, one in enumerate(images)}
    if kind == "folder":
        for name, raw in pngs.items():
            (home / name).write_bytes(raw)
        path = home
    elif kind == "zip":
        path = home / "x.zip"
        with zipfile.ZipFile(path, "w") as archive:
            for name, raw in pngs.items():
                archive.writestr(name, raw)
    else:
        path = home / "x.npz"
        (np.savez if kind == "npz" else np.savez_compressed)(path, other=np.ones(3), arr_0=images)
    want = torch.from_numpy(images).permute(0, 3, 1, 2)
    assert torch.equal(data.read_images(path), want)
    assert len(data.open_images(path)) == n


@given(
    kind=st.sampled_from(["x.npy", "x.npz", "x.zip", "x.png"]), place=st.floats(0, 0.999),
    cut=st.booleans(), flip=st.integers(1, 255),
)  # fmt: skip
def test_a_damaged_file_is_refused_or_read_as_it_is(
    kind: str, place: float, cut: bool, flip: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Any byte changed, or all from it on lost: a ValueError that names it, or images; no other
    error. Where the format has checksums, the images are the very ones that were written."""
    home, images = tmp_path_factory.mktemp("damaged"), pixels(3, 8, 8, 3)
    path = home / kind
    if kind == "x.png":
        path.write_bytes(png(Image.fromarray(images[0])))
    elif kind == "x.zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("0.png", png(Image.fromarray(images[0])))
    else:
        np.savez(path, arr_0=images) if kind == "x.npz" else np.save(path, images)
    raw = bytearray(path.read_bytes())
    at = int(place * len(raw))
    path.write_bytes(raw[:at] if cut else bytes([*raw[:at], raw[at] ^ flip, *raw[at + 1 :]]))
    try:
        made = data.read_images(home if kind == "x.png" else path)
    except ValueError as error:
        assert "x." in str(error)
        return
    assert made.dtype == torch.uint8 and made.ndim == 4
    if kind in ("x.npz", "x.zip"):
        assert torch.equal(made, torch.from_numpy(images[: len(made)]).permute(0, 3, 1, 2))


@pytest.mark.parametrize("save_as", [np.savez, np.savez_compressed])
def test_arrays_of_an_npz_are_mapped(save_as: Callable, tmp_path: Path) -> None:
    images = {"arr_0": pixels(5, 4, 4, 3), "turned": np.asfortranarray(pixels(6, 7)),
              "none": np.zeros((0, 3)), "long": np.arange(9.0)}  # fmt: skip
    save_as(tmp_path / "x.npz", **images)
    assert arrays.array_names(tmp_path / "x.npz") == list(images)
    for name, want in images.items():
        found = arrays.mapped(tmp_path / "x.npz", name)
        assert found.dtype == want.dtype and np.array_equal(found, want)
        assert isinstance(found, np.memmap) or not want.size
        assert arrays.shape_in(tmp_path / "x.npz", name) == want.shape
    assert arrays.shape_in(tmp_path / "x.npz", "nothing") == ()


def test_a_folder_is_read_as_it_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for i in range(10):
        (tmp_path / f"{i}.png").write_bytes(png(RGB))
    read: list[str] = []
    kept = sets.decode
    monkeypatch.setattr(sets, "decode", lambda raw, name: (read.append(name), kept(raw, name))[1])
    batches = data.open_images(tmp_path).stream(4)
    assert read == []
    assert next(batches).shape == (4, 3, 4, 4) and len(read) == 4
    assert len(next(batches)) == 4 and len(read) == 8
