"""Schedules in closed form: rivals of constant rate, and laws of noise levels for training."""

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from scipy.special import expit, logit
from scipy.stats import beta, laplace, norm
from torch import Tensor

from bench.schedules.ends import times, with_ends
from bench.types import NoiseProcess, Schedule


def _quantiles(law: Any, steps: int, process: NoiseProcess) -> Tensor:
    """sigma at equal shares of a law of log sigma (scipy), from sigma_max down to sigma_min.

    Each half is taken from its own tail, so that no digits are lost far from the middle.
    """
    high, low = math.log(process.sigma_max), math.log(process.sigma_min)
    if law.cdf(high) == law.cdf(low) and law.sf(high) == law.sf(low):
        raise ValueError(
            f"{law.dist.name} law of log sigma, mean {law.mean():.4g} and deviation "
            f"{law.std():.4g}, has no weight in {low:.4g} .. {high:.4g}; move or widen it"
        )
    t = times(steps).numpy()
    below = law.cdf(high) + t * (law.cdf(low) - law.cdf(high))
    above = law.sf(high) + t * (law.sf(low) - law.sf(high))
    return torch.as_tensor(np.exp(np.where(below < 0.5, law.ppf(below), law.isf(above))))


@dataclass(frozen=True)
class Native(Schedule):
    """Uniform in the model's own timesteps, as DDIM's linear selection (Song et al. 2021)."""

    def __call__(self, steps: int, process: NoiseProcess) -> Tensor:
        ends = process.timestep(torch.tensor([process.sigma_max, process.sigma_min]))
        return with_ends(process.sigma(ends[0] + times(steps) * (ends[1] - ends[0])), process)


@dataclass(frozen=True)
class LogSNR(Schedule):
    """Uniform in lambda = -log sigma, half the log-SNR (Lu et al. 2022, DPM-Solver)."""

    def __call__(self, steps: int, process: NoiseProcess) -> Tensor:
        high, low = math.log(process.sigma_max), math.log(process.sigma_min)
        return with_ends(torch.exp(high + times(steps) * (low - high)), process)


@dataclass(frozen=True)
class Karras(Schedule):
    """sigma^(1/rho) uniform (Karras et al. 2022, Eq. 5)."""

    rho: float = 7.0
    shown: ClassVar[tuple[str, ...]] = ("rho",)

    def __post_init__(self) -> None:
        if not self.rho > 0:
            raise ValueError(f"Karras needs rho > 0, not {self.rho}")

    def __call__(self, steps: int, process: NoiseProcess) -> Tensor:
        high, low = process.sigma_max ** (1 / self.rho), process.sigma_min ** (1 / self.rho)
        return with_ends((high + times(steps) * (low - high)) ** self.rho, process)


@dataclass(frozen=True)
class Cosine(Schedule):
    """Uniform in the angle atan sigma: the cosine schedule's time (Nichol and Dhariwal 2021).

    Their offset s = 0.008 moves the ends only, and the ends are the process's here.
    """

    def __call__(self, steps: int, process: NoiseProcess) -> Tensor:
        high, low = math.atan(process.sigma_max), math.atan(process.sigma_min)
        return with_ends(torch.tan(high + times(steps) * (low - high)), process)


@dataclass(frozen=True)
class Linear(Schedule):
    """Uniform in the time of the VP process of linear beta (Ho et al. 2020; Song et al. 2021).

    log alpha = -(beta_max - beta_min) t^2 / 2 - beta_min t;  sigma^2 = exp(-log alpha) - 1.
    """

    beta_min: float = 0.1
    beta_max: float = 20.0

    def __post_init__(self) -> None:
        if not 0 < self.beta_min < self.beta_max < math.inf:
            raise ValueError(
                f"Linear needs 0 < beta_min < beta_max, not {self.beta_min} and {self.beta_max}"
            )

    def __call__(self, steps: int, process: NoiseProcess) -> Tensor:
        slope = self.beta_max - self.beta_min
        ends = [math.log1p(sigma**2) for sigma in (process.sigma_max, process.sigma_min)]
        high, low = (
            (math.sqrt(self.beta_min**2 + 2 * slope * end) - self.beta_min) / slope for end in ends
        )
        t = high + times(steps) * (low - high)
        return with_ends(torch.expm1(slope * t**2 / 2 + self.beta_min * t).sqrt(), process)


@dataclass(frozen=True)
class LogNormal(Schedule):
    """Quantiles of log sigma ~ N(mean, std^2), cut at the process's ends (Karras et al. 2022).

    EDM's law of noise levels in training.
    """

    mean: float = -1.2
    std: float = 1.2

    def __post_init__(self) -> None:
        if not (math.isfinite(self.mean) and 0 < self.std < math.inf):
            raise ValueError(
                f"LogNormal needs a finite mean and std > 0, not {self.mean} and {self.std}"
            )

    def __call__(self, steps: int, process: NoiseProcess) -> Tensor:
        return with_ends(_quantiles(norm(self.mean, self.std), steps, process), process)


@dataclass(frozen=True)
class Laplace(Schedule):
    """Quantiles of the Laplace law of log-SNR = -2 log sigma (Hang et al. 2024), for training.

    Density exp(-|lambda - mean| / scale) / (2 scale), cut at the process's ends.
    """

    mean: float = 0.0
    scale: float = 0.5

    def __post_init__(self) -> None:
        if not (math.isfinite(self.mean) and 0 < self.scale < math.inf):
            raise ValueError(
                f"Laplace needs a finite mean and scale > 0, not {self.mean} and {self.scale}"
            )

    def __call__(self, steps: int, process: NoiseProcess) -> Tensor:
        return with_ends(
            _quantiles(laplace(-self.mean / 2, self.scale / 2), steps, process), process
        )


@dataclass(frozen=True)
class Quadratic(Schedule):
    """Uniform in the square root of the model's timesteps (Song et al. 2021, DDIM, App. D.2)."""

    def __call__(self, steps: int, process: NoiseProcess) -> Tensor:
        ends = process.timestep(torch.tensor([process.sigma_max, process.sigma_min])).sqrt()
        if not bool(torch.isfinite(ends).all()):
            raise ValueError("Quadratic needs timesteps >= 0, as VP models have")
        return with_ends(
            process.sigma((ends[0] + times(steps) * (ends[1] - ends[0])) ** 2), process
        )


@dataclass(frozen=True)
class TimeUniform(Schedule):
    """t^(1/rho) uniform in the time of a VP process whose betas fit the ends (diff-sampler's "vp").

    t falls from 1 to eps; sigma^2 = exp(b t^2 / 2 + a t) - 1 with a and b from sigma(1) = sigma_max
    and sigma(eps) = sigma_min. Formula from that code, not from a paper.
    """

    rho: float = 1.0
    eps: float = 1e-3

    def __post_init__(self) -> None:
        if not (self.rho > 0 and 0 < self.eps < 1):
            raise ValueError(f"TimeUniform needs rho > 0 and eps within 0 .. 1, not {self!r}")

    def __call__(self, steps: int, process: NoiseProcess) -> Tensor:
        high, low = (math.log1p(sigma**2) for sigma in (process.sigma_max, process.sigma_min))
        b = 2 * (high - low / self.eps) / (1 - self.eps)
        a = high - b / 2
        t = (1 + times(steps) * (self.eps ** (1 / self.rho) - 1)) ** self.rho
        return with_ends(torch.expm1(b * t**2 / 2 + a * t).sqrt(), process)


@dataclass(frozen=True)
class PolyExponential(Schedule):
    """log sigma falls with (1 - t)^rho (k-diffusion); rho = 1 is log-SNR uniform."""

    rho: float = 1.0

    def __post_init__(self) -> None:
        if not self.rho > 0:
            raise ValueError(f"PolyExponential needs rho > 0, not {self.rho}")

    def __call__(self, steps: int, process: NoiseProcess) -> Tensor:
        high, low = math.log(process.sigma_max), math.log(process.sigma_min)
        return with_ends(torch.exp(low + (1 - times(steps)) ** self.rho * (high - low)), process)


@dataclass(frozen=True)
class Sigmoid(Schedule):
    """Uniform in the time of the sigmoid schedule (Jabri et al. 2023, Algorithm 1).

    alpha(t) falls as sigmoid((start + t (end - start)) / tau), scaled to 1 .. 0, between the times
    at which it meets the process's ends.
    """

    start: float = -3.0
    end: float = 3.0
    tau: float = 1.0

    def __post_init__(self) -> None:
        if not (self.start < self.end and self.tau > 0):
            raise ValueError(f"Sigmoid needs start < end and tau > 0, not {self!r}")

    def __call__(self, steps: int, process: NoiseProcess) -> Tensor:
        top, bottom = expit(self.end / self.tau), expit(self.start / self.tau)
        high, low = (
            logit(top - (top - bottom) / (1 + sigma**2))
            for sigma in (process.sigma_max, process.sigma_min)
        )
        at = torch.as_tensor(expit(high + times(steps).numpy() * (low - high)))
        alpha = (top - at) / (top - bottom)
        return with_ends((1 / alpha - 1).clamp(min=0).sqrt(), process)


@dataclass(frozen=True)
class Beta(Schedule):
    """Quantiles of Beta(a, b) between the ends (Lee et al. 2024, arXiv 2407.12173).

    of "timestep", as the paper places them, or "sigma", as diffusers does.
    """

    a: float = 0.6
    b: float = 0.6
    of: Literal["timestep", "sigma"] = "timestep"

    def __post_init__(self) -> None:
        if not (self.a > 0 and self.b > 0) or self.of not in ("timestep", "sigma"):
            raise ValueError(f"Beta needs a, b > 0 and of timestep or sigma, not {self!r}")

    def __call__(self, steps: int, process: NoiseProcess) -> Tensor:
        share = torch.as_tensor(beta(self.a, self.b).isf(times(steps).numpy()))  # 1 .. 0
        ends = torch.tensor([process.sigma_max, process.sigma_min], dtype=torch.float64)
        if self.of == "timestep":
            ends = process.timestep(ends)
        levels = ends[1] + share * (ends[0] - ends[1])
        return with_ends(process.sigma(levels) if self.of == "timestep" else levels, process)


@dataclass(frozen=True)
class KLOptimal(Schedule):
    """c tan(u) with u uniform between the ends: optimal for Gaussian data of standard deviation c
    (Sabour et al. 2024, Align Your Steps, section 3.1; user interfaces take c = 1)."""

    c: float = 1.0

    def __post_init__(self) -> None:
        if not self.c > 0:
            raise ValueError(f"KLOptimal needs c > 0, not {self.c}")

    def __call__(self, steps: int, process: NoiseProcess) -> Tensor:
        high, low = math.atan(process.sigma_max / self.c), math.atan(process.sigma_min / self.c)
        return with_ends(self.c * torch.tan(high + times(steps) * (low - high)), process)


@dataclass(frozen=True)
class LinearAlpha(Schedule):
    """Uniform in alpha = 1 / (1 + sigma^2), the VP signal variance."""

    def __call__(self, steps: int, process: NoiseProcess) -> Tensor:
        high, low = (1 / (1 + sigma**2) for sigma in (process.sigma_max, process.sigma_min))
        alpha = high + times(steps) * (low - high)
        return with_ends((1 / alpha - 1).sqrt(), process)
