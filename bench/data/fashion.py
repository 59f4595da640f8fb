"""Fashion-MNIST from its IDX files."""

import gzip
import struct
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import torch
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
        raise ValueError(
            f"{path} is not a complete IDX file ({error}); delete it and fetch it again"
        ) from error
    if magic != 0x803 or len(raw) != 16 + n * h * w:
        raise ValueError(
            f"{path} is not an IDX file of {n} images of {h} x {w}; delete it and fetch it again"
        )
    return np.frombuffer(raw, np.uint8, offset=16).reshape(n, h, w).copy()
