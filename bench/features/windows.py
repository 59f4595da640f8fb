"""Operations of extractors on windows of channels-last images: maximum, mean, and convolution.

On an NVIDIA GPU a Triton kernel makes one pass over memory for each. Elsewhere torch computes them.

Computed by torch, they took two thirds of the time of an Inception on a GPU. With the kernel, an
H100 takes 0.68 s in TF32 and 0.37 s in float16 for the whole Inception and 8192 images of 256 x 256
(`results/costs/inception-h100.json`). The convolution of `EffNetLite0` was not measured alone.
torch.compile may generate similar kernels, and was not measured in comparison.
"""

import functools
import importlib
from contextlib import nullcontext
from math import ceil
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

_BLOCK = 1024  # output values of one program of the kernel


def greatest(x: Tensor, stride: int, padding: int = 0) -> Tensor:
    """Maximum of each 3 x 3 window: [n, c, h, w] -> [n, c, h', w'], with the dtype of x."""
    if not _takes(x):
        return F.max_pool2d(x, 3, stride, padding)
    sizes = [(side + 2 * padding - 3) // stride + 1 for side in x.shape[2:]]
    return _over_windows("greatest", x, 3, stride, [padding, padding], sizes)


def mean_relu(x: Tensor) -> Tensor:
    """ReLU of the mean of each 3 x 3 window, of pixels inside the image: same shape and dtype."""
    if not _takes(x):
        return F.relu_(F.avg_pool2d(x, 3, 1, 1, count_include_pad=False))
    return _over_windows("mean", x, 3, 1, [1, 1], list(x.shape[2:]))


def depthwise_relu6(x: Tensor, weight: Tensor, bias: Tensor, stride: int) -> Tensor:
    """ReLU6, a convolution of each channel with TensorFlow's SAME padding, and ReLU6.

    Arguments:
        x: float [n, c, h, w].
        weight: [c, 1, k, k].
        bias: [c].

    Returns:
        [n, c, ceil(h / stride), ceil(w / stride)], with the dtype of x.
    """
    size, sizes = weight.shape[-1], [ceil(side / stride) for side in x.shape[2:]]
    outside = [
        max((out - 1) * stride + size - side, 0)
        for out, side in zip(sizes, x.shape[2:], strict=True)
    ]
    before = [pixels // 2 for pixels in outside]
    if _takes(x):
        taps = weight.flatten(1).T.contiguous()  # [k k, c]
        return _over_windows("product", x, size, stride, before, sizes, taps, bias)
    (top, left), (height, width) = before, outside
    x = F.pad(F.relu6(x), (left, width - left, top, height - top))
    return F.relu6(F.conv2d(x, weight, bias, stride, groups=len(weight)))


def _takes(x: Tensor) -> bool:
    """Whether the kernel can take x: on CUDA, with a multiple of 16 channels."""
    cuda = x.is_cuda and torch.version.cuda is not None
    return cuda and x.shape[1] % 16 == 0 and x.numel() < 2**31 and _kernel() is not None


@functools.cache
def _kernel() -> Any:
    """The module with the kernel; None without Triton, which only torch for CUDA includes."""
    try:
        return importlib.import_module("bench.features.kernel")
    except ImportError:
        return None


def _over_windows(
    kind: str, x: Tensor, size: int, stride: int, before: list[int], sizes: list[int],
    weight: Tensor | None = None, bias: Tensor | None = None,
) -> Tensor:  # fmt: skip
    n, c, h, w = x.shape
    x = x.contiguous(memory_format=torch.channels_last)
    y = torch.empty((n, *sizes, c), dtype=x.dtype, device=x.device).permute(0, 3, 1, 2)
    channels = min(c & -c, 128)  # of a program: Triton needs a power of two; it must divide c
    pixels, count = _BLOCK // channels, n * sizes[0] * sizes[1]
    with torch.cuda.device(x.device) if x.is_cuda else nullcontext():
        _kernel().over_windows[(ceil(count / pixels), c // channels)](
            x, x if weight is None else weight, x if bias is None else bias, y,
            count, h, w, *sizes, c, stride, *before,
            KIND=kind, SIZE=size, PIXELS=pixels, CHANNELS=channels,
        )  # fmt: skip
    return y
