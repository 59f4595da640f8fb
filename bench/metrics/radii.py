"""Distances of points to their k-th nearest neighbours, exact in float64."""

import math

from bench.lazy import Tensor, torch
from bench.metrics.points import Points, bounds_of, centre_of, distances, kinds, measured

_EXTRA = 16  # candidates after the k-th neighbour whose exact distance is computed
_BUDGET = 1024  # mean candidates per point; with more, `_by_rows` is used
_OPEN = 32  # mean exact distances per point; with more, `_by_rows` is used
_SAMPLE = 8  # one in so many points is in the sample of `_ceilings`


def radii_of(features: Tensor, k: int) -> Tensor:
    """Squared distance of every point to its k-th nearest other point: float64 [n].

    1. `_ceilings`: a sample of the points gives an upper bound on each k-th distance.
    2. `_candidates`: fast distances select the few pairs that can be within this bound. Each
       distance is computed once, for both of its points.
    3. `_window`: among these, the bounds on the errors select the pairs that can be the k-th.
    4. `_kth`: exact distances decide.
    """
    centre = centre_of(features)
    for kind in kinds(features.device):
        points = Points.of(features, centre, kind)
        pairs = _candidates(points, k)
        if pairs and (window := _window(points, k, *pairs)):
            return _kth(points, k, *window)
    return _by_rows(Points.of(features, centre, torch.float64), k)


def _ceilings(points: Points, k: int) -> Tensor:
    """An upper bound on the k-th distance of every point, from a sample of the points: [n]."""
    n, device = len(points.quick), points.quick.device
    order = torch.randperm(n, generator=torch.Generator().manual_seed(0)).to(device)
    some = order[: max(n // _SAMPLE, 8 * (k + 1))]
    plus = (1 + points.unit) * points.square
    quick, square = points.quick[some].T, plus[some]
    return torch.cat([
        (points.minus_twice(rows) @ quick + square)
        .topk(k + 1, dim=1, largest=False).values[:, k] + plus[rows]  # with the point itself
        for rows in points.tiles()
    ])  # fmt: skip


def _candidates(points: Points, k: int) -> tuple[Tensor, Tensor, Tensor] | None:
    """Pairs of points that include the k nearest of each point.

    Returns:
        i, j and a lower bound on the distance of each pair, [pairs] each, where j != i. None if
        there are too many because of ties.
    """
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
    """The pairs that can be the k-th nearest of a point.

    Arguments:
        i, j, low: of `_candidates`.

    Returns:
        i and j of these pairs, [pairs] each, sorted by i, and for each point the number of its
        neighbours that are certainly nearer, [n]. None if there are too many because of ties.
    """
    order = low.argsort()
    order = order[i[order].argsort(stable=True)]
    i, j, low = i[order], j[order], low[order]  # sorted by i, then by distance
    n = len(points.quick)
    start = torch.searchsorted(i, torch.arange(n, device=i.device))
    high = low + 2 * points.unit * (points.square[i] + points.square[j])
    first = start[:, None] + torch.arange(k, device=i.device)
    ceiling, floor = high[first].amax(1), low[first[:, -1]]
    nearer = high < floor[i]  # the k-th is farther
    open_pairs = (low <= ceiling[i]) & ~nearer
    if int(open_pairs.count_nonzero()) > _OPEN * n:
        return None
    return i[open_pairs], j[open_pairs], torch.bincount(i[nearer], minlength=n)


def _kth(points: Points, k: int, i: Tensor, j: Tensor, nearer: Tensor) -> Tensor:
    """The k-th distance of every point, float64 [n], from the pairs of `_window`."""
    exact = measured(i, j, points, points)
    order = exact.argsort()
    order = order[i[order].argsort(stable=True)]
    start = torch.searchsorted(i, torch.arange(len(nearer), device=i.device))  # i is sorted
    return exact[order][start + (k - 1) - nearer]


def _by_rows(points: Points, k: int) -> Tensor:
    """`radii_of` for points with many ties.

    For each row it computes the exact distances of the k + 17 points with the lowest lower bounds.
    If the last of these bounds is above the k-th exact distance, this distance is the result.
    Otherwise it computes the exact distances of all points that can be nearer.
    """
    radii = torch.empty(len(points.exact), dtype=torch.float64, device=points.exact.device)
    most = min(k + 1 + _EXTRA, len(points.exact))
    for rows in points.blocks(points):
        distance, error = bounds_of(rows, points, points)
        least = distance - error
        bounds, near = least.topk(most, dim=1, largest=False)
        found = distances(points.exact[near], points.exact[rows, None])  # [rows, most]
        kth = found.sort(1).values[:, k]  # the point itself is at 0
        open_rows = (bounds[:, -1] <= kth) & (kth > 0) & (most < len(radii))
        for i in open_rows.nonzero()[:, 0].tolist():
            rivals = points.exact[least[i] <= kth[i]]
            kth[i] = distances(rivals, points.exact[rows[i]]).sort().values[k]
        radii[rows] = kth
    return radii
