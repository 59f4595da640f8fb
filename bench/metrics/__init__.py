"""Scores of generated against real features: Frechet distance, precision, recall.

A metric is a frozen dataclass called with `fake=` and `real=`, and sees only what
`FeatureStatistics` has, so that it serves every extractor.
"""

from bench.metrics.frechet import FrechetDistance, Gaussian, frechet_distance
from bench.metrics.neighbours import Precision, Recall, precision_recall

__all__ = [
    "FrechetDistance",
    "Gaussian",
    "Precision",
    "Recall",
    "frechet_distance",
    "precision_recall",
]
