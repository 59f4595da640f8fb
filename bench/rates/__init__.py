"""Rates: how fast the diffused distribution changes with the noise level.

v(sigma) = D(p_sigma, p_sigma') / |sigma - sigma'| for neighbouring levels and a discrepancy D
(Constant Rate Scheduling, Okada et al., arXiv 2411.12188). A schedule places its levels so that
the integral of v^xi grows at a constant pace: `schedules.ConstantRate`.

A measure is one frozen dataclass `(model, images, sigmas) -> Rate`; a user's own needs nothing
else. Here: what a network predicts (`DataPrediction`, `NoisePrediction`), features of the diffused
data (`FeatureFrechet`), and two without a network, `GaussianW2` and `Uniform`; rivals that are
measured too, `ScoreDifference` and `Entropy`. `mix` adds rates up, and `of_schedule` gives the rate
of any schedule, since a schedule is the inverse of one.
"""

from bench.rates.closed import GaussianW2, OfSchedule, Uniform, mix, of_schedule
from bench.rates.files import check_free, load_rate, measured, save_rate
from bench.rates.measure import measure
from bench.rates.measures import (
    FIRST_SEED,
    DataPrediction,
    Entropy,
    FeatureFrechet,
    NoisePrediction,
    ScoreDifference,
)
from bench.types import Rate

__all__ = [
    "FIRST_SEED",
    "DataPrediction",
    "Entropy",
    "FeatureFrechet",
    "GaussianW2",
    "NoisePrediction",
    "OfSchedule",
    "Rate",
    "ScoreDifference",
    "Uniform",
    "check_free",
    "load_rate",
    "measure",
    "measured",
    "mix",
    "of_schedule",
    "save_rate",
]
