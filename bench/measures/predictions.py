"""Measures of a network's predictions on diffused data.

Each uses the same x0 and eps at neighbouring levels, so that their sampling noise is not part of
the change. Each gives bootstrap replicates over images.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

from bench.lazy import Tensor, torch
from bench.noise import normal
from bench.types import Measure, Model, Rate, rate_between

FIRST_SEED = 2**40  # measurements draw their noise from seeds that no sample uses
REPLICATES = 32


def seeds_from(first: int, n: int, device: torch.device | str) -> Tensor:
    """The seeds of n images, the first of which has this index: int64 [n]."""
    return torch.arange(first, first + n, device=device) + FIRST_SEED


def draws(name: str, model: Model, images: Iterable[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches (x0, eps) [n, *state]: the i-th image always has the same noise.

    Raises:
        ValueError: there is no image; the message has the measure's name.
    """
    n = 0
    for batch in images:
        x0 = model.encode(batch)
        yield x0, normal(seeds_from(n, len(x0), x0.device), 0, tuple(x0.shape[1:]))
        n += len(x0)
    if n == 0:
        raise ValueError(f"{name}: no images to measure on")


def resampled(n: int, replicates: int) -> Tensor:
    """How often each of n images is drawn in each bootstrap replicate: float64 [replicates, n]."""
    generator = torch.Generator().manual_seed(0)
    picks = torch.randint(n, (replicates, n), generator=generator)
    counts = torch.zeros(replicates, n, dtype=torch.float64)
    return counts.scatter_add_(1, picks, torch.ones_like(counts))


def with_replicates(name: str, sigmas: Tensor, v: Tensor, rows: Tensor | None) -> Rate:
    """`rate_between` of v [k], and of each row of replicates [b, k]."""
    rate = rate_between(name, sigmas, v)
    if rows is None:
        return rate
    held = torch.cat([rows[:, :1], rows, rows[:, -1:]], dim=1).numpy()
    return Rate(name, rate.sigma, rate.v, {}, held)


def _root_mean(name: str, sigmas: Tensor, squares: list[Tensor]) -> Rate:
    """The rate of squared changes, float64 [n, k] for each batch: roots of their means over images.

    Replicates are the same of resampled images.
    """
    square = torch.cat(squares)
    v = square.mean(0).sqrt() / sigmas.diff()
    rows = (resampled(len(square), REPLICATES) @ square / len(square)).sqrt() / sigmas.diff()
    return with_replicates(name, sigmas, v, rows)


class _PredictionChange(Measure):
    """Root mean square change of a prediction between neighbouring levels."""

    @abstractmethod
    def _prediction(self, x0: Tensor, x: Tensor, sigma: float) -> Tensor:
        """What changes, from E[x0|x] and x, each float [n, c, h, w]."""

    def __call__(self, model: Model, images: Iterable[Tensor], sigmas: Tensor) -> Rate:
        denoise = model.denoiser()
        squares = []
        for x0, eps in draws(self.name, model, images):
            last, changes = None, []
            for sigma in sigmas.tolist():
                x = x0 + sigma * eps
                now = self._prediction(denoise(x, sigma), x, sigma)
                if last is not None:
                    changes.append((now - last).double().square().mean((1, 2, 3)))
                last = now
            squares.append(torch.stack(changes, 1).cpu())  # [n, k]
        return _root_mean(self.name, sigmas, squares)


@dataclass(frozen=True)
class DataPrediction(_PredictionChange):
    """v_x: root mean square change of the data prediction x0_hat = E[x0|x] (arXiv 2411.12188).

    The mean is over data, noise and pixels. The unit is that of the state, per unit of sigma.
    """

    name: ClassVar[str] = "v_x"

    def _prediction(self, x0: Tensor, x: Tensor, sigma: float) -> Tensor:
        return x0


@dataclass(frozen=True)
class NoisePrediction(_PredictionChange):
    """v_eps: the change of the noise prediction eps_hat = (x - x0_hat) / sigma (arXiv 2411.12188).

    Mean and unit are those of `DataPrediction`.
    """

    name: ClassVar[str] = "v_eps"

    def _prediction(self, x0: Tensor, x: Tensor, sigma: float) -> Tensor:
        return (x - x0) / sigma


@dataclass(frozen=True)
class ScoreDifference(Measure):
    """v_score: the rate of score-optimal time (arXiv 2412.07877, its L_c), a rival.

    It is sigma_next times the root mean square, over pixels, of score(x, sigma_next) -
    score(x, sigma). x is diffused to the noisier sigma, and score = (x0_hat - x) / sigma^2. The
    formula comes from two public accounts of the paper and was not checked against the paper. The
    paper's schedule is `ConstantRate(v_score, xi=1)`.
    """

    name: ClassVar[str] = "v_score"

    def __call__(self, model: Model, images: Iterable[Tensor], sigmas: Tensor) -> Rate:
        denoise, levels = model.denoiser(), sigmas.tolist()
        squares = []
        for x0, eps in draws(self.name, model, images):
            changes = []
            for low, high in pairwise(levels):
                x = x0 + high * eps
                scores = [(denoise(x, sigma) - x).double() / sigma**2 for sigma in (low, high)]
                changes.append((scores[1] - scores[0]).square().mean((1, 2, 3)) * low**2)
            squares.append(torch.stack(changes, 1).cpu())
        return _root_mean(self.name, sigmas, squares)


@dataclass(frozen=True)
class Entropy(Measure):
    """v_entropy: the rate of entropic time (arXiv 2504.13612), equal steps of the entropy H(x0|x).

    dH/dsigma = E|x0 - x0_hat|^2 / sigma^3 for each pixel. The schedule is
    `ConstantRate(v_entropy, xi=1)`.
    """

    name: ClassVar[str] = "v_entropy"
    power: ClassVar[int] = 3  # of sigma, which the squared error is divided by

    def __call__(self, model: Model, images: Iterable[Tensor], sigmas: Tensor) -> Rate:
        denoise, errors = model.denoiser(), []
        for x0, eps in draws(self.name, model, images):
            found = [(denoise(x0 + sigma * eps, sigma) - x0).double().square().mean((1, 2, 3))
                     for sigma in sigmas.tolist()]  # fmt: skip
            errors.append(torch.stack(found, 1).cpu())  # [n, k]
        error, scale = torch.cat(errors), sigmas**self.power
        rows = resampled(len(error), REPLICATES) @ error / len(error) / scale
        v = (error.mean(0) / scale).numpy()
        return Rate(self.name, sigmas.numpy(), v, {}, rows.numpy())


@dataclass(frozen=True)
class RescaledEntropy(Entropy):
    """v_entropy_rescaled: the rate of rescaled entropic time, which its authors use for images.

    It is sigma dH/dsigma (arXiv 2504.13612), with H as of `Entropy`. The factor sigma was read in
    public code that implements the paper. The schedule is `ConstantRate(v_entropy_rescaled, xi=1)`.
    """

    name: ClassVar[str] = "v_entropy_rescaled"
    power: ClassVar[int] = 2
