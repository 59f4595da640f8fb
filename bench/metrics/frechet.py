"""Frechet distance between Gaussians fitted to the features."""

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import ArrayLike
from scipy.linalg import lapack
from torch import Tensor

from bench.types import FeatureStatistics


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
    non-symmetric matrix, which fails near singular covariances.
    """
    inner = root1.T @ root2  # [rank1, rank2]
    found = _singular_values(inner, root1, root2)
    if found is None:
        # numpy's, not scipy's: it lets other threads sample the next cell meanwhile
        found = np.linalg.svd(inner, compute_uv=False) if inner.size else np.zeros(0)
    return float(found.sum())


def _singular_values(inner: np.ndarray, root1: np.ndarray, root2: np.ndarray) -> np.ndarray | None:
    """Those of inner = L1^T L2 as roots of the eigenvalues of inner^T inner, a quarter of an SVD's
    time; None where rounding has reached the small ones.

    The root of an eigenvalue turns a rounding of 1e-17 into 3e-9. Triangular factors shrink along
    their diagonals, and inner^T inner with them, which keeps small eigenvalues exact in most cases;
    that it did is seen in their product, det(S1) det(S2), which the factors know by themselves.
    """
    if inner.shape[0] != inner.shape[1] or not inner.size:
        return None
    diagonal = np.concatenate([root1.diagonal(), root2.diagonal()])
    squares = np.linalg.eigvalsh(inner.T @ inner)
    if squares[0] <= 0 or diagonal.min() <= 0:
        return None
    off = np.log(squares).sum() - 2 * np.log(diagonal).sum()
    return np.sqrt(squares) if abs(off) < 1e-6 else None  # 1e-6: distances within 1e-11


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


@dataclass(frozen=True)
class FrechetDistance:
    """Frechet distance between Gaussians fitted to the features; named after its extractor."""

    name: ClassVar[str] = "fd"
    higher_is_better: ClassVar[bool] = False

    def __call__(self, *, fake: FeatureStatistics, real: FeatureStatistics) -> float:
        return gaussian_of(fake).distance(gaussian_of(real))


@dataclass(frozen=True)
class SFID:
    """Frechet distance on features that keep their place in the image (Nash et al. 2021, sFID).

    Of the layer `spatial`, as the ADM evaluator takes it: see `features.InceptionV3Compat`.
    """

    name: ClassVar[str] = "sfid"
    higher_is_better: ClassVar[bool] = False
    layer: ClassVar[str] = "spatial"

    def __call__(self, *, fake: FeatureStatistics, real: FeatureStatistics) -> float:
        return gaussian_of(fake).distance(gaussian_of(real))


_GAUSSIANS: WeakKeyDictionary[FeatureStatistics, Gaussian] = WeakKeyDictionary()


def gaussian_of(features: FeatureStatistics) -> Gaussian:
    """The Gaussian of a set of features, fitted once as long as the set lives."""
    if features not in _GAUSSIANS:
        _GAUSSIANS[features] = Gaussian(features.mean, features.cov)
    return _GAUSSIANS[features]
