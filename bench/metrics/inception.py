"""Inception Score: how sure a classifier is of each image, and how its answers vary."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from bench.metrics.banks import check_banks
from bench.types import FeatureStatistics


@dataclass(frozen=True)
class InceptionScore:
    """exp of the mean of KL(p(y|x) || p(y)), averaged over splits (Salimans et al. 2016, sec. 4).

    It reads no real images. As it comes it is torch-fidelity's: images shuffled by `seed`, then cut
    into `splits` parts. The ADM evaluator's is `InceptionScore(split_size=5000, seed=None)`: in
    their own order, parts of 5000, of which the last may be smaller and counts as much.

    split_size: images a part, in place of `splits`.
    layer: `logits_unbiased` (both tools), `logits` with the classifier's bias, or any other whose
    softmax is p(y|x).
    """

    splits: int = 10
    split_size: int | None = None
    seed: int | None = 2020
    layer: str = "logits_unbiased"
    name: ClassVar[str] = "is"
    higher_is_better: ClassVar[bool] = True
    needs_real: ClassVar[bool] = False
    whole_bank: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.splits < 1 or (self.split_size is not None and self.split_size < 2):
            raise ValueError(
                f"IS needs at least 1 split, of 2 images or more, not splits={self.splits}, "
                f"split_size={self.split_size}"
            )

    def __call__(self, *, fake: FeatureStatistics, real: FeatureStatistics) -> float:
        return self.estimate(fake=fake)[0]

    def estimate(self, *, fake: FeatureStatistics) -> tuple[float, float]:
        """(IS, the standard deviation of its splits, over their number), as papers print it."""
        scores = [_score(part) for part in self._parts(fake)]
        return float(np.mean(scores)), float(np.std(scores))

    def _parts(self, fake: FeatureStatistics) -> Iterator[Tensor]:
        """The logits of each split, float [m, classes]."""
        logits, n = fake.bank, len(fake.bank)
        check_banks(logits, logits)
        if n != fake.n:
            raise ValueError(f"IS reads every image, but the bank holds {n} of {fake.n}; keep all")
        least = 2 * self.splits if self.split_size is None else 2
        if n < least:
            raise ValueError(f"IS of these splits needs {least} images, not {n}; add images")
        if self.seed is not None:  # torch-fidelity's generator
            logits = logits[torch.from_numpy(np.random.RandomState(self.seed).permutation(n))]
        if self.split_size is not None:
            yield from logits.split(self.split_size)
            return
        ends = [i * n // self.splits for i in range(self.splits + 1)]
        yield from (logits[a:b] for a, b in zip(ends, ends[1:], strict=False))


def _score(logits: Tensor) -> float:
    """exp mean KL of one split, in float64."""
    log_p = logits.double().log_softmax(1)  # [m, classes]
    p = log_p.exp()
    return float((p * (log_p - p.mean(0).log())).sum(1).mean().exp())
