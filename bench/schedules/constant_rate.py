"""Constant Rate Scheduling: the noise levels that follow from a measured rate."""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar, Literal

import numpy as np

from bench import curves
from bench.schedules.ends import Grid, times, with_ends
from bench.types import NoiseProcess, Rate

Coordinate = Literal["sigma", "alpha", "angle", "logsnr"]
_FINE = 40_001  # nodes of the integral; the trapezoid error is below 1e-8 over 12 nats of sigma


@dataclass(frozen=True, repr=False)
class ConstantRate(Grid):
    """Constant Rate Scheduling (Okada et al., arXiv 2411.12188): du/dt proportional to v(u)^-xi.

    The time of a level u is the share t(u) of the integral of v(u)^xi du between the ends. With
    xi = 1 the measured discrepancy grows at a constant rate.

    Between measured levels, PCHIP interpolates log v as a function of log sigma (`curves.py`). The
    result is positive, and exact for power laws. Levels with infinite v are skipped.

    Arguments:
        rate: a measured rate.
        xi: exponent, at least 0. 0 is uniform in u.
        coordinate: the variable u: sigma, alpha = 1 / (1 + sigma^2), angle = atan sigma, or
            logsnr = -2 log sigma. With xi = 1 all coordinates give the same grid.
        floor: lower bound of the rate per log sigma, as a share of its maximum, within 0 .. 1. The
            grid is strictly decreasing even where the measured rate is 0.
        smooth: width in log sigma, nats, of a local linear regression of log v. 0: no smoothing.
            The predictions of a network jitter between neighbouring timesteps. Without smoothing,
            grids of many steps follow this jitter. Smoothing does not change power laws.
    """

    rate: Rate
    xi: float = 1.0
    coordinate: Coordinate = "alpha"
    floor: float = 1e-4
    smooth: float = 0.0
    shown: ClassVar[tuple[str, ...]] = ("rate", "xi", "coordinate")

    def __post_init__(self) -> None:
        if not isinstance(self.rate, Rate):
            raise ValueError(
                f"ConstantRate needs a measured Rate, not {self.rate!r}; measure one with: "
                "crs-bench measure MODEL --measure DataPrediction; then write its name without "
                "quotes: ConstantRate(v_x)"
            )
        if not (self.rate.v > 0).any():
            raise ValueError(
                f"rate {self.rate.name} is zero everywhere, so it gives no levels; measure it again"
            )
        curves.log_dsigma_du(self.coordinate, np.ones(1))  # refuses an unknown coordinate
        if not (math.isfinite(self.xi) and self.xi >= 0):
            raise ValueError(f"ConstantRate needs a finite xi >= 0, not {self.xi}")
        if not 0 < self.floor < 1:
            raise ValueError(f"ConstantRate needs a floor between 0 and 1, not {self.floor}")
        if not 0 <= self.smooth <= 2:
            raise ValueError(f"ConstantRate needs smooth between 0 and 2 nats, not {self.smooth}")

    def __repr__(self) -> str:
        extra = "" if self.floor == 1e-4 else f", floor={self.floor:g}"
        extra += f", smooth={self.smooth:g}" if self.smooth else ""
        return f"ConstantRate({self.rate!r}, xi={self.xi:g}, coordinate={self.coordinate!r}{extra})"

    @property
    def measured(self) -> tuple[Rate]:
        return (self.rate,)

    def noise_levels(self, steps: int, process: NoiseProcess) -> np.ndarray:
        fine, share = self._cumulative(process.sigma_min, process.sigma_max)
        levels = np.interp(1 - times(steps), share, fine)
        return with_ends(np.exp(levels), process)

    @lru_cache(maxsize=8)  # noqa: B019 - frozen and small; a table uses the same range often
    def _cumulative(self, sigma_min: float, sigma_max: float) -> tuple[np.ndarray, np.ndarray]:
        """The integral of v(u)^xi du.

        Returns:
            log sigma [_FINE], increasing, and the share of the integral below it [_FINE], 0 .. 1.
        """
        curves.check_range(self.rate, sigma_min, sigma_max)
        fine = np.linspace(math.log(sigma_min), math.log(sigma_max), _FINE)
        log_v = curves.log_rate(self.rate, fine, self.floor, self.smooth)
        # v(u)^xi du = (v dsigma/du)^xi (du/dsigma) sigma dlog(sigma), here in logs
        jacobian = curves.log_dsigma_du(self.coordinate, np.exp(fine))
        weight = self.xi * log_v + (self.xi - 1) * jacobian + fine
        weight = np.exp(weight - weight.max())
        steps = (weight[1:] + weight[:-1]) / 2
        share = np.concatenate([[0.0], np.cumsum(steps)])
        return fine, share / share[-1]
