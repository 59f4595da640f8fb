"""Frechet distance at infinitely many images, by extrapolation."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from bench.metrics.banks import Rows, check_banks
from bench.metrics.frechet import gaussian_of
from bench.types import FeatureStatistics


@dataclass(frozen=True)
class FIDInfinity:
    """Frechet distance without the bias of few fake images (Chong and Forsyth 2020, sec. 4).

    The bias falls as 1/N: the distance of random parts of the fake bank, at `points` sizes N evenly
    from `smallest` of the bank to all of it, is fitted by a line in 1/N, whose value at 0 is the
    answer. The real side stays whole; its own bias stays in. The answer spreads more than the plain
    distance of the bank, and may fall below 0 where the sets are of one law.

    smallest: a share. Lower gives less spread but leaves the range where the bias is 1/N.
    """

    points: int = 15
    smallest: float = 0.3
    seed: int = 0
    name: ClassVar[str] = "fd_infinity"
    higher_is_better: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.points < 2 or not 0 < self.smallest < 1:
            raise ValueError(
                f"a line needs points >= 2 and 0 < smallest < 1, not {self.points} and "
                f"{self.smallest}; choose others"
            )

    def __call__(self, *, fake: FeatureStatistics, real: FeatureStatistics) -> float:
        sizes, distances = self.curve(fake=fake, real=real)
        return float(np.polyfit(1 / sizes, distances, 1)[1])

    def curve(
        self, *, fake: FeatureStatistics, real: FeatureStatistics
    ) -> tuple[np.ndarray, np.ndarray]:
        """Sizes N, int64 [points], and the Frechet distance at each, float64 [points]."""
        check_banks(fake.bank, fake.bank)
        sizes = self._sizes(*fake.bank.shape)
        draw = torch.Generator().manual_seed(self.seed)
        target = gaussian_of(real)
        parts = (
            Rows(fake.bank[torch.randperm(len(fake.bank), generator=draw)[:size]])
            for size in sizes.tolist()
        )
        return sizes, np.array([gaussian_of(part).distance(target) for part in parts])

    def _sizes(self, n: int, dim: int) -> np.ndarray:
        sizes = np.linspace(self.smallest * n, n, self.points).round().astype(np.int64)
        if sizes[0] <= dim or len(set(sizes.tolist())) < self.points:
            need = max(self.points, int(np.ceil((dim + 1) / self.smallest)))
            raise ValueError(
                f"the smallest of {self.points} parts must have more features than their {dim} "
                f"dimensions, but a bank of {n} gives {sizes[0]}; keep about {need} or raise "
                "smallest"
            )
        return sizes
