"""Metrics of nearest neighbours: precision, recall, density and coverage, exact in float64.

Fast distances with a bound on their error (`points`) decide most comparisons. The others, which are
near ties, are decided by exact float64 distances. `radii` finds the k-th neighbours in this way.

Simpler code was measured, and is slower. Precision and recall (k = 3) of 10,000 x 10,000 features
took, on 2 CPU cores that have bfloat16 in hardware:

    dimensions                                                      2048     1280
    this code                                                      2.3 s    1.7 s
    this code, float32 instead of bfloat16                         4.1 s    2.8 s
    bfloat16 tiles, torch.topk of each row, float64 recheck        3.2 s
    float32 tiles and torch.topk, not exact                        5.4 s    3.1 s
    float64 tiles and torch.topk                                   9.2 s    6.4 s
    torch-fidelity                                                 7.3 s

The peak of memory above the inputs was 0.4 to 0.5 GB for this code and 1.6 GB for torch-fidelity.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar
from weakref import WeakKeyDictionary

from bench.lazy import Tensor, torch
from bench.machine import settled
from bench.metrics.banks import check_banks
from bench.metrics.points import Points, bounds_of, centre_of, measured
from bench.metrics.radii import radii_of
from bench.types import FeatureStatistics, Metric, Score

_PENDING = 2**18  # near ties that are collected before they are decided


class _Cover:
    """Which queries lie in at least one ball, border included. It reads distances in tiles.

    A ball certainly contains a query if the fast distance plus its error is below the radius. If
    the radius is within the error of the distance, the two are a near tie. Near ties are collected,
    and exact distances decide them.
    """

    def __init__(self, queries: Points, balls: Points, radii: Tensor):
        self.queries, self.balls = queries, balls
        unit, kind = max(queries.unit, balls.unit), balls.square.dtype
        self.upper = (1 + unit) * balls.square - radii.to(kind)  # [balls]
        self.slack = 2 * unit * balls.square
        self.sure, self.near = -(1 + unit) * queries.square, -(1 - unit) * queries.square
        # two devices may add squares in different orders: a tie must be a tie on both
        self.reach = radii * (1 + 1e-12)
        self.inside = torch.zeros(len(queries.quick), dtype=torch.bool, device=radii.device)
        self.pending: list[Tensor] = []
        self.waiting = 0

    def see(self, rows: slice, cols: slice, product: Tensor) -> None:
        """Read a tile.

        Arguments:
            rows, cols: of the queries and of the balls.
            product: -2 q.b, [rows, cols].
        """
        gap = product + self.upper[cols]
        slack, inside = self.slack[cols], self.inside[rows]
        least = gap.amin(1)
        inside |= least < self.sure[rows]
        near = self.near[rows]
        maybe = (~inside & (least - slack.amax() <= near)).nonzero()[:, 0]
        i, j = (gap[maybe] - slack <= near[maybe, None]).nonzero().unbind(1)
        self.pending.append(torch.stack([maybe[i] + rows.start, j + cols.start], 1))
        self.waiting += len(i)
        if self.waiting > _PENDING:
            self.settle()

    def settle(self) -> Tensor:
        """Decide the near ties that were collected. Returns which queries are inside, bool [n]."""
        for part in torch.cat(self.pending).split(4096) if self.pending else ():
            i, j = part[~self.inside[part[:, 0]]].unbind(1)
            hit = measured(i, j, self.queries, self.balls) <= self.reach[j]
            self.inside[i[hit]] = True
        self.pending, self.waiting = [], 0
        return self.inside


def _share(queries: Points, balls: Points, radii: Tensor) -> float:
    """Share of queries in at least one ball. `radii` are squared."""
    cover = _Cover(queries, balls, radii)
    for rows, cols, product in _products(queries, balls):
        cover.see(rows, cols, product)
    return int(cover.settle().sum()) / len(cover.inside)


def _products(a: Points, b: Points) -> Iterator[tuple[slice, slice, Tensor]]:
    """Tiles of -2 a.b, with their rows and columns."""
    for rows in a.tiles():
        left = a.minus_twice(rows)
        for cols in b.tiles():
            yield rows, cols, (left @ b.quick[cols].T).to(a.square.dtype)


def _strictly_inside(queries: Points, balls: Points, radii: Tensor) -> tuple[int, Tensor]:
    """Queries inside balls, border excluded. `radii` are squared.

    Returns:
        The number of pairs of a query and a ball that contains it, and which balls contain a
        query, bool [balls].
    """
    hit = torch.zeros(len(balls.exact), dtype=torch.bool, device=radii.device)
    quick = radii.to(balls.square.dtype)
    reach = radii * (1 - 1e-12)  # a tie must be a tie on every device, as in `_Cover`
    count = 0
    for rows in queries.blocks(balls):
        distance, error = bounds_of(rows, queries, balls)
        gap, margin = distance - quick, error + 2e-12 * quick
        sure = gap < -margin  # [rows, balls]
        count += int(sure.sum())
        hit |= sure.any(0)
        pairs = (gap.abs() <= margin).nonzero()  # near ties
        for i, j in (part.unbind(1) for part in pairs.split(4096)):
            near = j[measured(rows[i], j, queries, balls) < reach[j]]
            count += len(near)
            hit[near] = True
    return count, hit


def check_neighbours(fake: Tensor, real: Tensor, k: int) -> None:
    """Check that two banks are valid and have more than k features each.

    Raises:
        ValueError: they are not, or k is below 1.
    """
    check_banks(fake, real)
    for name, bank in (("fake", fake), ("real", real)):
        if k < 1 or len(bank) <= k:
            raise ValueError(
                f"{k} nearest neighbours need k >= 1 and more than k features, but {name} has "
                f"{len(bank)}; keep a larger bank or choose a smaller k"
            )


def precision_recall(*, fake: Tensor, real: Tensor, k: int = 3) -> tuple[float, float]:
    """Improved precision and recall (Kynkaanniemi et al. 2019, eq. 1-2), exact in float64.

    The ball of a point has its centre there and reaches to its k-th nearest neighbour in the same
    set, border included. Precision is the share of fake points that lie in a ball of a real point.
    Recall is the share of real points that lie in a ball of a fake point.

    Arguments:
        fake, real: float [n, dim], on the same device.

    Returns:
        (precision, recall), each from 0 to 1.

    Raises:
        ValueError: not more than k points, or features that are not finite.
    """
    check_neighbours(fake, real, k)
    fake_radii, real_radii = radii_of(fake, k), radii_of(real, k)
    centre = centre_of(real)
    a, b = Points.of(fake, centre), Points.of(real, centre)
    precision, recall = _Cover(a, b, real_radii), _Cover(b, a, fake_radii)
    for rows, cols, product in _products(a, b):
        precision.see(rows, cols, product)
        recall.see(cols, rows, product.T)
    return (
        int(precision.settle().sum()) / len(fake),
        int(recall.settle().sum()) / len(real),
    )


def density_coverage(*, fake: Tensor, real: Tensor, k: int = 5) -> tuple[float, float]:
    """Density and coverage (Naeem et al. 2020, eq. 5-6), exact in float64.

    The balls are those of real points in `precision_recall`, border excluded. Density is the mean
    number of balls that contain a fake point, over k. It can be above 1. Coverage is the share of
    balls that contain a fake point.

    For M fake and N real points from the same distribution, the expected density is 1, and the
    expected coverage is 1 - C(N - 1, k) / C(N + M - 1, k).

    Arguments:
        fake, real: float [n, dim], on the same device.

    Returns:
        (density, coverage).

    Raises:
        ValueError: not more than k points, or features that are not finite.
    """
    check_neighbours(fake, real, k)
    centre = centre_of(real)
    balls = Points.of(real, centre)
    count, hit = _strictly_inside(Points.of(fake, centre), balls, radii_of(real, k))
    return count / (k * len(fake)), int(hit.sum()) / len(hit)


_RADII: WeakKeyDictionary[FeatureStatistics, dict[int, Tensor]] = WeakKeyDictionary()


def _share_of(queries: FeatureStatistics, manifold: FeatureStatistics, k: int) -> float:
    """Share of queries that lie in a ball of the manifold, border included.

    The radii are kept as long as the manifold exists, because one reference is compared with many
    cells.
    """
    known = _RADII.setdefault(manifold, {})
    if k not in known:
        known[k] = settled(radii_of(manifold.bank, k))
    centre = centre_of(manifold.bank)
    points = Points.of(manifold.bank, centre)
    return _share(Points.of(queries.bank, centre), points, known[k])


class _Neighbours(Metric):
    reads_rows: ClassVar[bool] = True
    k: int

    @property
    def least_rows(self) -> int:
        return self.k + 1  # a point has k others


@dataclass(frozen=True)
class Precision(_Neighbours):
    """Share of fake features among the real ones, a measure of quality; see `precision_recall`.

    With banks of the same size it is symmetric to `Recall`. With 10,000 real features and all fake
    ones it is that of the ADM evaluator (Dhariwal and Nichol 2021), for which `ADMPrecision` keeps
    the whole fake bank.
    """

    k: int = 3
    name: ClassVar[str] = "precision"
    higher_is_better: ClassVar[bool] = True

    def __call__(self, *, fake: FeatureStatistics, real: FeatureStatistics) -> Score:
        check_neighbours(fake.bank, real.bank, self.k)
        return Score(_share_of(fake, real, self.k))


@dataclass(frozen=True)
class Recall(_Neighbours):
    """Share of real features among the fake ones, a measure of variety; see `precision_recall`.

    `Precision` tells what the sizes of the banks mean.
    """

    k: int = 3
    name: ClassVar[str] = "recall"
    higher_is_better: ClassVar[bool] = True

    def __call__(self, *, fake: FeatureStatistics, real: FeatureStatistics) -> Score:
        check_neighbours(fake.bank, real.bank, self.k)
        return Score(_share_of(real, fake, self.k))


@dataclass(frozen=True)
class ADMPrecision(Precision):
    """`Precision` of all fake features, as the ADM evaluator computes it.

    The evaluator's references keep 10,000 real features.
    """

    name: ClassVar[str] = "precision_adm"
    whole_bank: ClassVar[bool] = True


@dataclass(frozen=True)
class ADMRecall(Recall):
    """`Recall` with the balls of all fake features; see `ADMPrecision`."""

    name: ClassVar[str] = "recall_adm"
    whole_bank: ClassVar[bool] = True


@dataclass(frozen=True)
class Density(_Neighbours):
    """Number of real balls that contain a fake feature, over k; see `density_coverage`.

    It is a measure of quality. A single outlier of the real set changes it little.
    """

    k: int = 5
    name: ClassVar[str] = "density"
    higher_is_better: ClassVar[bool] = True

    def __call__(self, *, fake: FeatureStatistics, real: FeatureStatistics) -> Score:
        return Score(density_coverage(fake=fake.bank, real=real.bank, k=self.k)[0])


@dataclass(frozen=True)
class Coverage(_Neighbours):
    """Share of real balls that contain a fake feature, a measure of variety.

    See `density_coverage`.
    """

    k: int = 5
    name: ClassVar[str] = "coverage"
    higher_is_better: ClassVar[bool] = True

    def __call__(self, *, fake: FeatureStatistics, real: FeatureStatistics) -> Score:
        return Score(density_coverage(fake=fake.bank, real=real.bank, k=self.k)[1])
