"""What every extractor asks of its images, and of the arithmetic on its device."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor


@contextmanager
def full_float32() -> Iterator[None]:
    """TF32 off in convolutions and products, so that an image scores alike on every device."""
    rooms: list[Any] = [torch.backends.cudnn.conv, torch.backends.cuda.matmul]  # type: ignore[attr-defined]
    before = [room.fp32_precision for room in rooms]
    for room in rooms:
        room.fp32_precision = "ieee"
    try:
        yield
    finally:
        for room, precision in zip(rooms, before, strict=True):
            room.fp32_precision = precision


def check_images(images: Tensor) -> None:
    """ValueError unless they are uint8 [n, c, h, w], c 1 or 3, n at least 1."""
    right = images.dtype == torch.uint8 and images.ndim == 4 and images.shape[1] in (1, 3)
    if not right or len(images) == 0:
        raise ValueError(
            f"images must be uint8 [n, c, h, w] with c 1 or 3, not {images.dtype} "
            f"{list(images.shape)}; scale to 0..255, round and convert first"
        )
