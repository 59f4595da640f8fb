"""Kernel distance, which has no bias in the number of images."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from bench.lazy import Tensor, torch
from bench.metrics.banks import check_banks
from bench.types import FeatureStatistics, Metric, Score


def _kernel(a: Tensor, b: Tensor) -> Tensor:
    """(a.b / dim + 1)^3 for all pairs of rows of [n, dim] and [m, dim]: float64 [n, m]."""
    return (a @ b.T / a.shape[1] + 1) ** 3


def _mmd2(x: Tensor, y: Tensor) -> float:
    """Unbiased squared MMD of two float64 [m, dim]. No point is paired with itself."""
    m = len(x)
    own = sum(kernel.sum() - kernel.trace() for kernel in (_kernel(x, x), _kernel(y, y)))
    return float(own / (m * (m - 1)) - 2 * _kernel(x, y).mean())


@dataclass(frozen=True)
class KID(Metric):
    """Kernel distance: squared MMD of the kernel (x.y / dim + 1)^3 (Binkowski et al. 2018, sec. 3).

    The score is the mean of an unbiased estimate over random subsets of either bank. It can be
    below 0, and is in half of all cases where both sets come from the same distribution. The
    subsets are those of torch-fidelity for the same seed.

    The error of the score is its standard error over the subsets, their standard deviation over
    sqrt(subsets). It is None for a single subset. It says how well the mean over subsets of these
    banks is known. It is too small for fresh images, because the subsets overlap: `interval` is
    for those.

    subsets: number of subsets.
    subset_size: features in a subset, drawn without replacement.
    """

    subsets: int = 100
    subset_size: int = 1000
    seed: int = 2020
    name: ClassVar[str] = "kid"
    reads_rows: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.subsets < 1 or self.subset_size < 2:
            raise ValueError(
                "KID needs at least 1 subset with at least 2 features, not "
                f"subsets={self.subsets}, subset_size={self.subset_size}"
            )

    @property
    def least_rows(self) -> int:
        return self.subset_size

    def __call__(self, *, fake: FeatureStatistics, real: FeatureStatistics) -> Score:
        values = np.array(list(self._values(fake.bank, real.bank)))
        several = self.subsets > 1
        error = float(values.std(ddof=1)) / math.sqrt(self.subsets) if several else None
        return Score(float(values.mean()), error)

    def _values(self, fake: Tensor, real: Tensor) -> Iterator[float]:
        """The squared MMD of each subset."""
        check_banks(fake, real)
        for name, bank in (("fake", fake), ("real", real)):
            if len(bank) < self.subset_size:
                smaller = f" or choose KID(subset_size={len(bank)})" if len(bank) > 1 else ""
                raise ValueError(
                    f"KID draws subsets of {self.subset_size} features, but {name} has "
                    f"{len(bank)}; keep a larger bank{smaller}"
                )
        draw = np.random.RandomState(self.seed)  # torch-fidelity's generator
        for _ in range(self.subsets):
            parts = [
                bank[torch.from_numpy(draw.choice(len(bank), self.subset_size, replace=False))]
                for bank in (fake, real)
            ]
            yield _mmd2(parts[0].double(), parts[1].double())
