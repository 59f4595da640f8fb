"""Constant Rate Scheduling: the schedule that a measured rate asks for."""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from bench import curves
from bench.schedules.ends import times, with_ends
from bench.types import NoiseProcess, Rate, Schedule

Coordinate = Literal["sigma", "alpha", "angle", "logsnr"]
_FINE = 40_001  # nodes of the cumulative rate: trapezoid error below 1e-8 over 12 nats of sigma


@dataclass(frozen=True, repr=False)
class ConstantRate(Schedule):
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
    shown: ClassVar[tuple[str, ...]] = ("xi", "coordinate")

    def __post_init__(self) -> None:
        if not isinstance(self.rate, Rate):
            raise ValueError(f"ConstantRate needs a measured Rate, not {self.rate!r}")
        if not (self.rate.v > 0).any():
            raise ValueError(f"rate {self.rate.name} is zero everywhere: nothing changes by it")
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

    @property
    def measured(self) -> tuple[Rate]:
        """The rate."""
        return (self.rate,)

    def __call__(self, steps: int, process: NoiseProcess) -> Tensor:
        fine, share = self._cumulative(process.sigma_min, process.sigma_max)
        levels = np.interp(1 - times(steps).numpy(), share, fine)
        return with_ends(torch.exp(torch.as_tensor(levels)), process)

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
