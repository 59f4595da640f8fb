"""Images in memory: their digest, and batches of them."""

import hashlib
from collections.abc import Iterable, Iterator
from typing import Any

from torch import Tensor


def digest(images: Tensor) -> str:
    """SHA-256 of the raw bytes of uint8 images, 64 hex digits."""
    return hashlib.sha256(images.contiguous().numpy().tobytes()).hexdigest()


def hashed(images: Iterable[Tensor], hash: Any) -> Iterator[Tensor]:
    """The same batches; `hash`, of hashlib, takes in their bytes: at the end that of `digest`."""
    for batch in images:
        hash.update(batch.contiguous().numpy().tobytes())
        yield batch


def batches(images: Tensor, size: int) -> Iterator[Tensor]:
    """uint8 [n, c, h, w] -> uint8 [<= size, c, h, w], in order, the last one shorter."""
    for start in range(0, len(images), size):
        yield images[start : start + size]
