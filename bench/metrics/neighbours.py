"""Metrics of nearest neighbours, exact in float64: precision, recall, density, coverage."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from bench.metrics.balls import Points, Remembered, inside_each_other, radii, strictly_inside
from bench.metrics.banks import check_banks
from bench.types import FeatureStatistics

_RADII, _PAIRS = Remembered(), Remembered()


def check_neighbours(fake: Tensor, real: Tensor, k: int) -> None:
    """ValueError unless two banks are fit for k nearest neighbours."""
    check_banks(fake, real)
    for name, bank in (("fake", fake), ("real", real)):
        if k < 1 or len(bank) <= k:
            raise ValueError(
                f"{k} nearest neighbours need k >= 1 and more than k features, but {name} has "
                f"{len(bank)}; keep a larger bank or choose another k"
            )


def _radii(points: Points, k: int) -> Tensor:
    known = _RADII.get((points.given,), k)
    return known if known is not None else _RADII.put(radii(points, k), (points.given,), k)


def precision_recall(*, fake: Tensor, real: Tensor, k: int = 3) -> tuple[float, float]:
    """Improved precision and recall (Kynkaanniemi et al. 2019, eq. 1-2): (precision, recall).

    Precision: share of fake points within the distance of a real point to its k-th nearest real
    neighbour, `<=`. Recall: the same with the sets exchanged. fake, real: float [n, dim] on one
    device, not changed while they live: what is found of them is remembered. Distances come in
    blocks; near ties are decided in float64, so the outcome is float64's.
    """
    check_neighbours(fake, real, k)
    known = _PAIRS.get((fake, real), k)
    if known is not None:
        return known
    centre = real.double().mean(0)
    a, b = Points.of(fake, centre), Points.of(real, centre)
    hits = inside_each_other(a, _radii(a, k), b, _radii(b, k))
    shares = int(hits[0].sum()) / len(fake), int(hits[1].sum()) / len(real)
    return _PAIRS.put(shares, (fake, real), k)


def density_coverage(*, fake: Tensor, real: Tensor, k: int = 5) -> tuple[float, float]:
    """Density and coverage (Naeem et al. 2020, eq. 5-6): (density, coverage).

    Density: the mean number of real balls that a fake point lies in, over k; a ball reaches from a
    real point to its k-th nearest real neighbour, border excluded, `<`. It may exceed 1. Coverage:
    share of real balls with a fake point. fake, real: float [n, dim] on one device. For M fake and
    N real points of one law density is 1 and coverage 1 - C(N - 1, k) / C(N + M - 1, k), on
    average. The outcome is float64's.
    """
    check_neighbours(fake, real, k)
    centre = real.double().mean(0)
    balls = Points.of(real, centre)
    count, hit = strictly_inside(Points.of(fake, centre), balls, _radii(balls, k))
    return count / (k * len(fake)), int(hit.sum()) / len(hit)


@dataclass(frozen=True)
class Precision:
    """Share of fake features among the real ones: quality. See `precision_recall`."""

    k: int = 3
    name: ClassVar[str] = "precision"
    higher_is_better: ClassVar[bool] = True

    def __call__(self, *, fake: FeatureStatistics, real: FeatureStatistics) -> float:
        return precision_recall(fake=fake.bank, real=real.bank, k=self.k)[0]


@dataclass(frozen=True)
class Recall:
    """Share of real features among the fake ones: variety. See `precision_recall`."""

    k: int = 3
    name: ClassVar[str] = "recall"
    higher_is_better: ClassVar[bool] = True

    def __call__(self, *, fake: FeatureStatistics, real: FeatureStatistics) -> float:
        return precision_recall(fake=fake.bank, real=real.bank, k=self.k)[1]


@dataclass(frozen=True)
class Density:
    """Real balls around a fake feature, over k: quality, blind to outliers of the real set. See
    `density_coverage`."""

    k: int = 5
    name: ClassVar[str] = "density"
    higher_is_better: ClassVar[bool] = True

    def __call__(self, *, fake: FeatureStatistics, real: FeatureStatistics) -> float:
        return density_coverage(fake=fake.bank, real=real.bank, k=self.k)[0]


@dataclass(frozen=True)
class Coverage:
    """Share of real features with a fake one beside them: variety. See `density_coverage`."""

    k: int = 5
    name: ClassVar[str] = "coverage"
    higher_is_better: ClassVar[bool] = True

    def __call__(self, *, fake: FeatureStatistics, real: FeatureStatistics) -> float:
        return density_coverage(fake=fake.bank, real=real.bank, k=self.k)[1]
