"""Whole cells by the run's own path, from noise to scores, beside the rate of the network alone.

Nothing that a worker does once is timed: each opens its models, compiles and makes a shard before.
"""

import gc
import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from bench import plan, store
from bench.benchmarks.record import Reading, seconds_of, wait
from bench.benchmarks.sampling import dtype_of
from bench.benchmarks.scoring import features_like, random_inception
from bench.benchmarks.throughput import alone, forget
from bench.benchmarks.untrained import NETWORKS, write_untrained
from bench.checkpoints import Checkpoint, Models, find_card, find_family
from bench.engines import Crew, Engine, InProcess
from bench.features import Features, save_reference
from bench.judge import extractor_of
from bench.plan import Bench, Planned
from bench.progress import Progress
from bench.run import fill, opened
from bench.samplers import DDIM
from bench.schedules import Karras
from bench.types import Block, Experiment, Scoring

_WARM = "warm-up"
_LEAST = 8  # images of a shard: precision and recall need some neighbours
_REAL = 10_000  # rows of a random reference


@dataclass(frozen=True)
class Cells:
    """The cells to time, and the folder of what was made for them.

    experiment: has a block for each cell, and one for the warm-up.
    """

    experiment: Experiment
    models: Models
    device: str
    prepare: Callable[[Checkpoint], Checkpoint]
    folder: Path = field(repr=False)


@contextmanager
def cells_of(
    model: str,
    nfe: int,
    images: int,
    cells: int,
    workers: int,
    scoring: Scoring,
    models: Models,
    device: str,
    prepare: Callable[[Any], Any],
) -> Iterator[Cells]:
    """Cells of a model, one after the other.

    Arguments:
        model: one of `NETWORKS`, with random weights; or what `models` knows.
        images: of each cell.
        workers: the most that will work at once. Each gets several shards.
        scoring: its reference may be "": random features. Where the weights of the features
            "inception" are missing, they are random. Its shard is chosen here.

    Raises:
        ValueError: too few images for shards of one size; what `run` refuses.
    """
    if min(nfe, cells, workers) < 1:
        raise ValueError("--nfe, --cells and --workers must be at least 1")
    shard = _shard(images, scoring.batch, workers)
    if model not in NETWORKS:
        find_card(model, models)  # a wrong name is reported before the reference is read
    with TemporaryDirectory() as name:
        folder = Path(name)
        if model in NETWORKS:
            write_untrained(model, folder)
            models = Models(folder)
        features = _features(scoring.features, folder)
        reference = scoring.reference or _random(features, model, models, device, folder)
        changed = replace(scoring, features=features, reference=reference, shard=shard)
        ends = [images * i for i in range(cells + 1)]
        blocks = [Block(f"cell {i + 1}", range(*ends[i : i + 2]), (nfe,)) for i in range(cells)]
        warm = Block(_WARM, range(ends[-1], ends[-1] + workers * shard), (nfe,))
        experiment = Experiment(
            "timed", "whole cells", model, {"Karras": Karras()}, (DDIM(),), (*blocks, warm),
            scoring=changed,
        )  # fmt: skip
        yield Cells(experiment, models, device, prepare, folder)


def _shard(images: int, batch: int, workers: int) -> int:
    """Images of a shard: the most, up to 1,000, so that all shards of a cell have one size, each
    worker gets four or more, and, if that can be, batches are full.

    A shard of another size would time how cuDNN tries its kernels for it.
    """
    sizes = [one for one in range(_LEAST, min(1_000, images // (4 * workers)) + 1)
             if images % one == 0]  # fmt: skip
    if not sizes:
        raise ValueError(f"--images {images}: take a multiple of {4 * _LEAST * workers}, so that "
                         f"{workers} workers have four shards or more")  # fmt: skip
    return max([one for one in sizes if one % batch == 0] or sizes)


def _features(text: str, folder: Path) -> str:
    """The extractor to use: for "inception", the one of FID, with random weights if there are no
    others."""
    if text != "inception":
        return text
    try:
        extractor_of("inception-v3-compat", "cpu")
        return "inception-v3-compat"
    except ValueError:
        return f"inception-v3-compat(weights={str(random_inception(folder / 'inception.pth'))!r})"


def _random(text: str, model: str, models: Models, device: str, folder: Path) -> str:
    """A reference of random features."""
    extractor, card = extractor_of(text, device), find_card(model, models)
    shape = card.codec.image if card.codec else find_family(card.family).shape(card)
    dim = extractor(torch.zeros(2, *shape, dtype=torch.uint8)).shape[1]
    made = {"extractor": extractor.name, "extractor_digest": extractor.digest}
    features = Features.of(features_like(_REAL, dim, 0), _REAL)
    return str(save_reference(folder / "random.npz", features, made))


class _Bar(Progress):
    """A bar that is not shown, and knows when scoring began."""

    def __init__(self) -> None:
        super().__init__(disable=True)
        self.began: list[float] = []

    def scored(self, seconds: float) -> None:
        self.began.append(time.perf_counter() - seconds)
        super().scored(seconds)


@dataclass(frozen=True)
class _Timed:
    """seconds: of all cells. after: of these, after the last shard. records: of the cells.

    rates: images a second of the network alone, before and after; in the run's own process only.
    """

    seconds: float
    after: float
    records: list[dict[str, Any]]
    rates: list[float]
    about: dict[str, Any]

    @property
    def sampling(self) -> float:
        """Seconds until the last shard was there."""
        return self.seconds - self.after


def time_cells(
    cells: Cells, engines: Sequence[tuple[str, int, Engine]], seconds: float = 4.0
) -> list[Reading]:
    """Time the network alone, the cells in this process, and the cells with each engine.

    Arguments:
        engines: (name, number of workers, engine).
        seconds: of the network alone, before the cells and after them.

    Returns:
        `network alone` has the seconds of a call. Others have those of all cells, and
        images_a_second: of the whole, with the scores.
        speedup: over the first reading of the same engine with one worker. sampling_speedup: the
            same, until the last shard is there.
        efficiency: evaluations a second over those of the network alone on as many devices.
        sampling: the same, until the last shard is there. The next cell would begin then.
        in_shards: part of the workers' time that they spent in shards.
        after_shards: seconds after the last shard. score_seconds: of all scores.
    """
    own = _timed(cells, InProcess(), seconds)
    _release(cells.device)
    rate = statistics.mean(own.rates)
    batch = own.about["batch"]
    network = own.about | {"images_a_second": rate, "rates": own.rates}
    found = [Reading("network alone", batch / rate, network),
             _reading(cells, "in-process", 1, own, rate, None)]  # fmt: skip
    ones: dict[str, _Timed] = {}
    for name, count, engine in engines:
        timed = _timed(cells, engine, 0)
        if count == 1:
            ones.setdefault(name, timed)
        found.append(_reading(cells, name, count, timed, rate, ones.get(name)))
    return found


def _timed(cells: Cells, engine: Engine, seconds: float) -> _Timed:
    """Warm an engine's workers up, then time the cells."""
    with TemporaryDirectory(dir=cells.folder) as folder:
        bench, workers = opened(
            cells.experiment, Path(folder), cells.models, cells.device, cells.prepare, engine
        )
        planned = plan.scored(bench, {}, {})
        warm = [one for one in planned if one.row["block"] == _WARM]
        timed = [one for one in planned if one.row["block"] != _WARM]
        with _Bar() as bar, workers as crew:
            crew.muster()
            fill(bench, warm, crew, bar)
            rates = _rates(bench, warm[0], seconds)
            took, after = _filled(bench, timed, crew, bar)
            rates += _rates(bench, warm[0], seconds)
        records = [store.load_record(bench.folder, one.key) for one in timed]
        return _Timed(took, after, [one for one in records if one], rates, _about(bench))


def _filled(bench: Bench, cells: Sequence[Planned], crew: Crew, bar: _Bar) -> tuple[float, float]:
    """Seconds of cells, and those of them after the last shard."""
    wait(bench.device)
    bar.began.clear()
    start = time.perf_counter()
    fill(bench, cells, crew, bar)
    end = time.perf_counter()
    return end - start, end - max(bar.began)


def _rates(bench: Bench, warm: Planned, seconds: float) -> list[float]:
    """Images a second of the network alone, which is the one that made the warm-up."""
    if not seconds:
        return []
    (model,) = bench.models.values()
    assert isinstance(model, Checkpoint)
    batch, calls = min(bench.scoring.batch, bench.scoring.shard), warm.cell.nfe
    one = min(seconds_of(alone(model, batch, calls), bench.device) for _ in range(2))
    calls *= math.ceil(seconds / one)
    return [batch * calls / seconds_of(alone(model, batch, calls), bench.device)]


def _about(bench: Bench) -> dict[str, Any]:
    """What all readings share."""
    (model,) = bench.models.values()
    assert isinstance(model, Checkpoint)
    batch = min(bench.scoring.batch, bench.scoring.shard)
    return {"network": model.name, "dtype": dtype_of(model), "batch": batch,
            "features": bench.judge.extractor.name}  # fmt: skip


def _reading(
    cells: Cells, name: str, workers: int, timed: _Timed, rate: float, one: _Timed | None
) -> Reading:
    """What is told of cells. one: the same with one worker."""
    blocks = [block for block in cells.experiment.blocks if block.name != _WARM]
    images, nfe = sum(len(block.seeds) for block in blocks), timed.records[0]["nfe"]
    gpus = torch.cuda.device_count() if cells.device == "cuda" else 1
    devices, spent = min(workers, gpus), [x["seconds"] for x in timed.records]
    network = images * nfe / rate / devices  # seconds of the network alone
    more = {
        "engine": name, "workers": workers, "devices": devices, "cells": len(blocks),
        "images": images, "evaluations": nfe, "shard": cells.experiment.scoring.shard,
        "batch": timed.records[0]["batch"], "images_a_second": images / timed.seconds,
        "speedup": one and one.seconds / timed.seconds,
        "sampling_speedup": one and one.sampling / timed.sampling,
        "efficiency": network / timed.seconds, "sampling": network / timed.sampling,
        "in_shards": sum(x["sample"] for x in spent) / workers / timed.seconds,
        "after_shards": timed.after, "score_seconds": sum(x["score"] for x in spent),
        "scores": {x["name"]: x["value"] for x in timed.records[0]["scores"].values()},
    }  # fmt: skip
    what = f"{name}, {workers} worker{'s' if workers > 1 else ''}"
    return Reading(what, timed.seconds, timed.about | more)


def _release(device: str) -> None:
    """Free what a compiled network holds of a GPU, since workers need it."""
    forget()
    gc.collect()
    if device.startswith("cuda"):
        torch.cuda.empty_cache()
