"""Single-step methods of second order for noise prediction, d = (x - x0) / sigma.

All of them call the denoiser twice a step, and once in the step to 0.
"""

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

from bench.lazy import Tensor
from bench.types import Denoiser, Noise, Sampler


def _two_a_step(grid: Tensor) -> int:
    """Function evaluations: two a step, one in the step to 0."""
    return 2 * (len(grid) - 1) - int(float(grid[-1]) == 0)


@dataclass(frozen=True)
class Heun(Sampler):
    """Heun's method in sigma (Karras et al. 2022, Algorithm 1)."""

    def evals(self, grid: Tensor) -> int:
        """Function evaluations on this grid: two a step, one in the step to 0."""
        return _two_a_step(grid)

    def __call__(self, denoise: Denoiser, x: Tensor, grid: Tensor, noise: Noise) -> Tensor:
        for sigma, sigma_next in pairwise(grid.tolist()):
            x = _heun_step(denoise, x, sigma, sigma_next)
        return x


def _heun_step(denoise: Denoiser, x: Tensor, sigma: float, sigma_next: float) -> Tensor:
    x0 = denoise(x, sigma)
    if sigma_next == 0:
        return x0
    d = (x - x0) / sigma
    euler = x + (sigma_next - sigma) * d
    d_next = (euler - denoise(euler, sigma_next)) / sigma_next
    return x + (sigma_next - sigma) * (d + d_next) / 2


@dataclass(frozen=True)
class EDMStochastic(Sampler):
    """EDM's stochastic sampler (Karras et al. 2022, Algorithm 2).

    A step first adds noise, which raises the noise level from sigma to sigma_hat = (1 + gamma)
    sigma. Then it takes Heun's step from sigma_hat to sigma_next. gamma is min(churn / steps,
    sqrt(2) - 1) for s_min <= sigma <= s_max, and 0 for all other sigma. The added noise has the
    standard deviation s_noise sqrt(sigma_hat^2 - sigma^2).

    The defaults are the paper's settings for ImageNet-64 (Table 5). sigma_hat can exceed the
    model's sigma_max. An s_max of at most sigma_max / sqrt(2) prevents that.

    Arguments:
        churn: S_churn of the paper, at least 0. 0 adds no noise.
        s_min: the lowest noise level at which noise is added.
        s_max: the highest noise level at which noise is added.
        s_noise: factor of the added noise, at least 0.
    """

    churn: float = 40.0
    s_min: float = 0.05
    s_max: float = 50.0
    s_noise: float = 1.003
    stochastic: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.churn < 0 or not 0 <= self.s_min <= self.s_max or self.s_noise < 0:
            raise ValueError(
                f"{self!r}: EDMStochastic needs churn >= 0, s_noise >= 0 and 0 <= s_min <= s_max"
            )

    def evals(self, grid: Tensor) -> int:
        """Function evaluations on this grid: two a step, one in the step to 0."""
        return _two_a_step(grid)

    def __call__(self, denoise: Denoiser, x: Tensor, grid: Tensor, noise: Noise) -> Tensor:
        most = min(self.churn / (len(grid) - 1), math.sqrt(2) - 1)
        for sigma, sigma_next in pairwise(grid.tolist()):
            gamma = most if self.s_min <= sigma <= self.s_max else 0.0
            sigma_hat = (1 + gamma) * sigma
            if gamma > 0:
                x = x + self.s_noise * math.sqrt(sigma_hat**2 - sigma**2) * noise()
            x = _heun_step(denoise, x, sigma_hat, sigma_next)
        return x


@dataclass(frozen=True)
class DPMSolver2(Sampler):
    """DPM-Solver-2 (Lu et al. 2022a, Algorithm 1, r = 1/2): midpoint rule in lambda = -log sigma.

    The second denoiser call is at sqrt(sigma sigma_next), the midpoint of the step in lambda. Its d
    is used for the whole step.
    """

    def evals(self, grid: Tensor) -> int:
        """Function evaluations on this grid: two a step, one in the step to 0."""
        return _two_a_step(grid)

    def __call__(self, denoise: Denoiser, x: Tensor, grid: Tensor, noise: Noise) -> Tensor:
        for sigma, sigma_next in pairwise(grid.tolist()):
            x0 = denoise(x, sigma)
            if sigma_next == 0:
                return x0
            middle = math.sqrt(sigma * sigma_next)
            half = x + (middle - sigma) / sigma * (x - x0)
            x = x + (sigma_next - sigma) / middle * (half - denoise(half, middle))
        return x
