"""Read images of folders, zips and arrays, all at once or in batches."""

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

_Files = list[tuple[str, Callable[[], bytes]]]  # name, and the function that reads the bytes


def read_images(path: str | Path) -> Tensor:
    """All images of a path, uint8 [n, c, h, w], c 1 or 3. `stream` describes the paths."""
    return torch.cat(list(stream(path, 256)))


def stream(path: str | Path, size: int, preprocess: Preprocess | None = None) -> Iterator[Tensor]:
    """Read images in batches. A batch is read only when it is needed.

    Arguments:
        path: a folder or a `.zip` of image files, with their subfolders, in the order of their
            paths; an `.npy`; or an `.npz` with `arr_0`, ADM's sample batch. Arrays are uint8
            [n, h, w, c] or [n, c, h, w], c 1 or 3.
        size: images in a batch.
        preprocess: applied to each image; None: no preprocessing.

    Returns:
        Batches, uint8 [<= size, c, h, w].

    Raises:
        ValueError: no images, mixed sizes or modes, a pickle, or what `decode` and `layout` refuse.
    """
    prepare = preprocess or AsIs()
    return _batched(((name, prepare(read())) for name, read in _images(Path(path))), size)


def spaced(path: str | Path, n: int, preprocess: Preprocess | None = None) -> Tensor:
    """n evenly spaced images of a path, uint8 [n, c, h, w]. No other image is decoded.

    Raises:
        ValueError: the path has fewer than n images, or what `stream` refuses.
    """
    found, prepare = _images(Path(path)), preprocess or AsIs()
    if not 0 < n <= len(found):
        raise ValueError(f"{path} has {len(found)} images, not {n}")
    chosen = found[:: len(found) // n][:n]
    return torch.cat(list(_batched(((name, prepare(read())) for name, read in chosen), 256)))


def survey(path: str | Path) -> tuple[int, int]:
    """(Number of images, number of JPEGs) of a path. Nothing is decoded."""
    names = [name for name, _ in _images(Path(path))]
    return len(names), sum(name.lower().endswith((".jpg", ".jpeg")) for name in names)


def _images(path: Path) -> list[tuple[str, Callable[[], np.ndarray]]]:
    """Every image of a path: its name, and the function that reads it as uint8 [h, w, c]."""
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
    """The message for a pickle, such as EDM2's reference statistics. A pickle can run any code."""
    return (
        f"{path} is a pickle, and a pickle can run any code; if you trust it, convert it: "
        f"s = pickle.load(open('{path}', 'rb'))['fid']; "
        "np.savez('reference.npz', mu=s['mu'], sigma=s['sigma'])"
    )


def _batched(images: Iterator[tuple[str, np.ndarray]], size: int) -> Iterator[Tensor]:
    """Stack named images, uint8 [h, w, c] of one shape, to batches uint8 [<= size, c, h, w]."""
    first: tuple[str, tuple[int, ...]] | None = None
    batch: list[np.ndarray] = []
    for name, image in images:
        first = first or (name, image.shape)
        if image.shape != first[1]:
            raise ValueError(
                f"{name} is {image.shape}, {first[0]} is {first[1]}; images of one set must have "
                "one size and mode: resize them, or put them in two folders"
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
    """The image files of a zip. ValueError: it is no zip."""
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
    """The array of an `.npy`, or `arr_0` of an `.npz`, memory-mapped."""
    kind = path.suffix.lower()
    with readable(path, f"an {kind}"):
        if kind == ".npy":
            return np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))
        held = array_names(path)
        if "arr_0" in held:
            return mapped(path, "arr_0")
    names = ", ".join(held) or "nothing"
    raise ValueError(f"{path} contains {names}; it must contain arr_0, uint8 images [n, h, w, c]")
