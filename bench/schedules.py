"""Schedules: a number of steps -> a grid of sigmas, float64 [steps + 1], from sigma_max to 0.

Every schedule here puts `steps` levels at equal times t = 0 .. 1 between the process's own
sigma_max and sigma_min and then appends 0, so that schedules differ in nothing but their interior.
A schedule *is* the inverse of a cumulative rate; `ConstantRate` takes any, and each closed form is
one (Karras: v = sigma^(1/rho - 1); log-SNR: v = 1/sigma; native: v = dt/dsigma).
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
import torch
from scipy.interpolate import PchipInterpolator
from torch import Tensor

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


@dataclass(frozen=True, repr=False)
class ConstantRate:
    """Constant Rate Scheduling (Okada et al., arXiv 2411.12188): du/dt proportional to v(u)^-xi.

    t(u) = integral of v(u)^xi du over the whole. With xi = 1 the discrepancy grows at a constant
    rate and the coordinate does not matter; for other xi, `coordinate` u is part of the schedule:
    sigma, alpha = 1/(1+sigma^2), angle = atan sigma, logsnr = -2 log sigma.

    log v is interpolated against log sigma by PCHIP (monotone pieces, cannot cross zero), so a
    power law is exact; v is floored at `floor` times its maximum, both taken per log sigma, which
    keeps the grid strictly decreasing where the measured rate vanishes.
    """

    rate: Rate
    xi: float = 1.0
    coordinate: Coordinate = "alpha"
    floor: float = 1e-4

    def __post_init__(self) -> None:
        if not isinstance(self.rate, Rate):
            raise ValueError(f"ConstantRate needs a measured Rate, not {self.rate!r}")
        if self.coordinate not in ("sigma", "alpha", "angle", "logsnr"):
            raise ValueError(
                f"unknown coordinate {self.coordinate!r}; known: sigma, alpha, angle, logsnr"
            )
        if not (math.isfinite(self.xi) and self.xi >= 0):
            raise ValueError(f"xi must be a finite number >= 0, not {self.xi}")
        if not 0 < self.floor < 1:
            raise ValueError(f"floor must lie between 0 and 1, not {self.floor}")

    def __repr__(self) -> str:
        extra = "" if self.floor == 1e-4 else f", floor={self.floor:g}"
        return f"ConstantRate({self.rate!r}, xi={self.xi:g}, coordinate={self.coordinate!r}{extra})"

    def __call__(self, steps: int, process: NoiseProcess) -> Tensor:
        fine, share = self._cumulative(process.sigma_min, process.sigma_max)
        levels = np.interp(1 - _times(steps).numpy(), share, fine)
        return _grid(torch.exp(torch.as_tensor(levels)), process)

    @lru_cache(maxsize=8)  # noqa: B019 - frozen and small; a table asks for the same range often
    def _cumulative(self, sigma_min: float, sigma_max: float) -> tuple[np.ndarray, np.ndarray]:
        """log sigma [fine], increasing, and the share of the integral below it [fine], 0 .. 1."""
        level, v = np.log(self.rate.sigma.numpy()), self.rate.v.numpy()
        low, high = math.log(sigma_min), math.log(sigma_max)
        if low < level[0] - 0.02 or high > level[-1] + 0.02:
            raise ValueError(
                f"rate {self.rate.name} was measured for sigma {math.exp(level[0]):.4g} .. "
                f"{math.exp(level[-1]):.4g}, the process needs {sigma_min:.4g} .. "
                f"{sigma_max:.4g}; measure it over that range"
            )
        per_log = v * np.exp(level)  # v per log sigma
        log_v = np.log(np.maximum(per_log, self.floor * per_log.max())) - level
        fine = np.linspace(low, high, _FINE)
        at = np.clip(fine, level[0], level[-1])
        log_v = PchipInterpolator(level, log_v)(at)
        # v_u^xi du = (v dsigma/du)^xi du/dsigma sigma dlog(sigma)
        jacobian = _log_dsigma_du(self.coordinate, np.exp(fine))
        weight = self.xi * log_v + (self.xi - 1) * jacobian + fine
        weight = np.exp(weight - weight.max())
        steps = (weight[1:] + weight[:-1]) / 2
        share = np.concatenate([[0.0], np.cumsum(steps)])
        return fine, share / share[-1]


def _log_dsigma_du(coordinate: Coordinate, sigma: np.ndarray) -> np.ndarray:
    """log |dsigma/du|."""
    if coordinate == "angle":
        return np.log1p(sigma**2)
    if coordinate == "alpha":  # alpha = 1/(1+sigma^2): |dalpha/dsigma| = 2 sigma/(1+sigma^2)^2
        return 2 * np.log1p(sigma**2) - np.log(2 * sigma)
    if coordinate == "logsnr":
        return np.log(sigma / 2)
    return np.zeros_like(sigma)


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
