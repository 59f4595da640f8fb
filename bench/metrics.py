"""Scores of generated against real features: Frechet distance, precision, recall.

A metric is a frozen dataclass called with `fake=` and `real=`, and sees only what
`FeatureStatistics` has, so that it serves every extractor.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar
from weakref import WeakKeyDictionary

import numpy as np
import torch
from numpy.typing import ArrayLike
from scipy.linalg import lapack
from torch import Tensor

from bench.types import FeatureStatistics

# ---------------------------------------------------------------- Frechet distance


def _float64(values: Tensor | ArrayLike, what: str) -> np.ndarray:
    if isinstance(values, Tensor):
        values = values.detach().cpu().numpy()
    array = np.asarray(values, dtype=np.float64)
    if not np.isfinite(array).all():
        raise ValueError(f"{what} has NaN or infinite entries; look at the features it came from")
    return array


class Gaussian:
    """Mean [dim] and covariance [dim, dim] of features, float64 on the CPU, and the covariance's
    root, found once: a reference meets every cell of a run.

    ValueError: NaN or infinite entries, shapes that do not fit.
    """

    def __init__(self, mean: Tensor | ArrayLike, cov: Tensor | ArrayLike, which: str = ""):
        self.mean, covariance = _float64(mean, f"mu{which}"), _float64(cov, f"cov{which}")
        if self.mean.ndim != 1 or covariance.shape != (len(self.mean), len(self.mean)):
            raise ValueError(
                f"mu{which} {list(self.mean.shape)} and cov{which} {list(covariance.shape)} must "
                "be [dim] and [dim, dim] of one dim"
            )
        self.cov = (covariance + covariance.T) / 2

    @cached_property
    def root(self) -> np.ndarray:
        """L [dim, rank] with L L^T = cov.

        numpy's Cholesky first: it lets other threads run meanwhile, which scipy's dpstrf does not.
        Where it fails, or a pivot is within a thousand times of rounding, the covariance may be
        singular, and its rank is cut by Cholesky with pivots: a root of noise of 1e-17 is 3e-9.
        """
        rounding = len(self.cov) * np.finfo(np.float64).eps * self.cov.diagonal().max(initial=0)
        try:
            root = np.linalg.cholesky(self.cov)
            if (np.square(root.diagonal()) > 1e3 * rounding).all():
                return root
        except np.linalg.LinAlgError:  # not positive definite: fewer images than dimensions
            pass
        factor, pivots, rank, _ = lapack.dpstrf(self.cov, lower=1)
        root = np.empty((len(self.cov), rank))
        root[pivots - 1] = np.tril(factor)[:, :rank]
        return root

    def distance(self, other: "Gaussian") -> float:
        """Squared Frechet distance: see `frechet_distance`."""
        if self.mean.shape != other.mean.shape:
            raise ValueError(
                f"mu1 has {len(self.mean)} dimensions and mu2 {len(other.mean)}; use one extractor "
                "for both"
            )
        shift = float(np.square(self.mean - other.mean).sum())
        traces = float(np.trace(self.cov) + np.trace(other.cov))
        value = shift + traces - 2 * _trace_root(self.root, other.root)
        return max(value, 0.0)  # equal covariances round to -1e-12


def _trace_root(root1: np.ndarray, root2: np.ndarray) -> float:
    """tr (S1 S2)^(1/2) = the sum of the singular values of L1^T L2, where S = L L^T.

    S1 S2 and (L1^T L2)(L1^T L2)^T share their nonzero eigenvalues. No root is taken of a
    non-symmetric matrix, which fails near singular covariances, nor of an eigenvalue, which turns
    a rounding of 1e-17 into 3e-9 where N <= dim. At dim 1280 it takes under half a second.
    """
    inner = root1.T @ root2  # [rank1, rank2]
    # numpy's, not scipy's: it lets other threads sample the next cell meanwhile
    return float(np.linalg.svd(inner, compute_uv=False).sum()) if inner.size else 0.0


def frechet_distance(
    mu1: Tensor | ArrayLike,
    cov1: Tensor | ArrayLike,
    mu2: Tensor | ArrayLike,
    cov2: Tensor | ArrayLike,
) -> float:
    """Squared Frechet (Wasserstein-2) distance between N(mu1, cov1) and N(mu2, cov2).

    |mu1 - mu2|^2 + tr S1 + tr S2 - 2 tr (S1 S2)^(1/2)   (Dowson and Landau 1982; FID: Heusel et
    al. 2017, eq. 6). Float64 on the CPU, whatever comes in: float32 here costs 1e-4 to 3e-2.
    """
    return Gaussian(mu1, cov1, "1").distance(Gaussian(mu2, cov2, "2"))


# ---------------------------------------------------------------- precision and recall

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


def _check_banks(fake: Tensor, real: Tensor, k: int) -> None:
    for name, bank in (("fake", fake), ("real", real)):
        if bank.ndim != 2 or not bank.is_floating_point():
            raise ValueError(
                f"{name} features must be float [n, dim], not {bank.dtype} {list(bank.shape)}"
            )
        if k < 1 or len(bank) <= k:
            raise ValueError(
                f"{k} nearest neighbours need k >= 1 and more than k features, but {name} has "
                f"{len(bank)}; keep a larger bank or choose another k"
            )
        if not torch.isfinite(bank).all():
            raise ValueError(f"{name} features have NaN or infinite entries; look at the images")
    if fake.shape[1] != real.shape[1]:
        raise ValueError(
            f"fake features have {fake.shape[1]} dimensions and real {real.shape[1]}; "
            "use one extractor for both"
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
    _check_banks(fake, real, k)
    return _share(fake, real, k), _share(real, fake, k)


# ---------------------------------------------------------------- metrics


@dataclass(frozen=True)
class FrechetDistance:
    """Frechet distance between Gaussians fitted to the features; named after its extractor."""

    name: ClassVar[str] = "fd"
    higher_is_better: ClassVar[bool] = False

    def __call__(self, *, fake: FeatureStatistics, real: FeatureStatistics) -> float:
        return _gaussian(fake).distance(_gaussian(real))


_GAUSSIANS: WeakKeyDictionary[FeatureStatistics, Gaussian] = WeakKeyDictionary()


def _gaussian(features: FeatureStatistics) -> Gaussian:
    """The Gaussian of a set of features, fitted once as long as the set lives."""
    if features not in _GAUSSIANS:
        _GAUSSIANS[features] = Gaussian(features.mean, features.cov)
    return _GAUSSIANS[features]


@dataclass(frozen=True)
class Precision:
    """Share of fake features among the real ones: quality. See `precision_recall`."""

    k: int = 3
    name: ClassVar[str] = "precision"
    higher_is_better: ClassVar[bool] = True

    def __call__(self, *, fake: FeatureStatistics, real: FeatureStatistics) -> float:
        _check_banks(fake.bank, real.bank, self.k)
        return _share(fake.bank, real.bank, self.k)


@dataclass(frozen=True)
class Recall:
    """Share of real features among the fake ones: variety. See `precision_recall`."""

    k: int = 3
    name: ClassVar[str] = "recall"
    higher_is_better: ClassVar[bool] = True

    def __call__(self, *, fake: FeatureStatistics, real: FeatureStatistics) -> float:
        _check_banks(fake.bank, real.bank, self.k)
        return _share(real.bank, fake.bank, self.k)
