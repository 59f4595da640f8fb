"""Rates without a network: Gaussian data, a coordinate, a schedule; and sums of rates."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from bench import curves
from bench.lazy import Tensor, torch
from bench.types import Measure, Model, NoiseProcess, Rate, Schedule, rate_between

_FINE = 4001  # nodes of the integral of a rate
_SAME = 1e-9  # levels of two rates this close in log sigma are one
_FLOOR = 1e-6  # a rate is raised to this share of its maximum, both per log sigma


@dataclass(frozen=True)
class GaussianW2(Measure):
    """v_w2: the Wasserstein-2 rate of Gaussian data N(m, S), exact at every sigma.

    lambda_i are the eigenvalues of S. In the VE frame the rate per unit of sigma is
    sqrt(sum_i (sigma / s_i)^2) with s_i^2 = lambda_i + sigma^2; for S = c^2 I its constant-rate
    grid is linear in s. In the VP frame s_i^2 = (lambda_i + sigma^2) / (1 + sigma^2), and the mean
    m / sqrt(1 + sigma^2) moves too.

    spectrum: the eigenvalues. (): the eigenvalues and the mean are those of the images.
    frame: "ve" or "vp".
    """

    spectrum: tuple[float, ...] = ()
    frame: Literal["ve", "vp"] = "ve"
    name: ClassVar[str] = "v_w2"
    needs_network: ClassVar[bool] = False
    whole_range: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.frame not in ("ve", "vp"):
            raise ValueError(f"unknown frame {self.frame!r}; known: ve, vp")
        if any(not value >= 0 for value in self.spectrum):
            raise ValueError("a covariance spectrum has no negative or NaN entries")

    @property
    def needs_images(self) -> bool:  # type: ignore[override]
        """Whether the spectrum comes from images."""
        return not self.spectrum

    def __call__(self, model: Model, images: Iterable[Tensor], sigmas: Tensor) -> Rate:
        spectrum, mean2 = torch.tensor(self.spectrum, dtype=torch.float64), 0.0
        if not self.spectrum:
            x0 = torch.cat([model.encode(batch).flatten(1).double().cpu() for batch in images])
            if len(x0) < 2:
                raise ValueError(f"{self.name}: a covariance needs at least 2 images")
            spectrum = torch.linalg.eigvalsh(torch.atleast_2d(torch.cov(x0.T))).clamp(min=0)
            mean2 = float(x0.mean(0).square().sum())
        sigma = sigmas[:, None]  # [levels, 1]
        if self.frame == "ve":
            v = (sigma**2 / (spectrum + sigma**2)).sum(1).sqrt()
            return Rate(self.name, sigmas.numpy(), v.numpy())
        s = ((spectrum + sigma**2) / (1 + sigma**2)).sqrt()
        moved = (sigma * (1 - spectrum) / ((1 + sigma**2) ** 2 * s)).square().sum(1)
        moved = moved + mean2 * sigmas**2 / (1 + sigmas**2) ** 3
        return Rate(self.name, sigmas.numpy(), moved.sqrt().numpy())


@dataclass(frozen=True)
class Uniform(Measure):
    """A rate that is constant in a coordinate u: v = |du / dsigma|.

    coordinate: "angle" (atan sigma, that of the cosine schedule), "sigma", "alpha", "logsnr".
    """

    coordinate: Literal["sigma", "alpha", "angle", "logsnr"] = "angle"
    needs_images: ClassVar[bool] = False
    needs_network: ClassVar[bool] = False
    whole_range: ClassVar[bool] = True

    def __post_init__(self) -> None:
        curves.log_dsigma_du(self.coordinate, np.ones(1))

    @property
    def name(self) -> str:
        """uniform_angle, say."""
        return f"uniform_{self.coordinate}"

    def __call__(self, model: Model, images: Iterable[Tensor], sigmas: Tensor) -> Rate:
        v = np.exp(-curves.log_dsigma_du(self.coordinate, sigmas.numpy()))
        return Rate(self.name, sigmas.numpy(), v)


def of_schedule(schedule: Schedule, process: NoiseProcess, nodes: int = 401) -> Rate:
    """The rate whose constant-rate grid (xi = 1) is that of `schedule`: v = |dt / dsigma|.

    Arguments:
        nodes: number of the schedule's levels. v is the mean between neighbours, so that its
            integral is 1.
    """
    measure = OfSchedule(schedule, nodes)
    grid = schedule.noise_levels(nodes, process)[-2::-1]  # increasing
    rate = rate_between(measure.name, grid, 1 / ((nodes - 1) * np.diff(grid)))
    return Rate(rate.name, rate.sigma, rate.v, {"measure": measure.spec()})


@dataclass(frozen=True)
class OfSchedule(Measure):
    """`of_schedule` as a measure: v_cos of arXiv 2411.12188 is `OfSchedule(Cosine())`."""

    schedule: Schedule
    nodes: int = 401
    needs_images: ClassVar[bool] = False
    needs_network: ClassVar[bool] = False
    whole_range: ClassVar[bool] = True

    @property
    def name(self) -> str:
        """v_cosine, say."""
        return f"v_{type(self.schedule).__name__.lower()}"

    def __call__(self, model: Model, images: Iterable[Tensor], sigmas: Tensor) -> Rate:
        rate = of_schedule(self.schedule, model.process, self.nodes)
        log_v = curves.log_rate(rate, sigmas.log().numpy(), _FLOOR, 0.0)
        return Rate(self.name, sigmas.numpy(), np.exp(log_v))


def mix(rates: Mapping[Rate, float]) -> Rate:
    """A weighted sum of rates, over the range of sigma that all share.

    Each rate is first divided by its integral over that range. The paper (arXiv 2411.12188) adds
    v_x and v_cos: `mix({v_x: 0.5, of_schedule(Cosine(), process): 0.5})`.

    Arguments:
        rates: rate -> weight, above 0. Only the ratios of the weights matter.

    Raises:
        ValueError: no rates, a weight that is not above 0, or ranges that do not overlap.
    """
    if not isinstance(rates, Mapping) or not rates or not all(map(_weighs, rates.items())):
        raise ValueError(f"mix needs {{rate: weight}} with weights above 0, not {rates!r}")
    low = max(float(rate.sigma[0]) for rate in rates)
    high = min(float(rate.sigma[-1]) for rate in rates)
    if low >= high:
        raise ValueError(f"rates {', '.join(r.name for r in rates)} share no range of sigma")
    whole = sum(rates.values())
    nodes = np.concatenate([rate.sigma for rate in rates])
    sigma = np.unique(nodes[(nodes >= low) & (nodes <= high)])
    repeated = np.diff(np.log(sigma), prepend=-np.inf) < _SAME
    sigma = sigma[~repeated]
    shares = {rate: weight / whole for rate, weight in rates.items()}
    v = sum((shares[r] * _normalised(r, sigma, low, high) for r in rates), np.zeros(len(sigma)))
    name = " + ".join(f"{share:.3g} {rate.name}" for rate, share in shares.items())
    parts = [{"weight": share, "name": r.name, **r.provenance} for r, share in shares.items()]
    replicates = _mixed_replicates(rates, sigma, low, high)
    return Rate(name, sigma, v, {"measure": "mix", "parts": parts}, replicates)


def _weighs(item: tuple[Any, Any]) -> bool:
    rate, weight = item
    number = isinstance(weight, int | float | np.floating)
    return isinstance(rate, Rate) and number and bool(0 < weight < math.inf)


def _normalised(rate: Rate, sigma: np.ndarray, low: float, high: float) -> np.ndarray:
    """v at sigma, divided by the integral of v from low to high."""
    fine = np.linspace(math.log(low), math.log(high), _FINE)
    per_log = np.exp(curves.log_rate(rate, fine, _FLOOR, 0.0) + fine)
    total = np.trapezoid(per_log, fine)
    return np.exp(curves.log_rate(rate, np.log(sigma), _FLOOR, 0.0)) / total


def _mixed_replicates(
    rates: Mapping[Rate, float], sigma: np.ndarray, low: float, high: float
) -> np.ndarray | None:
    """The i-th replicate is the sum of the i-th replicates. A rate without replicates is exact."""
    counts = [len(rate.replicates) for rate in rates if rate.replicates is not None]
    if not counts:
        return None
    whole, rows = sum(rates.values()), []
    for i in range(min(counts)):
        row = np.zeros(len(sigma))
        for rate, weight in rates.items():
            again = rate if rate.replicates is None else Rate(
                rate.name, rate.sigma, rate.replicates[i]
            )  # fmt: skip
            row += weight / whole * _normalised(again, sigma, low, high)
        rows.append(row)
    return np.stack(rows)
