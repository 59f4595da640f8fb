"""Schedules: a number of steps -> a grid of noise levels, float64 [steps + 1], down to 0.

A schedule puts its levels at equal times t = 0 .. 1, from the sigma_max to the sigma_min of the
process. Then it appends 0. Two schedules therefore differ in the levels between these ends only.

Equal times are equal shares of an integrated rate v(sigma). `ConstantRate` takes any measured rate.
Closed forms have known rates: Karras v = sigma^(1/rho - 1), log-SNR v = 1/sigma, native
v = dt/dsigma. Other schedules solve an optimisation for each number of steps: `CheapestPath` over
measured costs, `DMNonUniform` over a bound of the error.
"""

from bench.schedules.cheapest import CheapestPath
from bench.schedules.closed import (
    Beta,
    Cosine,
    Karras,
    KLOptimal,
    Laplace,
    Linear,
    LinearAlpha,
    LogNormal,
    LogSNR,
    Native,
    PolyExponential,
    Quadratic,
    Sigmoid,
    TimeUniform,
)
from bench.schedules.constant_rate import ConstantRate, Coordinate
from bench.schedules.export import export
from bench.schedules.given import AlignYourSteps, Between, Levels, Snapped, load
from bench.schedules.optimised import DMNonUniform

__all__ = [
    "AlignYourSteps", "Beta", "Between", "CheapestPath", "ConstantRate", "Coordinate", "Cosine",
    "DMNonUniform", "KLOptimal", "Karras", "Laplace", "Levels", "Linear", "LinearAlpha",
    "LogNormal", "LogSNR", "Native", "PolyExponential", "Quadratic", "Sigmoid", "Snapped",
    "TimeUniform", "export", "load",
]  # fmt: skip
