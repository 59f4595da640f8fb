"""The rate of the Frechet distance between features of the diffused data."""

import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from threading import Lock
from typing import ClassVar, Literal

from threadpoolctl import threadpool_limits

from bench.features import EffNetLite0, Features
from bench.lazy import Tensor, torch
from bench.measures.predictions import draws, resampled, with_replicates
from bench.metrics import Gaussian
from bench.types import Extractor, Measure, Model, Rate

_EXTRACTING = Lock()


@dataclass(frozen=True)
class FeatureFrechet(Measure):
    """v_FID: the Frechet distance between features of neighbouring levels (arXiv 2411.12188).

    The data is diffused in the VP frame: (x0 + sigma eps) / sqrt(1 + sigma^2). The Frechet distance
    is a square, so the rate is its root per unit of sigma, which does not depend on how finely the
    levels are cut. The paper uses the distance without the root; xi absorbs that power. With fewer
    images than a few times the features' dimension, chance adds to the rate of every interval.

    extractor: images -> features; it runs on the model's device.
    space: "image" gives the extractor the decoded uint8 images, values beyond -1..1 clipped.
        "state" gives it the float state itself (a latent, say), as `Flatten` takes it.
    bootstrap: number of replicates for error bands; each costs as much as all Frechet distances.
    """

    extractor: Extractor = field(default_factory=EffNetLite0)
    space: Literal["image", "state"] = "image"
    bootstrap: int = 0
    name: ClassVar[str] = "v_fid"
    needs_network: ClassVar[bool] = False
    overlaps: ClassVar[bool] = True  # distances on the CPU beside the next levels on the GPU

    def __post_init__(self) -> None:
        if not isinstance(self.extractor, Extractor):
            raise ValueError(f"{self.extractor!r} is no extractor: derive its class from "
                             "bench.Extractor")  # fmt: skip
        if self.space not in ("image", "state"):
            raise ValueError(f"unknown space {self.space!r}; known: image, state")
        if self.bootstrap < 0:
            raise ValueError(f"bootstrap must be 0 or more replicates, not {self.bootstrap}")

    def __call__(self, model: Model, images: Iterable[Tensor], sigmas: Tensor) -> Rate:
        extract = self.extractor.on(model.device)
        banks: list[list[Tensor]] = [[] for _ in sigmas]
        with _EXTRACTING:  # one thread at a time, so that another computes distances meanwhile
            for x0, eps in draws(self.name, model, images):
                for bank, sigma in zip(banks, sigmas.tolist(), strict=True):
                    x = (x0 + sigma * eps) / (1 + sigma**2) ** 0.5
                    bank.append(extract(model.decode(x) if self.space == "image" else x))
            features = [torch.cat(bank) for bank in banks]  # [n, dim] for each level
            moments = [_moments(level, None) for level in features]
        v = _frechet_rates(moments, sigmas)
        if not self.bootstrap:
            return with_replicates(self.name, sigmas, v, None)
        rows = [
            _frechet_rates([_moments(level, counts) for level in features], sigmas)
            for counts in resampled(len(features[0]), self.bootstrap)
        ]
        return with_replicates(self.name, sigmas, v, torch.stack(rows))


def _frechet_rates(moments: list[tuple[Tensor, Tensor]], sigmas: Tensor) -> Tensor:
    """Root of the Frechet distance between neighbours, per unit of sigma: float64 [levels - 1]."""
    with ThreadPoolExecutor(os.cpu_count()) as pool, threadpool_limits(1):  # one core a distance
        levels = list(pool.map(lambda level: Gaussian(*level), moments))
        squares = list(pool.map(Gaussian.distance, levels[:-1], levels[1:]))
    return torch.tensor(squares, dtype=torch.float64).sqrt() / sigmas.diff()


def _moments(features: Tensor, counts: Tensor | None) -> tuple[Tensor, Tensor]:
    """Mean and covariance. With counts [n], the i-th image counts that often."""
    if counts is None:
        sums = Features.of(features, 0)
        return sums.mean.cpu(), sums.cov.cpu()
    rows, weights = features.double(), counts.to(features.device)
    mean = weights @ rows / len(rows)
    centred = rows - mean
    return mean.cpu(), (centred.T @ (weights[:, None] * centred) / (len(rows) - 1)).cpu()
