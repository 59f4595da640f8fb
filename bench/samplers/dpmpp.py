"""DPM-Solver++ (Lu et al. 2022b): exponential integrators for data prediction.

The variable is lambda = -log sigma. With h = lambda_next - lambda, a step of first order is
x_next = (sigma_next / sigma) x - expm1(-h) x0. Methods of higher order replace x0 by a polynomial
through x0 at several levels.
"""

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar, Literal

from bench.lazy import Tensor
from bench.samplers.order import LowerOrderFinal, Multistep
from bench.types import Denoiser, Noise, Sampler


def _log_step(sigma: float, sigma_next: float) -> float:
    """h = lambda_next - lambda. It is infinite in the step to 0."""
    return math.log(sigma / sigma_next) if sigma_next > 0 else math.inf


@dataclass(frozen=True)
class DPMpp2M(Multistep):
    """DPM-Solver++(2M) (Lu et al. 2022b, Algorithm 2): multistep, of second order.

    It calls the denoiser once a step. h_last and x0_last belong to the step before. With
    r = h_last / h and d = x0 + (x0 - x0_last) / (2 r),
    x_next = (sigma_next / sigma) x - expm1(-h) d. In a step of first order d = x0.

    Arguments:
        lower_order_final: see `Multistep`. It changes nothing on a grid that ends at 0: the step
            to 0 has order 1 always.
    """

    lower_order_final: LowerOrderFinal = "below15"

    def __call__(self, denoise: Denoiser, x: Tensor, grid: Tensor, noise: Noise) -> Tensor:
        x0_last, h_last = x, math.inf  # not used: the first step has order 1
        for sigma, sigma_next, order in self._ordered(grid, 2):
            x0 = d = denoise(x, sigma)
            h = _log_step(sigma, sigma_next)
            if order > 1:
                d = x0 + (h / (2 * h_last)) * (x0 - x0_last)
            x = (sigma_next / sigma) * x - math.expm1(-h) * d
            x0_last, h_last = x0, h
        return x


@dataclass(frozen=True)
class DPMpp3M(Multistep):
    """DPM-Solver++(3M) (Lu et al. 2022b, section 4.2): multistep through x0 at three levels.

    It calls the denoiser once a step. A step of second order is that of `DPMpp2M`.

    Arguments:
        weights: "published" weights are those of the authors' code, of k-diffusion and of
            diffusers. Their quadratic term has half the weight that Taylor's theorem asks for.
            Tests therefore measure order 2, with a small constant. "taylor" has the full weight.
            Tests measure order 3.
        lower_order_final: see `Multistep`.
    """

    version: ClassVar[int] = 2  # 1 had no `lower_order_final`: it was "never"
    weights: Literal["published", "taylor"] = "published"
    lower_order_final: LowerOrderFinal = "below15"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.weights not in ("published", "taylor"):
            raise ValueError(f"DPMpp3M: unknown weights {self.weights!r}; known: published, taylor")

    def __call__(self, denoise: Denoiser, x: Tensor, grid: Tensor, noise: Noise) -> Tensor:
        past: deque[tuple[Tensor, float]] = deque(maxlen=2)  # (x0, h of its step), newest first
        for sigma, sigma_next, order in self._ordered(grid, 3):
            x0, h = denoise(x, sigma), _log_step(sigma, sigma_next)
            x = (sigma_next / sigma) * x - math.expm1(-h) * x0
            if order > 1:
                x = x + self._correction(x0, h, list(past)[: order - 1])
            past.appendleft((x0, h))
        return x

    def _correction(self, x0: Tensor, h: float, past: Sequence[tuple[Tensor, float]]) -> Tensor:
        """The terms above first order, from divided differences of x0. past: newest first."""
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
    """DPM-Solver++(2S) (Lu et al. 2022b, Algorithm 1, r = 1/2): single-step, of second order.

    It calls the denoiser twice a step, and once in the step to 0. The second call is at
    sqrt(sigma sigma_next), the midpoint of the step in lambda. Its x0 is used for the whole step.
    """

    def evals(self, grid: Tensor) -> int:
        """Function evaluations on this grid: two a step, one in the step to 0."""
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
class DPMpp2MSDE(Multistep):
    """SDE-DPM-Solver++(2M) (Lu et al. 2022b, Eq. 18 and section 5): stochastic multistep.

    It calls the denoiser once a step. With d as in `DPMpp2M` and z standard normal,
    x_next = (sigma_next / sigma) e^-h x + (1 - e^-2h) d + sigma_next sqrt(1 - e^-2h) z.

    Arguments:
        lower_order_final: as of `DPMpp2M`.
    """

    stochastic: ClassVar[bool] = True
    lower_order_final: LowerOrderFinal = "below15"

    def __call__(self, denoise: Denoiser, x: Tensor, grid: Tensor, noise: Noise) -> Tensor:
        x0_last, h_last = x, math.inf  # not used: the first step has order 1
        for sigma, sigma_next, order in self._ordered(grid, 2):
            x0 = d = denoise(x, sigma)
            if sigma_next == 0:
                return x0
            h = _log_step(sigma, sigma_next)
            if order > 1:
                d = x0 + (h / (2 * h_last)) * (x0 - x0_last)
            keep, spread = sigma_next / sigma * math.exp(-h), -math.expm1(-2 * h)
            x = keep * x + spread * d + sigma_next * math.sqrt(spread) * noise()
            x0_last, h_last = x0, h
        return x
