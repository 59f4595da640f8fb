"""DPM-Solver++ (Lu et al. 2022b): data prediction, exponential integrators in lambda = -log sigma.

With h = lambda_next - lambda a first-order step is x_next = (sigma_next / sigma) x - expm1(-h) x0,
and x0 in it is replaced by what interpolation through other evaluations makes of it.
"""

import math
from collections import deque
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar, Literal

from torch import Tensor

from bench.types import Denoiser, Noise, Sampler


def _log_step(sigma: float, sigma_next: float) -> float:
    """h, infinite for the step to 0."""
    return math.log(sigma / sigma_next) if sigma_next > 0 else math.inf


@dataclass(frozen=True)
class DPMpp2M(Sampler):
    """DPM-Solver++(2M) (Lu et al. 2022b, Algorithm 2): multistep, second order. One call a step.

    With r = h_last / h:  d = x0 + (x0 - x0_last) / (2 r);  x_next = (sigma_next / sigma) x -
    expm1(-h) d. The first step is first order.
    """

    def __call__(self, denoise: Denoiser, x: Tensor, grid: Tensor, noise: Noise) -> Tensor:
        x0_last, h_last = None, 0.0
        for sigma, sigma_next in pairwise(grid.tolist()):
            x0 = d = denoise(x, sigma)
            h = _log_step(sigma, sigma_next)
            if x0_last is not None and h < math.inf:
                d = x0 + (h / (2 * h_last)) * (x0 - x0_last)
            x = (sigma_next / sigma) * x - math.expm1(-h) * d
            x0_last, h_last = x0, h
        return x


@dataclass(frozen=True)
class DPMpp3M(Sampler):
    """DPM-Solver++(3M): multistep through three evaluations (Lu et al. 2022b, section 4.2).

    The first step is of first order and the second of second (2M). One call a step.
    weights "published" are those of the authors' code, k-diffusion and diffusers: their quadratic
    term has half the weight of Taylor's theorem, so the order that tests measure is 2, with a small
    constant. "taylor" has the whole of it, and order 3.
    """

    weights: Literal["published", "taylor"] = "published"

    def __post_init__(self) -> None:
        if self.weights not in ("published", "taylor"):
            raise ValueError(f"unknown weights {self.weights!r}; known: published, taylor")

    def __call__(self, denoise: Denoiser, x: Tensor, grid: Tensor, noise: Noise) -> Tensor:
        past: deque[tuple[Tensor, float]] = deque(maxlen=2)  # (x0, the step after it), newest first
        for sigma, sigma_next in pairwise(grid.tolist()):
            x0, h = denoise(x, sigma), _log_step(sigma, sigma_next)
            x = (sigma_next / sigma) * x - math.expm1(-h) * x0
            if past and h < math.inf:
                x = x + self._correction(x0, h, past)
            past.appendleft((x0, h))
        return x

    def _correction(self, x0: Tensor, h: float, past: deque[tuple[Tensor, float]]) -> Tensor:
        """What the divided differences of x0 add to the first-order step."""
        x1, r1 = past[0][0], past[0][1] / h
        slope = (x0 - x1) / r1  # h dx0/dlambda
        if len(past) == 1:
            return -math.expm1(-h) / 2 * slope
        x2, r2 = past[1][0], past[1][1] / h
        earlier = (x1 - x2) / r2
        bend = (slope - earlier) / (r1 + r2)  # h^2 / 2 times the second derivative
        slope = slope + r1 * bend
        first = math.expm1(-h) / h + 1
        second = 0.5 - (math.expm1(-h) + h) / h**2
        return first * slope + (second if self.weights == "published" else 2 * second) * bend


@dataclass(frozen=True)
class DPMpp2S(Sampler):
    """DPM-Solver++(2S) (Lu et al. 2022b, Algorithm 1, r = 1/2): single-step, two calls a step.

    x0 is taken at sqrt(sigma sigma_next), half the step in lambda.
    """

    def evals(self, grid: Tensor) -> int:
        """Calls of the denoiser on this grid."""
        return 2 * (len(grid) - 1) - int(float(grid[-1]) == 0)

    def __call__(self, denoise: Denoiser, x: Tensor, grid: Tensor, noise: Noise) -> Tensor:
        for sigma, sigma_next in pairwise(grid.tolist()):
            x0 = denoise(x, sigma)
            if sigma_next == 0:
                return x0
            h = _log_step(sigma, sigma_next)
            middle = math.sqrt(sigma * sigma_next)
            half = (middle / sigma) * x - math.expm1(-h / 2) * x0
            x = (sigma_next / sigma) * x - math.expm1(-h) * denoise(half, middle)
        return x


@dataclass(frozen=True)
class DPMpp2MSDE(Sampler):
    """SDE-DPM-Solver++(2M) (Lu et al. 2022b, Eq. 18 and section 5): stochastic, one call a step.

    x_next = (sigma_next / sigma) e^-h x + (1 - e^-2h) d + sigma_next sqrt(1 - e^-2h) z, d as in
    `DPMpp2M`.
    """

    stochastic: ClassVar[bool] = True

    def __call__(self, denoise: Denoiser, x: Tensor, grid: Tensor, noise: Noise) -> Tensor:
        x0_last, h_last = None, 0.0
        for sigma, sigma_next in pairwise(grid.tolist()):
            x0 = d = denoise(x, sigma)
            if sigma_next == 0:
                return x0
            h = _log_step(sigma, sigma_next)
            if x0_last is not None:
                d = x0 + (h / (2 * h_last)) * (x0 - x0_last)
            keep, spread = sigma_next / sigma * math.exp(-h), -math.expm1(-2 * h)
            x = keep * x + spread * d + sigma_next * math.sqrt(spread) * noise()
            x0_last, h_last = x0, h
        return x
