"""Features folded into sums, and a bank of single features.

Partial sums add, which gives resuming, many GPUs and many machines.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import cast

import torch
from torch import Tensor

from bench.types import FeatureExtractor, LayeredExtractor, layers_of


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


def spread(n: int, keep: int) -> Tensor:
    """At most `keep` of the indices 0..n-1, evenly spaced and always the same, int64."""
    return torch.arange(min(n, keep)) * n // max(min(n, keep), 1)


class _Running:
    """Sums and a bank of one layer while its batches come, on the extractor's device."""

    def __init__(self, keep: int, count: int | None):
        self.n, self.keep = 0, keep
        self.chosen = None if count is None else spread(count, keep)
        self.banks: list[Tensor] = []
        self.total = self.outer = torch.zeros(())

    def add(self, features: Tensor) -> None:
        part = Features.of(features, 0)
        self.total = part.sum if self.n == 0 else self.total + part.sum
        self.outer = part.outer if self.n == 0 else self.outer + part.outer
        self.banks.append(features[self._kept(part.n)].float().clone())
        self.n += part.n

    def _kept(self, size: int) -> Tensor | slice:
        """Rows of the next batch that go into the bank."""
        if self.chosen is None:
            return slice(0, max(0, self.keep - self.n))
        ends = torch.searchsorted(self.chosen, torch.tensor([self.n, self.n + size]))
        return self.chosen[slice(*ends.tolist())] - self.n

    def whole(self) -> Features:
        return Features(self.n, self.total.cpu(), self.outer.cpu(), torch.cat(self.banks).cpu())


def fold_layers(
    extractor: FeatureExtractor,
    images: Iterable[Tensor],
    keep: Mapping[str, int],
    count: int | None = None,
) -> dict[str, Features]:
    """Features of layers of a stream of uint8 batches [n, c, h, w], in one pass; on the CPU.

    keep: layer -> rows of its bank, in the order of the images: evenly spaced where `count` says
    how many will come, else the first. Sums are taken in float64 on the extractor's device and
    moved once, at the end. ValueError: no images, bad features.
    """
    running, n = {layer: _Running(rows, count) for layer, rows in keep.items()}, 0
    for batch in images:
        try:
            for layer, features in extract(extractor, batch, keep).items():
                running[layer].add(features)
        except ValueError as error:
            raise ValueError(f"{extractor.name}, images {n} to {n + len(batch)}: {error}") from None
        n += len(batch)
    if n == 0:
        raise ValueError(f"{extractor.name} got no images: the stream was empty")
    return {layer: one.whole() for layer, one in running.items()}


def fold(extractor: FeatureExtractor, images: Iterable[Tensor], keep: int) -> Features:
    """`fold_layers` of the layer "features" alone; the bank has `keep` rows."""
    return fold_layers(extractor, images, {"features": keep})["features"]


def extract(
    extractor: FeatureExtractor, images: Tensor, wanted: Collection[str]
) -> dict[str, Tensor]:
    """The wanted layers of uint8 images [n, c, h, w], float32 [n, dim] each.

    ValueError: a layer that the extractor does not have.
    """
    check_layers(extractor, wanted)
    if set(wanted) == {"features"}:
        return {"features": extractor(images)}
    return cast(LayeredExtractor, extractor).of_layers(images, wanted)


def check_layers(extractor: FeatureExtractor, wanted: Collection[str]) -> None:
    """ValueError unless the extractor has every wanted layer."""
    found = layers_of(extractor)
    for layer in wanted:
        if layer not in found:
            raise ValueError(f"{extractor.name} has no layer {layer!r}, only {', '.join(found)}")
