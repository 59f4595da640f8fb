"""Times of a model, an extractor and the metrics on this device, from a minute of work."""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from bench import generate, store
from bench.features import Features, cache_folder, extract
from bench.judge import Judge
from bench.machine import device_name, versions
from bench.samplers import DDIM
from bench.schedules import LogSNR
from bench.types import Metric, Model, Scoring

_SLOW = 10.0  # seconds of a call after which a larger batch is not tried
_ROWS = 2_000  # features of each set that metrics are timed with, at most


@dataclass(frozen=True)
class Probe:
    """Seconds that a model takes on a device.

    evaluation: of the network, an image. image: the rest of an image: noise, decoder, features.
    fixed: of scoring, a cell: what does not depend on its images.
    row: of sums, an image. pair: of metrics that compare single images, for each pair of them.
    batch: images at once in the probe. dims: features of an image, of all layers.
    """

    evaluation: float
    image: float
    fixed: float
    row: float
    pair: float
    batch: int
    dims: int
    device: str
    where: str = field(default="", compare=False)  # the file that it is kept in

    def score(self, images: int, bank: int) -> float:
        """Seconds to score a cell. bank: single features of either set that metrics read."""
        return self.fixed + self.row * images + self.pair * min(images, bank) * bank


def probe(
    model: Model, judge: Judge, scoring: Scoring, guidance: float | None, compiled: bool,
    prepare: Callable[[Any], Any],
) -> Probe:  # fmt: skip
    """The times of a model with an extractor and metrics; those of an earlier probe, if it is kept.

    Arguments:
        compiled: whether `prepare` compiles the network, which takes another minute or more.
        prepare: Checkpoint -> Checkpoint.
    """
    identity = {
        "device": device_name(model.device), "versions": versions(), "model": model.digest,
        "dtype": scoring.dtype, "batch": scoring.batch, "guidance": guidance, "compiled": compiled,
        "features": judge.extractor.name, "metrics": [one.spec() for one in judge.metrics],
        "layers": sorted(judge.layers),
    }  # fmt: skip
    path = cache_folder() / "probes" / f"{store.digest(identity)}.json"
    if path.is_file():
        return Probe(**store.read_json(path)["seconds"], where=str(path))
    made = _measured(prepare(model), judge, scoring, guidance)
    kept = {key: value for key, value in asdict(made).items() if key != "where"}
    store.write_json(path, {"seconds": kept, "of": identity})
    return Probe(**kept, where=str(path))


def _measured(model: Model, judge: Judge, scoring: Scoring, guidance: float | None) -> Probe:
    """Two samplings of different length tell the network from the rest."""
    gpu = model.device.startswith("cuda")
    batch, evaluation, decode = scoring.batch if gpu else 1, 0.0, 0.0
    while True:
        try:
            first, images = _sampled(model, 1, batch, guidance)  # a warm-up; it may compile
            again = first if first > _SLOW and not gpu else _sampled(model, 1, batch, guidance)[0]
            if again > _SLOW:
                evaluation, decode = again / batch, 0.0
            else:
                longer, images = _sampled(model, 3, batch, guidance)
                evaluation = max(longer - again, 0.0) / 2 / batch
                decode = max(again / batch - evaluation, 0.0)
        except (RuntimeError, MemoryError):  # out of memory
            if batch == 1:
                raise
            batch //= 2
            continue
        if gpu or batch >= scoring.batch or again * 16 > _SLOW:
            break
        batch = min(4 * batch, scoring.batch)
    seconds, dims = _features(images, judge)
    return Probe(
        evaluation, decode + seconds, *_scoring(judge, dims, scoring.bank), batch,
        sum(dims.values()), device_name(model.device),
    )  # fmt: skip


def _sampled(
    model: Model, nfe: int, batch: int, guidance: float | None
) -> tuple[float, torch.Tensor]:
    """Seconds to make a batch with so many evaluations, and its images."""
    grid = LogSNR()(nfe, model.process)
    start = time.perf_counter()
    ((images, _),) = generate.images(model, DDIM(), grid, range(batch), batch, guidance)
    images = images.cpu()  # waits for a GPU
    return time.perf_counter() - start, images


def _features(images: torch.Tensor, judge: Judge) -> tuple[float, dict[str, int]]:
    """Seconds an image, and layer -> dimensions."""
    gpu = torch.cuda.is_available()
    group = images[: 256 if gpu else 8]
    layers = tuple(judge.layers)
    extract(judge.extractor, group, layers)
    start = time.perf_counter()
    found = {layer: rows.cpu() for layer, rows in extract(judge.extractor, group, layers).items()}
    return (time.perf_counter() - start) / len(group), {k: v.shape[1] for k, v in found.items()}


def _scoring(judge: Judge, dims: dict[str, int], bank: int) -> tuple[float, float, float]:
    """`fixed`, `row` and `pair` of a probe, with random features."""
    count, draw = min(_ROWS, bank), torch.Generator().manual_seed(0)
    fixed = row = pair = 0.0
    made: dict[str, list[Features]] = {}
    for layer, dim in dims.items():
        rows = torch.randn(2, count, dim, generator=draw)
        start = time.perf_counter()
        made[layer] = [Features.of(one, count) for one in rows]
        row += (time.perf_counter() - start) / 2 / count
    for metric in judge.metrics:
        seconds = _of_metric(metric, *made[metric.reads_layer])
        if metric.reads_rows:
            pair += seconds / count**2
        else:
            fixed += seconds
    return fixed, row, pair


def _of_metric(metric: Metric, fake: Features, real: Features) -> float:
    start = time.perf_counter()
    try:
        metric(fake=fake, real=real)
    except ValueError:  # it needs more images than there are here
        return 0.0
    return time.perf_counter() - start
