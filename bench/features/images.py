"""What all extractors share: the check of images, batches, and arithmetic."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from bench.lazy import Tensor, torch
from bench.machine import side_by_side


@contextmanager
def _convolutions(precision: str) -> Iterator[None]:
    conv: Any = torch.backends.cudnn.conv  # type: ignore[attr-defined]
    before, conv.fp32_precision = conv.fp32_precision, precision
    try:
        yield
    finally:
        conv.fp32_precision = before


def full_float32() -> AbstractContextManager[None]:
    """Switches TF32 off in convolutions, so that an image has the same features on every device."""
    return _convolutions("ieee")


def tensor_float32() -> AbstractContextManager[None]:
    """Switches TF32 on in float32 convolutions, on GPUs that have it.

    TF32 rounds the factors of a product to 10 bits.
    """
    return _convolutions("tf32")


def in_batches(
    call: Callable[[Tensor], Any], images: Tensor, batch: int, device: str | torch.device
) -> list[Any]:
    """The results of `call` for batches of images on `device`.

    The batch is halved until it fits into the memory of a GPU.
    """
    while True:
        try:
            return side_by_side(lambda part: call(part.to(device)), images.split(batch))
        except torch.cuda.OutOfMemoryError:
            if batch == 1:
                raise
        torch.cuda.empty_cache()
        batch //= 2


def check_images(images: Tensor) -> None:
    """Check that images are uint8 [n, c, h, w], where c is 1 or 3 and n at least 1.

    Raises:
        ValueError: they are not.
    """
    right = images.dtype == torch.uint8 and images.ndim == 4 and images.shape[1] in (1, 3)
    if not right or len(images) == 0:
        raise ValueError(
            f"images must be uint8 [n, c, h, w] with c 1 or 3, not {images.dtype} "
            f"{list(images.shape)}; scale to 0..255, round and convert first"
        )
