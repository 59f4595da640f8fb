"""Metrics of nearest neighbours, exact in float64: precision, recall, density, coverage."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from bench.metrics.banks import check_banks
from bench.types import FeatureStatistics

_PAIRS = 2**22  # distances held at once, on a CPU
_PAIRS_ON_GPU = 2**26
_EXTRA = 16  # candidates beyond the k-th neighbour that are rechecked
_BUDGET = 1024  # candidates a point, beyond which each row is looked at by itself
_PENDING = 2**18  # near ties that wait to be measured
_SAMPLE = 32  # one point in so many tells how far a neighbour is at most


@dataclass(frozen=True)
class _Points:
    """Feature vectors twice: as given, and shifted and rounded for fast distances.

    Float32 on the CPU. Float64 on a GPU, where it is fast and TF32 cannot reach it, and wherever
    products of float32 were allowed to be rougher.
    """

    exact: Tensor  # float [n, dim], as given
    quick: Tensor  # [n, dim]
    square: Tensor  # [n], |quick|^2

    @classmethod
    def of(cls, features: Tensor, centre: Tensor) -> "_Points":
        rough = torch.get_float32_matmul_precision() != "highest"
        kind = torch.float64 if features.is_cuda or rough else torch.float32
        return cls.rounded(features, centre, kind)

    @classmethod
    def rounded(cls, features: Tensor, centre: Tensor, kind: torch.dtype) -> "_Points":
        quick = torch.empty(features.shape, dtype=kind, device=features.device)
        square = torch.empty(len(quick), dtype=kind, device=features.device)
        for part, into, norm in zip(features.split(1024), quick.split(1024), square.split(1024),
                                    strict=True):  # fmt: skip
            into.copy_(part.double() - centre)  # smaller norms, smaller rounding of the square
            norm.copy_(into.double().square().sum(1))
        return cls(features, quick, square)

    @property
    def unit(self) -> float:
        """Bound on the error of a squared distance over |a|^2 + |b|^2: see `_bounds`."""
        return (self.quick.shape[1] + 32) * torch.finfo(self.quick.dtype).eps / 2

    def tiles(self) -> list[slice]:
        """Rows in parts that make square tiles of distances."""
        side = math.isqrt(_PAIRS_ON_GPU if self.quick.is_cuda else _PAIRS)
        return [slice(at, at + side) for at in range(0, len(self.quick), side)]

    def blocks(self, other: "_Points") -> list[Tensor]:
        """Row numbers in blocks whose distances to all of `other` fit in memory."""
        size = min(512, max(1, _PAIRS // len(other.quick)))
        return list(torch.arange(len(self.quick), device=self.quick.device).split(size))


def _bounds(rows: Tensor, a: _Points, b: _Points) -> tuple[Tensor, Tensor]:
    """Squared distances from a's rows to all of b, and a bound on their error: [rows, n] each.

    |a|^2 + |b|^2 - 2 a.b with unit roundoff u: the product is off by at most dim u |a||b|, and
    shift, rounding and sums by a few u (|a|^2 + |b|^2) (Higham 2002, sec. 3.1).
    """
    size = a.square[rows, None] + b.square
    return size - 2 * a.quick[rows] @ b.quick.T, a.unit * size


def _distances(a: Tensor, b: Tensor) -> Tensor:
    """Squared distances along the last dimension, by direct subtraction in float64."""
    return (a.double() - b.double()).square().sum(-1)


def _measured(i: Tensor, j: Tensor, a: _Points, b: _Points) -> Tensor:
    """Squared distances of the pairs (a_i, b_j), float64 [pairs]."""
    parts = zip(i.split(2048), j.split(2048), strict=True)
    found = [_distances(a.exact[rows], b.exact[cols]) for rows, cols in parts]
    return torch.cat(found) if found else torch.zeros(0, dtype=torch.float64, device=i.device)


# ---------------------------------------------------------------- the k-th neighbour


def _radii(points: _Points, k: int) -> Tensor:
    """Squared distance of every point to its k-th nearest other point: float64 [n].

    A sample bounds the k-th distance from above. The few pairs within that bound are kept while
    the distances go by in tiles, each for both its points; float64 decides among them.
    """
    pairs = _candidates(points, k)
    window = _window(points, k, *pairs) if pairs else None
    return _kth(points, k, *window) if window else _radii_by_rows(points, k)


def _ceilings(points: _Points, k: int) -> Tensor:
    """An upper bound on every point's k-th distance, from a sample of the points: [n]."""
    n, device = len(points.quick), points.quick.device
    order = torch.randperm(n, generator=torch.Generator().manual_seed(0)).to(device)
    some = order[: max(n // _SAMPLE, 8 * (k + 1))]
    plus = (1 + points.unit) * points.square
    quick, square = points.quick[some].T, plus[some]
    return torch.cat([
        torch.addmm(square, points.quick[rows], quick, alpha=-2)
        .topk(k + 1, dim=1, largest=False).values[:, k] + plus[rows]  # the point itself is the 0th
        for rows in points.tiles()
    ])  # fmt: skip


def _candidates(points: _Points, k: int) -> tuple[Tensor, Tensor, Tensor] | None:
    """Pairs (i, j), j != i, with a lower bound on their distance, that hold the k nearest of each
    i: [pairs] each. None where ties make them too many."""
    ceiling, least = _ceilings(points, k), (1 - points.unit) * points.square
    tiles, found, count = points.tiles(), [], 0
    for at, rows in enumerate(tiles):
        for cols in tiles[at:]:
            low = torch.addmm(least[cols], points.quick[rows], points.quick[cols].T, alpha=-2)
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
    points: _Points, k: int, i: Tensor, j: Tensor, low: Tensor
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
    if int(open_pairs.count_nonzero()) > 16 * (k + _EXTRA) * n:
        return None
    return i[open_pairs], j[open_pairs], torch.bincount(i[nearer], minlength=n)


def _kth(points: _Points, k: int, i: Tensor, j: Tensor, nearer: Tensor) -> Tensor:
    """The k-th distances, where `nearer` of each are known to come before all its pairs."""
    exact = _measured(i, j, points, points)
    order = exact.argsort()
    order = order[i[order].argsort(stable=True)]
    start = torch.searchsorted(i, torch.arange(len(nearer), device=i.device))  # i is sorted
    return exact[order][start + (k - 1) - nearer]


def _radii_by_rows(points: _Points, k: int) -> Tensor:
    """`_radii` of points with many ties, one row at a time where nothing else decides.

    The k + 17 points of least lower bound are measured in float64. If the last of their bounds is
    above the k-th distance found, that is the k-th of all; else every point that could be nearer
    is measured.
    """
    points = _Points.rounded(points.exact, points.exact.double().mean(0), torch.float64)
    radii = torch.empty(len(points.exact), dtype=torch.float64, device=points.exact.device)
    most = min(k + 1 + _EXTRA, len(points.exact))
    for rows in points.blocks(points):
        distance, error = _bounds(rows, points, points)
        least = distance - error
        bounds, near = least.topk(most, dim=1, largest=False)
        found = _distances(points.exact[near], points.exact[rows, None])  # [rows, most]
        kth = found.sort(1).values[:, k]  # the point itself is one of them, at 0
        open_rows = (bounds[:, -1] <= kth) & (kth > 0) & (most < len(radii))
        for i in open_rows.nonzero()[:, 0].tolist():
            rivals = points.exact[least[i] <= kth[i]]
            kth[i] = _distances(rivals, points.exact[rows[i]]).sort().values[k]
        radii[rows] = kth
    return radii


# ---------------------------------------------------------------- queries and balls


class _Cover:
    """Which queries lie in a ball (centre, squared radius), border included, tile by tile."""

    def __init__(self, queries: _Points, balls: _Points, radii: Tensor):
        self.queries, self.balls = queries, balls
        unit, kind = queries.unit, balls.quick.dtype
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
            hit = _measured(i, j, self.queries, self.balls) <= self.reach[j]
            self.inside[i[hit]] = True
        self.pending, self.waiting = [], 0
        return self.inside


def _share(queries: _Points, balls: _Points, radii: Tensor) -> float:
    """Share of queries within the balls (centre, squared radius)."""
    cover = _Cover(queries, balls, radii)
    for rows, cols, product in _products(queries, balls):
        cover.see(rows, cols, product)
    return int(cover.settle().sum()) / len(cover.inside)


def _products(a: _Points, b: _Points) -> Iterator[tuple[slice, slice, Tensor]]:
    """-2 a.b in tiles, with their rows and columns."""
    for rows in a.tiles():
        for cols in b.tiles():
            yield rows, cols, -2 * a.quick[rows] @ b.quick[cols].T


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
            near = j[_measured(rows[i], j, queries, balls) < reach[j]]
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


def _balls_of(manifold: Tensor, k: int) -> Tensor:
    """Squared k-NN radii of a manifold's points, around their own centre: float64 [n]."""
    return _radii(_Points.of(manifold, _centre(manifold)), k)


def _centre(features: Tensor) -> Tensor:
    """Mean, float64 [dim], without a copy of all features in float64."""
    return features.sum(0, dtype=torch.float64) / len(features)


def precision_recall(*, fake: Tensor, real: Tensor, k: int = 3) -> tuple[float, float]:
    """Improved precision and recall (Kynkaanniemi et al. 2019, eq. 1-2): (precision, recall).

    Precision: share of fake points within the distance of a real point to its k-th nearest real
    neighbour, `<=`. Recall: the same with the sets exchanged. fake, real: float [n, dim] on one
    device. Distances come in blocks; near ties are decided in float64, so the outcome is float64's.
    """
    check_neighbours(fake, real, k)
    fake_radii, real_radii = _balls_of(fake, k), _balls_of(real, k)
    centre = _centre(real)
    a, b = _Points.of(fake, centre), _Points.of(real, centre)
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
    centre = _centre(real)
    balls = _Points.of(real, centre)
    count, hit = _strictly_inside(_Points.of(fake, centre), balls, _radii(balls, k))
    return count / (k * len(fake)), int(hit.sum()) / len(hit)


_RADII: WeakKeyDictionary[FeatureStatistics, dict[int, Tensor]] = WeakKeyDictionary()


def _share_of(queries: FeatureStatistics, manifold: FeatureStatistics, k: int) -> float:
    """Share of queries in the manifold's k-NN balls, whose radii are found once as long as it
    lives: a reference meets every cell of a run."""
    known = _RADII.setdefault(manifold, {})
    if k not in known:
        known[k] = _balls_of(manifold.bank, k)
    centre = _centre(manifold.bank)
    points = _Points.of(manifold.bank, centre)
    return _share(_Points.of(queries.bank, centre), points, known[k])


@dataclass(frozen=True)
class Precision:
    """Share of fake features among the real ones: quality. See `precision_recall`."""

    k: int = 3
    name: ClassVar[str] = "precision"
    higher_is_better: ClassVar[bool] = True

    def __call__(self, *, fake: FeatureStatistics, real: FeatureStatistics) -> float:
        check_neighbours(fake.bank, real.bank, self.k)
        return _share_of(fake, real, self.k)


@dataclass(frozen=True)
class Recall:
    """Share of real features among the fake ones: variety. See `precision_recall`."""

    k: int = 3
    name: ClassVar[str] = "recall"
    higher_is_better: ClassVar[bool] = True

    def __call__(self, *, fake: FeatureStatistics, real: FeatureStatistics) -> float:
        check_neighbours(fake.bank, real.bank, self.k)
        return _share_of(real, fake, self.k)


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
