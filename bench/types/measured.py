"""What was measured of a model: a rate of change, or the costs of single steps."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from bench.lazy import Tensor
from bench.store import digest
from bench.types.described import Described


class _Named(Described):
    """A measured result; its label is its name."""

    name: str

    def __repr__(self) -> str:
        return self.name

    @property
    def label(self) -> str:
        """Its name."""
        return self.name


@dataclass(frozen=True, eq=False, repr=False)
class Rate(_Named):
    """How fast the diffused distribution changes with the noise level.

    name: v_x, say.
    sigma: noise levels, float64 [k], strictly increasing, above 0.
    v: the rate per unit of sigma, float64 [k], at least 0; infinite at some levels, finite at 4 or
        more.
    provenance: what it was measured from: digests of model and data, images, levels, seeds.
    replicates: v of b bootstrap resamples of the images, float64 [b, k], or None.
    """

    name: str
    sigma: np.ndarray
    v: np.ndarray
    provenance: dict[str, Any] = field(default_factory=dict)
    replicates: np.ndarray | None = None

    def __post_init__(self) -> None:
        sigma, v = _array(self.sigma), _array(self.v)
        object.__setattr__(self, "sigma", sigma)
        object.__setattr__(self, "v", v)
        if sigma.shape != v.shape or sigma.ndim != 1:
            raise ValueError(
                f"rate {self.name}: sigma {list(sigma.shape)} and v {list(v.shape)} must be "
                "one-dimensional and of one length"
            )
        finite = int(np.isfinite(v).sum())
        if finite < 4 and not np.isnan(v).any():
            raise ValueError(f"rate {self.name} has {finite} levels; at least 4 are needed")
        if not np.isfinite(sigma).all() or np.isnan(v).any():
            raise ValueError(f"rate {self.name} has NaN or infinite entries; measure it again")
        if not ((sigma > 0).all() and (np.diff(sigma) > 0).all()):
            raise ValueError(f"rate {self.name}: sigma must be positive and strictly increasing")
        if (v < 0).any():
            raise ValueError(f"rate {self.name}: v must be >= 0")
        if self.replicates is not None:
            object.__setattr__(self, "replicates", _array(self.replicates))
            if self.replicates.shape[1:] != v.shape:
                raise ValueError(f"rate {self.name}: replicates must be [b, {len(v)}]")

    def spec(self) -> dict[str, Any]:
        """Name and digest of the levels; see `Described.spec`."""
        return _spec(self, self.sigma, self.v)


def rate_between(name: str, sigmas: Any, v: Any) -> Rate:
    """A rate from its means over intervals.

    The mean of an interval stands at the interval's geometric midpoint. The two ends of the range
    have the value of the interval beside them.

    Arguments:
        sigmas: float64 [k + 1], increasing, an array or a tensor.
        v: float64 [k], the mean over each interval.
    """
    sigma, mean = _array(sigmas), _array(v)
    middle = np.sqrt(sigma[1:] * sigma[:-1])
    level = np.concatenate([sigma[:1], middle, sigma[-1:]])
    return Rate(name, level, np.concatenate([mean[:1], mean, mean[-1:]]))


@dataclass(frozen=True, eq=False, repr=False)
class Costs(_Named):
    """What one step costs between any two of `sigma`. The costs of a schedule's steps add up.

    name: gits, say.
    sigma: noise levels, float64 [n], strictly decreasing, above 0.
    cost: float64 [n, n]; cost[i, j], i < j, is that of the step from sigma[i] to sigma[j]. All
        other entries are set to 0.
    coefficient: the k-th step of a schedule counts coefficient^k times, k from 0; 1: plain sums.
    provenance: what it was measured from: measure, digest of the model, images, levels, seeds.
    """

    name: str
    sigma: np.ndarray
    cost: np.ndarray
    coefficient: float = 1.0
    provenance: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        sigma, cost = _array(self.sigma), _array(self.cost)
        n = sigma.size
        if sigma.ndim != 1 or n < 2 or cost.shape != (n, n):
            raise ValueError(
                f"costs {self.name}: sigma {list(sigma.shape)} must be [n], n at least 2, and cost "
                f"{list(cost.shape)} [n, n]"
            )
        ahead = np.triu(np.ones((n, n), bool), 1)
        if not (np.isfinite(sigma).all() and np.isfinite(cost[ahead]).all()):
            raise ValueError(f"costs {self.name} have NaN or infinite entries; measure them again")
        if not ((sigma > 0).all() and (np.diff(sigma) < 0).all()):
            raise ValueError(f"costs {self.name}: sigma must be positive and strictly decreasing")
        if not 0 < self.coefficient < float("inf"):
            raise ValueError(f"costs {self.name}: coefficient must be > 0, not {self.coefficient}")
        object.__setattr__(self, "sigma", sigma)
        object.__setattr__(self, "cost", np.where(ahead, cost, 0.0))

    def spec(self) -> dict[str, Any]:
        """Name and digest of the costs; see `Described.spec`."""
        return _spec(self, self.sigma, self.cost)


def _array(values: Any) -> np.ndarray:
    """A copy of an array, a tensor or a list, as float64 on the CPU."""
    given = values.detach().cpu().double().numpy() if isinstance(values, Tensor) else values
    return np.array(given, dtype=np.float64)


def _spec(what: Rate | Costs, *numbers: np.ndarray) -> dict[str, Any]:
    """To nine digits, which agree between machines."""
    text = " ".join(f"{value:.9g}" for part in numbers for value in part.flatten().tolist())
    return {"class": type(what).__name__, "fields": {"name": what.name, "digest": digest(text)}}
