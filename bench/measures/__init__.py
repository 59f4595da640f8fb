"""Measures: what is measured of a model, to make a schedule from it.

A rate is v(sigma) = D(p_sigma, p_sigma') / |sigma - sigma'| for neighbouring noise levels and a
discrepancy D (Constant Rate Scheduling, Okada et al., arXiv 2411.12188). `schedules.ConstantRate`
places the levels so that the integral of v^xi grows at a constant pace. Costs say what one step
between any two levels costs. `schedules.CheapestPath` finds the levels whose steps cost least.

A measure is a frozen dataclass that derives from `bench.Measure` (rates) or `bench.CostMeasure`
(costs). `measure` runs it, `save` and `load` keep what it found.

    predictions  DataPrediction, NoisePrediction, ScoreDifference, Entropy, RescaledEntropy
    frechet      FeatureFrechet: features of the diffused data
    closed       GaussianW2, Uniform, OfSchedule: no network; `mix` adds rates
    steps        GITS, KLUB: costs of single steps
    measuring    `measure`: checks, provenance, segments that survive a stop
    files        models/MODEL/measures/NAME.json
"""

from bench.measures.closed import GaussianW2, OfSchedule, Uniform, mix, of_schedule
from bench.measures.files import (
    check_free,
    find,
    load,
    load_costs,
    load_rate,
    measured,
    path_of,
    save,
)
from bench.measures.frechet import FeatureFrechet
from bench.measures.measuring import measure, planned
from bench.measures.predictions import (
    FIRST_SEED,
    DataPrediction,
    Entropy,
    NoisePrediction,
    RescaledEntropy,
    ScoreDifference,
)
from bench.measures.steps import GITS, KLUB

__all__ = [
    "FIRST_SEED", "GITS", "KLUB", "DataPrediction", "Entropy", "FeatureFrechet", "GaussianW2",
    "NoisePrediction", "OfSchedule", "RescaledEntropy", "ScoreDifference", "Uniform",
    "check_free", "find", "load", "load_costs", "load_rate",
    "measure", "measured", "mix", "of_schedule", "path_of", "planned", "save",
]  # fmt: skip
