"""Images from folders, zips and arrays, whole or in a stream of batches."""

import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from torch import Tensor

from bench.data.arrays import array_names, mapped, readable
from bench.data.decode import decode, layout
from bench.data.preprocess import AsIs, Preprocess

_SUFFIXES = {
    ".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm",
}  # fmt: skip

_Files = list[tuple[str, Callable[[], bytes]]]  # name, its bytes


def read_images(path: str | Path) -> Tensor:
    """All images of a path, uint8 [n, c, h, w], c 1 or 3; see `stream` for what a path may be."""
    return torch.cat(list(stream(path, 256)))


def stream(path: str | Path, size: int, preprocess: Preprocess | None = None) -> Iterator[Tensor]:
    """Images in batches, uint8 [<= size, c, h, w], each read when it is asked for.

    path: a folder or a `.zip` of image files (recursive, any case of suffix, sorted by path), an
    `.npy`, or an `.npz` with `arr_0` (ADM's sample batch): uint8 NHWC or NCHW, c 1 or 3.
    ValueError naming the file: nothing there, mixed sizes or modes, what `decode` and `layout`
    refuse, and pickles.
    """
    prepare = preprocess or AsIs()
    return _batched(((name, prepare(read())) for name, read in _images(Path(path))), size)


def spaced(path: str | Path, n: int, preprocess: Preprocess | None = None) -> Tensor:
    """n images of a path at an even stride, uint8 [n, c, h, w]: those alone are decoded.

    ValueError: fewer images than n, and as `stream`.
    """
    found, prepare = _images(Path(path)), preprocess or AsIs()
    if not 0 < n <= len(found):
        raise ValueError(f"{path} has {len(found)} images, not the {n} that are asked for")
    chosen = found[:: len(found) // n][:n]
    return torch.cat(list(_batched(((name, prepare(read())) for name, read in chosen), 256)))


def survey(path: str | Path) -> tuple[int, int]:
    """(images of a path, of which lossy by their names: JPEG), before any is decoded."""
    names = [name for name, _ in _images(Path(path))]
    return len(names), sum(name.lower().endswith((".jpg", ".jpeg")) for name in names)


def _images(path: Path) -> list[tuple[str, Callable[[], np.ndarray]]]:
    """Every image of a path: its name, and what reads it as uint8 [h, w, c]."""
    if path.suffix.lower() in (".pkl", ".pickle"):
        raise ValueError(pickle_refusal(path))
    if path.suffix.lower() in (".npy", ".npz") and path.is_file():
        pixels = layout(_array(path), path)
        return [(f"{path}[{i}]", partial(pixels.__getitem__, i)) for i in range(len(pixels))]
    files = _zipped(path) if path.is_file() else _folder(path)
    if not files:
        raise ValueError(f"no images in {path}: give a folder or .zip of PNGs, an .npy, or an .npz "
                         "with arr_0")  # fmt: skip
    return [(name, partial(_decoded, name, read)) for name, read in files]


def pickle_refusal(path: str | Path) -> str:
    """What to do with a pickle, such as EDM2's statistics: reading one may run anyone's code."""
    return (
        f"{path} is a pickle, and reading one may run code; if you trust it, convert it yourself: "
        f"s = pickle.load(open('{path}', 'rb'))['fid']; "
        "np.savez('reference.npz', mu=s['mu'], sigma=s['sigma'])"
    )


def _batched(images: Iterator[tuple[str, np.ndarray]], size: int) -> Iterator[Tensor]:
    """Named uint8 [h, w, c] of one shape -> uint8 [<= size, c, h, w]."""
    first: tuple[str, tuple[int, ...]] | None = None
    batch: list[np.ndarray] = []
    for name, image in images:
        first = first or (name, image.shape)
        if image.shape != first[1]:
            raise ValueError(
                f"{name} is {image.shape}, {first[0]} is {first[1]}; images of one set must have "
                "one size and mode: resize or sort them first"
            )
        batch.append(image)
        if len(batch) == size:
            yield _tensor(batch)
            batch = []
    if batch:
        yield _tensor(batch)


def _tensor(images: list[np.ndarray]) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(np.stack(images).transpose(0, 3, 1, 2)))


def _folder(path: Path) -> _Files:
    found = (p for p in path.rglob("*") if p.suffix.lower() in _SUFFIXES and p.is_file())
    return [(str(file), file.read_bytes) for file in sorted(found)]


def _zipped(path: Path) -> _Files:
    """The image files of a zip; ValueError if it is none."""
    with readable(path, "a .zip of images"):
        archive = zipfile.ZipFile(path)
    found = (PurePosixPath(one.filename) for one in archive.infolist() if not one.is_dir())
    names = sorted(name for name in found if name.suffix.lower() in _SUFFIXES)
    return [(f"{path}/{name}", _reader(archive, str(name))) for name in names]


def _reader(archive: zipfile.ZipFile, name: str) -> Callable[[], bytes]:
    return lambda: archive.read(name)


def _decoded(name: str, read: Callable[[], bytes]) -> np.ndarray:
    with readable(name, "an image"):
        raw = read()
    return decode(raw, name)


def _array(path: Path) -> np.ndarray:
    """The array of an `.npy` or `arr_0` of an `.npz`, mapped and not read."""
    kind = path.suffix.lower()
    with readable(path, f"an {kind}"):
        if kind == ".npy":
            return np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))
        held = array_names(path)
        if "arr_0" in held:
            return mapped(path, "arr_0")
    names = ", ".join(held) or "nothing"
    raise ValueError(f"{path} holds {names}; it must hold arr_0, uint8 images [n, h, w, c]")
