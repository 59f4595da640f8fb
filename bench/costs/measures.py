"""Measures of single steps on a checkpoint; each calls the network once a level and image."""

import hashlib
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor
from tqdm import tqdm

from bench.noise import normal
from bench.rates import FIRST_SEED
from bench.samplers import IPNDM
from bench.schedules import Karras, LogSNR
from bench.types import Costs, Denoiser, Model, Schedule

_AT_ONCE = 64  # trajectories; results do not depend on it


def _seeds(first: int, n: int, device: str) -> Tensor:
    return torch.arange(first, first + n, device=device) + FIRST_SEED


@dataclass(frozen=True)
class GITS:
    """Deviation of Euler's jump from a teacher's trajectory (GITS, Chen et al., arXiv 2405.11326).

    The teacher is iPNDM over the fine grid, from noise alone: states x_i, slopes d_i = (x_i -
    x0_hat_i) / sigma_i. With dev(y) the distance of y from the line through the trajectory's two
    ends, cost[i, j] = mean dev(x_i + (sigma_j - sigma_i) d_i) - mean dev(x_j) over trajectories; it
    may be negative. `CheapestPath` counts the k-th step coefficient^k times, as theirs does.

    Definition and defaults are those of the published code, with the 61 levels of the paper's
    experiments; the paper itself was not at hand. Theirs draws other noise every time; here the
    seeds are fixed. Theirs ends at sigma_min; here one more step leads from there to 0.
    """

    trajectories: int = 256
    coefficient: float = 1.15
    fine: Schedule = field(default_factory=Karras)
    name: ClassVar[str] = "gits"

    def __post_init__(self) -> None:
        if self.trajectories < 1:
            raise ValueError(f"GITS needs at least 1 trajectory, not {self.trajectories}")
        if not 0 < self.coefficient < math.inf:
            raise ValueError(f"GITS needs a coefficient > 0, not {self.coefficient}")

    def __call__(self, model: Model, images: Iterable[Tensor], sigmas: Tensor) -> Costs:
        found = []
        starts = range(0, self.trajectories, _AT_ONCE)
        for first in tqdm(starts, unit="batch", disable=None, desc=self.name):
            seeds = _seeds(first, min(_AT_ONCE, self.trajectories - first), model.device)
            x, d = _trajectory(model, seeds, sigmas)
            found += [_deviations(*one, sigmas) for one in zip(x, d, strict=True)]
        cost = torch.stack(found).mean(0)
        known = {"trajectories": self.trajectories}
        return Costs(self.name, sigmas, cost, self.coefficient, known)


def _trajectory(model: Model, seeds: Tensor, sigmas: Tensor) -> tuple[Tensor, Tensor]:
    """The teacher's states [n, levels, pixels] and slopes, one level fewer, float64 on the CPU."""
    states, slopes = [], []
    denoise = model.denoiser()

    def recorded(x: Tensor, sigma: float) -> Tensor:
        x0 = denoise(x, sigma)
        states.append(x.cpu())
        slopes.append(((x - x0) / sigma).cpu())
        return x0

    noise = normal(seeds, 0, model.shape)
    with torch.inference_mode():
        last = IPNDM()(recorded, float(sigmas[0]) * noise, sigmas, lambda: noise)
    x, d = torch.stack([*states, last.cpu()], 1), torch.stack(slopes, 1)
    return x.flatten(2).double(), d.flatten(2).double()


def _deviations(x: Tensor, d: Tensor, sigmas: Tensor) -> Tensor:
    """dev(jump from i to j) - dev(x_j) of one trajectory, [n, n]; x [n, pixels], d [n - 1, pixels].

    The part across the line is linear: with a_i that of x_n - x_i and b_i that of d_i, the jump's
    is a_i - h b_i, h = sigma_j - sigma_i, and its square needs three inner products for all j.
    """
    line = x[-1] - x[0]
    line = line / line.norm()

    def across(y: Tensor) -> Tensor:
        return y - (y @ line)[:, None] * line

    a, b = across(x[-1] - x), across(d)
    h = sigmas[None, :] - sigmas[:-1, None]  # [n - 1, n]
    aa, ab, bb = a[:-1].square().sum(1), (a[:-1] * b).sum(1), b.square().sum(1)
    square = aa[:, None] - 2 * h * ab[:, None] + h**2 * bb[:, None]
    jump = square.clamp(min=0).sqrt() - a.norm(dim=1)
    return torch.cat([jump, torch.zeros_like(jump[:1])])


@dataclass(frozen=True)
class KLUB:
    """The KL bound of Align Your Steps (Sabour et al., arXiv 2404.14507) for one stochastic step.

    The reverse process is dx = 2 (x0_hat(x, sigma) - x) / sigma |dsigma| + sqrt(2 sigma) dw. A
    first-order stochastic solver (DDIM with eta = 1, DDPM) is the same with x0_hat held at the
    step's start i. By Girsanov the two paths' KL divergence is half the expected square of the
    drifts' difference over the diffusion 2 sigma, integrated, and it bounds that of the images:

        cost[i, j] = integral over sigma from sigma_j to sigma_i of D_i(sigma) / sigma^3,
        D_i(sigma) = E|x0_hat(x_sigma, sigma) - x0_hat(x_i, sigma_i)|^2, a pixel,

    over data, diffused forwards along one Brownian path an image, x_i = x_sigma + sqrt(sigma_i^2 -
    sigma^2) eps. D is taken linear in sigma^2 between levels and the integral is then exact: within
    2 % for steps of eight fine intervals, up to 10 % high for one, where D bends (at levels 0.15
    apart in log sigma).

    The bound adds up over steps, so that dynamic programming minimises it over the fine grid. That
    is this project's own: the paper goes by coordinate search for each number of steps, and stops
    early because the bound is loose. Its exact minimum spends far fewer levels on high noise than
    the paper's tables do: read it as the bound's minimiser, not as the paper's schedule. Derived
    here; agrees with a public account of the paper's formula, the paper itself was not at hand.

    For Gaussian data N(0, c^2), with q = sigma^2 / (c^2 + sigma^2), cost[i, j] is (q_i / q_j - 1 -
    log(q_i / q_j)) / 2 and the best grid has equal steps of log q: entropic time, and not the
    `KLOptimal` of the paper's section 3.1, which is of Euler's deterministic steps.
    """

    fine: Schedule = field(default_factory=LogSNR)
    name: ClassVar[str] = "klub"
    coefficient: ClassVar[float] = 1.0

    def __call__(self, model: Model, images: Iterable[Tensor], sigmas: Tensor) -> Costs:
        gram = torch.zeros(len(sigmas), len(sigmas), dtype=torch.float64)
        denoise, n, data = model.denoiser(), 0, hashlib.sha256()
        for batch in tqdm(images, unit="batch", disable=None, desc=self.name):
            data.update(batch.contiguous().numpy().tobytes())
            x0_hat = _along_paths(denoise, model.encode(batch), n, sigmas)
            for image in x0_hat:  # one by one: sums do not depend on the batch
                gram += image @ image.T
            n += len(batch)
        if n == 0:
            raise ValueError(f"{self.name}: no images to measure on")
        square = gram.diagonal()
        change = (square[:, None] + square - 2 * gram).clamp(min=0) / (n * math.prod(model.shape))
        known = {"images": n, "data_digest": data.hexdigest()}
        return Costs(self.name, sigmas, _integrals(sigmas, change), self.coefficient, known)


def _along_paths(denoise: Denoiser, x0: Tensor, first: int, sigmas: Tensor) -> Tensor:
    """x0_hat at all levels of one forward path an image: float64 [n, levels, pixels] on the CPU."""
    seeds = _seeds(first, len(x0), str(x0.device))
    x, below, found = x0, 0.0, []
    for draw, sigma in enumerate(reversed(sigmas.tolist())):  # upwards, by independent increments
        x = x + math.sqrt(sigma**2 - below**2) * normal(seeds, draw, tuple(x0.shape[1:]))
        found.append(denoise(x, sigma).flatten(1).cpu())
        below = sigma
    return torch.stack(found[::-1], 1).double()


def _integrals(sigmas: Tensor, change: Tensor) -> Tensor:
    """Integrals of change[i] / sigma^3 from sigma_j to sigma_i, change linear in s = sigma^2.

    dsigma / sigma^3 = ds / (2 s^2); over one interval, low .. high in s, the share of its upper end
    is (log(high / low) + low / high - 1) / (2 (high - low)) of the whole, 1 / 2 low - 1 / 2 high.
    """
    s = sigmas**2
    high, low = s[:-1], s[1:]
    upper = ((high / low).log() + low / high - 1) / (2 * (high - low))
    lower = (1 / low - 1 / high) / 2 - upper
    area = change[:, :-1] * upper + change[:, 1:] * lower  # [i, interval]
    return torch.nn.functional.pad(area.triu().cumsum(1), (1, 0))  # [i, j]
