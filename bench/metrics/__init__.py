"""Scores of generated features against real ones.

The metrics are Frechet distance, kernel distance, nearest neighbours and the Inception Score. Each
derives from `bench.types.Metric` and reads only what `FeatureStatistics` offers, so that it works
with every extractor.

`interval` gives the uncertainty of one score. `paired_interval` gives that of a difference.
"""

from bench.metrics.bootstrap import interval, paired_interval
from bench.metrics.frechet import SFID, FrechetDistance, Gaussian, frechet_distance
from bench.metrics.inception import InceptionScore
from bench.metrics.infinity import FIDInfinity
from bench.metrics.kernel import KID
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
from bench.metrics.second import SecondFrechet, SecondPrecision, SecondRecall

__all__ = [
    "KID", "SFID", "ADMPrecision", "ADMRecall", "Coverage", "Density", "FIDInfinity",
    "FrechetDistance", "Gaussian", "InceptionScore", "Precision", "Recall", "SecondFrechet",
    "SecondPrecision", "SecondRecall", "density_coverage", "frechet_distance",
    "interval", "paired_interval", "precision_recall",
]  # fmt: skip
