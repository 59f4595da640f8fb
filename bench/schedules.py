"""Schedules: a number of steps -> a grid of sigmas, float64 [steps + 1], from sigma_max to 0.

Every schedule here puts `steps` levels at equal times t = 0 .. 1 between the process's own
sigma_max and sigma_min and then appends 0, so that schedules differ in nothing but their interior.
A schedule *is* the inverse of a cumulative rate; `ConstantRate` takes any, and each closed form is
one (Karras: v = sigma^(1/rho - 1); log-SNR: v = 1/sigma; native: v = dt/dsigma).
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from scipy.stats import laplace, norm
from torch import Tensor

from bench import curves, store
from bench.types import NoiseProcess, Rate, Schedule

Coordinate = Literal["sigma", "alpha", "angle", "logsnr"]
_FINE = 40_001  # nodes of the cumulative rate: trapezoid error below 1e-8 over 12 nats of sigma


def _times(steps: int) -> Tensor:
    if steps < 1:
        raise ValueError(f"a schedule needs at least 1 step, not {steps}")
    return torch.linspace(0, 1, steps, dtype=torch.float64)  # t: 0 noise end, 1 data end


def _grid(levels: Tensor, process: NoiseProcess) -> Tensor:
    """Exact end points, and the final 0."""
    levels = levels.clone()
    levels[-1] = process.sigma_min
    levels[0] = process.sigma_max  # second, so that one step starts at the noise end
    return torch.cat([levels, torch.zeros(1, dtype=torch.float64)])


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
    t = _times(steps).numpy()
    below = law.cdf(high) + t * (law.cdf(low) - law.cdf(high))
    above = law.sf(high) + t * (law.sf(low) - law.sf(high))
    return torch.as_tensor(np.exp(np.where(below < 0.5, law.ppf(below), law.isf(above))))


@dataclass(frozen=True)
class Native:
    """Uniform in the model's own timesteps, as DDIM's linear selection (Song et al. 2021)."""

    def __call__(self, steps: int, process: NoiseProcess) -> Tensor:
        ends = process.timestep(torch.tensor([process.sigma_max, process.sigma_min]))
        return _grid(process.sigma(ends[0] + _times(steps) * (ends[1] - ends[0])), process)


@dataclass(frozen=True)
class LogSNR:
    """Uniform in lambda = -log sigma, half the log-SNR (Lu et al. 2022, DPM-Solver)."""

    def __call__(self, steps: int, process: NoiseProcess) -> Tensor:
        high, low = math.log(process.sigma_max), math.log(process.sigma_min)
        return _grid(torch.exp(high + _times(steps) * (low - high)), process)


@dataclass(frozen=True)
class Karras:
    """sigma^(1/rho) uniform (Karras et al. 2022, Eq. 5)."""

    rho: float = 7.0

    def __post_init__(self) -> None:
        if not self.rho > 0:
            raise ValueError(f"Karras needs rho > 0, not {self.rho}")

    def __call__(self, steps: int, process: NoiseProcess) -> Tensor:
        high, low = process.sigma_max ** (1 / self.rho), process.sigma_min ** (1 / self.rho)
        return _grid((high + _times(steps) * (low - high)) ** self.rho, process)


@dataclass(frozen=True)
class Cosine:
    """Uniform in the angle atan sigma: the cosine schedule's time (Nichol and Dhariwal 2021).

    Their offset s = 0.008 moves the ends only, and the ends are the process's here.
    """

    def __call__(self, steps: int, process: NoiseProcess) -> Tensor:
        high, low = math.atan(process.sigma_max), math.atan(process.sigma_min)
        return _grid(torch.tan(high + _times(steps) * (low - high)), process)


@dataclass(frozen=True)
class Linear:
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
        t = high + _times(steps) * (low - high)
        return _grid(torch.expm1(slope * t**2 / 2 + self.beta_min * t).sqrt(), process)


@dataclass(frozen=True)
class LogNormal:
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
        return _grid(_quantiles(norm(self.mean, self.std), steps, process), process)


@dataclass(frozen=True)
class Laplace:
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
        return _grid(_quantiles(laplace(-self.mean / 2, self.scale / 2), steps, process), process)


@dataclass(frozen=True, repr=False)
class ConstantRate:
    """Constant Rate Scheduling (Okada et al., arXiv 2411.12188): du/dt proportional to v(u)^-xi.

    t(u) = integral of v(u)^xi du over the whole. With xi = 1 the discrepancy grows at a constant
    rate and the coordinate does not matter; for other xi, `coordinate` u is part of the schedule:
    sigma, alpha = 1/(1+sigma^2), angle = atan sigma, logsnr = -2 log sigma.

    Between measured levels log v follows PCHIP against log sigma (`curves.py`): positive, exact for
    power laws. v is floored at `floor` times its maximum, both per log sigma, which keeps the grid
    strictly decreasing where the measured rate vanishes; levels of infinite v are bridged.
    smooth: width in log sigma of a local linear regression of log v, which leaves power laws as
    they are; 0 for none. A network's predictions jitter between neighbouring timesteps, and grids
    of many steps would follow.
    """

    rate: Rate
    xi: float = 1.0
    coordinate: Coordinate = "alpha"
    floor: float = 1e-4
    smooth: float = 0.0

    def __post_init__(self) -> None:
        if not isinstance(self.rate, Rate):
            raise ValueError(f"ConstantRate needs a measured Rate, not {self.rate!r}")
        curves.log_dsigma_du(self.coordinate, np.ones(1))
        if not (math.isfinite(self.xi) and self.xi >= 0):
            raise ValueError(f"xi must be a finite number >= 0, not {self.xi}")
        if not 0 < self.floor < 1:
            raise ValueError(f"floor must lie between 0 and 1, not {self.floor}")
        if not 0 <= self.smooth <= 2:
            raise ValueError(f"smooth must lie between 0 and 2 nats, not {self.smooth}")

    def __repr__(self) -> str:
        extra = "" if self.floor == 1e-4 else f", floor={self.floor:g}"
        extra += f", smooth={self.smooth:g}" if self.smooth else ""
        return f"ConstantRate({self.rate!r}, xi={self.xi:g}, coordinate={self.coordinate!r}{extra})"

    def __call__(self, steps: int, process: NoiseProcess) -> Tensor:
        fine, share = self._cumulative(process.sigma_min, process.sigma_max)
        levels = np.interp(1 - _times(steps).numpy(), share, fine)
        return _grid(torch.exp(torch.as_tensor(levels)), process)

    @lru_cache(maxsize=8)  # noqa: B019 - frozen and small; a table asks for the same range often
    def _cumulative(self, sigma_min: float, sigma_max: float) -> tuple[np.ndarray, np.ndarray]:
        """log sigma [fine], increasing, and the share of the integral below it [fine], 0 .. 1."""
        curves.check_range(self.rate, sigma_min, sigma_max)
        fine = np.linspace(math.log(sigma_min), math.log(sigma_max), _FINE)
        log_v = curves.log_rate(self.rate, fine, self.floor, self.smooth)
        # v_u^xi du = (v dsigma/du)^xi du/dsigma sigma dlog(sigma)
        jacobian = curves.log_dsigma_du(self.coordinate, np.exp(fine))
        weight = self.xi * log_v + (self.xi - 1) * jacobian + fine
        weight = np.exp(weight - weight.max())
        steps = (weight[1:] + weight[:-1]) / 2
        share = np.concatenate([[0.0], np.cumsum(steps)])
        return fine, share / share[-1]


@dataclass(frozen=True)
class Between:
    """Another schedule between other ends than the process's own.

    A run then starts from noise of that sigma_max alone, beside which the data should be small.
    0 leaves an end as it is.
    """

    schedule: Schedule
    sigma_max: float = 0.0
    sigma_min: float = 0.0

    def __post_init__(self) -> None:
        if not isinstance(self.schedule, Schedule):
            raise ValueError(f"Between needs a schedule, not {self.schedule!r}")
        if min(self.sigma_max, self.sigma_min) < 0:
            raise ValueError("sigma_max and sigma_min must be above 0, or 0 for the process's own")

    def __call__(self, steps: int, process: NoiseProcess) -> Tensor:
        high = self.sigma_max or process.sigma_max
        low = self.sigma_min or process.sigma_min
        if not process.sigma_min <= low < high <= process.sigma_max:
            raise ValueError(
                f"{self!r}: ends {low:g} .. {high:g} do not lie within the model's "
                f"{process.sigma_min:g} .. {process.sigma_max:g}"
            )
        return self.schedule(steps, _Cut(process, low, high))


@dataclass(frozen=True)
class _Cut:
    """A process on a part of its range."""

    process: NoiseProcess
    sigma_min: float
    sigma_max: float

    def timestep(self, sigma: Tensor) -> Tensor:
        return self.process.timestep(sigma)

    def sigma(self, timestep: Tensor) -> Tensor:
        return self.process.sigma(timestep)


@dataclass(frozen=True)
class Levels:
    """Given levels, as of a published table or of `crs-bench schedule --json`: sigmas down to 0.

    With their own number of steps they are used as they are; for another number log sigma is
    interpolated linearly in time, as Align Your Steps does with its tables (Sabour et al. 2024).
    """

    sigmas: tuple[float, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "sigmas", tuple(float(sigma) for sigma in self.sigmas))
        above = self.sigmas[:-1]
        falls = all(a > b for a, b in zip(self.sigmas, self.sigmas[1:], strict=False))
        if len(above) < 1 or not falls or self.sigmas[-1] != 0 or not math.isfinite(above[0]):
            raise ValueError(f"Levels must fall strictly from above 0 to 0, not {self.sigmas}")

    def __call__(self, steps: int, process: NoiseProcess) -> Tensor:
        given = np.array(self.sigmas[:-1])
        if steps != len(given):
            if len(given) == 1:
                raise ValueError(f"{self!r} holds one level, too few to interpolate {steps} steps")
            nodes = np.linspace(0, 1, len(given))
            given = np.exp(np.interp(_times(steps).numpy(), nodes, np.log(given)))
        return torch.cat([torch.as_tensor(given), torch.zeros(1, dtype=torch.float64)])


def load(path: str | Path) -> Levels:
    """The levels that `crs-bench schedule --json` wrote; ValueError naming the file if it has none.

    Any JSON object with a list "sigma" that falls to 0 will do.
    """
    if not Path(path).is_file():
        raise ValueError(f"no schedule {path}; first: crs-bench schedule MODEL --json > {path}")
    content = store.read_json(Path(path))
    try:
        return Levels(tuple(content["sigma"]))
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} holds no list of sigmas that falls to 0 ({error})") from error


@dataclass(frozen=True)
class Snapped:
    """Another schedule's grid moved to the nearest integer timesteps the model was trained on."""

    schedule: Schedule

    def __post_init__(self) -> None:
        if not isinstance(self.schedule, Schedule):
            raise ValueError(f"Snapped needs a schedule, not {self.schedule!r}")

    def __call__(self, steps: int, process: NoiseProcess) -> Tensor:
        grid = self.schedule(steps, process)
        index = process.timestep(grid[:-1]).round()
        if (index.diff() >= 0).any():
            raise ValueError(
                f"{self.schedule!r} with {steps} steps puts two levels on one trained timestep; "
                "use fewer steps or do not snap"
            )
        return torch.cat([process.sigma(index), grid[-1:]])
