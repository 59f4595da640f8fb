"""Interpolate a measured rate: a smooth, positive function of sigma.

PCHIP interpolates log v as a function of log sigma. It does not overshoot and is exact for power
laws. Zeros are raised to a floor. Levels where v is infinite are left out. Smoothing is optional.
"""

import math

import numpy as np

from bench.types import Rate


def log_rate(rate: Rate, log_sigma: np.ndarray, floor: float, smooth: float) -> np.ndarray:
    """The logarithm of a rate. Outside the measured levels, v is constant.

    Arguments:
        log_sigma: float64 [n].
        floor: smaller values of v sigma are raised to this share of its maximum.
        smooth: width of `smoothed`, in log sigma; 0: no smoothing.

    Returns:
        log v, v per unit sigma, float64 [n].

    Raises:
        ValueError: the rate is zero everywhere.
    """
    from scipy.interpolate import PchipInterpolator  # a second to import

    level, v = np.log(rate.sigma), rate.v
    finite = np.isfinite(v)
    if not (v > 0).any():
        raise ValueError(
            f"rate {rate.name} is zero everywhere, so it gives no schedule; measure another one"
        )
    level, per_log = level[finite], (v * np.exp(np.log(rate.sigma)))[finite]
    log_v = np.log(np.maximum(per_log, floor * per_log.max()))  # per log sigma
    if smooth > 0:
        log_v = smoothed(level, log_v, smooth)
    at = np.clip(log_sigma, level[0], level[-1])
    return PchipInterpolator(level, log_v - level)(at)


def smoothed(x: np.ndarray, y: np.ndarray, width: float) -> np.ndarray:
    """Local linear regression of y on x with a Gaussian kernel of standard deviation `width`.

    Straight lines do not change, not even at their ends. A straight line is a power law of the
    rate. A point without a neighbour inside the kernel does not change.
    """
    distance = x[None, :] - x[:, None]  # [at, from]
    weight = np.exp(-((distance / width) ** 2) / 2)
    s0, s1, s2 = ((weight * distance**power).sum(1) for power in range(3))
    spread = s0 * s2 - s1**2
    alone = spread <= 0  # all other weights underflow
    kernel = weight * (s2[:, None] - s1[:, None] * distance) / np.where(alone, 1, spread)[:, None]
    return np.where(alone, y, kernel @ y)


def check_range(rate: Rate, sigma_min: float, sigma_max: float) -> None:
    """ValueError: a rate does not cover a range of sigma, with a tolerance of 2 %."""
    low, high = float(rate.sigma[0]), float(rate.sigma[-1])
    if math.log(sigma_min / low) < -0.02 or math.log(sigma_max / high) > 0.02:
        raise ValueError(
            f"rate {rate.name} was measured for sigma {low:.4g} .. {high:.4g}, but the process "
            f"needs {sigma_min:.4g} .. {sigma_max:.4g}; measure it over that range"
        )


def log_dsigma_du(coordinate: str, sigma: np.ndarray) -> np.ndarray:
    """log |dsigma/du| of a coordinate u, at each sigma."""
    if coordinate == "angle":
        return np.log1p(sigma**2)
    if coordinate == "alpha":  # alpha = 1/(1+sigma^2): |dalpha/dsigma| = 2 sigma/(1+sigma^2)^2
        return 2 * np.log1p(sigma**2) - np.log(2 * sigma)
    if coordinate == "logsnr":
        return np.log(sigma / 2)
    if coordinate == "sigma":
        return np.zeros_like(sigma)
    raise ValueError(f"unknown coordinate {coordinate!r}; known: sigma, alpha, angle, logsnr")
