"""The main path: an experiment's missing cells are sampled, scored and recorded, then reported.

plan      every cell, its grid and its key, before any sampling
measure   grid -> images -> features -> sums -> metrics, folded as a stream
record    one JSON file a cell, whole or absent; what exists is never run again
"""

import io
import math
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from bench import checkpoints, generate, names, store
from bench import features as feature_room
from bench import metrics as metric_room
from bench.report import report
from bench.schedules import ConstantRate
from bench.types import (
    Cell,
    Experiment,
    FeatureExtractor,
    Metric,
    Model,
    Rate,
    Sampler,
    Schedule,
    Scoring,
    Tuned,
    grid_of,
)  # fmt: skip

Chosen = dict[tuple[str, Sampler], Schedule]  # the winner of a tuned line for a sampler
STRIP = 8  # images of each cell that are kept, in one picture


@dataclass(frozen=True)
class Lab:
    """What cells share: opened once, first, so that anything missing fails before sampling."""

    model: Model
    extractor: FeatureExtractor
    reference: feature_room.Reference
    metrics: tuple[Metric, ...]
    scoring: Scoring
    folder: Path


@dataclass(frozen=True)
class Job:
    """A cell with its grid and key, and the row of the table that it stands in."""

    cell: Cell
    grid: Tensor
    key: str
    row: dict[str, Any]


def run(
    experiment: Experiment, results: Path, models: Path, device: str, prepare: Callable[[Any], Any]
) -> list[Path]:
    """Run every missing cell of an experiment, then write its tables and figures.

    prepare: Checkpoint -> Checkpoint, applied to the model (`checkpoints.compiled`, or none).
    """
    lab = open_lab(experiment, results / experiment.name, models, device, prepare)
    tuning = tuning_jobs(lab, experiment)
    scored_jobs(lab, experiment, {})  # a bad grid or budget fails now, not hours later
    finish(lab, tuning)
    chosen = choose(lab, tuning)
    scored = scored_jobs(lab, experiment, chosen)
    save_plan(lab, experiment, [*tuning, *scored], chosen)
    finish(lab, scored)
    return report(lab.folder)


def open_lab(
    experiment: Experiment, folder: Path, models: Path, device: str, prepare: Callable[[Any], Any]
) -> Lab:
    """Everything a run needs; ValueError if any of it is missing, before any sampling."""
    store.check_writable(folder)
    scoring = experiment.scoring
    extractor = extractor_of(scoring.features, device)
    reference = feature_room.load_reference(scoring.reference, extractor, scoring.bank)
    reference = replace(reference, bank=reference.bank.to(device))
    scores = tuple(names.build(text, metric_room) for text in scoring.metrics)
    model = prepare(checkpoints.load(experiment.model, device, scoring.dtype, models))
    return Lab(model, extractor, reference, scores, scoring, folder)


def extractor_of(text: str, device: str) -> FeatureExtractor:
    """A feature extractor from its written form, on `device`."""
    return replace(names.build(text, feature_room), device=device)


def _check_rate(schedule: Schedule, model: Model) -> None:
    """A rate of this model must be of these weights; one of another model is the user's choice."""
    if not isinstance(schedule, ConstantRate):
        return
    made_by = schedule.rate.provenance
    if made_by.get("model") == model.name and made_by.get("model_digest") != model.digest:
        raise ValueError(
            f"rate {schedule.rate.name} was measured on other weights of {model.name}; "
            f"again: crs-bench measure {model.name} --measure {made_by.get('measure', '...')}"
        )


def _job(lab: Lab, cell: Cell, role: str, block: str, line: str) -> Job:
    _check_rate(cell.schedule, lab.model)
    grid = grid_of(cell, lab.model.process)
    protocol = _protocol(lab, cell)
    key = store.digest(
        {
            "model": lab.model.digest,
            # libraries differ in a grid's last bits between machines; nine digits are one grid
            "grid": [f"{sigma:.9g}" for sigma in grid.tolist()],
            "sampler": repr(cell.sampler),
            "seeds": [cell.seeds.start, cell.seeds.stop],
            "guidance": cell.guidance,
            "protocol": protocol,
        }
    )
    row = {"line": line, "role": role, "block": block, "model": cell.model, "nfe": cell.nfe}
    row |= {"n": len(cell.seeds), "sampler": _label(cell.sampler), "key": key}
    return Job(cell, grid, key, row)


def _label(sampler: Sampler) -> str:
    return repr(sampler).removesuffix("()")


def _protocol(lab: Lab, cell: Cell) -> dict[str, Any]:
    return {
        "features": lab.extractor.name,
        "features_digest": lab.extractor.digest,
        "reference": lab.reference.name,
        "reference_digest": lab.reference.digest,
        "reference_n": lab.reference.n,
        "bank": len(lab.reference.bank),
        "n": len(cell.seeds),
        "metrics": [repr(metric) for metric in lab.metrics],
        "k": max(getattr(metric, "k", 0) for metric in lab.metrics),
        "quantiser": "round",
        "dtype": lab.scoring.dtype,
    }


def tuning_jobs(lab: Lab, experiment: Experiment) -> list[Job]:
    """Every try of every tuned line, on the tuning block's seeds."""
    block = experiment.tuning
    if block is None:
        return []
    return [
        _job(lab, Cell(experiment.model, try_, sampler, nfe, block.seeds), "tune", block.name, line)
        for line, tuned in experiment.lines.items()
        if isinstance(tuned, Tuned)
        for try_ in tuned.tries
        for sampler in experiment.samplers
        for nfe in block.nfes
    ]


def choose(lab: Lab, tuning: Sequence[Job]) -> Chosen:
    """The winner of each tuned line for each sampler: lowest geometric mean FD over its NFEs."""
    records = store.load_records(lab.folder)
    means: dict[tuple[str, Sampler], dict[Schedule, float]] = {}
    for job in tuning:
        tries = means.setdefault((job.row["line"], job.cell.sampler), {})
        logarithm = math.log(records[job.key]["metrics"]["fd"])
        tries[job.cell.schedule] = tries.get(job.cell.schedule, 0.0) + logarithm
    return {which: min(tries, key=lambda one: tries[one]) for which, tries in means.items()}


def scored_jobs(lab: Lab, experiment: Experiment, chosen: Chosen) -> list[Job]:
    """Every cell of the tables; a tuned line without a choice yet is left out."""
    schedules = {
        (line, sampler): chosen.get((line, sampler)) if isinstance(schedule, Tuned) else schedule
        for line, schedule in experiment.lines.items()
        for sampler in experiment.samplers
    }
    return [
        _job(lab, Cell(experiment.model, schedule, sampler, nfe, block.seeds),
             "score", block.name, line)
        for (line, sampler), schedule in schedules.items()
        if schedule is not None
        for block in experiment.blocks
        for nfe in block.nfes
    ]  # fmt: skip


def save_plan(lab: Lab, experiment: Experiment, jobs: Sequence[Job], chosen: Chosen) -> None:
    """What the report reads beside the records: rows, choices, and the rates used."""
    picks = [
        {"line": line, "sampler": _label(sampler), "schedule": repr(schedule),
         "tries": len(getattr(experiment.lines[line], "tries", ())),
         "block": experiment.tuning.name if experiment.tuning else ""}
        for (line, sampler), schedule in chosen.items()
    ]  # fmt: skip
    used = {
        job.cell.schedule.rate.name: job.cell.schedule.rate
        for job in jobs
        if isinstance(job.cell.schedule, ConstantRate)
    }
    store.save_plan(
        lab.folder,
        {"experiment": experiment.name, "title": experiment.title, "note": experiment.note,
         "rows": [job.row for job in jobs], "chosen": picks,
         "rates": [_curve(experiment.model, rate) for rate in used.values()]},
    )  # fmt: skip


def _curve(model: str, rate: Rate) -> dict[str, Any]:
    known = {key: rate.provenance.get(key) for key in ("images", "levels", "measure")}
    levels = {"sigma": rate.sigma.tolist(), "v": rate.v.tolist()}
    return {"model": model, "name": rate.name, **levels, **known}


def finish(lab: Lab, jobs: Sequence[Job]) -> None:
    """Sample, score and record the cells that have no record yet, fewest evaluations first.

    One thread scores a cell on the CPU while the next is sampled; it works in order.
    """
    todo = {job.key: job for job in jobs if not store.has_record(lab.folder, job.key)}
    order = sorted(todo.values(), key=lambda job: len(job.cell.seeds) * job.cell.nfe)
    total = sum(len(job.cell.seeds) * job.cell.nfe for job in order)
    last: Future[None] | None = None
    with (
        tqdm(total=total, unit="eval", unit_scale=True, disable=None) as bar,
        ThreadPoolExecutor(1) as scorer,
    ):
        for job in order:
            bar.set_description(f"{job.row['line']} {job.row['sampler']} {job.cell.nfe}")
            made = draw(lab, job, bar)
            if last is not None:
                last.result()  # an error in scoring stops the run here
            last = scorer.submit(record, lab, job, made)
        if last is not None:
            last.result()


@dataclass(frozen=True)
class Made:
    """What sampling a cell leaves: its features, its first images, the NFE as counted."""

    fake: feature_room.Features
    first: Tensor  # uint8 [<= STRIP, c, h, w]
    nfe: int
    seconds: float


def draw(lab: Lab, job: Job, bar: tqdm) -> Made:
    """Stream a cell's images into features."""
    first: list[Tensor] = []
    counted: set[int] = set()

    def stream() -> Iterator[Tensor]:
        cell, batch = job.cell, lab.scoring.batch
        for made, calls in generate.images(lab.model, cell.sampler, job.grid, cell.seeds, batch):
            first.append(made[: STRIP - sum(map(len, first))].cpu())
            counted.add(calls)
            bar.update(len(made) * cell.nfe)
            yield made

    start = time.perf_counter()
    fake = feature_room.fold(lab.extractor, stream(), keep=lab.scoring.bank)
    return Made(fake, torch.cat(first), max(counted), time.perf_counter() - start)


def record(lab: Lab, job: Job, made: Made) -> None:
    """Score a cell and write its record: self-contained, the last thing to be written."""
    start, cell = time.perf_counter(), job.cell
    fake = replace(made.fake, bank=made.fake.bank.to(lab.model.device))
    scores = {metric.name: metric(fake=fake, real=lab.reference) for metric in lab.metrics}
    content = {
        "key": job.key,
        "cell": {
            "model": cell.model,
            "schedule": repr(cell.schedule),
            "sampler": _label(cell.sampler),
            "nfe": cell.nfe,
            "seeds": [cell.seeds.start, cell.seeds.stop],
            "guidance": cell.guidance,
        },
        "grid": job.grid.tolist(),
        "nfe": made.nfe,
        "model_digest": lab.model.digest,
        "protocol": _protocol(lab, cell),
        "metrics": scores,
        "seconds": {"sample": made.seconds, "score": time.perf_counter() - start},
        "device": device_name(lab.model.device),
        "versions": versions(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    store.save_record(lab.folder, content, _strip(made.first))


def _strip(images: Tensor) -> bytes:
    """uint8 [n, c, h, w] side by side as a PNG."""
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


def score(
    x: Tensor,
    reference: str | Path = "fashion-mnist",
    features: str = "effnet-lite0",
    metrics: Sequence[str] = ("fd", "precision", "recall"),
    device: str = "cpu",
) -> dict[str, float]:
    """Scores of uint8 images x [n, c, h, w] against a reference: metric name -> float.

    ValueError: unknown reference, extractor or metric, images that are not uint8 NCHW, too few.
    """
    extractor = extractor_of(features, device)
    scores = [names.build(text, metric_room) for text in metrics]
    real = feature_room.load_reference(reference, extractor)
    fake = feature_room.fold(extractor, x.split(256), keep=10_000)
    return {one.name: one(fake=fake, real=real) for one in scores}
