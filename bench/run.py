"""The main path: an experiment's missing cells are sampled, scored and recorded, then reported.

plan      every cell, its grid and its key, before any sampling (`lab.py`)
measure   grid -> images -> features -> sums -> metrics, folded as a stream
record    one JSON file a cell, whole or absent; what exists is never run again
"""

import io
import math
import os
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from threadpoolctl import threadpool_limits
from torch import Tensor
from tqdm import tqdm

from bench import features as feature_room
from bench import generate, store
from bench import metrics as metric_room
from bench.lab import (
    Chosen,
    Job,
    Lab,
    anchor_jobs,
    banks_of,
    choose,
    label,
    open_lab,
    protocol_of,
    rate_of,
    scored_jobs,
    scores_of,
    tuning_jobs,
)
from bench.report import report
from bench.schedules import ConstantRate
from bench.types import Experiment, Rate

Shard = tuple[int, int]  # (i, n): the i-th of n processes that share a results folder, from 1


def run(
    experiment: Experiment,
    results: Path,
    models: Path,
    device: str,
    prepare: Callable[[Any], Any],
    shard: Shard = (1, 1),
) -> list[Path]:
    """Run every missing cell of an experiment, then write its tables and figures.

    prepare: Checkpoint -> Checkpoint, applied to each model (`checkpoints.compiled`, or none).
    """
    lab = open_lab(experiment, results / experiment.name, models, device, prepare)
    tuning, anchors = tuning_jobs(lab, experiment), anchor_jobs(lab, experiment)
    scored_jobs(lab, experiment, {}, anchors)  # a bad grid or budget fails now, not hours later
    finish(lab, tuning, shard)
    _wait(lab, tuning)
    chosen = choose(lab, tuning)
    scored = scored_jobs(lab, experiment, chosen, anchors)
    fine = list(anchors.values())
    save_plan(lab, experiment, [*tuning, *fine, *scored], chosen)
    pictures = _pictures_needed(lab, scored)
    finish(lab, fine, shard, pictures)
    _wait(lab, fine, pictures)
    finish(lab, scored, shard)
    return report(lab.folder)


def save_plan(lab: Lab, experiment: Experiment, jobs: Sequence[Job], chosen: Chosen) -> None:
    """What the report reads beside the records: rows, choices, and the rates used."""
    picks = [
        {"line": line, "sampler": label(sampler), "schedule": repr(schedule),
         "tries": len(getattr(experiment.on(line).schedule, "tries", ())),
         "block": experiment.tuning.name if experiment.tuning else ""}
        for (line, sampler), schedule in chosen.items()
    ]  # fmt: skip
    rates = [(job.cell.model, rate_of(job.cell.schedule)) for job in jobs]
    used = {(model, rate.name): rate for model, rate in rates if rate}
    store.save_plan(
        lab.folder,
        {"experiment": experiment.name, "title": experiment.title, "note": experiment.note,
         "published": experiment.published,
         "higher_is_better": [one.name for one in lab.metrics if one.higher_is_better],
         "rows": [job.row for job in jobs], "chosen": picks,
         "rates": [_curve(model, rate) for (model, _), rate in used.items()],
         "grid_bands": grid_bands(lab, jobs)},
    )  # fmt: skip


def _curve(model: str, rate: Rate) -> dict[str, Any]:
    """A rate as the report draws it; the band holds 90 % of its bootstrap replicates."""
    known = {key: rate.provenance.get(key) for key in ("images", "levels", "measure")}
    v = [value if math.isfinite(value) else None for value in rate.v.tolist()]
    levels = {"sigma": rate.sigma.tolist(), "v": v}
    band = {} if rate.replicates is None else {
        name: rate.replicates.quantile(share, 0).tolist()
        for name, share in (("v_low", 0.05), ("v_high", 0.95))
    }  # fmt: skip
    return {"model": model, "name": rate.name, **levels, **band, **known}


def grid_bands(lab: Lab, jobs: Sequence[Job]) -> dict[str, list[list[float]]]:
    """Key -> [low, high] sigmas of a constant-rate grid: 90 % of its rate's bootstrap replicates.

    Of every cell at the NFE nearest to 10, which the report draws.
    """
    near = min((job.cell.nfe for job in jobs), key=lambda nfe: (abs(nfe - 10), nfe), default=0)
    bands = {}
    for job in jobs:
        schedule = job.cell.schedule
        if job.cell.nfe != near or not isinstance(schedule, ConstantRate):
            continue
        if schedule.rate.replicates is None or job.key in bands:
            continue
        process, steps = lab.models[job.cell.model].process, len(job.grid) - 1
        grids = torch.stack([
            replace(schedule, rate=Rate(schedule.rate.name, schedule.rate.sigma, v))(steps, process)
            for v in schedule.rate.replicates
        ])  # fmt: skip
        bands[job.key] = [grids.quantile(share, 0).tolist() for share in (0.05, 0.95)]
    return bands


def finish(
    lab: Lab, jobs: Sequence[Job], shard: Shard = (1, 1), pictures: frozenset[str] = frozenset()
) -> None:
    """Sample, score and record the cells that have no record yet, fewest evaluations first.

    Other threads score on the CPU, a core each, while the next cell is sampled on the GPU. Of n
    shards each takes every n-th cell. pictures: keys of converged runs that are run again if their
    images are gone.
    """
    index, of = shard
    every = sorted({job.key: job for job in jobs}.values(), key=lambda job: job.cost)
    todo = [job for job in every[index - 1 :: of] if not _done(lab, job, pictures)]
    total = sum(job.cost for job in todo)
    gpu = lab.device.startswith("cuda")
    workers = max(1, min(8, (os.cpu_count() or 2) // 4)) if gpu else 1
    waiting: list[Future[None]] = []
    with (
        tqdm(total=total, unit="eval", unit_scale=True, disable=None) as bar,
        ThreadPoolExecutor(workers) as scorers,
        threadpool_limits(1) if gpu else nullcontext(),  # a linear-algebra call takes all cores
    ):
        for job in todo:
            bar.set_description(f"{job.row['line']} {job.row['sampler']} {job.cell.nfe}")
            made = draw(lab, job, bar)
            if len(waiting) == workers:
                waiting.pop(0).result()  # an error in scoring stops the run here
            waiting.append(scorers.submit(record, lab, job, made))
        for one in waiting:
            one.result()


def _done(lab: Lab, job: Job, pictures: frozenset[str]) -> bool:
    """Whether a cell has its record, and a converged run that is compared with its images."""
    lost = job.key in pictures and not _pictures(lab, job).is_file()
    return store.has_record(lab.folder, job.key) and not lost


def _wait(lab: Lab, jobs: Sequence[Job], pictures: frozenset[str] = frozenset()) -> None:
    """Until the other shards have done their part of what all need."""
    said = -math.inf
    while left := sum(not _done(lab, job, pictures) for job in jobs):
        if time.monotonic() - said > 60:
            said = time.monotonic()
            tqdm.write(f"waiting for {left} cells of other shards in {lab.folder}")
        time.sleep(0.5)


def _pictures_needed(lab: Lab, scored: Sequence[Job]) -> frozenset[str]:
    """Keys of the converged runs that a cell without a record is to be compared with."""
    missing = (job for job in scored if not store.has_record(lab.folder, job.key))
    return frozenset(job.anchor.key for job in missing if job.anchor)


def _pictures(lab: Lab, job: Job) -> Path:
    """Where a converged run's images are kept."""
    return lab.folder / "converged" / f"{job.key}.npz"


@dataclass(frozen=True)
class Made:
    """What sampling a cell leaves."""

    fake: dict[str, feature_room.Features]  # by layer of the extractor
    first: Tensor  # uint8 [<= strip, c, h, w]
    images: Tensor | None  # uint8 [n, c, h, w] of a converged run
    mean_square: float | None  # difference to the converged images, a pixel, grey levels squared
    nfe: int
    seconds: float


@dataclass(frozen=True, eq=False)
class _Truth:
    """A converged run: what cells of the same model and seeds are compared with."""

    images: Tensor  # uint8 [n, c, h, w]
    features: feature_room.Features


@lru_cache(maxsize=16)
def _truth(lab: Lab, anchor: Job) -> _Truth:
    with np.load(_pictures(lab, anchor)) as file:
        images = torch.from_numpy(file["images"])
    return _Truth(images.to(lab.device), feature_room.fold(lab.extractor, images.split(256), 0))


class _Errors:
    """Squared differences to the converged images of the same seeds, in grey levels."""

    def __init__(self, truth: _Truth):
        self.images, self.seen, self.total = truth.images, 0, torch.zeros(())

    def add(self, made: Tensor) -> None:
        want = self.images[self.seen : self.seen + len(made)]
        difference = made[: len(want)].float() - want.float()
        self.total = self.total + difference.square().sum(dtype=torch.float64).cpu()
        self.seen += len(want)

    def mean(self) -> float:
        return float(self.total) / (self.seen * self.images[0].numel())


def _fd_error(lab: Lab, anchor: Job, fake: feature_room.Features) -> float:
    """Frechet distance of a cell to its converged run, over the seeds that both have."""
    truth = _truth(lab, anchor).features
    if fake.n != truth.n:
        fake = feature_room.Features.of(fake.bank[: truth.n], 0)
    return metric_room.FrechetDistance()(fake=fake, real=truth)


def draw(lab: Lab, job: Job, bar: tqdm) -> Made:
    """Stream a cell's images into features."""
    fine = job.row["role"] == "converged"
    keep = len(job.cell.seeds) if fine else job.strip
    first: list[Tensor] = []
    counted: set[int] = set()
    errors = _Errors(_truth(lab, job.anchor)) if job.anchor else None

    def stream() -> Iterator[Tensor]:
        cell, model, kept = job.cell, lab.models[job.cell.model], 0
        for made, calls in generate.images(
            model, cell.sampler, job.grid, cell.seeds, lab.scoring.batch, cell.guidance
        ):
            if kept < keep:
                first.append(made[: keep - kept].cpu())
                kept += len(first[-1])
            if errors:
                errors.add(made)
            counted.add(calls)
            bar.update(len(made) * cell.nfe)
            yield made

    start = time.perf_counter()
    # "features" whatever the metrics read: the distance to a converged run is of them
    keep_rows = {"features": lab.scoring.bank} | banks_of(lab.metrics, lab.scoring.bank)
    fake = feature_room.fold_layers(lab.extractor, stream(), keep_rows)
    seconds = time.perf_counter() - start
    images = torch.cat(first) if first else torch.empty(0, dtype=torch.uint8)
    return Made(
        fake, images[: job.strip], images if fine else None, errors.mean() if errors else None,
        max(counted), seconds,
    )  # fmt: skip


def record(lab: Lab, job: Job, made: Made) -> None:
    """Score a cell and write its record: self-contained, the last thing to be written."""
    start, cell = time.perf_counter(), job.cell
    if made.images is not None:
        np.savez_compressed(file := io.BytesIO(), images=made.images.numpy())
        store.write_bytes(_pictures(lab, job), file.getvalue())
    fake = {layer: replace(one, bank=one.bank.to(lab.device)) for layer, one in made.fake.items()}
    scores = scores_of(lab.metrics, fake, lab.reference.by_layer)
    if job.anchor and made.mean_square is not None:
        scores |= {
            "rms_error": made.mean_square**0.5,
            "fd_error": _fd_error(lab, job.anchor, fake["features"]),
        }
    content = {
        "key": job.key,
        "cell": {
            "model": cell.model,
            "schedule": repr(cell.schedule),
            "sampler": repr(cell.sampler),
            "nfe": cell.nfe,
            "seeds": [cell.seeds.start, cell.seeds.stop],
            "guidance": cell.guidance,
        },
        "grid": job.grid.tolist(),
        "nfe": made.nfe,
        "model_digest": lab.models[cell.model].digest,
        "protocol": protocol_of(lab, cell, job.anchor),
        "metrics": scores,
        "seconds": {"sample": made.seconds, "score": time.perf_counter() - start},
        "device": device_name(lab.device),
        "versions": versions(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    store.save_record(lab.folder, content, _strip(made.first))


def _strip(images: Tensor) -> bytes | None:
    """uint8 [n, c, h, w] side by side as a PNG; None of no images."""
    if len(images) == 0:
        return None
    row = torch.cat(list(images), dim=2).permute(1, 2, 0).numpy()  # [h, n w, c]
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(row.squeeze(2) if row.shape[2] == 1 else row)).save(
        file, "png"
    )
    return file.getvalue()


def device_name(device: str) -> str:
    """The hardware, in words."""
    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    return f"CPU ({platform.machine()}, {torch.get_num_threads()} threads)"


def versions() -> dict[str, str]:
    """Versions that a number may depend on."""
    known = {name: version(name) for name in ("torch", "diffusers", "timm", "numpy", "scipy")}
    return {"python": platform.python_version(), **known}
