"""Images of any kind against a reference, outside of an experiment."""

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from bench import features as room
from bench.lab import (
    banks_of,
    check_reference,
    extractor_of,
    metrics_of,
    reference_layers,
    scores_of,
)
from bench.metrics import interval, paired_interval
from bench.types import FeatureExtractor, Metric, layer_of, needs_real


@dataclass(frozen=True)
class Judge:
    """Metrics on one extractor's features against one reference, opened before any image is."""

    extractor: FeatureExtractor
    metrics: tuple[Metric, ...]
    real: Mapping[str, room.Reference] = field(default_factory=dict, repr=False)  # by layer

    @classmethod
    def open(
        cls, reference: str | Path, features: str, metrics: Sequence[str], device: str
    ) -> "Judge":
        """The reference is not opened where no metric reads one. ValueError: unknown reference,
        extractor or metric, a layer that either lacks, a reference with too few single features."""
        extractor = extractor_of(features, device)
        found = metrics_of(metrics, extractor)
        if not any(needs_real(metric) for metric in found):
            return cls(extractor, found)
        real = room.load_reference(reference, extractor, layers=reference_layers(found))
        check_reference(found, real)
        return cls(extractor, found, real.by_layer)

    def fold(
        self, images: Iterable[Tensor], count: int | None = None, bank: int | None = None
    ) -> dict[str, room.Features]:
        """Features of a stream of uint8 batches [n, c, h, w], by layer, one batch at a time.

        bank: single features that are kept, at most; evenly spaced where `count` says how many
        images there are. None keeps all.
        """
        keep = banks_of(self.metrics, bank or sys.maxsize)
        return room.fold_layers(self.extractor, images, keep, count)

    def scores(self, fake: Mapping[str, room.Features]) -> dict[str, float]:
        """Metric name -> score."""
        return scores_of(self.metrics, fake, self.real)

    def identity(self, fake: Mapping[str, room.Features]) -> dict[str, Any]:
        """What the scores depend on beside the images: digests, definitions, sizes of banks."""
        real = self.real.get("features")
        return {
            "metrics": [repr(metric) for metric in self.metrics],
            "extractor_digest": self.extractor.digest,
            "bank": {layer: len(one.bank) for layer, one in fake.items()},
        } | ({} if real is None else {
            "reference_digest": real.digest, "reference_n": real.n, "reference_bank": len(real.bank)
        })  # fmt: skip

    def intervals(
        self, fake: Mapping[str, room.Features], replicates: int
    ) -> dict[str, tuple[float, float]]:
        """Metric name -> where its mean over fresh sets of images lies, 95 %: see `interval`."""
        return {
            metric.name: interval(metric, *self._pair(metric, fake), replicates)
            for metric in self.metrics
        }

    def differences(
        self, fake: Mapping[str, room.Features], other: Mapping[str, room.Features], replicates: int
    ) -> dict[str, tuple[float, float]]:
        """Metric name -> where score(fake) - score(other) lies, 95 %, for two sets whose i-th
        images are of one seed: see `paired_interval`."""
        return {
            metric.name: paired_interval(
                metric, fake[layer_of(metric)], *self._pair(metric, other), replicates
            )
            for metric in self.metrics
        }

    def _pair(
        self, metric: Metric, fake: Mapping[str, room.Features]
    ) -> tuple[room.Features, room.Features | room.Reference]:
        """Generated and real features that a metric reads; the former twice if it reads one set."""
        layer = layer_of(metric)
        return fake[layer], self.real[layer] if needs_real(metric) else fake[layer]


def score(
    x: Tensor | Iterable[Tensor],
    reference: str | Path = "fashion-mnist",
    features: str = "effnet-lite0",
    metrics: Sequence[str] = ("fd", "precision", "recall"),
    device: str = "cpu",
) -> dict[str, float]:
    """Scores of uint8 images x [n, c, h, w], or a stream of batches of them, against a reference:
    metric name -> float. Of a stream one batch is held at a time, and the features that the metrics
    need one by one.

    ValueError: what `Judge.open` refuses, images that are not uint8 NCHW, too few.
    """
    judge = Judge.open(reference, features, metrics, device)
    return judge.scores(judge.fold(x.split(256) if isinstance(x, Tensor) else x))


def cautions(
    n: int, lossy: int, shape: tuple[int, ...], features: str, real: tuple[int, ...] = ()
) -> list[str]:
    """Why a score of n images [c, h, w], of which `lossy` are JPEGs, is not comparable as it is.

    real: [c, h, w] of the reference's images, () if not known.
    """
    found = []
    if n < 50_000:
        found.append(f"{n:,} images: published FIDs are of 50,000, and fewer score higher")
    if lossy:
        found.append(f"{lossy:,} of the images are JPEGs, whose losses count as a difference; "
                     "save samples as PNG")  # fmt: skip
    if shape[0] == 1 and "effnet" not in features:
        found.append("grey images were repeated to three channels")
    if real and real[1:] != shape[1:]:
        sizes = [f"{height} x {width}" for height, width in (shape[1:], real[1:])]
        found.append(f"images of {sizes[0]} against a reference of {sizes[1]}: resizing counts as "
                     "a difference")  # fmt: skip
    return found
