"""Metrics of nearest neighbours, exact in float64: precision, recall, density, coverage."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from bench.metrics.banks import check_banks
from bench.types import FeatureStatistics

_PAIRS = 2**22  # distances held at once
_EXTRA = 16  # candidates beyond the k-th neighbour that are rechecked


@dataclass(frozen=True)
class _Points:
    """Feature vectors twice: as given, and shifted and rounded for fast distances.

    Float32 on the CPU. Float64 on a GPU, where it is fast and TF32 cannot reach it.
    """

    exact: Tensor  # float64 [n, dim]
    quick: Tensor  # [n, dim]
    square: Tensor  # [n], |quick|^2

    @classmethod
    def of(cls, features: Tensor, centre: Tensor) -> "_Points":
        exact = features.double()
        shifted = exact - centre  # smaller norms, smaller rounding of the expanded square
        quick = shifted if features.is_cuda else shifted.float()
        return cls(exact, quick, quick.double().square().sum(1).to(quick.dtype))

    def blocks(self, other: "_Points") -> list[Tensor]:
        """Row numbers in blocks whose distances to `other` fit in memory."""
        size = min(512, max(1, _PAIRS // len(other.quick)))
        return list(torch.arange(len(self.quick), device=self.quick.device).split(size))


def _bounds(rows: Tensor, a: _Points, b: _Points) -> tuple[Tensor, Tensor]:
    """Squared distances from a's rows to all of b, and a bound on their error: [rows, n] each.

    |a|^2 + |b|^2 - 2 a.b with unit roundoff u: the product is off by at most dim u |a||b|, and
    shift, rounding and sums by a few u (|a|^2 + |b|^2) (Higham 2002, sec. 3.1).
    """
    dim, unit = a.quick.shape[1], torch.finfo(a.quick.dtype).eps / 2
    size = a.square[rows, None] + b.square
    return size - 2 * a.quick[rows] @ b.quick.T, (dim + 32) * unit * size


def _distances(a: Tensor, b: Tensor) -> Tensor:
    """Squared distances of float64 vectors along the last dimension, by direct subtraction."""
    return (a - b).square().sum(-1)


def _radii(points: _Points, k: int) -> Tensor:
    """Squared distance of every point to its k-th nearest other point: float64 [n].

    The k + 17 points of least lower bound are measured in float64. If the last of their bounds is
    above the k-th distance found, that is the k-th of all; else every point that could be nearer
    is measured.
    """
    radii = torch.empty(len(points.exact), dtype=torch.float64, device=points.exact.device)
    most = min(k + 1 + _EXTRA, len(points.exact))
    for rows in points.blocks(points):
        distance, error = _bounds(rows, points, points)
        least = distance - error
        bounds, near = least.topk(most, dim=1, largest=False)
        found = _distances(points.exact[near], points.exact[rows, None])  # [rows, most]
        kth = found.sort(1).values[:, k]  # the point itself is one of them, at 0
        open_rows = (bounds[:, -1].double() <= kth) & (kth > 0) & (most < len(radii))
        for i in open_rows.nonzero()[:, 0].tolist():
            rivals = points.exact[least[i].double() <= kth[i]]
            kth[i] = _distances(rivals, points.exact[rows[i]]).sort().values[k]
        radii[rows] = kth
    return radii


def _inside(queries: _Points, balls: _Points, radii: Tensor) -> Tensor:
    """Whether each query lies in a ball (centre, squared radius), border included: bool [n]."""
    inside = torch.zeros(len(queries.exact), dtype=torch.bool, device=radii.device)
    quick = radii.to(balls.quick.dtype)
    # a tie of exact numbers stays a tie when two devices add the squares in different orders
    reach = radii * (1 + 1e-12)
    for rows in queries.blocks(balls):
        distance, error = _bounds(rows, queries, balls)
        gap = distance - quick
        sure = (gap < -error).any(1)  # [rows]
        pairs = ((gap <= error) & ~sure[:, None]).nonzero()  # near ties
        inside[rows[sure]] = True
        for i, j in (part.unbind(1) for part in pairs.split(4096)):
            hit = _distances(queries.exact[rows[i]], balls.exact[j]) <= reach[j]
            inside[rows[i[hit]]] = True
    return inside


def _strictly_inside(queries: _Points, balls: _Points, radii: Tensor) -> tuple[int, Tensor]:
    """Pairs of a query in a ball (centre, squared radius), border excluded: how many there are,
    and which balls have a query, bool [balls]."""
    hit = torch.zeros(len(balls.exact), dtype=torch.bool, device=radii.device)
    quick = radii.to(balls.quick.dtype)
    reach = radii * (1 - 1e-12)  # a tie of exact numbers stays one, as in `_inside`
    count = 0
    for rows in queries.blocks(balls):
        distance, error = _bounds(rows, queries, balls)
        gap, margin = distance - quick, error + 2e-12 * quick
        sure = gap < -margin  # [rows, balls]
        count += int(sure.sum())
        hit |= sure.any(0)
        pairs = (gap.abs() <= margin).nonzero()  # near ties
        for i, j in (part.unbind(1) for part in pairs.split(4096)):
            near = j[_distances(queries.exact[rows[i]], balls.exact[j]) < reach[j]]
            count += len(near)
            hit[near] = True
    return count, hit


def check_neighbours(fake: Tensor, real: Tensor, k: int) -> None:
    """ValueError unless two banks are fit for k nearest neighbours."""
    check_banks(fake, real)
    for name, bank in (("fake", fake), ("real", real)):
        if k < 1 or len(bank) <= k:
            raise ValueError(
                f"{k} nearest neighbours need k >= 1 and more than k features, but {name} has "
                f"{len(bank)}; keep a larger bank or choose another k"
            )


def _share(queries: Tensor, manifold: Tensor, k: int) -> float:
    """Share of queries within the k-NN balls of the manifold's points."""
    centre = manifold.double().mean(0)
    balls = _Points.of(manifold, centre)
    inside = _inside(_Points.of(queries, centre), balls, _radii(balls, k))
    return int(inside.sum()) / len(inside)


def precision_recall(*, fake: Tensor, real: Tensor, k: int = 3) -> tuple[float, float]:
    """Improved precision and recall (Kynkaanniemi et al. 2019, eq. 1-2): (precision, recall).

    Precision: share of fake points within the distance of a real point to its k-th nearest real
    neighbour, `<=`. Recall: the same with the sets exchanged. fake, real: float [n, dim] on one
    device. Distances come in blocks; near ties are decided in float64, so the outcome is float64's.
    """
    check_neighbours(fake, real, k)
    return _share(fake, real, k), _share(real, fake, k)


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
    balls = _Points.of(real, centre)
    count, hit = _strictly_inside(_Points.of(fake, centre), balls, _radii(balls, k))
    return count / (k * len(fake)), int(hit.sum()) / len(hit)


@dataclass(frozen=True)
class Precision:
    """Share of fake features among the real ones: quality. See `precision_recall`."""

    k: int = 3
    name: ClassVar[str] = "precision"
    higher_is_better: ClassVar[bool] = True

    def __call__(self, *, fake: FeatureStatistics, real: FeatureStatistics) -> float:
        check_neighbours(fake.bank, real.bank, self.k)
        return _share(fake.bank, real.bank, self.k)


@dataclass(frozen=True)
class Recall:
    """Share of real features among the fake ones: variety. See `precision_recall`."""

    k: int = 3
    name: ClassVar[str] = "recall"
    higher_is_better: ClassVar[bool] = True

    def __call__(self, *, fake: FeatureStatistics, real: FeatureStatistics) -> float:
        check_neighbours(fake.bank, real.bank, self.k)
        return _share(real.bank, fake.bank, self.k)


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
