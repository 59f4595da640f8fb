"""Balls around feature vectors, to their k-th neighbour, and who lies in them: fast products decide
what they can, and float64 the rest, so that the outcome is that of float64.

A squared distance |a|^2 + |b|^2 - 2 a.b in unit roundoff u is off by at most dim u |a||b| of the
product and a few u (|a|^2 + |b|^2) of shift, rounding and sums (Higham 2002, sec. 3.1).
"""

import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

_BLOCK = 1024  # vectors at a side of the distances that are held at once; eight times on a GPU
_SPARE = 4  # candidates beyond the k-th neighbour
_PAIRS = 4096  # distances that are taken in float64 at once
_TIE = 1e-12  # a tie of exact numbers stays one when two devices add the squares in other orders


@dataclass(frozen=True)
class Points:
    """Feature vectors as given, and shifted for fast distances: float32 on the CPU, float64 on a
    GPU, where it is fast and TF32 cannot reach it."""

    given: Tensor  # [n, dim]
    quick: Tensor  # [n, dim], less a centre: smaller norms, smaller rounding
    square: Tensor  # [n], |quick|^2

    @classmethod
    def of(cls, features: Tensor, centre: Tensor) -> "Points":
        kind = torch.float64 if features.is_cuda else torch.float32
        quick = torch.empty(features.shape, dtype=kind, device=features.device)
        square = torch.empty(len(features), dtype=kind, device=features.device)
        for rows in torch.arange(len(features), device=features.device).split(_BLOCK):
            shifted = (features[rows].double() - centre).to(kind)
            quick[rows], square[rows] = shifted, shifted.double().square().sum(1).to(kind)
        return cls(features, quick, square)

    @property
    def slack(self) -> Tensor:
        """[n]: a squared distance between two points is off by at most the sum of both."""
        return (self.quick.shape[1] + 32) * torch.finfo(self.quick.dtype).eps / 2 * self.square

    def blocks(self) -> Iterator[slice]:
        size = _BLOCK * (8 if self.quick.is_cuda else 1)
        return (slice(at, at + size) for at in range(0, len(self.quick), size))

    def distances(self, rows: slice, other: "Points", columns: slice) -> Tensor:
        """Squared, quick: [rows, columns]."""
        sizes = self.square[rows, None] + other.square[columns]
        return torch.addmm(sizes, self.quick[rows], other.quick[columns].T, alpha=-2)

    def exact(self, i: Tensor, other: "Points", j: Tensor) -> Tensor:
        """Squared distances of the pairs (i, j) by direct subtraction: float64 [pairs]."""
        parts = [
            (self.given[a].double() - other.given[b].double()).square().sum(1)
            for a, b in zip(i.split(_PAIRS), j.split(_PAIRS), strict=True)
        ]
        return torch.cat(parts) if parts else torch.empty(0, dtype=torch.float64, device=i.device)


def _nearest(points: Points, most: int) -> tuple[Tensor, Tensor]:
    """The `most` nearest points of each, itself among them, by quick squared distances, ascending:
    (distances, indices), [n, most]. Each distance is taken once for its two ends."""
    n, device = len(points.quick), points.quick.device
    best = torch.full((n, most), torch.inf, dtype=points.quick.dtype, device=device)
    which = torch.full((n, most), -1, device=device)

    def merge(rows: slice, distance: Tensor, columns: slice) -> None:
        found, at = distance.topk(min(most, distance.shape[1]), dim=1, largest=False)
        both = torch.cat([best[rows], found], 1)
        names = torch.cat([which[rows], at + columns.start], 1)
        best[rows], order = both.topk(most, dim=1, largest=False)
        which[rows] = names.gather(1, order)

    for rows in points.blocks():
        for columns in points.blocks():
            if columns.start < rows.start:
                continue
            distance = points.distances(rows, points, columns)
            merge(rows, distance, columns)
            if columns.start > rows.start:
                merge(columns, distance.T.contiguous(), rows)
    return best, which


def radii(points: Points, k: int) -> Tensor:
    """Squared distance of every point to its k-th nearest other point: float64 [n].

    Those of the nearest k + 5 that may be among the k are measured in float64. If the last of them
    is surely farther than the k-th distance found, that is the k-th of all; else every point that
    could be nearer is measured.
    """
    n = len(points.quick)
    most = min(k + 1 + _SPARE, n)
    quick, which = _nearest(points, most)
    slack, largest = points.slack, points.slack.max()
    error = (slack + largest)[:, None]  # [n, 1]
    own = which == torch.arange(n, device=which.device)[:, None]
    i, slot = ((quick <= quick[:, k : k + 1] + 2 * error) & ~own).nonzero().unbind(1)
    found = torch.full((n, most), torch.inf, dtype=torch.float64, device=which.device)
    found[own] = 0.0
    found[i, slot] = points.exact(i, points, which[i, slot])
    kth = found.sort(1).values[:, k]
    unsure = (quick[:, -1:] - error)[:, 0].double() <= kth
    for row in (unsure & (kth > 0) & (most < n)).nonzero()[:, 0].tolist():
        kth[row] = _measured(points, row, float(kth[row]), k)
    return kth


def _measured(points: Points, row: int, bound: float, k: int) -> Tensor:
    """The k-th distance of one point, which is at most `bound`, among all that may be as near."""
    one = slice(row, row + 1)
    distance = points.distances(one, points, slice(None))[0]
    rivals = (distance - points.slack - points.slack[one] <= bound).nonzero()[:, 0]
    return points.exact(torch.full_like(rivals, row), points, rivals).sort().values[k]


class Side:
    """Points that are asked whether they lie in any of the balls of the other set."""

    def __init__(self, n: int, device: torch.device):
        self.inside = torch.zeros(n, dtype=torch.bool, device=device)
        self.ties: list[tuple[Tensor, Tensor]] = []  # (point, ball): for float64 to decide

    def add(self, rows: slice, distance: Tensor, low: Tensor, high: Tensor, first: int) -> None:
        """distance [points, balls]; low, high [balls]: below `low` surely inside, above `high`
        surely not."""
        self.inside[rows] |= (distance < low).any(1)
        point, ball = ((distance <= high) & (distance >= low)).nonzero().unbind(1)
        open_ = ~self.inside[rows][point]
        self.ties.append((point[open_] + rows.start, ball[open_] + first))

    def settle(self, points: Points, balls: Points, reach: Tensor) -> None:
        """Decide the ties so far, borders included."""
        point, ball = (torch.cat(part) for part in zip(*self.ties, strict=True))
        left = ~self.inside[point]
        point, ball = point[left], ball[left]
        near = points.exact(point, balls, ball) <= reach[ball] * (1 + _TIE)
        self.inside[point[near]] = True
        self.ties = []


def inside_each_other(
    a: Points, radii_a: Tensor, b: Points, radii_b: Tensor
) -> tuple[Tensor, Tensor]:
    """(which of a lie in a ball of b, which of b in one of a), borders included: bool [n] each, of
    one sweep over the distances."""
    of_a, of_b = Side(len(a.given), a.given.device), Side(len(b.given), b.given.device)
    kind = a.quick.dtype
    for rows in a.blocks():
        slack_a = a.slack[rows]
        for columns in b.blocks():
            distance = a.distances(rows, b, columns)
            slack_b = b.slack[columns]
            wide_b, wide_a = slack_b + slack_a.max(), slack_a + slack_b.max()
            reach_b, reach_a = radii_b[columns].to(kind), radii_a[rows].to(kind)
            margin_b, margin_a = wide_b + 1e-6 * reach_b, wide_a + 1e-6 * reach_a
            of_a.add(rows, distance, reach_b - margin_b, reach_b + margin_b, columns.start)
            of_b.add(columns, distance.T, reach_a - margin_a, reach_a + margin_a, rows.start)
        of_a.settle(a, b, radii_b)  # block by block: of equal points all are ties
        of_b.settle(b, a, radii_a)
    return of_a.inside, of_b.inside


def strictly_inside(queries: Points, balls: Points, reach: Tensor) -> tuple[int, Tensor]:
    """Pairs of a query in a ball, border excluded: how many, and which balls have one: bool [n]."""
    hit = torch.zeros(len(balls.given), dtype=torch.bool, device=reach.device)
    count, quick, limit = 0, reach.to(balls.quick.dtype), reach * (1 - _TIE)
    for rows in queries.blocks():
        widest = queries.slack[rows].max()
        for columns in balls.blocks():
            distance = queries.distances(rows, balls, columns)
            margin = balls.slack[columns] + widest + 1e-6 * quick[columns]
            low, high = quick[columns] - margin, quick[columns] + margin
            sure = distance < low
            count += int(sure.sum())
            hit[columns] |= sure.any(0)
            i, j = ((distance <= high) & ~sure).nonzero().unbind(1)
            i, j = i + rows.start, j + columns.start
            near = j[queries.exact(i, balls, j) < limit[j]]
            count += len(near)
            hit[near] = True
    return count, hit


class Remembered:
    """Results by the tensors that they are of, for as long as those live: a reference meets every
    cell of a run, and a cell its precision and its recall."""

    def __init__(self) -> None:
        self.found: dict[tuple[Any, ...], Any] = {}

    def get(self, tensors: tuple[Tensor, ...], *rest: Any) -> Any:
        """What was put for the same tensors and the rest, or None."""
        return self.found.get((*map(id, tensors), *rest))

    def put(self, value: Any, tensors: tuple[Tensor, ...], *rest: Any) -> Any:
        """Keep and return it."""
        key = (*map(id, tensors), *rest)
        for tensor in tensors:
            weakref.finalize(tensor, self.found.pop, key, None)
        self.found[key] = value
        return value
