"""Costs of single steps. Each measure calls the network once for each level and image."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import ClassVar

from tqdm import tqdm

from bench.lazy import Tensor, torch
from bench.measures.predictions import seeds_from
from bench.noise import normal
from bench.samplers import IPNDM
from bench.schedules import Karras, LogSNR
from bench.types import CostMeasure, Costs, Denoiser, Model, NoiseProcess, Schedule

_AT_ONCE = 64  # trajectories in one batch; results do not depend on it


@dataclass(frozen=True)
class GITS(CostMeasure):
    """Deviation of Euler's jump from a teacher's trajectory (GITS, Chen et al., arXiv 2405.11326).

    The teacher is iPNDM over the fine grid. It starts from noise and needs no images. Its states
    are x_i, its slopes d_i = (x_i - x0_hat_i) / sigma_i. dev(y) is the distance of y from the line
    through the two ends of the trajectory. cost[i, j] = mean dev(x_i + (sigma_j - sigma_i) d_i) -
    mean dev(x_j) over trajectories; it may be negative.

    Definition and defaults are those of the published code, with the 61 levels of the paper's
    experiments. The paper was not read. The published code draws new noise in every run; here the
    seeds are fixed. Its grid ends at sigma_min; here one more step leads from sigma_min to 0.

    trajectories: number of the teacher's trajectories.
    coefficient: `CheapestPath` counts the k-th step coefficient^k times, as the published code.
    fine: the schedule of the levels.
    """

    trajectories: int = 256
    coefficient: float = 1.15
    fine: Schedule = field(default_factory=Karras)
    name: ClassVar[str] = "gits"
    needs_images: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.trajectories < 1:
            raise ValueError(f"GITS needs at least 1 trajectory, not {self.trajectories}")
        if not 0 < self.coefficient < math.inf:
            raise ValueError(f"GITS needs a coefficient > 0, not {self.coefficient}")

    def levels(self, count: int, process: NoiseProcess) -> Tensor:
        """The levels of `fine` above 0, decreasing: float64 [count]."""
        return self.fine(count, process)[:-1]

    def __call__(self, model: Model, images: Iterable[Tensor], sigmas: Tensor) -> Costs:
        found = []
        starts = range(0, self.trajectories, _AT_ONCE)
        for first in tqdm(starts, unit="batch", disable=None, desc=self.name):
            seeds = seeds_from(first, min(_AT_ONCE, self.trajectories - first), model.device)
            x, d = _trajectory(model, seeds, sigmas)
            found += [_deviations(*one, sigmas) for one in zip(x, d, strict=True)]
        cost = torch.stack(found).mean(0)
        known = {"trajectories": self.trajectories}
        return Costs(self.name, sigmas.numpy(), cost.numpy(), self.coefficient, known)


def _trajectory(model: Model, seeds: Tensor, sigmas: Tensor) -> tuple[Tensor, Tensor]:
    """The teacher's states [n, levels, pixels] and slopes [n, levels - 1, pixels].

    Both are float64 on the CPU.
    """
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
    """dev(jump from i to j) - dev(x_j) of one trajectory: float64 [n, n].

    The part of a vector across the line is a linear function of it. Let a_i be that part of
    x_n - x_i and b_i that of d_i. The jump has a_i - h b_i, h = sigma_j - sigma_i, and its square
    needs three inner products for all j.

    Arguments:
        x: states, float64 [n, pixels].
        d: slopes, float64 [n - 1, pixels].
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
class KLUB(CostMeasure):
    """The KL bound of Align Your Steps (Sabour et al., arXiv 2404.14507) for one stochastic step.

    The reverse process is dx = 2 (x0_hat(x, sigma) - x) / sigma |dsigma| + sqrt(2 sigma) dw. A
    first-order stochastic solver (DDIM with eta = 1, DDPM) holds x0_hat at the start i of the step.
    By Girsanov the KL divergence of the two paths is the integral of half the expected square of
    the drifts' difference over the diffusion 2 sigma. It bounds the KL divergence of the images:

        cost[i, j] = integral over sigma from sigma_j to sigma_i of D_i(sigma) / sigma^3,
        D_i(sigma) = E|x0_hat(x_sigma, sigma) - x0_hat(x_i, sigma_i)|^2 for each pixel,

    where the data is diffused forwards along one Brownian path for each image: x_i = x_sigma +
    sqrt(sigma_i^2 - sigma^2) eps. Between levels D is taken as linear in sigma^2, and the integral
    is then exact. At levels 0.15 apart in log sigma the error is within 2 % for steps of eight fine
    intervals, and up to 10 % (too high) for one interval where D bends.

    The bound adds up over steps, so that dynamic programming minimises it over the fine grid. The
    paper does not do that: it uses coordinate search for each number of steps, and stops early
    because the bound is loose. The exact minimum has far fewer levels at high noise than the
    paper's tables: it is the minimiser of the bound, not the paper's schedule. The formula was
    derived here. It agrees with a public account of the paper; the paper was not read.

    For Gaussian data N(0, c^2), with q = sigma^2 / (c^2 + sigma^2), cost[i, j] is (q_i / q_j - 1 -
    log(q_i / q_j)) / 2, and the best grid has equal steps of log q (entropic time). `KLOptimal` of
    the paper's section 3.1 differs: it holds for Euler's deterministic steps.

    fine: the schedule of the levels.
    """

    fine: Schedule = field(default_factory=LogSNR)
    name: ClassVar[str] = "klub"

    def levels(self, count: int, process: NoiseProcess) -> Tensor:
        """The levels of `fine` above 0, decreasing: float64 [count]."""
        return self.fine(count, process)[:-1]

    def __call__(self, model: Model, images: Iterable[Tensor], sigmas: Tensor) -> Costs:
        gram = torch.zeros(len(sigmas), len(sigmas), dtype=torch.float64)
        denoise, n = model.denoiser(), 0
        for batch in images:
            x0_hat = _along_paths(denoise, model.encode(batch), n, sigmas)
            for image in x0_hat:  # one by one, so that sums do not depend on the batch
                gram += image @ image.T
            n += len(batch)
        if n == 0:
            raise ValueError(f"{self.name}: no images to measure on")
        square = gram.diagonal()
        change = (square[:, None] + square - 2 * gram).clamp(min=0) / (n * math.prod(model.shape))
        return Costs(self.name, sigmas.numpy(), _integrals(sigmas, change).numpy())


def _along_paths(denoise: Denoiser, x0: Tensor, first: int, sigmas: Tensor) -> Tensor:
    """x0_hat at all levels of one forward path for each image.

    Arguments:
        x0: states of the images first .. first + n - 1.

    Returns:
        float64 [n, levels, pixels] on the CPU.
    """
    seeds = seeds_from(first, len(x0), x0.device)
    x, below, found = x0, 0.0, []
    for draw, sigma in enumerate(reversed(sigmas.tolist())):  # upwards, by independent increments
        x = x + math.sqrt(sigma**2 - below**2) * normal(seeds, draw, tuple(x0.shape[1:]))
        found.append(denoise(x, sigma).flatten(1).cpu())
        below = sigma
    return torch.stack(found[::-1], 1).double()


def _integrals(sigmas: Tensor, change: Tensor) -> Tensor:
    """Integrals of change[i] / sigma^3 from sigma_j to sigma_i, change linear in s = sigma^2.

    dsigma / sigma^3 = ds / (2 s^2). Over the interval low .. high of s the upper end has the weight
    (log(high / low) + low / high - 1) / (2 (high - low)). Both weights add up to
    1 / (2 low) - 1 / (2 high).
    """
    s = sigmas**2
    high, low = s[:-1], s[1:]
    upper = ((high / low).log() + low / high - 1) / (2 * (high - low))
    lower = (1 / low - 1 / high) / 2 - upper
    area = change[:, :-1] * upper + change[:, 1:] * lower  # [i, interval]
    return torch.nn.functional.pad(area.triu().cumsum(1), (1, 0))  # [i, j]
