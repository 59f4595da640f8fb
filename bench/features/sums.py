"""Features folded into sums, and a bank of single features.

Partial sums add, which gives resuming, many GPUs and many machines.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from bench.types import FeatureExtractor


@dataclass(frozen=True, eq=False)
class Features:
    """Sums over feature vectors f_i, and a bank of the first of them; `a + b` merges two sets.

    sum = sum_i f_i; outer = sum_i f_i f_i^T. Raw sums lose about log10(mean^2 / var) digits to
    cancellation, of float64's 16: at most one for EfficientNet-Lite0 (mean^2 / var is below 9).
    """

    n: int
    sum: Tensor = field(repr=False)  # float64 [dim]
    outer: Tensor = field(repr=False)  # float64 [dim, dim]
    bank: Tensor = field(repr=False)  # float32 [m, dim], m <= n

    @classmethod
    def of(cls, features: Tensor, keep: int) -> "Features":
        """Sums of float features [n, dim] and their first `keep` rows, on the features' device."""
        if features.ndim != 2 or not features.is_floating_point():
            found = f"{features.dtype} {list(features.shape)}"
            raise ValueError(f"features must be float [n, dim], not {found}")
        bad = ~torch.isfinite(features).all(1)  # [n]
        if bad.any():
            raise ValueError(
                f"{int(bad.sum())} of {len(bad)} feature vectors have NaN or infinite entries, "
                f"first in row {int(bad.nonzero()[0])}; look at the images or the weights"
            )
        rows = features.double()
        bank = features[: max(keep, 0)].float().clone()
        return cls(len(rows), rows.sum(0), rows.T @ rows, bank)

    def __add__(self, other: "Features") -> "Features":
        if self.sum.shape != other.sum.shape:
            sizes = f"{len(self.sum)} and {len(other.sum)}"
            raise ValueError(f"features of {sizes} dimensions come from different extractors")
        bank = torch.cat([self.bank, other.bank])
        return Features(self.n + other.n, self.sum + other.sum, self.outer + other.outer, bank)

    @property
    def mean(self) -> Tensor:
        """Mean vector, float64 [dim]."""
        return self.sum / self.n

    @property
    def cov(self) -> Tensor:
        """Unbiased covariance, float64 [dim, dim]: (outer - n mean mean^T) / (n - 1)."""
        if self.n < 2:
            raise ValueError(f"a covariance needs at least 2 images, not {self.n}; add images")
        return (self.outer - torch.outer(self.sum, self.mean)) / (self.n - 1)


def fold(extractor: FeatureExtractor, images: Iterable[Tensor], keep: int) -> Features:
    """Features of a stream of uint8 batches [n, c, h, w], on the CPU; the bank has `keep` rows.

    Sums are taken in float64 on the extractor's device and moved once, at the end.
    """
    n, banks, kept = 0, [], 0
    total = outer = torch.zeros(())
    for batch in images:
        try:
            part = Features.of(extractor(batch), keep - kept)
        except ValueError as error:
            raise ValueError(f"{extractor.name}, images {n} to {n + len(batch)}: {error}") from None
        total = part.sum if n == 0 else total + part.sum
        outer = part.outer if n == 0 else outer + part.outer
        banks.append(part.bank)
        n, kept = n + part.n, kept + len(part.bank)
    if n == 0:
        raise ValueError(f"{extractor.name} got no images: the stream was empty")
    return Features(n, total.cpu(), outer.cpu(), torch.cat(banks).cpu())
