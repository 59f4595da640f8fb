"""Datasets: uint8 images, from files on this machine. Nothing here touches a network."""

import gzip
import hashlib
import struct
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

_DEBIAN = Path("/usr/share/datasets/fashion-mnist")


@dataclass(frozen=True)
class FashionMNIST:
    """Fashion-MNIST (Xiao et al. 2017; MIT licence): 28 x 28 grey, 60,000 train and 10,000 test.

    Read from the four IDX files (`train-images-idx3-ubyte.gz`, ...), plain or gzipped, in
    `folder`; the default is where Debian's package dataset-fashion-mnist puts them.
    """

    split: Literal["train", "test"] = "train"
    folder: Path = field(default=_DEBIAN)

    @property
    def name(self) -> str:
        """Label used in records."""
        return f"fashion-mnist-{self.split}"

    def images(self) -> Tensor:
        """uint8 [n, 1, 28, 28]. ValueError naming the file if it is missing or not IDX."""
        stem = {"train": "train", "test": "t10k"}[self.split] + "-images-idx3-ubyte"
        for path in (Path(self.folder) / f"{stem}.gz", Path(self.folder) / stem):
            if path.is_file():
                return torch.from_numpy(_read_idx(path))[:, None]
        raise ValueError(
            f"no {stem}[.gz] in {self.folder}: install Debian's package dataset-fashion-mnist, "
            "or give the folder that holds the IDX files with --data"
        )


def _read_idx(path: Path) -> np.ndarray:
    """An IDX file of unsigned bytes, rank 3 -> uint8 [n, h, w]."""
    raw = path.read_bytes()
    try:
        raw = gzip.decompress(raw) if path.suffix == ".gz" else raw
        magic, n, h, w = struct.unpack(">IIII", raw[:16])
    except (OSError, EOFError, struct.error, zlib.error) as error:
        raise ValueError(f"{path} is not a complete IDX file ({error}); fetch it again") from error
    if magic != 0x803 or len(raw) != 16 + n * h * w:
        raise ValueError(f"{path} is not an IDX file of {n} images of {h} x {w}; fetch it again")
    return np.frombuffer(raw, np.uint8, offset=16).reshape(n, h, w).copy()


def digest(images: Tensor) -> str:
    """SHA-256 of the raw bytes of uint8 images, 64 hex digits."""
    return hashlib.sha256(images.contiguous().numpy().tobytes()).hexdigest()


def batches(images: Tensor, size: int) -> Iterator[Tensor]:
    """uint8 [n, c, h, w] -> uint8 [<= size, c, h, w], in order, the last one shorter."""
    for start in range(0, len(images), size):
        yield images[start : start + size]


def read_images(path: Path) -> Tensor:
    """A folder of image files (recursive, any case of suffix, sorted by path), or an `.npz` with
    `arr_0` uint8 [n, h, w, c] (ADM's sample batch) -> uint8 [n, c, h, w].

    ValueError naming the file: nothing there, mixed sizes or modes, 16-bit, alpha, not an image.
    """
    path = Path(path)
    if path.suffix.lower() == ".npz" and path.is_file():
        return _read_npz(path)
    suffixes = {".png", ".jpg", ".jpeg", ".bmp", ".webp"}
    files = sorted(p for p in path.rglob("*") if p.suffix.lower() in suffixes)
    if not files:
        raise ValueError(f"no images in {path}: give a folder of PNGs, or an .npz with arr_0")
    first = _read_file(files[0])
    images = np.empty((len(files), *first.shape), np.uint8)
    for i, file in enumerate(files):
        image = _read_file(file)
        if image.shape != first.shape:
            raise ValueError(
                f"{file} is {image.shape}, {files[0].name} is {first.shape}; images of one set "
                "must have one size and mode: resize or sort them first"
            )
        images[i] = image
    return torch.from_numpy(images.transpose(0, 3, 1, 2).copy())


def _read_npz(path: Path) -> Tensor:
    """`arr_0` of an ADM sample batch -> uint8 [n, c, h, w]."""
    try:
        with np.load(path) as file:
            pixels = file["arr_0"] if "arr_0" in getattr(file, "files", ()) else None
    except (OSError, EOFError, ValueError, AttributeError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{path} cannot be read as an .npz: {error}") from error
    if pixels is None or pixels.dtype != np.uint8 or pixels.ndim != 4:
        raise ValueError(f"{path} must hold arr_0, uint8 images [n, h, w, c]")
    return torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy())


def _read_file(path: Path) -> np.ndarray:
    """uint8 [h, w, c], c 1 or 3."""
    try:
        with Image.open(path) as image:
            mode, pixels = image.mode, np.asarray(image)
    except (OSError, SyntaxError) as error:
        raise ValueError(f"{path} cannot be read as an image: {error}") from error
    if mode not in ("L", "RGB"):
        raise ValueError(f"{path} has mode {mode}; convert it to 8-bit grey or RGB first")
    return pixels.reshape(*pixels.shape[:2], -1)
