"""Frechet distance at infinitely many images, by extrapolation."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from bench.lazy import torch
from bench.metrics.banks import Rows, check_banks
from bench.metrics.frechet import distance_of
from bench.types import FeatureStatistics, Metric, Score


@dataclass(frozen=True)
class FIDInfinity(Metric):
    """Frechet distance without the bias of few fake images (Chong and Forsyth 2020, sec. 4).

    The bias is proportional to 1/N. The distance is computed for random parts of the fake bank, at
    `points` sizes N. A line in 1/N is fitted to these distances, and its value at 1/N = 0 is the
    score. The bias of the real set remains. The score varies more than the plain distance of the
    bank. It can be below 0 if both sets come from the same distribution.

    points: number of sizes, at equal distances up to the whole bank.
    smallest: the smallest size as a share of the bank. A lower share gives less variation, but
        the bias of small parts is not proportional to 1/N.
    """

    points: int = 15
    smallest: float = 0.3
    seed: int = 0
    name: ClassVar[str] = "fd_infinity"
    reads_rows: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.points < 2 or not 0 < self.smallest < 1:
            raise ValueError(
                f"fd_infinity needs points >= 2 and 0 < smallest < 1, not points={self.points}, "
                f"smallest={self.smallest}"
            )

    def __call__(self, *, fake: FeatureStatistics, real: FeatureStatistics) -> Score:
        sizes, distances = self.curve(fake=fake, real=real)
        return Score(float(np.polyfit(1 / sizes, distances, 1)[1]))

    def curve(
        self, *, fake: FeatureStatistics, real: FeatureStatistics
    ) -> tuple[np.ndarray, np.ndarray]:
        """Sizes N, int64 [points], and the Frechet distance at each, float64 [points]."""
        check_banks(fake.bank, fake.bank)
        sizes = self._sizes(*fake.bank.shape)
        draw = torch.Generator().manual_seed(self.seed)
        parts = (
            Rows(fake.bank[torch.randperm(len(fake.bank), generator=draw)[:size]])
            for size in sizes.tolist()
        )
        return sizes, np.array([distance_of(part, real) for part in parts])

    def _sizes(self, n: int, dim: int) -> np.ndarray:
        sizes = np.linspace(self.smallest * n, n, self.points).round().astype(np.int64)
        if sizes[0] <= dim or len(set(sizes.tolist())) < self.points:
            need = max(self.points, int(np.ceil((dim + 1) / self.smallest)))
            raise ValueError(
                f"the smallest of {self.points} parts must have more features than the {dim} "
                f"dimensions, but it has {sizes[0]} of a bank of {n}; keep about {need} features "
                "or raise smallest"
            )
        return sizes
