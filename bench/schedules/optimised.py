"""A schedule that minimises a published bound of the sampling error. It needs no model."""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar, Literal

import numpy as np

from bench.schedules.closed import LogSNR, Native
from bench.schedules.ends import Grid, with_ends
from bench.types import NoiseProcess

_CELLS = 10_000  # cells of the lattice over the range of lambda
_JUMPS = (100, 50, 20, 10, 5, 2, 1)  # lengths of the moves, in cells
_MOST = 60  # most steps whose levels are optimised


@dataclass(frozen=True)
class DMNonUniform(Grid):
    """Levels that minimise the bound of Xue et al. (CVPR 2024, arXiv 2402.17376). Model-free.

    The bound is sum_n |e_n W_n|. The exponential multistep integrator of third order, with orders 1
    and 2 at both ends of the grid, gives its result as a weighted sum of data predictions. W_n is
    the weight of the prediction at level n. e_n is the expected error of that prediction.

    The terms of the first and the last step are not summed by level with the other steps. Each of
    these two steps adds the root of the sum of its squared terms. With up to 7 intervals the same
    holds for each of the first three steps. This is the objective of the published code: both agree
    to rounding. The paper itself was not available.

    The search differs from the published one. The objective has kinks, many local minima, and lower
    minima where two levels almost coincide. The published search is scipy's trust-constr, which
    starts at log-SNR levels, or at the model's timesteps for "latent". It stops at a kink near its
    start: starts that differ by 1e-13 give levels that differ by up to 0.8 in lambda. The search
    here has the same starts. It moves runs of neighbouring levels together, on a lattice of
    1 / 10,000 of the range. It takes the best move until no move helps, then shortens the moves.
    The bound is about as low as that of the published search, and the levels are the same on every
    machine.

    Above 60 steps the search is slow and lowers the bound by about 1 % only. The grid is then that
    of `LogSNR`.

    Arguments:
        error: e_n. "pixel": sigma_n, which is sigma / alpha in the VP frame. "latent": sigma_n^2 /
            sqrt(1 + sigma_n^2), which is sigma^2 / alpha in the VP frame.
    """

    error: Literal["pixel", "latent"] = "pixel"
    shown: ClassVar[tuple[str, ...]] = ("error",)

    def __post_init__(self) -> None:
        if self.error not in ("pixel", "latent"):
            raise ValueError(f"DMNonUniform: unknown error {self.error!r}; known: pixel, latent")

    def noise_levels(self, steps: int, process: NoiseProcess) -> np.ndarray:
        if steps > _MOST:
            return LogSNR().noise_levels(steps, process)
        start = LogSNR() if self.error == "pixel" else Native()
        levels = _search(
            tuple((-np.log(start.noise_levels(steps, process)[:-1])).tolist()), self.error
        )
        return with_ends(np.exp(-np.array(levels)), process)


def bound(levels: np.ndarray, error: str) -> np.ndarray:
    """sum_n |e_n W_n|, the bound that `DMNonUniform` minimises.

    Arguments:
        levels: lambda = -log sigma, increasing along the last axis [..., n + 1].
        error: "pixel" or "latent".

    Returns:
        [...].
    """
    sigma = np.exp(-levels[..., :-1])
    e = sigma if error == "pixel" else sigma**2 / np.sqrt(1 + sigma**2)
    n = sigma.shape[-1]
    step = np.arange(n)
    apart = (step == 0) | (step == n - 1) | ((step < 3) & (n <= 7))
    together, alone = np.zeros_like(sigma), np.zeros_like(sigma)  # per level, per step
    for back, weight in enumerate(_weights(levels)):
        term = weight[..., back:] * e[..., : max(n - back, 0)]  # steps back .. n - 1
        alone[..., back:] += np.where(apart[back:], term**2, 0)
        together[..., : max(n - back, 0)] += np.where(apart[back:], 0, term)
    return np.sqrt(alone).sum(-1) + np.abs(together).sum(-1)


def _weights(levels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Weights of the predictions at the step's own level and at the two levels before it.

    A weight is the integral over the step of exp(lambda) times a Lagrange polynomial. The first and
    the last step have 1 level, the second and the second last have 2, all others have 3.

    Returns:
        Three arrays [..., steps].
    """
    h = np.diff(levels)
    scale = np.exp(levels[..., :-1])
    p, q = np.ones_like(h), np.ones_like(h)  # h of the step before, and of the second before
    p[..., 1:], q[..., 2:] = h[..., :-1], h[..., :-2]
    m0 = np.expm1(h)  # m_k: the integral of x^k exp(x) over 0 .. h
    m1 = h * np.exp(h) - m0
    m2 = h**2 * np.exp(h) - 2 * m1
    step, n = np.arange(h.shape[-1]), h.shape[-1]
    one = (step == 0) | (step == n - 1)
    two = ((step == 1) | (step == n - 2)) & ~one
    third = (m2 + (2 * p + q) * m1 + p * (p + q) * m0) / (p * (p + q))
    return (
        scale * np.where(one, m0, np.where(two, m0 + m1 / p, third)),
        scale * np.where(one, 0, np.where(two, -m1 / p, -(m2 + (p + q) * m1) / (p * q))),
        scale * np.where(one | two, 0, (m2 + p * m1) / (q * (p + q))),
    )


@lru_cache(maxsize=256)
def _search(start: tuple[float, ...], error: str) -> tuple[float, ...]:
    """Levels of a local minimum of the bound, on a lattice.

    Arguments:
        start: lambda, increasing. The first and the last level do not move.
    """
    low, high = start[0], start[-1]
    if len(start) < 3:
        return start
    cell = (high - low) / _CELLS
    at = np.rint((np.array(start) - low) / cell)
    inner = range(1, len(start) - 1)
    runs = np.zeros((2 * math.comb(len(inner) + 1, 2), len(start)))
    for row, (i, j) in enumerate((i, j) for i in inner for j in inner if i <= j):
        runs[2 * row, i : j + 1], runs[2 * row + 1, i : j + 1] = 1, -1
    best = bound(low + cell * at, error)
    for jump in _JUMPS:
        while True:
            tries = at + jump * runs
            tries = tries[(np.diff(tries) > 0.5).all(1)]
            found = bound(low + cell * tries, error)
            if not (len(found) and found.min() < best):
                break
            at, best = tries[found.argmin()], found.min()
    return tuple((low + cell * at).tolist())
