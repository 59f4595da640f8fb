"""Kernel distance: unbiased, so that it may be read at few images."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor

from bench.metrics.banks import check_banks
from bench.types import FeatureStatistics


def _kernel(a: Tensor, b: Tensor) -> Tensor:
    """(a.b / dim + 1)^3 of all pairs of rows: float64 [n, m] of [n, dim], [m, dim]."""
    return (a @ b.T / a.shape[1] + 1) ** 3


def _mmd2(x: Tensor, y: Tensor) -> float:
    """Unbiased squared MMD of two float64 [m, dim]: no point is paired with itself."""
    m = len(x)
    own = sum(kernel.sum() - kernel.trace() for kernel in (_kernel(x, x), _kernel(y, y)))
    return float(own / (m * (m - 1)) - 2 * _kernel(x, y).mean())


@dataclass(frozen=True)
class KID:
    """Kernel distance: squared MMD of the kernel (x.y / dim + 1)^3 (Binkowski et al. 2018, sec. 3).

    The mean of the unbiased estimate over `subsets` of `subset_size` features of either bank, drawn
    without replacement in the order of torch-fidelity, so that a seed gives its numbers. Being
    unbiased it may fall below 0, and does for half of all pairs of sets of one law.
    """

    subsets: int = 100
    subset_size: int = 1000
    seed: int = 2020
    name: ClassVar[str] = "kid"
    higher_is_better: ClassVar[bool] = False

    @property
    def least_bank(self) -> int:
        """Real features that a subset takes."""
        return self.subset_size

    def __post_init__(self) -> None:
        if self.subsets < 1 or self.subset_size < 2:
            raise ValueError(
                f"KID needs at least 1 subset of 2 features, not {self.subsets} of "
                f"{self.subset_size}; raise subsets or subset_size"
            )

    def __call__(self, *, fake: FeatureStatistics, real: FeatureStatistics) -> float:
        return float(np.mean(self.values(fake=fake, real=real)))

    def estimate(self, *, fake: FeatureStatistics, real: FeatureStatistics) -> tuple[float, float]:
        """(KID, its standard error over subsets: their standard deviation / sqrt(subsets)).

        It says how well the mean over subsets of these banks is known. Subsets that overlap vary
        less than fresh images do: for those, see `interval`.
        """
        if self.subsets < 2:
            raise ValueError("a standard error needs at least 2 subsets; raise subsets")
        values = self.values(fake=fake, real=real)
        return float(np.mean(values)), float(np.std(values, ddof=1)) / math.sqrt(self.subsets)

    def values(self, *, fake: FeatureStatistics, real: FeatureStatistics) -> np.ndarray:
        """The estimate of every subset, float64 [subsets]; found once as long as the sets live."""
        known = _VALUES.setdefault(fake, WeakKeyDictionary()).setdefault(real, {})
        if self not in known:
            known[self] = np.array(list(self._values(fake.bank, real.bank)))
        return known[self]

    def _values(self, fake: Tensor, real: Tensor) -> Iterator[float]:
        """One MMD a subset."""
        check_banks(fake, real)
        for name, bank in (("fake", fake), ("real", real)):
            if len(bank) < self.subset_size:
                raise ValueError(
                    f"KID draws subsets of {self.subset_size} features, but {name} has "
                    f"{len(bank)}; keep a larger bank or choose KID(subset_size={len(bank)})"
                    if len(bank) > 1
                    else f"KID needs at least 2 features, but {name} has {len(bank)}; keep a bank"
                )
        draw = np.random.RandomState(self.seed)  # torch-fidelity's generator
        for _ in range(self.subsets):
            parts = [
                bank[torch.from_numpy(draw.choice(len(bank), self.subset_size, replace=False))]
                for bank in (fake, real)
            ]
            yield _mmd2(parts[0].double(), parts[1].double())


_Known = WeakKeyDictionary[FeatureStatistics, dict[KID, np.ndarray]]
_VALUES: WeakKeyDictionary[FeatureStatistics, _Known] = WeakKeyDictionary()


@dataclass(frozen=True)
class KIDError:
    """Standard error of the `KID` of the same fields, over its subsets: see `KID.estimate`."""

    subsets: int = 100
    subset_size: int = 1000
    seed: int = 2020
    name: ClassVar[str] = "kid_error"
    higher_is_better: ClassVar[bool] = False

    @property
    def least_bank(self) -> int:
        """Real features that a subset takes."""
        return self.subset_size

    def __post_init__(self) -> None:
        if self.subsets < 2:
            raise ValueError("a standard error needs at least 2 subsets; raise subsets")
        self._kid()

    def _kid(self) -> KID:
        return KID(self.subsets, self.subset_size, self.seed)

    def __call__(self, *, fake: FeatureStatistics, real: FeatureStatistics) -> float:
        return self._kid().estimate(fake=fake, real=real)[1]
