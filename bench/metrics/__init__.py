"""Scores of generated against real features: Frechet and kernel distance, nearest neighbours.

A metric is a frozen dataclass called with `fake=` and `real=`, and sees only what
`FeatureStatistics` has, so that it serves every extractor.
"""

from bench.metrics.frechet import FrechetDistance, Gaussian, frechet_distance
from bench.metrics.kernel import KID
from bench.metrics.neighbours import (
    Coverage,
    Density,
    Precision,
    Recall,
    density_coverage,
    precision_recall,
)

__all__ = [
    "KID",
    "Coverage",
    "Density",
    "FrechetDistance",
    "Gaussian",
    "Precision",
    "Recall",
    "density_coverage",
    "frechet_distance",
    "precision_recall",
]
