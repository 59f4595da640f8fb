"""Gaussian noise that depends only on seed, draw and pixel: Philox 4x32-10 and Box-Muller.

Philox is a counter-based generator (Salmon et al., SC 2011). It gives the same integers on CPU and
GPU, for every batch size and every number of processes, and after a restart. A `torch.Generator`
for each image would take tens of microseconds for each image and differ between devices.
"""

import math
from collections.abc import Sequence

from bench.lazy import Tensor, torch

_M0, _M1 = 0xD2511F53, 0xCD9E8D57
_W0, _W1 = 0x9E3779B9, 0xBB67AE85
_MASK = 0xFFFFFFFF


def _mul(a: int, b: Tensor) -> tuple[Tensor, Tensor]:
    """High and low 32 bits of a 32 x 32 bit product. No step overflows signed 64 bits."""
    a_low, a_high = a & 0xFFFF, a >> 16
    low = a_low * b  # < 2^48
    high = a_high * b  # < 2^48
    mid = (low >> 16) + high  # < 2^49
    return mid >> 16, ((mid << 16) | (low & 0xFFFF)) & _MASK


def philox(counter: Sequence[Tensor], key: tuple[Tensor, Tensor]) -> list[Tensor]:
    """Philox 4x32-10. It agrees with the known-answer tests of Random123.

    Arguments:
        counter: four words, int64 in [0, 2^32). All shapes broadcast.
        key: two words, int64 in [0, 2^32).

    Returns:
        Four words, int64 in [0, 2^32).
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        high0, low0 = _mul(_M0, c0)
        high1, low1 = _mul(_M1, c2)
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = (k0 + _W0) & _MASK, (k1 + _W1) & _MASK
    return [c0, c1, c2, c3]


def normal(seeds: Tensor, draw: int, shape: tuple[int, ...]) -> Tensor:
    """Draw standard normal noise. Image i depends only on seeds[i], `draw` and the pixel's index.

    Arguments:
        seeds: int64 [n], at least 0.
        draw: number of the draw, from 0.
        shape: of an image.

    Returns:
        float32 [n, *shape], on the device of `seeds`.
    """
    size = math.prod(shape)
    blocks = -(-size // 4)
    pixel = torch.arange(blocks, device=seeds.device)[None, :]  # [1, blocks]
    zero = torch.zeros_like(pixel)
    seed = seeds.to(torch.int64)[:, None]  # [n, 1]
    words = philox([pixel, zero + draw, zero, zero], (seed & _MASK, seed >> 32))
    # 32-bit words to (0, 1]. float64 keeps the tail; CPU and GPU differ only by rounding.
    u = [(word.to(torch.float64) + 1.0) * 2.0**-32 for word in words]
    z = []
    for a, b in ((u[0], u[1]), (u[2], u[3])):
        radius, angle = torch.sqrt(-2.0 * torch.log(a)), 2.0 * math.pi * b
        z += [radius * torch.cos(angle), radius * torch.sin(angle)]
    flat = torch.stack(z, dim=-1).reshape(len(seeds), blocks * 4)[:, :size]
    return flat.to(torch.float32).reshape(len(seeds), *shape)
