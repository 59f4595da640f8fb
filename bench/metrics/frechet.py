"""Frechet distance between Gaussians that are fitted to the features."""

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import ArrayLike

from bench.lazy import Tensor, torch
from bench.types import FeatureStatistics, Metric, Score


def _float64(values: Tensor | ArrayLike, what: str) -> np.ndarray:
    if isinstance(values, Tensor):
        values = values.detach().cpu().numpy()
    if np.iscomplexobj(values):
        raise ValueError(f"{what} is complex; statistics of features are real numbers")
    array = np.asarray(values, dtype=np.float64)
    if not np.isfinite(array).all():
        raise ValueError(
            f"{what} has NaN or infinite entries; check the features that it is computed from"
        )
    return array


_ROUNDING = 1e-5  # of the largest entry or eigenvalue: what float32 in a file can do


class Gaussian:
    """A mean and a covariance of features, float64 on the CPU.

    It keeps the root of its covariance, because one reference is compared with many cells.
    """

    def __init__(self, mean: Tensor | ArrayLike, cov: Tensor | ArrayLike, which: str = ""):
        """
        Arguments:
            mean: [dim].
            cov: [dim, dim], symmetric.
            which: a suffix for messages, which call the two "mu" and "cov".

        Raises:
            ValueError: NaN, infinite or complex entries; shapes that do not fit; a covariance
                that is not symmetric.
        """
        self.mean, covariance = _float64(mean, f"mu{which}"), _float64(cov, f"cov{which}")
        if self.mean.ndim != 1 or covariance.shape != (len(self.mean), len(self.mean)):
            raise ValueError(
                f"mu{which} {list(self.mean.shape)} and cov{which} {list(covariance.shape)} must "
                "be [dim] and [dim, dim] with the same dim"
            )
        apart = float(np.abs(covariance - covariance.T).max(initial=0))
        if apart > _ROUNDING * float(np.abs(covariance).max(initial=0)):
            raise ValueError(f"cov{which} is no covariance: not symmetric, two entries differ "
                             f"by {apart:.3g}")  # fmt: skip
        self.which, self.cov = which, (covariance + covariance.T) / 2

    @cached_property
    def root(self) -> np.ndarray:
        """L [dim, rank] with L L^T = cov.

        numpy's Cholesky is tried first, because it releases the GIL, and scipy's dpstrf does not.
        If it fails, or if a pivot is below a thousand times rounding, the covariance may be
        singular. Then Cholesky with pivots finds the rank. Without the cut of the rank, noise of
        1e-17 in the covariance would become 3e-9 in the root.

        Raises:
            ValueError: the covariance has an eigenvalue clearly below 0.
        """
        rounding = len(self.cov) * np.finfo(np.float64).eps * self.cov.diagonal().max(initial=0)
        try:
            root = np.linalg.cholesky(self.cov)
            if (np.square(root.diagonal()) > 1e3 * rounding).all():
                return root
        except np.linalg.LinAlgError:  # not positive definite: fewer images than dimensions
            pass
        from scipy.linalg import lapack  # a second to import

        self._check_eigenvalues()
        factor, pivots, rank, _ = lapack.dpstrf(self.cov, lower=1)
        root = np.empty((len(self.cov), rank))
        root[pivots - 1] = np.tril(factor)[:, :rank]
        return root

    def _check_eigenvalues(self) -> None:
        """ValueError where the least eigenvalue is further below 0 than rounding can bring it."""
        values = np.linalg.eigvalsh(self.cov)
        if values[0] < -_ROUNDING * max(abs(values[-1]), abs(values[0])):
            raise ValueError(
                f"cov{self.which} has an eigenvalue of {values[0]:.4g}, and a covariance has none "
                "below 0; the statistics are damaged or of something else: make them again"
            )

    def distance(self, other: "Gaussian") -> float:
        """Squared Frechet distance; see `frechet_distance`."""
        if self.mean.shape != other.mean.shape:
            raise _other_dimensions(len(self.mean), len(other.mean))
        shift = float(np.square(self.mean - other.mean).sum())
        traces = float(np.trace(self.cov) + np.trace(other.cov))
        value = shift + traces - 2 * _trace_root(self.root, other.root)
        return max(value, 0.0)  # equal covariances can give -1e-12


def _other_dimensions(one: int, two: int) -> ValueError:
    return ValueError(f"mu1 has {one} dimensions and mu2 {two}; use the same extractor for both")


def _trace_root(root1: np.ndarray, root2: np.ndarray) -> float:
    """tr (S1 S2)^(1/2), which is the sum of the singular values of L1^T L2, where S = L L^T.

    S1 S2 and (L1^T L2)(L1^T L2)^T have the same nonzero eigenvalues. This avoids the root of a
    non-symmetric matrix, which fails near singular covariances.
    """
    inner = root1.T @ root2  # [rank1, rank2]
    found = _singular_values(inner, root1, root2)
    if found is None:
        # numpy releases the GIL here, so that another thread can sample the next cell
        found = np.linalg.svd(inner, compute_uv=False) if inner.size else np.zeros(0)
    return float(found.sum())


def _singular_values(inner: np.ndarray, root1: np.ndarray, root2: np.ndarray) -> np.ndarray | None:
    """Singular values of inner = L1^T L2, as roots of the eigenvalues of inner^T inner.

    This takes a quarter of the time of an SVD, but the root turns a rounding of 1e-17 into 3e-9.
    Triangular factors get smaller along their diagonals, and so does inner^T inner, which keeps
    small eigenvalues exact in most cases. The product of the eigenvalues checks this: it must be
    det(S1) det(S2), which the diagonals of the factors give.

    Returns:
        The values, or None if the check fails or does not apply.
    """
    if inner.shape[0] != inner.shape[1] or not inner.size:
        return None
    diagonal = np.concatenate([root1.diagonal(), root2.diagonal()])
    squares = np.linalg.eigvalsh(inner.T @ inner)
    if squares[0] <= 0 or diagonal.min() <= 0:
        return None
    off = np.log(squares).sum() - 2 * np.log(diagonal).sum()
    return np.sqrt(squares) if abs(off) < 1e-6 else None  # 1e-6 keeps distances within 1e-11


class GPUGaussian:
    """A `Gaussian` on the device of its tensors, in float64, by the same formula.

    NumPy stays in charge on a CPU: it is faster there, and shipped records have its last bits.
    """

    def __init__(self, mean: Tensor, cov: Tensor, which: str = ""):
        """
        Arguments:
            mean: [dim]. cov: [dim, dim], symmetric, both on one device.
            which: as of `Gaussian`.

        Raises:
            ValueError: as `Gaussian` and its root.
        """
        if mean.is_complex() or cov.is_complex() or cov.shape != (*mean.shape, *mean.shape):
            Gaussian(mean, cov, which)  # says what is wrong
        self.mean, given = mean.to(cov.device, torch.float64), cov.double()
        self.cov = (given + given.T) / 2
        self.trace = self.cov.trace()
        self.root, failed = torch.linalg.cholesky_ex(self.cov)
        diagonal = self.cov.diagonal()
        rounding = len(self.cov) * torch.finfo(torch.float64).eps * diagonal.amax()
        regular = (self.root.diagonal().square() > 1e3 * rounding).all() & (failed == 0)
        alike = (given - given.T).abs().amax() <= _ROUNDING * given.abs().amax()
        # one read, which also ends the work on all tensors: threads with other streams use them
        if not bool(regular & alike & torch.isfinite(self.root).all() & self.mean.isfinite().all()):
            # no pivots on a GPU: a singular covariance gets the root, or the error, of the CPU
            self.root = torch.from_numpy(Gaussian(mean, given, which).root).to(cov.device)

    def distance(self, other: "GPUGaussian") -> float:
        """Squared Frechet distance; see `frechet_distance`."""
        if self.mean.shape != other.mean.shape:
            raise _other_dimensions(len(self.mean), len(other.mean))
        shift = (self.mean - other.mean).square().sum()
        rest = shift + self.trace + other.trace
        return max(float(rest - 2 * _trace_root_on_gpu(self.root, other.root)), 0.0)


def _trace_root_on_gpu(root1: Tensor, root2: Tensor) -> Tensor:
    """`_trace_root` by eigenvalues, which a GPU finds much sooner than singular values.

    Where the check of `_singular_values` fails or does not apply, they are those of the symmetric
    [[0, M], [M^T, 0]] with M = L1^T L2, which has each singular value of M twice, with both signs
    (Golub and Van Loan 2013, sec. 8.6.1). Nothing is squared, so that nothing is lost.
    """
    inner = root1.T @ root2  # [rank1, rank2]
    rank1, rank2 = inner.shape
    if rank1 == rank2 == len(root1):
        squares = torch.linalg.eigvalsh(inner.T @ inner)
        product = root1.diagonal().log().sum() + root2.diagonal().log().sum()
        if bool((squares.log().sum() - 2 * product).abs() < 1e-6):  # not where one is NaN
            return squares.sqrt().sum()
    both = inner.new_zeros(rank1 + rank2, rank1 + rank2)
    both[rank1:, :rank1] = inner.T  # the lower triangle alone is read
    return torch.linalg.eigvalsh(both).abs().sum() / 2


def frechet_distance(
    mu1: Tensor | ArrayLike,
    cov1: Tensor | ArrayLike,
    mu2: Tensor | ArrayLike,
    cov2: Tensor | ArrayLike,
) -> float:
    """Squared Frechet (Wasserstein-2) distance between N(mu1, cov1) and N(mu2, cov2).

    |mu1 - mu2|^2 + tr S1 + tr S2 - 2 tr (S1 S2)^(1/2)  (Dowson and Landau 1982; FID is Heusel et
    al. 2017, eq. 6). It is computed in float64, on a GPU if the covariances are there, otherwise on
    the CPU. The two agree to 1e-9. Float32 would be wrong by 1e-4 to 3e-2.

    Arguments:
        mu1, mu2: [dim], of any float type.
        cov1, cov2: [dim, dim].

    Raises:
        ValueError: NaN or infinite entries, or shapes that do not fit.
    """
    if isinstance(cov1, Tensor) and isinstance(cov2, Tensor) and cov1.is_cuda and cov2.is_cuda:
        one, two = torch.as_tensor(mu1), torch.as_tensor(mu2)
        return GPUGaussian(one, cov1, "1").distance(GPUGaussian(two, cov2, "2"))
    return Gaussian(mu1, cov1, "1").distance(Gaussian(mu2, cov2, "2"))


@dataclass(frozen=True)
class FrechetDistance(Metric):
    """Frechet distance between Gaussians that are fitted to the features (`frechet_distance`).

    Reports call it after the extractor, FID for example.
    """

    name: ClassVar[str] = "fd"

    def __call__(self, *, fake: FeatureStatistics, real: FeatureStatistics) -> Score:
        return Score(distance_of(fake, real))


@dataclass(frozen=True)
class SFID(FrechetDistance):
    """Frechet distance of features that keep their place in the image (Nash et al. 2021, sFID).

    It reads the layer `spatial`, which holds the ADM evaluator's features; see
    `features.InceptionV3Compat`.
    """

    name: ClassVar[str] = "sfid"

    @property
    def reads_layer(self) -> str:
        return "spatial"


_GAUSSIANS: WeakKeyDictionary[FeatureStatistics, Gaussian | GPUGaussian] = WeakKeyDictionary()


def gaussian_of(features: FeatureStatistics) -> Gaussian | GPUGaussian:
    """The Gaussian of a set of features, where the features are. It is kept as long as the set."""
    if features not in _GAUSSIANS:
        mean, cov = features.mean, features.cov
        _GAUSSIANS[features] = (GPUGaussian if cov.is_cuda else Gaussian)(mean, cov)
    return _GAUSSIANS[features]


def distance_of(fake: FeatureStatistics, real: FeatureStatistics) -> float:
    """Squared Frechet distance of two sets of features, on the device that both are on.

    Raises:
        ValueError: what `Gaussian` refuses, or sets on different devices.
    """
    one, two = gaussian_of(fake), gaussian_of(real)
    if isinstance(one, Gaussian) and isinstance(two, Gaussian):
        return one.distance(two)
    if isinstance(one, GPUGaussian) and isinstance(two, GPUGaussian):
        return one.distance(two)
    raise ValueError("one set of features is on a GPU and the other is not; move both to one")
