"""Sums of features, and banks, which are features of single images.

Partial sums can be added, so that a run can be stopped and continued, or split among machines.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from bench.data.arrays import spread
from bench.lazy import Tensor, torch
from bench.types import Extractor


@dataclass(frozen=True, eq=False)
class Features:
    """Sums over the feature vectors f_i of a set, and a bank of some of them.

    `a + b` merges two sets. A covariance from raw sums loses about log10(mean^2 / var) of the 16
    digits of float64. For EfficientNet-Lite0, mean^2 / var is below 9, so it loses at most one.

    n: number of vectors.
    sum: sum_i f_i.
    outer: sum_i f_i f_i^T.
    bank: single vectors.
    """

    n: int
    sum: Tensor = field(repr=False)  # float64 [dim]
    outer: Tensor = field(repr=False)  # float64 [dim, dim]
    bank: Tensor = field(repr=False)  # float32 [m, dim], m <= n

    @classmethod
    def of(cls, features: Tensor, keep: int) -> "Features":
        """Sums of features, and a bank of the first `keep` of them, on the device of the features.

        Arguments:
            features: float [n, dim].

        Raises:
            ValueError: another shape or dtype, or features that are not finite.
        """
        if features.ndim != 2 or not features.is_floating_point():
            found = f"{features.dtype} {list(features.shape)}"
            raise ValueError(f"features must be float [n, dim], not {found}")
        bad = ~torch.isfinite(features).all(1)  # [n]
        if bad.any():
            raise ValueError(
                f"{int(bad.sum())} of {len(bad)} feature vectors have NaN or infinite entries, "
                f"the first in row {int(bad.nonzero()[0])}; check the images and the weights"
            )
        rows = features.double()
        bank = features[: max(keep, 0)].float().clone()
        return cls(len(rows), rows.sum(0), rows.T @ rows, bank)

    def __add__(self, other: "Features") -> "Features":
        if self.sum.shape != other.sum.shape:
            sizes = f"{len(self.sum)} and {len(other.sum)}"
            raise ValueError(
                f"features of {sizes} dimensions come from different extractors; "
                "use the same extractor for both"
            )
        bank = torch.cat([self.bank, other.bank])
        return Features(self.n + other.n, self.sum + other.sum, self.outer + other.outer, bank)

    def to(self, device: str) -> "Features":
        """The same on a torch device."""
        moved = (x.to(device) for x in (self.sum, self.outer, self.bank))
        return Features(self.n, *moved)

    @property
    def mean(self) -> Tensor:
        """Mean vector, float64 [dim]."""
        return self.sum / self.n

    @property
    def cov(self) -> Tensor:
        """Unbiased covariance, float64 [dim, dim]: (outer - n mean mean^T) / (n - 1).

        Raises:
            ValueError: fewer than 2 images.
        """
        if self.n < 2:
            raise ValueError(f"a covariance needs at least 2 images, not {self.n}; add images")
        return (self.outer - torch.outer(self.sum, self.mean)) / (self.n - 1)


class _Running:
    """Sums and a bank of one layer, to which batches are added, on the device of the extractor."""

    def __init__(self, keep: int, count: int | None):
        self.n, self.keep = 0, keep
        self.chosen = None if count is None else torch.from_numpy(spread(count, keep))
        self.banks: list[Tensor] = []
        self.total = self.outer = torch.zeros(())

    def add(self, features: Tensor) -> None:
        part = Features.of(features, 0)
        self.total = part.sum if self.n == 0 else self.total + part.sum
        self.outer = part.outer if self.n == 0 else self.outer + part.outer
        self.banks.append(features[self._kept(part.n)].float().clone())
        self.n += part.n

    def _kept(self, size: int) -> Tensor | slice:
        """The rows of the next batch that belong to the bank."""
        if self.chosen is None:
            return slice(0, max(0, self.keep - self.n))
        ends = torch.searchsorted(self.chosen, torch.tensor([self.n, self.n + size]))
        return self.chosen[slice(*ends.tolist())] - self.n

    def whole(self) -> Features:
        return Features(self.n, self.total.cpu(), self.outer.cpu(), torch.cat(self.banks).cpu())


Rows = Mapping[str, Tensor]  # layer -> features of some images, float32 [m, dim]


def fold_rows(
    rows: Iterable[Rows], keep: Mapping[str, int], count: int | None = None, name: str = ""
) -> dict[str, Features]:
    """Features of single images, which come in groups, as sums and banks.

    The sums are computed in float64 on the device of the features, and moved to the CPU at the
    end.

    Arguments:
        rows: one group after the other.
        keep: layer -> rows of its bank, in the order of the images.
        count: number of all images. With it the rows of the bank are evenly spaced; without it
            they are the first ones.
        name: of the extractor, for messages.

    Returns:
        layer -> its features, on the CPU.

    Raises:
        ValueError: no images, or features that are not finite.
    """
    running, n = {layer: _Running(most, count) for layer, most in keep.items()}, 0
    for group in rows:
        try:
            for layer, one in running.items():
                one.add(group[layer])
        except ValueError as error:
            raise ValueError(f"{name}, images from {n}: {error}") from None
        n += len(next(iter(group.values())))
    if n == 0:
        raise ValueError(f"{name} got no images; check where they are read from")
    return {layer: one.whole() for layer, one in running.items()}


def fold_layers(
    extractor: Extractor,
    images: Iterable[Tensor],
    keep: Mapping[str, int],
    count: int | None = None,
) -> dict[str, Features]:
    """`fold_rows` of a stream of images, in one pass.

    Arguments:
        images: batches, uint8 [n, c, h, w].
        keep, count: as of `fold_rows`.

    Raises:
        ValueError: as `fold_rows`; a layer that does not exist.
    """
    return fold_rows(_extracted(extractor, images, keep), keep, count, extractor.name)


def _extracted(
    extractor: Extractor, images: Iterable[Tensor], layers: Collection[str]
) -> Iterator[Rows]:
    at = 0
    for batch in images:
        try:
            yield extract(extractor, batch, layers)
        except ValueError as error:
            raise ValueError(f"{extractor.name}, images from {at}: {error}") from None
        at += len(batch)


def fold(extractor: Extractor, images: Iterable[Tensor], keep: int) -> Features:
    """`fold_layers` of the layer "features", with a bank of at most `keep` rows."""
    return fold_layers(extractor, images, {"features": keep})["features"]


def extract(extractor: Extractor, images: Tensor, wanted: Collection[str]) -> dict[str, Tensor]:
    """`Extractor.of_layers` after a check of the layers.

    Raises:
        ValueError: a layer that the extractor does not have.
    """
    check_layers(extractor, wanted)
    return extractor.of_layers(images, wanted)


def check_layers(extractor: Extractor, wanted: Collection[str]) -> None:
    """Check that the extractor has every wanted layer.

    Raises:
        ValueError: it has not.
    """
    for layer in wanted:
        if layer not in extractor.layers:
            known = ", ".join(extractor.layers)
            raise ValueError(f"{extractor.name} has no layer {layer!r}, only {known}")
