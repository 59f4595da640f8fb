"""Samplers: loops over a grid in the sigma frame, where VP and VE forms are the same numbers.

State x is float32 (or float64 in tests); coefficients are Python floats from the float64 grid.
"""

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

from torch import Tensor

from bench.types import Denoiser, Noise


@dataclass(frozen=True)
class DDIM:
    """DDIM with eta = 0 (Song et al. 2021, Eq. 12), which is Euler's method in sigma.

    x_next = x0 + (sigma_next / sigma) (x - x0). The step to 0 returns x0. One call a step.
    """

    order: ClassVar[int] = 1

    def evals(self, grid: Tensor) -> int:
        """Calls of the denoiser on this grid."""
        return len(grid) - 1

    def __call__(self, denoise: Denoiser, x: Tensor, grid: Tensor, noise: Noise) -> Tensor:
        for sigma, sigma_next in pairwise(grid.tolist()):
            x0 = denoise(x, sigma)
            x = x0 + (sigma_next / sigma) * (x - x0)
        return x


@dataclass(frozen=True)
class DPMpp2M:
    """DPM-Solver++(2M) (Lu et al. 2022b, Algorithm 2): multistep, second order in lambda.

    With lambda = -log sigma, h = lambda_next - lambda and r = h_last / h:
        d = x0 + (x0 - x0_last) / (2 r);  x_next = (sigma_next / sigma) x - expm1(-h) d
    The first step, and the step to 0 where h is infinite, are first order. One call a step.
    """

    order: ClassVar[int] = 2

    def evals(self, grid: Tensor) -> int:
        """Calls of the denoiser on this grid."""
        return len(grid) - 1

    def __call__(self, denoise: Denoiser, x: Tensor, grid: Tensor, noise: Noise) -> Tensor:
        x0_last, h_last = None, 0.0
        for sigma, sigma_next in pairwise(grid.tolist()):
            x0 = d = denoise(x, sigma)
            h = math.log(sigma / sigma_next) if sigma_next > 0 else math.inf
            if x0_last is not None and h < math.inf:
                d = x0 + (h / (2 * h_last)) * (x0 - x0_last)
            x = (sigma_next / sigma) * x - math.expm1(-h) * d
            x0_last, h_last = x0, h
        return x
