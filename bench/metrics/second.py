"""Scores in the second feature space of an extractor that has two, such as `EffNetLites`."""

from dataclasses import dataclass
from typing import ClassVar

from bench.metrics.frechet import FrechetDistance
from bench.metrics.neighbours import Precision, Recall
from bench.types import Metric


class _Second(Metric):
    @property
    def reads_layer(self) -> str:
        return "second"


@dataclass(frozen=True)
class SecondFrechet(_Second, FrechetDistance):
    """`FrechetDistance` in the second feature space."""

    name: ClassVar[str] = "fd2"


@dataclass(frozen=True)
class SecondPrecision(_Second, Precision):
    """`Precision` in the second feature space."""

    name: ClassVar[str] = "precision2"


@dataclass(frozen=True)
class SecondRecall(_Second, Recall):
    """`Recall` in the second feature space."""

    name: ClassVar[str] = "recall2"
