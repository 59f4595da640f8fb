"""Schedules that minimise a published bound of the error, without a model."""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from bench.schedules.closed import LogSNR, Native
from bench.schedules.ends import with_ends
from bench.types import NoiseProcess, Schedule

_CELLS = 10_000  # of the lattice over the range of lambda
_JUMPS = (100, 50, 20, 10, 5, 2, 1)  # in cells
_MOST = 60  # levels that are optimised


@dataclass(frozen=True)
class DMNonUniform(Schedule):
    """Levels that minimise the bound of Xue et al. (CVPR 2024, arXiv 2402.17376), model-free.

    sum_n |e_n W_n(lambda)|: W_n is the weight of the data prediction at level n in the result of
    the exponential integrator of third order on those levels (multistep, orders 1 and 2 at either
    end), e_n the prediction's expected error: sigma_n for "pixel" models, sigma_n^2 /
    sqrt(1 + sigma_n^2) for "latent" ones (sigma / alpha and sigma^2 / alpha of the VP frame). The
    first and last steps' terms are added apart, and with up to 7 intervals those of the first
    three steps, each the root of its squares: as in the published code, against which the
    objective was checked to rounding. The paper itself was not at hand.

    The search is our own. The objective has kinks, many local minima, and lower ones where levels
    nearly meet; the published search (scipy's trust-constr, from log-SNR or, for "latent", the
    model's timesteps) stops at a kink nearby, and starts that differ by 1e-13 end as far as 0.8
    apart in lambda. Here, from the same starts, runs of neighbouring levels move together by ever
    smaller jumps on a lattice of 1 / 10,000 of the range, the best move first, until none helps:
    about as low, and the same on every machine. Above 60 steps, where the search is slow and gains
    about 1 %, the grid is that of `LogSNR`.
    """

    error: Literal["pixel", "latent"] = "pixel"

    def __post_init__(self) -> None:
        if self.error not in ("pixel", "latent"):
            raise ValueError(f"unknown error {self.error!r}; known: pixel, latent")

    def __call__(self, steps: int, process: NoiseProcess) -> Tensor:
        if steps > _MOST:
            return LogSNR()(steps, process)
        start = LogSNR() if self.error == "pixel" else Native()
        levels = _search(tuple((-start(steps, process)[:-1].log()).tolist()), self.error)
        return with_ends(torch.tensor(levels, dtype=torch.float64).neg().exp(), process)


def bound(levels: np.ndarray, error: str) -> np.ndarray:
    """sum_n |e_n W_n| of levels lambda = -log sigma [..., n + 1], increasing -> [...]."""
    sigma = np.exp(-levels[..., :-1])
    e = sigma if error == "pixel" else sigma**2 / np.sqrt(1 + sigma**2)
    n = sigma.shape[-1]
    step = np.arange(n)
    apart = (step == 0) | (step == n - 1) | ((step < 3) & (n <= 7))
    together, alone = np.zeros_like(sigma), np.zeros_like(sigma)  # by level, by step
    for back, weight in enumerate(_weights(levels)):
        term = weight[..., back:] * e[..., : max(n - back, 0)]  # of steps back .. n - 1
        alone[..., back:] += np.where(apart[back:], term**2, 0)
        together[..., : max(n - back, 0)] += np.where(apart[back:], 0, term)
    return np.sqrt(alone).sum(-1) + np.abs(together).sum(-1)


def _weights(levels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Weights of the predictions at a step's own level and the two before it, each [..., steps].

    Integrals of exp(lambda) over the step times the Lagrange polynomials through these levels: 1 in
    the first and last step, 2 in the steps beside them, else 3.
    """
    h = np.diff(levels)
    scale = np.exp(levels[..., :-1])
    p, q = np.ones_like(h), np.ones_like(h)  # the step before, and the one before that
    p[..., 1:], q[..., 2:] = h[..., :-1], h[..., :-2]
    m0 = np.expm1(h)  # integrals of x^k exp(x) over 0 .. h
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
    """Descent from `start` on a lattice; its ends stay."""
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
