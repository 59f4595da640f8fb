"""Inception Score: how certain a classifier is of each image, and how much its answers vary."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from bench.lazy import Tensor, torch
from bench.metrics.banks import check_banks
from bench.types import FeatureStatistics, Metric, Score


@dataclass(frozen=True)
class InceptionScore(Metric):
    """exp of the mean of KL(p(y|x) || p(y)), averaged over splits (Salimans et al. 2016, sec. 4).

    It reads no real images. The error of its score is the standard deviation of the splits, over
    their number, as papers print it.

    The defaults are those of torch-fidelity: it shuffles the images by `seed` and cuts them into
    `splits` parts. The ADM evaluator's score is `InceptionScore(split_size=5000, seed=None)`: it
    keeps the order of the images and cuts parts of 5000. Its last part may be smaller, and has the
    same weight as the others.

    splits: number of parts, if `split_size` is None.
    split_size: images in a part.
    seed: None keeps the order of the images.
    layer: `logits_unbiased` in both tools. `logits` adds the bias of the classifier. Any layer
        whose softmax is p(y|x) works.
    """

    splits: int = 10
    split_size: int | None = None
    seed: int | None = 2020
    layer: str = "logits_unbiased"
    name: ClassVar[str] = "is"
    higher_is_better: ClassVar[bool] = True
    needs_real: ClassVar[bool] = False
    reads_rows: ClassVar[bool] = True
    whole_bank: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.splits < 1 or (self.split_size is not None and self.split_size < 2):
            raise ValueError(
                "IS needs at least 1 split with at least 2 images, not "
                f"splits={self.splits}, split_size={self.split_size}"
            )

    @property
    def reads_layer(self) -> str:
        return self.layer

    def __call__(self, *, fake: FeatureStatistics, real: FeatureStatistics) -> Score:
        scores = [_score(part) for part in self._parts(fake)]
        return Score(float(np.mean(scores)), float(np.std(scores)))

    def _parts(self, fake: FeatureStatistics) -> Iterator[Tensor]:
        """The logits of each split, float [m, classes]."""
        logits, n = fake.bank, len(fake.bank)
        check_banks(logits, logits)
        if n != fake.n:
            raise ValueError(
                f"IS reads every image, but the bank holds {n} of {fake.n}; keep all of them"
            )
        least = 2 * self.splits if self.split_size is None else 2
        if n < least:
            raise ValueError(f"IS needs at least {least} images for its splits, not {n}")
        if self.seed is not None:  # torch-fidelity's generator
            logits = logits[torch.from_numpy(np.random.RandomState(self.seed).permutation(n))]
        if self.split_size is not None:
            yield from logits.split(self.split_size)
            return
        ends = [i * n // self.splits for i in range(self.splits + 1)]
        yield from (logits[a:b] for a, b in zip(ends, ends[1:], strict=False))


def _score(logits: Tensor) -> float:
    """exp of the mean KL of one split, in float64."""
    log_p = logits.double().log_softmax(1)  # [m, classes]
    p = log_p.exp()
    return float((p * (log_p - p.mean(0).log())).sum(1).mean().exp())
