"""Schedules: a number of steps -> a grid of sigmas, float64 [steps + 1], from sigma_max to 0.

Every schedule here puts `steps` levels at equal times t = 0 .. 1 between the process's own
sigma_max and sigma_min and then appends 0, so that schedules differ in nothing but their interior.
A schedule *is* the inverse of a cumulative rate; `ConstantRate` takes any, and each closed form is
one (Karras: v = sigma^(1/rho - 1); log-SNR: v = 1/sigma; native: v = dt/dsigma). Others are found
for each number of steps: `CheapestPath` through measured costs, `DMNonUniform` of a bound.
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
from bench.schedules.given import AlignYourSteps, Between, Levels, Snapped, load
from bench.schedules.optimised import DMNonUniform

__all__ = [
    "AlignYourSteps",
    "Beta",
    "Between",
    "CheapestPath",
    "ConstantRate",
    "Coordinate",
    "Cosine",
    "DMNonUniform",
    "KLOptimal",
    "Karras",
    "Laplace",
    "Levels",
    "Linear",
    "LinearAlpha",
    "LogNormal",
    "LogSNR",
    "Native",
    "PolyExponential",
    "Quadratic",
    "Sigmoid",
    "Snapped",
    "TimeUniform",
    "load",
]
