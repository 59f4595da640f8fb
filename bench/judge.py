"""The only scorer: features of two sets of images -> scores with their errors and protocol.

A run, `crs-bench score`, `crs-bench rescore` and `bench.score` all open a `Judge` and ask it.
"""

import math
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

from bench import features as feature_room
from bench import metrics as metric_room
from bench import names
from bench.data import ImageSet, has_own_format, open_images
from bench.features import Features, Reference
from bench.lazy import Tensor
from bench.metrics import interval, paired_interval
from bench.metrics.frechet import gaussian_of
from bench.store import digest
from bench.types import Extractor, FeatureStatistics, Metric, Score, label_of

Fake = Mapping[str, Features]  # layer -> features of generated images


@dataclass(frozen=True, eq=False)
class Judge:
    """Metrics on the features of one extractor, against one reference.

    bank: single features of either set that metrics read, at most; None: all.
    resampled: whether single features are kept of every layer, as intervals need.
    real: layer -> the reference; empty where no metric reads one.
    device: of torch. Images are embedded there, and all scores are taken there.
    """

    extractor: Extractor
    metrics: tuple[Metric, ...]
    bank: int | None = None
    resampled: bool = False
    real: Mapping[str, Reference] = field(default_factory=dict, repr=False)
    device: str = "cpu"

    @classmethod
    def open(
        cls,
        reference: str | Path | Tensor | ImageSet,
        features: str,
        metrics: Sequence[str],
        device: str,
        bank: int | None = None,
        real_bank: int | None = None,
        resampled: bool = False,
    ) -> "Judge":
        """Open extractor, metrics and reference, before any generated image is read.

        Arguments:
            reference: a name; the path of an .npz of statistics; or real images: a folder, zip or
                array on disk, an open `ImageSet`, or uint8 [n, c, h, w].
            features, metrics: as the command line writes them.
            device: of torch.
            bank, resampled: as of the class.
            real_bank: the same, of the real set alone.

        Raises:
            ValueError: an unknown name; a layer that the extractor or the reference lacks; a
                reference with fewer single features than a metric needs.
        """
        extractor = extractor_of(features, device)
        found = metrics_of(metrics, extractor)
        readers = [metric for metric in found if metric.needs_real]
        if not readers:
            return cls(extractor, found, bank, resampled, device=device)
        most = real_bank or bank or sys.maxsize
        rows = most if any(metric.reads_rows for metric in readers) else 0
        real = _real(reference, extractor, rows, [metric.reads_layer for metric in readers])
        _check_rows(readers, real)
        real = real.to(device)
        _check_moments(real)
        return cls(extractor, found, bank, resampled, real.by_layer, device)

    @property
    def layers(self) -> dict[str, int]:
        """Layer that a metric reads -> single generated features that are kept of it."""
        kept: dict[str, int] = {}
        for metric in self.metrics:
            most = sys.maxsize if metric.whole_bank or not self.bank else self.bank
            rows = most if self.resampled else self.rows(metric)
            kept[metric.reads_layer] = max(rows, kept.get(metric.reads_layer, 0))
        return kept

    def rows(self, metric: Metric) -> int:
        """Single generated features that a metric reads, at most."""
        most = sys.maxsize if metric.whole_bank or not self.bank else self.bank
        return most if metric.reads_rows else 0

    @property
    def columns(self) -> dict[str, Metric]:
        """Name in tables -> metric: its own name, with its fields where the name is taken.

        Where two have one name, it goes to the one with default fields.
        """

        def has_fields(pair: tuple[int, Metric]) -> bool:
            return long_name(pair[1]) != pair[1].name

        taken: dict[int, str] = {}
        for i, metric in sorted(enumerate(self.metrics), key=has_fields):
            taken[i] = free_name(metric.name, long_name(metric), taken.values())
        return {taken[i]: metric for i, metric in enumerate(self.metrics)}

    def fold(self, images: Iterable[Tensor], count: int | None = None) -> dict[str, Features]:
        """Features of a stream of uint8 batches [n, c, h, w], by layer, one batch at a time.

        They are kept in the cache by the content of the images.

        Arguments:
            count: how many images will come. With it the single features that are kept are evenly
                spaced; without it they are the first.
        """
        groups = (
            {layer: rows.to(self.device) for layer, rows in group.items()}
            for group in feature_room.embedded(self.extractor, images, tuple(self.layers))
        )
        found = feature_room.fold_rows(groups, self.layers, count, self.extractor.name)
        return {layer: one.to(self.device) for layer, one in found.items()}

    def score(self, metric: Metric, fake: Fake) -> Score:
        """The score of a set by one metric.

        Raises:
            ValueError: what the metric refuses; a metric that gives no `Score`.
        """
        found = metric(**self._pair(metric, fake))
        if not isinstance(found, Score):
            raise ValueError(f"{metric!r} gave {found!r}: a metric returns bench.Score(value)")
        if not math.isfinite(found.value):
            raise ValueError(f"{metric!r} gave {found.value}, which is no score; check the images "
                             "and the reference")  # fmt: skip
        return found

    def scores(self, fake: Fake) -> dict[str, Score]:
        """Name in tables -> score."""
        return {name: self.score(metric, fake) for name, metric in self.columns.items()}

    def protocol(self, metric: Metric) -> dict[str, Any]:
        """What a score depends on beside the images."""
        real = self.real.get(metric.reads_layer) if metric.needs_real else None
        found: dict[str, Any] = {
            "metric": metric.spec(), "text": repr(metric), "features": self.extractor.name,
            "features_digest": self.extractor.digest,
        }  # fmt: skip
        if real is not None:
            found |= {"reference": real.name, "reference_digest": real.digest,
                      "reference_n": real.n}  # fmt: skip
        if metric.reads_rows:
            found["bank"] = self.bank if real is None else len(real.bank)
        return found

    def identity(self, metric: Metric) -> str:
        """A digest of `protocol`: with the key of the images it makes the key of a score."""
        names = ("metric", "features", "features_digest", "reference_digest", "bank")
        return digest({name: self.protocol(metric).get(name) for name in names})

    def interval(self, metric: Metric, fake: Fake, replicates: int) -> tuple[float, float]:
        """95 % interval of a metric's mean over fresh sets of images: see `metrics.interval`."""
        return interval(metric, **self._pair(metric, fake), replicates=replicates)

    def intervals(self, fake: Fake, replicates: int) -> dict[str, tuple[float, float]]:
        """Name in tables -> interval."""
        return {
            name: self.interval(metric, fake, replicates) for name, metric in self.columns.items()
        }

    def differences(
        self, fake: Fake, other: Fake, replicates: int
    ) -> dict[str, tuple[float, float]]:
        """Name in tables -> 95 % interval of score(fake) - score(other), for two sets whose i-th
        images have the same seed: see `paired_interval`."""
        found = {}
        for name, metric in self.columns.items():
            pair, layer = self._pair(metric, other), metric.reads_layer
            found[name] = paired_interval(
                metric, fake[layer], pair["fake"], pair["real"], replicates
            )
        return found

    def _pair(self, metric: Metric, fake: Fake) -> dict[str, Any]:
        """Arguments of a metric; one that reads no real set gets the generated set twice."""
        layer = metric.reads_layer
        real: FeatureStatistics = self.real[layer] if metric.needs_real else fake[layer]
        return {"fake": fake[layer], "real": real}


def long_name(metric: Metric) -> str:
    """`precision(k=5)`: a metric's name with the fields that its label shows."""
    return metric.name + metric.label[len(label_of(metric.spec() | {"fields": {}})) :]


def free_name(name: str, longer: str, taken: Collection[str]) -> str:
    """A column's name that is not taken: the first of two that is free, else one with a number."""
    for one in (name, longer):
        if one not in taken:
            return one
    return next(one for i in count(2) if (one := f"{longer} #{i}") not in taken)


def extractor_of(text: str, device: str) -> Extractor:
    """A feature extractor as the command line writes it, on a device.

    Raises:
        ValueError: no such extractor; missing weights; a class that is no `Extractor`.
    """
    made = names.build(text, feature_room, role=Extractor)
    if not isinstance(made, Extractor):
        raise ValueError(f"{text} is no feature extractor: derive its class from bench.Extractor")
    return made.on(device)


def extractor_classes() -> dict[str, type[Extractor]]:
    """Name -> class of each extractor of this package."""
    found = names.public(feature_room)
    return {name: kind for name, kind in found.items() if issubclass(kind, Extractor)}


def extractors() -> dict[str, str]:
    """Class of an extractor -> why it cannot be used here with its default fields, or ""."""
    found = {}
    for name, kind in extractor_classes().items():
        try:
            kind()
            found[name] = ""
        except (ValueError, OSError) as error:
            found[name] = str(error)
    return found


def metrics_of(forms: Sequence[str], extractor: Extractor) -> tuple[Metric, ...]:
    """Metrics as the command line writes them.

    Raises:
        ValueError: an unknown metric; the same one twice; a layer that the extractor lacks; a class
            that is no `Metric`.
    """
    found: list[Metric] = []
    for text in forms:
        metric = names.build(text, metric_room, role=Metric)
        if not isinstance(metric, Metric):
            raise ValueError(f"{text} is no metric: derive its class from bench.Metric")
        if metric in found:
            raise ValueError(f"metric {text} is asked for twice; leave one out")
        if metric.reads_layer not in extractor.layers:
            able = [name for name, kind in extractor_classes().items()
                    if metric.reads_layer in kind.layers]  # fmt: skip
            raise ValueError(
                f"{metric.name} reads the layer {metric.reads_layer!r}, which {extractor.name} "
                f"does not have; extractors that do: {', '.join(able) or 'none'}"
            )
        found.append(metric)
    return tuple(found)


def _real(
    reference: str | Path | Tensor | ImageSet, extractor: Extractor, rows: int,
    layers: Sequence[str],
) -> Reference:  # fmt: skip
    """The real set: a reference by name or file, or images that are read now."""
    if isinstance(reference, str | Path) and not are_images(reference):
        others = tuple(dict.fromkeys(layer for layer in layers if layer != "features"))
        return feature_room.load_reference(reference, extractor, rows, others)
    keep = {one: rows if one in extractor.banked else 0 for one in ("features", *layers)}
    if isinstance(reference, Tensor):
        return feature_room.reference_of(
            reference.split(256), extractor, keep, "images", len(reference)
        )
    images = reference if isinstance(reference, ImageSet) else open_images(reference)
    about = f"{extractor.name} features of {images.path}"
    shown = feature_room.barred(images.stream(256), len(images), about)
    return feature_room.reference_of(shown, extractor, keep, str(images.path), len(images))


def real_images(reference: str | Path, extractor: Extractor, count: int) -> Tensor | None:
    """The first images of a reference, uint8 [at most count, c, h, w]. None: it holds none.

    Raises:
        ValueError: there is no such reference, or it is damaged.
    """
    if are_images(reference):
        return next(iter(open_images(Path(reference)).stream(count)))
    return feature_room.first_images(reference, extractor, count)


def are_images(reference: str | Path) -> bool:
    """Whether a reference is a set of images on disk: no known name, and no .npz of statistics."""
    path = Path(reference)
    if str(reference) in feature_room.known_references():
        return False
    if path.is_dir() or (path.is_file() and path.suffix.lower() in (".zip", ".npy")):
        return True
    return has_own_format(path)


def _check_moments(reference: Reference) -> None:
    """ValueError, naming the reference, unless its statistics are those of real features."""
    for layer, found in reference.by_layer.items():
        try:
            gaussian_of(found).root  # noqa: B018 - kept for the scores
        except ValueError as error:
            raise ValueError(f"reference {reference.name}, {layer}: {error}") from None


def _check_rows(metrics: Sequence[Metric], reference: Reference) -> None:
    """ValueError unless the reference keeps as many single features as the metrics need."""
    for metric in metrics:
        rows = len(reference.by_layer[metric.reads_layer].bank)
        if rows < metric.least_rows:
            raise ValueError(
                f"{metric.name} needs at least {metric.least_rows} single features of the real "
                f"set, but reference {reference.name} keeps {rows}; make one that "
                "keeps more with crs-bench reference ... --bank 10000, give the metric a smaller "
                "field, such as kid(subset_size=50), or leave it out"
            )


def score(
    x: Tensor | Iterable[Tensor],
    reference: str | Path | Tensor = "fashion-mnist",
    features: str = "effnet-lite0",
    metrics: Sequence[str] = ("fd", "precision", "recall"),
    device: str = "cpu",
) -> dict[str, float]:
    """Scores of images against a reference.

    Arguments:
        x: uint8 [n, c, h, w], or a stream of such batches, of which one is held at a time.
        reference: a name; the path of an .npz of statistics; a folder, zip or array of real images;
            or real images, uint8 [n, c, h, w].
        features, metrics: as the command line writes them.
        device: of torch, for the features and the scores.

    Returns:
        Name of the metric -> value.

    Raises:
        ValueError: what `Judge.open` refuses; images that are not uint8 [n, c, h, w]; too few.
    """
    judge = Judge.open(reference, features, metrics, device)
    fake = judge.fold(x.split(256) if isinstance(x, Tensor) else x)
    return {name: found.value for name, found in judge.scores(fake).items()}


def cautions(
    n: int, lossy: int, shape: tuple[int, ...], features: str, real: tuple[int, ...] = ()
) -> list[str]:
    """Why a score should not be compared with others.

    Arguments:
        n: number of images; lossy: how many of them have lossy compression.
        shape: of an image, [c, h, w].
        real: of an image of the reference; () if it is not known.
    """
    found = []
    if n < 50_000:
        found.append(f"{n:,} images: published FIDs use 50,000, and fewer images score higher")
    if lossy:
        found.append(f"{lossy:,} of the images have lossy compression, as JPEGs have, and it "
                     "counts as a difference; save samples as PNG")  # fmt: skip
    if shape[0] == 1 and "effnet" not in features:
        found.append("grey images were repeated to three channels")
    if real and real[1:] != shape[1:]:
        sizes = [f"{height} x {width}" for height, width in (shape[1:], real[1:])]
        found.append(f"images of {sizes[0]} against a reference of {sizes[1]}: resizing counts as "
                     "a difference")  # fmt: skip
    return found
