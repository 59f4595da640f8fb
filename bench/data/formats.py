"""Data sets in a format of their own: Fashion-MNIST's IDX, CIFAR-10's folder, JPEGs in an .npz."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from bench.data.arrays import array_names, readable
from bench.data.decode import Picture, decode
from bench.data.fashion import FASHION_SHA256, FashionMNIST
from bench.data.pickled import read_batch

SPLITS = ("train", "test")
_CIFAR = "cifar-10-batches-py"  # the folder that torchvision's CIFAR10 unpacks
_BATCHES = {"train": [f"data_batch_{i}" for i in range(1, 6)], "test": ["test_batch"]}
_CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship",
            "truck"]  # fmt: skip
_JPEG = {"header", *(f"{split}_{part}" for split in SPLITS for part in ("bytes", "lengths"))}


@dataclass(frozen=True)
class Known:
    """A data set that has a name, and a split of its images.

    name: with the split, as records have it.
    readers: one for each image, in the data set's order.
    """

    name: str
    licence: str
    readers: Sequence[Callable[[], Picture]]


def known_set(path: Path, split: str | None) -> Known | None:
    """The data set of a path; None: the path has no format of this module.

    Arguments:
        path: a folder of IDX files; torchvision's folder of CIFAR-10, or the one above it; an .npz
            of JPEGs (`header`, `train_bytes`, `train_lengths`, `test_bytes`, `test_lengths`).
        split: "train" or "test"; None: "train".

    Raises:
        ValueError: another split, a missing file, or a damaged one.
    """
    if not (opener := _opener(path)):
        return None
    if split not in (None, *SPLITS):
        raise ValueError(f"--split {split}: {path} has the splits train and test")
    return opener(split or "train")


def has_own_format(path: Path) -> bool:
    """Whether a path is a data set in a format of this module. A damaged .npz is none."""
    try:
        return _opener(path) is not None
    except ValueError:
        return False


def _opener(path: Path) -> Callable[[str], Known] | None:
    if path.is_dir():
        if next(path.glob("*-ubyte*"), None):
            return partial(_idx, path)
        for folder in (path, path / _CIFAR):
            if any((folder / name).is_file() for name in _BATCHES["train"] + _BATCHES["test"]):
                return partial(_cifar, folder)
    elif path.suffix.lower() == ".npz" and path.is_file():
        with readable(path, "an .npz"):
            names = set(array_names(path))
        if names >= _JPEG:
            return partial(_jpegs, path)
    return None


def _idx(folder: Path, split: str) -> Known:
    """IDX files. MNIST, KMNIST and others have the same file names, so the content gives a name."""
    dataset = FashionMNIST("test" if split == "test" else "train", folder)
    pixels = dataset.images().numpy()[:, 0, :, :, None]  # [n, h, w, 1]
    if hashlib.sha256(pixels.tobytes()).hexdigest() == FASHION_SHA256[split]:
        return Known(dataset.name, dataset.licence, rows_of(pixels))
    return Known(f"{folder.resolve().name}-{split}", "unknown", rows_of(pixels))


def _cifar(folder: Path, split: str) -> Known:
    parts = []
    for name in _BATCHES[split]:
        with readable(folder / name, "a batch of CIFAR-10"):
            parts.append(read_batch((folder / name).read_bytes()))
    return Known(f"cifar10-{split}", "unknown", rows_of(np.concatenate(parts)))


def _jpegs(path: Path, split: str) -> Known:
    """JPEGs that share a header: image i is header + body i + the end marker."""
    with readable(path, "an .npz of JPEGs"), np.load(path, allow_pickle=False) as arrays:
        head, body = (arrays[name].tobytes() for name in ("header", f"{split}_bytes"))
        ends = np.cumsum(arrays[f"{split}_lengths"].astype(np.int64)).tolist()
        classes = arrays["classes"].tolist() if "classes" in arrays else []
        if not ends or ends[-1] != len(body):
            raise ValueError(f"its {split}_lengths do not add up to its {split}_bytes")
    name = f"{'cifar10-q75' if classes == _CLASSES else path.stem}-{split}"
    readers = [partial(_jpeg, head, body, start, end, f"{path}, image {i} of {split}")
               for i, (start, end) in enumerate(zip([0, *ends], ends, strict=False))]  # fmt: skip
    return Known(name, "unknown", readers)


def _jpeg(head: bytes, body: bytes, start: int, end: int, name: str) -> Picture:
    return decode(head + body[start:end] + b"\xff\xd9", name)


def rows_of(pixels: np.ndarray) -> Sequence[Callable[[], Picture]]:
    """A reader for each image of uint8 [n, h, w, c]."""
    return [partial(_row, pixels, i) for i in range(len(pixels))]


def _row(pixels: np.ndarray, i: int) -> Picture:
    return Picture(pixels[i])
