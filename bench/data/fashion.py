"""Fashion-MNIST, from its IDX files."""

import gzip
import struct
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np

from bench.lazy import Tensor, torch

DEBIAN = Path("/usr/share/datasets/fashion-mnist")
FASHION_SHA256 = {  # of all pixels of a split
    "train": "2e487a6c89124f78f2d7521542223cafe96f7123c3ca13d447772ac6ecbb3012",
    "test": "c867c93ff95360594e8ec3287995350b824dd110b11595c0e13d5423f621867a",
}


@dataclass(frozen=True)
class FashionMNIST:
    """Fashion-MNIST: 60,000 training and 10,000 test images of 28 x 28 pixels, grey.

    Xiao et al. 2017, MIT licence.

    folder: the folder of the IDX files (`train-images-idx3-ubyte.gz`, ...), plain or gzipped. The
        default is the folder of Debian's package dataset-fashion-mnist.
    """

    split: Literal["train", "test"] = "train"
    folder: Path = field(default=DEBIAN)
    licence: ClassVar[str] = "MIT"
    preparation: ClassVar[str] = "none"

    @property
    def name(self) -> str:
        """The name in records."""
        return f"fashion-mnist-{self.split}"

    def images(self) -> Tensor:
        """All images of the split.

        Returns:
            uint8 [n, 1, 28, 28].

        Raises:
            ValueError: a file is missing, or is not an IDX file.
        """
        stem = {"train": "train", "test": "t10k"}[self.split] + "-images-idx3-ubyte"
        for path in (Path(self.folder) / f"{stem}.gz", Path(self.folder) / stem):
            if path.is_file():
                return torch.from_numpy(_read_idx(path))[:, None]
        raise ValueError(
            f"no {stem}[.gz] in {self.folder}: install Debian's package dataset-fashion-mnist, "
            "or set --data to the folder of the IDX files"
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
