"""Scores of generated against real features: Frechet and kernel distance, nearest neighbours,
Inception Score.

A metric is a frozen dataclass called with `fake=` and `real=`, and sees only what
`FeatureStatistics` has, so that it serves every extractor.

`interval` says how sure a score is, and `paired_interval` the difference of two.
"""

from bench.metrics.bootstrap import interval, paired_interval
from bench.metrics.frechet import SFID, FrechetDistance, Gaussian, frechet_distance
from bench.metrics.inception import InceptionScore
from bench.metrics.infinity import FIDInfinity
from bench.metrics.kernel import KID, KIDError
from bench.metrics.neighbours import (
    ADMPrecision,
    ADMRecall,
    Coverage,
    Density,
    Precision,
    Recall,
    density_coverage,
    precision_recall,
)

__all__ = [
    "KID",
    "SFID",
    "ADMPrecision",
    "ADMRecall",
    "Coverage",
    "Density",
    "FIDInfinity",
    "FrechetDistance",
    "Gaussian",
    "InceptionScore",
    "KIDError",
    "Precision",
    "Recall",
    "density_coverage",
    "frechet_distance",
    "interval",
    "paired_interval",
    "precision_recall",
]
