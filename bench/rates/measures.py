"""Measures on a checkpoint: the change of its predictions, or of features of its diffused data.

Each keeps the same x0 and eps at both levels, which takes their sampling noise out of the change,
and gives bootstrap replicates over images.
"""

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import pairwise
from threading import Lock
from typing import Any, ClassVar, Literal

import torch
from threadpoolctl import threadpool_limits
from torch import Tensor

from bench.features import EffNetLite0, Features
from bench.metrics import Gaussian
from bench.noise import normal
from bench.types import FeatureExtractor, Model, Rate, rate_between

FIRST_SEED = 2**40  # measurements draw their noise from seeds that no sample uses
REPLICATES = 32
_EXTRACTING = Lock()


def _draws(model: Model, images: Iterable[Tensor]) -> Iterable[tuple[Tensor, Tensor]]:
    """Batches (x0, eps): the i-th image always meets the same noise."""
    n = 0
    for batch in images:
        x0 = model.encode(batch)
        seeds = torch.arange(n, n + len(batch), device=x0.device) + FIRST_SEED
        yield x0, normal(seeds, 0, tuple(x0.shape[1:]))
        n += len(batch)


def _resampled(n: int, replicates: int) -> Tensor:
    """How often each of n images is drawn in each bootstrap replicate: float64 [replicates, n]."""
    generator = torch.Generator().manual_seed(0)
    picks = torch.randint(n, (replicates, n), generator=generator)
    counts = torch.zeros(replicates, n, dtype=torch.float64)
    return counts.scatter_add_(1, picks, torch.ones_like(counts))


def _with_replicates(name: str, sigmas: Tensor, v: Tensor, rows: Tensor | None) -> Rate:
    """`rate_between` for v [k], and for each row of replicates [b, k]."""
    rate = rate_between(name, sigmas, v)
    if rows is None:
        return rate
    held = torch.cat([rows[:, :1], rows, rows[:, -1:]], dim=1)
    return Rate(name, rate.sigma, rate.v, {}, held)


def _prediction_rate(
    name: str,
    model: Model,
    images: Iterable[Tensor],
    sigmas: Tensor,
    predict: Callable[[Tensor, Tensor, float], Tensor],
) -> Rate:
    """Root mean square change of `predict(x0_hat, x, sigma)` between neighbouring levels."""
    denoise = model.denoiser()
    squares = []
    for x0, eps in _draws(model, images):
        last, changes = None, []
        for sigma in sigmas.tolist():
            x = x0 + sigma * eps
            now = predict(denoise(x, sigma), x, sigma)
            if last is not None:
                changes.append((now - last).double().square().mean((1, 2, 3)))
            last = now
        squares.append(torch.stack(changes, 1).cpu())  # [n, k]
    return _root_mean(name, sigmas, squares)


def _root_mean(name: str, sigmas: Tensor, squares: list[Tensor]) -> Rate:
    """Rate and replicates of squared changes [n, k] a batch: roots of their means over images."""
    if not squares:
        raise ValueError(f"{name}: no images to measure on")
    square = torch.cat(squares)
    v = square.mean(0).sqrt() / sigmas.diff()
    rows = (_resampled(len(square), REPLICATES) @ square / len(square)).sqrt() / sigmas.diff()
    return _with_replicates(name, sigmas, v, rows)


@dataclass(frozen=True)
class DataPrediction:
    """v_x: root mean square change of the data prediction x0_hat = E[x0|x] (arXiv 2411.12188).

    Per pixel and per unit sigma, over data and noise.
    """

    name: ClassVar[str] = "v_x"

    def __call__(self, model: Model, images: Iterable[Tensor], sigmas: Tensor) -> Rate:
        return _prediction_rate(self.name, model, images, sigmas, lambda x0, x, sigma: x0)


@dataclass(frozen=True)
class NoisePrediction:
    """v_eps: the same of the noise prediction eps_hat = (x - x0_hat) / sigma (arXiv 2411.12188)."""

    name: ClassVar[str] = "v_eps"

    def __call__(self, model: Model, images: Iterable[Tensor], sigmas: Tensor) -> Rate:
        def noise(x0: Tensor, x: Tensor, sigma: float) -> Tensor:
            return (x - x0) / sigma

        return _prediction_rate(self.name, model, images, sigmas, noise)


@dataclass(frozen=True)
class ScoreDifference:
    """Score-optimal time (arXiv 2412.07877, its L_c), as a rate: a rival that is measured too.

    sigma_next times the root mean square, a pixel, of score(x, sigma_next) - score(x, sigma) over x
    diffused to the noisier sigma; score = (x0_hat - x) / sigma^2. Formula from two public accounts
    of the paper, unchecked against it. Its schedule is `ConstantRate(v_score, xi=1)`.
    """

    name: ClassVar[str] = "v_score"

    def __call__(self, model: Model, images: Iterable[Tensor], sigmas: Tensor) -> Rate:
        denoise, levels = model.denoiser(), sigmas.tolist()
        squares = []
        for x0, eps in _draws(model, images):
            changes = []
            for low, high in pairwise(levels):
                x = x0 + high * eps
                scores = [(denoise(x, sigma) - x).double() / sigma**2 for sigma in (low, high)]
                changes.append((scores[1] - scores[0]).square().mean((1, 2, 3)) * low**2)
            squares.append(torch.stack(changes, 1).cpu())
        return _root_mean(self.name, sigmas, squares)


@dataclass(frozen=True)
class Entropy:
    """Entropic time (arXiv 2504.13612), as a rate: equal steps of the conditional entropy of x0.

    dH/dsigma = E|x0 - x0_hat|^2 / sigma^3, a pixel, by the I-MMSE relation; derived here, not seen
    in the paper. Its schedule is `ConstantRate(v_entropy, xi=1)`.
    """

    name: ClassVar[str] = "v_entropy"

    def __call__(self, model: Model, images: Iterable[Tensor], sigmas: Tensor) -> Rate:
        denoise, errors = model.denoiser(), []
        for x0, eps in _draws(model, images):
            found = [(denoise(x0 + sigma * eps, sigma) - x0).double().square().mean((1, 2, 3))
                     for sigma in sigmas.tolist()]  # fmt: skip
            errors.append(torch.stack(found, 1).cpu())  # [n, k]
        if not errors:
            raise ValueError(f"{self.name}: no images to measure on")
        error = torch.cat(errors)
        rows = _resampled(len(error), REPLICATES) @ error / len(error) / sigmas**3
        return Rate(self.name, sigmas, error.mean(0) / sigmas**3, {}, rows)


@dataclass(frozen=True)
class FeatureFrechet:
    """v_FID: Frechet distance between features of the diffused data (arXiv 2411.12188).

    Of data diffused in the VP frame, (x0 + sigma eps) / sqrt(1 + sigma^2). The Frechet distance is
    a square, so the rate is its root per unit sigma, which does not depend on how finely levels are
    cut; the paper's use of the plain distance differs by a power that xi absorbs. It needs images:
    with fewer than a few times the features' dimension, chance adds to every interval.

    space: "image" gives the extractor the decoded uint8 picture, what lies beyond -1..1 clipped;
    "state" the float state itself, undecoded (a latent, say), as `Flatten` takes it.
    bootstrap: replicates for error bands, each as costly as all Frechet distances; 0 for none.
    """

    extractor: FeatureExtractor = field(default_factory=EffNetLite0)
    space: Literal["image", "state"] = "image"
    bootstrap: int = 0
    name: ClassVar[str] = "v_fid"
    overlaps: ClassVar[bool] = True  # distances on the CPU beside the next levels on the GPU

    def __post_init__(self) -> None:
        if self.space not in ("image", "state"):
            raise ValueError(f"unknown space {self.space!r}; known: image, state")
        if self.bootstrap < 0:
            raise ValueError(f"bootstrap must be 0 or more replicates, not {self.bootstrap}")

    def __call__(self, model: Model, images: Iterable[Tensor], sigmas: Tensor) -> Rate:
        extract = _on(self.extractor, model.device)
        banks: list[list[Tensor]] = [[] for _ in sigmas]
        with _EXTRACTING:  # in turn: two threads at once would then be at their distances at once
            for x0, eps in _draws(model, images):
                for bank, sigma in zip(banks, sigmas.tolist(), strict=True):
                    x = (x0 + sigma * eps) / (1 + sigma**2) ** 0.5
                    bank.append(extract(model.decode(x) if self.space == "image" else x))
            if not banks[0]:
                raise ValueError(f"{self.name}: no images to measure on")
            features = [torch.cat(bank) for bank in banks]  # [n, dim] a level
            moments = [_moments(level, None) for level in features]
        v = _frechet_rates(moments, sigmas)
        if not self.bootstrap:
            return _with_replicates(self.name, sigmas, v, None)
        counts = _resampled(len(features[0]), self.bootstrap)
        rows = [
            _frechet_rates([_moments(level, weights) for level in features], sigmas)
            for weights in counts
        ]
        return _with_replicates(self.name, sigmas, v, torch.stack(rows))


def _frechet_rates(moments: list[tuple[Tensor, Tensor]], sigmas: Tensor) -> Tensor:
    """Root of the Frechet distance between neighbours, per unit sigma: float64 [levels - 1]."""
    with ThreadPoolExecutor(os.cpu_count()) as pool, threadpool_limits(1):  # a core a distance
        levels = list(pool.map(lambda level: Gaussian(*level), moments))
        squares = list(pool.map(Gaussian.distance, levels[:-1], levels[1:]))
    return torch.tensor(squares, dtype=torch.float64).sqrt() / sigmas.diff()


def _moments(features: Tensor, counts: Tensor | None) -> tuple[Tensor, Tensor]:
    """Mean and covariance; with counts, of images drawn that often."""
    if counts is None:
        sums = Features.of(features, 0)
        return sums.mean.cpu(), sums.cov.cpu()
    rows, weights = features.double(), counts.to(features.device)
    mean = weights @ rows / len(rows)
    centred = rows - mean
    return mean.cpu(), (centred.T @ (weights[:, None] * centred) / (len(rows) - 1)).cpu()


def _on(extractor: FeatureExtractor, device: str) -> Any:
    """The extractor on the model's device, if it has a choice."""
    movable: Any = extractor
    if "device" in getattr(movable, "__dataclass_fields__", {}):
        return replace(movable, device=device)
    return extractor
