"""Schedules in closed form: the rivals of constant rate, and training laws of noise levels.

`shown` names the parameters that labels print even at their default.
"""

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from bench.schedules.ends import Grid, times, with_ends
from bench.types import NoiseProcess


def _quantiles(law: Any, steps: int, process: NoiseProcess) -> np.ndarray:
    """Quantiles of a law of log sigma, at equal shares of its weight between the process's ends.

    Levels below the median come from the lower tail and levels above it from the upper tail. No
    digits are lost far from the median.

    Arguments:
        law: a frozen scipy distribution of log sigma.

    Returns:
        sigma, float64 [steps], decreasing.

    Raises:
        ValueError: the law has no weight between the ends.
    """
    high, low = math.log(process.sigma_max), math.log(process.sigma_min)
    if law.cdf(high) == law.cdf(low) and law.sf(high) == law.sf(low):
        raise ValueError(
            f"the {law.dist.name} law of log sigma with mean {law.mean():.4g} and standard "
            f"deviation {law.std():.4g} has no weight in {low:.4g} .. {high:.4g}, the range of the "
            "model; change its mean or widen it"
        )
    t = times(steps)
    below = law.cdf(high) + t * (law.cdf(low) - law.cdf(high))
    above = law.sf(high) + t * (law.sf(low) - law.sf(high))
    return np.exp(np.where(below < 0.5, law.ppf(below), law.isf(above)))


def _end_timesteps(process: NoiseProcess) -> np.ndarray:
    """Timesteps of sigma_max and sigma_min. float32: the recorded grids have these digits."""
    return process.timestep(np.array([process.sigma_max, process.sigma_min], dtype=np.float32))


@dataclass(frozen=True)
class Native(Grid):
    """Uniform in the model's own timesteps: the linear selection of DDIM (Song et al. 2021)."""

    def noise_levels(self, steps: int, process: NoiseProcess) -> np.ndarray:
        ends = _end_timesteps(process)
        return with_ends(process.sigma(ends[0] + times(steps) * (ends[1] - ends[0])), process)


@dataclass(frozen=True)
class LogSNR(Grid):
    """Uniform in lambda = -log sigma, half the log-SNR (Lu et al. 2022, DPM-Solver)."""

    def noise_levels(self, steps: int, process: NoiseProcess) -> np.ndarray:
        high, low = math.log(process.sigma_max), math.log(process.sigma_min)
        return with_ends(np.exp(high + times(steps) * (low - high)), process)


@dataclass(frozen=True)
class Karras(Grid):
    """Uniform in sigma^(1/rho) (Karras et al. 2022, Eq. 5).

    Arguments:
        rho: above 0. 1 is uniform in sigma. A large rho approaches `LogSNR`.
    """

    rho: float = 7.0
    shown: ClassVar[tuple[str, ...]] = ("rho",)

    def __post_init__(self) -> None:
        if not self.rho > 0:
            raise ValueError(f"Karras needs rho > 0, not {self.rho}")

    def noise_levels(self, steps: int, process: NoiseProcess) -> np.ndarray:
        high, low = process.sigma_max ** (1 / self.rho), process.sigma_min ** (1 / self.rho)
        return with_ends((high + times(steps) * (low - high)) ** self.rho, process)


@dataclass(frozen=True)
class Cosine(Grid):
    """Uniform in the angle atan sigma, the time of the cosine schedule (Nichol and Dhariwal 2021).

    The paper's offset s = 0.008 changes the ends only. Here the ends come from the process.
    """

    def noise_levels(self, steps: int, process: NoiseProcess) -> np.ndarray:
        high, low = math.atan(process.sigma_max), math.atan(process.sigma_min)
        return with_ends(np.tan(high + times(steps) * (low - high)), process)


@dataclass(frozen=True)
class Linear(Grid):
    """Uniform in the time t of the VP process of linear beta (Ho et al. 2020; Song et al. 2021).

    log alpha = -(beta_max - beta_min) t^2 / 2 - beta_min t;  sigma^2 = exp(-log alpha) - 1.

    Arguments:
        beta_min: beta at t = 0, above 0.
        beta_max: beta at t = 1, above beta_min.
    """

    beta_min: float = 0.1
    beta_max: float = 20.0
    shown: ClassVar[tuple[str, ...]] = ("beta_min", "beta_max")

    def __post_init__(self) -> None:
        if not 0 < self.beta_min < self.beta_max < math.inf:
            raise ValueError(
                f"Linear needs 0 < beta_min < beta_max, not {self.beta_min} and {self.beta_max}"
            )

    def noise_levels(self, steps: int, process: NoiseProcess) -> np.ndarray:
        slope = self.beta_max - self.beta_min
        ends = [math.log1p(sigma**2) for sigma in (process.sigma_max, process.sigma_min)]
        high, low = (
            (math.sqrt(self.beta_min**2 + 2 * slope * end) - self.beta_min) / slope for end in ends
        )
        t = high + times(steps) * (low - high)
        return with_ends(np.sqrt(np.expm1(slope * t**2 / 2 + self.beta_min * t)), process)


@dataclass(frozen=True)
class LogNormal(Grid):
    """Quantiles of log sigma ~ N(mean, std^2), truncated at the process's ends.

    It is the law of noise levels with which EDM trains (Karras et al. 2022, Table 1).

    Arguments:
        mean: mean of log sigma, nats.
        std: standard deviation of log sigma, nats, above 0.
    """

    mean: float = -1.2
    std: float = 1.2
    shown: ClassVar[tuple[str, ...]] = ("mean", "std")

    def __post_init__(self) -> None:
        if not (math.isfinite(self.mean) and 0 < self.std < math.inf):
            raise ValueError(
                f"LogNormal needs a finite mean and std > 0, not {self.mean} and {self.std}"
            )

    def noise_levels(self, steps: int, process: NoiseProcess) -> np.ndarray:
        from scipy.stats import norm  # seconds to import

        return with_ends(_quantiles(norm(self.mean, self.std), steps, process), process)


@dataclass(frozen=True)
class Laplace(Grid):
    """Quantiles of a Laplace law of log-SNR = -2 log sigma, truncated at the process's ends.

    It is a law of noise levels for training (Hang et al. 2024). With l = log-SNR its density is
    exp(-|l - mean| / scale) / (2 scale).

    Arguments:
        mean: mean of log-SNR, nats.
        scale: scale of log-SNR, nats, above 0.
    """

    mean: float = 0.0
    scale: float = 0.5
    shown: ClassVar[tuple[str, ...]] = ("mean", "scale")

    def __post_init__(self) -> None:
        if not (math.isfinite(self.mean) and 0 < self.scale < math.inf):
            raise ValueError(
                f"Laplace needs a finite mean and scale > 0, not {self.mean} and {self.scale}"
            )

    def noise_levels(self, steps: int, process: NoiseProcess) -> np.ndarray:
        from scipy.stats import laplace  # seconds to import

        return with_ends(
            _quantiles(laplace(-self.mean / 2, self.scale / 2), steps, process), process
        )


@dataclass(frozen=True)
class Quadratic(Grid):
    """Uniform in the square root of the model's timesteps (DDIM, Song et al. 2021, App. D.2)."""

    def noise_levels(self, steps: int, process: NoiseProcess) -> np.ndarray:
        with np.errstate(invalid="ignore"):
            ends = np.sqrt(_end_timesteps(process))
        if not np.isfinite(ends).all():
            raise ValueError(
                "Quadratic needs a model with timesteps >= 0, as VP models have; "
                "use another schedule for this model"
            )
        return with_ends(
            process.sigma((ends[0] + times(steps) * (ends[1] - ends[0])) ** 2), process
        )


@dataclass(frozen=True)
class TimeUniform(Grid):
    """Uniform in t^(1/rho), where t is the time of a VP process that is fitted to the ends.

    t decreases from 1 to eps. sigma^2 = exp(b t^2 / 2 + a t) - 1, with a and b such that
    sigma(1) = sigma_max and sigma(eps) = sigma_min. The formula is that of the code of diff-sampler
    (its schedule "vp"), not of a paper.

    Arguments:
        rho: above 0. 1 is uniform in t.
        eps: the last time, within 0 .. 1.
    """

    rho: float = 1.0
    eps: float = 1e-3
    shown: ClassVar[tuple[str, ...]] = ("rho",)

    def __post_init__(self) -> None:
        if not (self.rho > 0 and 0 < self.eps < 1):
            raise ValueError(
                f"TimeUniform needs rho > 0 and 0 < eps < 1, not {self.rho} and {self.eps}"
            )

    def noise_levels(self, steps: int, process: NoiseProcess) -> np.ndarray:
        high, low = (math.log1p(sigma**2) for sigma in (process.sigma_max, process.sigma_min))
        b = 2 * (high - low / self.eps) / (1 - self.eps)
        a = high - b / 2
        t = (1 + times(steps) * (self.eps ** (1 / self.rho) - 1)) ** self.rho
        return with_ends(np.sqrt(np.expm1(b * t**2 / 2 + a * t)), process)


@dataclass(frozen=True)
class PolyExponential(Grid):
    """log sigma decreases as (1 - t)^rho (the polyexponential schedule of k-diffusion).

    Arguments:
        rho: above 0. 1 is `LogSNR`.
    """

    rho: float = 1.0
    shown: ClassVar[tuple[str, ...]] = ("rho",)

    def __post_init__(self) -> None:
        if not self.rho > 0:
            raise ValueError(f"PolyExponential needs rho > 0, not {self.rho}")

    def noise_levels(self, steps: int, process: NoiseProcess) -> np.ndarray:
        high, low = math.log(process.sigma_max), math.log(process.sigma_min)
        return with_ends(np.exp(low + (1 - times(steps)) ** self.rho * (high - low)), process)


@dataclass(frozen=True)
class Sigmoid(Grid):
    """Uniform in the time t of the sigmoid schedule (Jabri et al. 2023, Algorithm 1).

    With s(x) = sigmoid(x / tau), alpha(t) = (s(end) - s(start + t (end - start))) / (s(end) -
    s(start)). t covers the times at which alpha has its values at the process's ends.

    Arguments:
        start: below end.
        end: above start.
        tau: temperature, above 0.
    """

    start: float = -3.0
    end: float = 3.0
    tau: float = 1.0
    shown: ClassVar[tuple[str, ...]] = ("start", "end", "tau")

    def __post_init__(self) -> None:
        if not (self.start < self.end and self.tau > 0):
            raise ValueError(
                f"Sigmoid needs start < end and tau > 0, not {self.start}, {self.end}, {self.tau}"
            )

    def noise_levels(self, steps: int, process: NoiseProcess) -> np.ndarray:
        from scipy.special import expit, logit  # half a second to import

        top, bottom = expit(self.end / self.tau), expit(self.start / self.tau)
        high, low = (
            logit(top - (top - bottom) / (1 + sigma**2))
            for sigma in (process.sigma_max, process.sigma_min)
        )
        at = expit(high + times(steps) * (low - high))
        alpha = (top - at) / (top - bottom)
        return with_ends(np.sqrt(np.maximum(1 / alpha - 1, 0)), process)


@dataclass(frozen=True)
class Beta(Grid):
    """Quantiles of the law Beta(a, b), stretched to the process's ends.

    Lee et al. 2024 (arXiv 2407.12173).

    Arguments:
        a: first parameter of the law, above 0.
        b: second parameter of the law, above 0.
        of: the variable that has the law: "timestep", as in the paper, or "sigma", as in diffusers.
    """

    a: float = 0.6
    b: float = 0.6
    of: Literal["timestep", "sigma"] = "timestep"
    shown: ClassVar[tuple[str, ...]] = ("a", "b", "of")

    def __post_init__(self) -> None:
        if not (self.a > 0 and self.b > 0):
            raise ValueError(f"Beta needs a > 0 and b > 0, not {self.a} and {self.b}")
        if self.of not in ("timestep", "sigma"):
            raise ValueError(f"Beta: unknown variable of={self.of!r}; known: timestep, sigma")

    def noise_levels(self, steps: int, process: NoiseProcess) -> np.ndarray:
        from scipy.stats import beta  # seconds to import

        share = beta(self.a, self.b).isf(times(steps))  # 1 .. 0
        ends = np.array([process.sigma_max, process.sigma_min])
        if self.of == "timestep":
            ends = process.timestep(ends)
        levels = ends[1] + share * (ends[0] - ends[1])
        return with_ends(process.sigma(levels) if self.of == "timestep" else levels, process)


@dataclass(frozen=True)
class KLOptimal(Grid):
    """sigma = c tan(u), with u uniform between the ends (Sabour et al. 2024, section 3.1).

    It is optimal for Gaussian data of standard deviation c. User interfaces use c = 1.

    Arguments:
        c: standard deviation of the data, above 0.
    """

    c: float = 1.0
    shown: ClassVar[tuple[str, ...]] = ("c",)

    def __post_init__(self) -> None:
        if not self.c > 0:
            raise ValueError(f"KLOptimal needs c > 0, not {self.c}")

    def noise_levels(self, steps: int, process: NoiseProcess) -> np.ndarray:
        high, low = math.atan(process.sigma_max / self.c), math.atan(process.sigma_min / self.c)
        return with_ends(self.c * np.tan(high + times(steps) * (low - high)), process)


@dataclass(frozen=True)
class LinearAlpha(Grid):
    """Uniform in alpha = 1 / (1 + sigma^2), the variance of the signal in the VP frame."""

    def noise_levels(self, steps: int, process: NoiseProcess) -> np.ndarray:
        high, low = (1 / (1 + sigma**2) for sigma in (process.sigma_max, process.sigma_min))
        alpha = high + times(steps) * (low - high)
        return with_ends(np.sqrt(1 / alpha - 1), process)
