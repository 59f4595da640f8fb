"""What passes between rooms: the roles of parts, measurements, and an experiment's choices."""

from bench.types.described import Described, label_of, written
from bench.types.experiment import (
    Block,
    Cell,
    Converged,
    Experiment,
    Keep,
    On,
    Scoring,
    Tuned,
    grid_of,
    steps_for,
    valid_grid,
)
from bench.types.limit import Limit
from bench.types.measured import Costs, Rate, rate_between
from bench.types.roles import (
    CostMeasure,
    Denoiser,
    Extractor,
    FeatureStatistics,
    Measure,
    Metric,
    Model,
    Noise,
    NoiseProcess,
    Sampler,
    Schedule,
    Score,
    VarianceDenoiser,
)

__all__ = [
    "Block", "Cell", "Converged", "CostMeasure", "Costs", "Denoiser", "Described", "Experiment",
    "Extractor", "FeatureStatistics", "Keep", "Limit", "Measure", "Metric", "Model", "Noise",
    "NoiseProcess", "On", "Rate", "Sampler", "Schedule", "Score", "Scoring", "Tuned",
    "VarianceDenoiser", "grid_of", "label_of", "rate_between", "steps_for", "valid_grid",
    "written",
]  # fmt: skip
