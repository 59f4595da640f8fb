"""Metrics of nearest neighbours, exact in float64: precision, recall, density, coverage."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from bench.metrics.banks import check_banks
from bench.metrics.points import Points, bounds_of, centre_of, distances, kinds, measured
from bench.types import FeatureStatistics, Metric, Score

_EXTRA = 16  # candidates beyond the k-th neighbour that are rechecked
_BUDGET = 1024  # candidates a point, beyond which each row is looked at by itself
_OPEN = 32  # pairs a point that are measured in float64, likewise
_PENDING = 2**18  # near ties that wait to be measured
_SAMPLE = 8  # one point in so many tells how far a neighbour is at most


# ---------------------------------------------------------------- the k-th neighbour


def _radii(features: Tensor, k: int) -> Tensor:
    """Squared distance of every point to its k-th nearest other point: float64 [n].

    A sample bounds the k-th distance from above. The few pairs within that bound are kept while
    the distances go by in tiles, each for both its points; float64 decides among them.
    """
    centre = centre_of(features)
    for kind in kinds(features.device):
        points = Points.of(features, centre, kind)
        pairs = _candidates(points, k)
        if pairs and (window := _window(points, k, *pairs)):
            return _kth(points, k, *window)
    return _radii_by_rows(Points.of(features, centre, torch.float64), k)


def _ceilings(points: Points, k: int) -> Tensor:
    """An upper bound on every point's k-th distance, from a sample of the points: [n]."""
    n, device = len(points.quick), points.quick.device
    order = torch.randperm(n, generator=torch.Generator().manual_seed(0)).to(device)
    some = order[: max(n // _SAMPLE, 8 * (k + 1))]
    plus = (1 + points.unit) * points.square
    quick, square = points.quick[some].T, plus[some]
    return torch.cat([
        (points.minus_twice(rows) @ quick + square)
        .topk(k + 1, dim=1, largest=False).values[:, k] + plus[rows]  # the point itself is the 0th
        for rows in points.tiles()
    ])  # fmt: skip


def _candidates(points: Points, k: int) -> tuple[Tensor, Tensor, Tensor] | None:
    """Pairs (i, j), j != i, with a lower bound on their distance, that hold the k nearest of each
    i: [pairs] each. None where ties make them too many."""
    ceiling, least = _ceilings(points, k), (1 - points.unit) * points.square
    tiles, found, count = points.tiles(), [], 0
    for at, rows in enumerate(tiles):
        left = points.minus_twice(rows)
        for cols in tiles[at:]:
            low = left @ points.quick[cols].T + least[cols]
            low += least[rows][:, None]
            if cols is rows:
                low.fill_diagonal_(math.inf)
            near = low <= ceiling[rows][:, None]
            if cols is not rows:
                near |= low <= ceiling[cols]
            if (count := count + int(near.count_nonzero())) > _BUDGET * len(points.quick):
                return None
            i, j = near.nonzero().unbind(1)
            bound, i, j = low[i, j], i + rows.start, j + cols.start
            found.append((i, j, bound))
            if cols is not rows:
                found.append((j, i, bound))
    i, j, low = (torch.cat(parts) for parts in zip(*found, strict=True))
    kept = low <= ceiling[i]
    return i[kept], j[kept], low[kept]


def _window(
    points: Points, k: int, i: Tensor, j: Tensor, low: Tensor
) -> tuple[Tensor, Tensor, Tensor] | None:
    """The pairs (i, j) among which the k-th of each i is, and how many of its neighbours are nearer
    than those, [n]. None where ties make them too many."""
    order = low.argsort()
    order = order[i[order].argsort(stable=True)]
    i, j, low = i[order], j[order], low[order]  # by i, then by distance
    n = len(points.quick)
    start = torch.searchsorted(i, torch.arange(n, device=i.device))
    high = low + 2 * points.unit * (points.square[i] + points.square[j])
    first = start[:, None] + torch.arange(k, device=i.device)
    ceiling, floor = high[first].amax(1), low[first[:, -1]]
    nearer = high < floor[i]  # the k-th is farther than these
    open_pairs = (low <= ceiling[i]) & ~nearer
    if int(open_pairs.count_nonzero()) > _OPEN * n:
        return None
    return i[open_pairs], j[open_pairs], torch.bincount(i[nearer], minlength=n)


def _kth(points: Points, k: int, i: Tensor, j: Tensor, nearer: Tensor) -> Tensor:
    """The k-th distances, where `nearer` of each are known to come before all its pairs."""
    exact = measured(i, j, points, points)
    order = exact.argsort()
    order = order[i[order].argsort(stable=True)]
    start = torch.searchsorted(i, torch.arange(len(nearer), device=i.device))  # i is sorted
    return exact[order][start + (k - 1) - nearer]


def _radii_by_rows(points: Points, k: int) -> Tensor:
    """`_radii` of points with many ties, one row at a time where nothing else decides.

    The k + 17 points of least lower bound are measured in float64. If the last of their bounds is
    above the k-th distance found, that is the k-th of all; else every point that could be nearer
    is measured.
    """
    radii = torch.empty(len(points.exact), dtype=torch.float64, device=points.exact.device)
    most = min(k + 1 + _EXTRA, len(points.exact))
    for rows in points.blocks(points):
        distance, error = bounds_of(rows, points, points)
        least = distance - error
        bounds, near = least.topk(most, dim=1, largest=False)
        found = distances(points.exact[near], points.exact[rows, None])  # [rows, most]
        kth = found.sort(1).values[:, k]  # the point itself is one of them, at 0
        open_rows = (bounds[:, -1] <= kth) & (kth > 0) & (most < len(radii))
        for i in open_rows.nonzero()[:, 0].tolist():
            rivals = points.exact[least[i] <= kth[i]]
            kth[i] = distances(rivals, points.exact[rows[i]]).sort().values[k]
        radii[rows] = kth
    return radii


# ---------------------------------------------------------------- queries and balls


class _Cover:
    """Which queries lie in a ball (centre, squared radius), border included, tile by tile."""

    def __init__(self, queries: Points, balls: Points, radii: Tensor):
        self.queries, self.balls = queries, balls
        unit, kind = max(queries.unit, balls.unit), balls.square.dtype
        self.upper = (1 + unit) * balls.square - radii.to(kind)  # [balls]
        self.slack = 2 * unit * balls.square
        self.sure, self.near = -(1 + unit) * queries.square, -(1 - unit) * queries.square
        # a tie of exact numbers stays a tie when two devices add the squares in different orders
        self.reach = radii * (1 + 1e-12)
        self.inside = torch.zeros(len(queries.quick), dtype=torch.bool, device=radii.device)
        self.pending: list[Tensor] = []
        self.waiting = 0

    def see(self, rows: slice, cols: slice, product: Tensor) -> None:
        """-2 q.b of queries `rows` and balls `cols`, [rows, cols]: sure cases are noted, near ties
        wait for float64."""
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
        """Measures the near ties of queries that are not inside yet; -> bool [queries]."""
        for part in torch.cat(self.pending).split(4096) if self.pending else ():
            i, j = part[~self.inside[part[:, 0]]].unbind(1)
            hit = measured(i, j, self.queries, self.balls) <= self.reach[j]
            self.inside[i[hit]] = True
        self.pending, self.waiting = [], 0
        return self.inside


def _share(queries: Points, balls: Points, radii: Tensor) -> float:
    """Share of queries within the balls (centre, squared radius)."""
    cover = _Cover(queries, balls, radii)
    for rows, cols, product in _products(queries, balls):
        cover.see(rows, cols, product)
    return int(cover.settle().sum()) / len(cover.inside)


def _products(a: Points, b: Points) -> Iterator[tuple[slice, slice, Tensor]]:
    """-2 a.b in tiles, with their rows and columns."""
    for rows in a.tiles():
        left = a.minus_twice(rows)
        for cols in b.tiles():
            yield rows, cols, (left @ b.quick[cols].T).to(a.square.dtype)


def _strictly_inside(queries: Points, balls: Points, radii: Tensor) -> tuple[int, Tensor]:
    """Pairs of a query in a ball (centre, squared radius), border excluded: how many there are,
    and which balls have a query, bool [balls]."""
    hit = torch.zeros(len(balls.exact), dtype=torch.bool, device=radii.device)
    quick = radii.to(balls.square.dtype)
    reach = radii * (1 - 1e-12)  # a tie of exact numbers stays one, as in `_inside`
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
    """ValueError unless two banks are fit for k nearest neighbours."""
    check_banks(fake, real)
    for name, bank in (("fake", fake), ("real", real)):
        if k < 1 or len(bank) <= k:
            raise ValueError(
                f"{k} nearest neighbours need k >= 1 and more than k features, but {name} has "
                f"{len(bank)}; keep a larger bank or choose another k"
            )


def precision_recall(*, fake: Tensor, real: Tensor, k: int = 3) -> tuple[float, float]:
    """Improved precision and recall (Kynkaanniemi et al. 2019, eq. 1-2): (precision, recall).

    Precision: share of fake points within the distance of a real point to its k-th nearest real
    neighbour, `<=`. Recall: the same with the sets exchanged. fake, real: float [n, dim] on one
    device. Distances come in blocks; near ties are decided in float64, so the outcome is float64's.
    """
    check_neighbours(fake, real, k)
    fake_radii, real_radii = _radii(fake, k), _radii(real, k)
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
    """Density and coverage (Naeem et al. 2020, eq. 5-6): (density, coverage).

    Density: the mean number of real balls that a fake point lies in, over k; a ball reaches from a
    real point to its k-th nearest real neighbour, border excluded, `<`. It may exceed 1. Coverage:
    share of real balls with a fake point. fake, real: float [n, dim] on one device. For M fake and
    N real points of one law density is 1 and coverage 1 - C(N - 1, k) / C(N + M - 1, k), on
    average. The outcome is float64's.
    """
    check_neighbours(fake, real, k)
    centre = centre_of(real)
    balls = Points.of(real, centre)
    count, hit = _strictly_inside(Points.of(fake, centre), balls, _radii(real, k))
    return count / (k * len(fake)), int(hit.sum()) / len(hit)


_RADII: WeakKeyDictionary[FeatureStatistics, dict[int, Tensor]] = WeakKeyDictionary()


def _share_of(queries: FeatureStatistics, manifold: FeatureStatistics, k: int) -> float:
    """Share of queries in the manifold's k-NN balls, whose radii are found once as long as it
    lives: a reference meets every cell of a run."""
    known = _RADII.setdefault(manifold, {})
    if k not in known:
        known[k] = _radii(manifold.bank, k)
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
