"""What a run shares, and its cells with their grids and keys: all known before any sampling."""

import dataclasses
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from bench import checkpoints, generate, names, store
from bench import features as feature_room
from bench import metrics as metric_room
from bench.schedules import CheapestPath, ConstantRate
from bench.types import (
    Block,
    Cell,
    Costs,
    Experiment,
    FeatureExtractor,
    FeatureStatistics,
    Metric,
    Model,
    Rate,
    Sampler,
    Schedule,
    Scoring,
    Tuned,
    grid_of,
    is_stochastic,
    layer_of,
    layers_of,
    least_bank,
    needs_real,
)

Chosen = dict[tuple[str, Sampler], Schedule]  # the winner of a tuned line for a sampler


@dataclass(frozen=True, eq=False)
class Lab:
    """What cells share: opened once, first, so that anything missing fails before sampling."""

    models: dict[str, Model]
    extractor: FeatureExtractor
    reference: feature_room.Reference
    metrics: tuple[Metric, ...]
    scoring: Scoring
    folder: Path
    device: str


@dataclass(frozen=True, eq=False)
class Job:
    """A cell with its grid and key, and the row of the table that it stands in."""

    cell: Cell
    grid: Tensor
    key: str
    row: dict[str, Any]
    anchor: "Job | None" = field(default=None, repr=False)  # the converged run it is compared with
    strip: int = 0  # of its images are kept for the figure

    @property
    def cost(self) -> int:
        """Evaluations of single images."""
        return len(self.cell.seeds) * self.cell.nfe


def open_lab(
    experiment: Experiment, folder: Path, models: Path, device: str, prepare: Callable[[Any], Any]
) -> Lab:
    """Everything a run needs; ValueError if any of it is missing, before any sampling."""
    store.check_writable(folder)
    scoring = experiment.scoring
    extractor = extractor_of(scoring.features, device)
    scores = metrics_of(scoring.metrics, extractor)
    reference = feature_room.load_reference(
        scoring.reference, extractor, scoring.bank, reference_layers(scores)
    )
    check_reference(scores, reference)
    reference = replace(reference, bank=reference.bank.to(device))
    used = dict.fromkeys(experiment.on(line).model for line in experiment.lines)
    opened = {name: prepare(checkpoints.load(name, device, scoring.dtype, models)) for name in used}
    return Lab(opened, extractor, reference, scores, scoring, folder, device)


def extractor_of(text: str, device: str) -> FeatureExtractor:
    """A feature extractor from its written form, on `device` if it has one to be on."""
    made = names.build(text, feature_room)
    fields = {one.name for one in dataclasses.fields(made)}
    return replace(made, device=device) if "device" in fields else made


def metrics_of(forms: Sequence[str], extractor: FeatureExtractor) -> tuple[Metric, ...]:
    """Metrics from their written forms. ValueError: an unknown one, two of one name, a layer that
    the extractor does not have."""
    found: tuple[Metric, ...] = tuple(names.build(text, metric_room) for text in forms)
    labels = [metric.name for metric in found]
    for metric in found:
        if labels.count(metric.name) > 1:
            raise ValueError(f"two metrics are called {metric.name}; score them one by one")
        if (layer := layer_of(metric)) not in layers_of(extractor):
            kinds = names.public(feature_room)
            able = [name for name, kind in kinds.items() if layer in layers_of(kind)]
            raise ValueError(
                f"{metric.name} reads the layer {layer!r}, which {extractor.name} does not have; "
                f"extractors that do: {', '.join(able) or 'none'}"
            )
    return found


def check_reference(metrics: Sequence[Metric], reference: feature_room.Reference) -> None:
    """ValueError unless a reference keeps as many single features as the metrics need."""
    for metric in metrics:
        if needs_real(metric) and len(reference.bank) < least_bank(metric):
            raise ValueError(
                f"{metric.name} needs at least {least_bank(metric)} single features of the real "
                f"set, but reference {reference.name} keeps {len(reference.bank)}; make one of the "
                "images with crs-bench reference ... --bank 10000, or leave it out of the metrics"
            )


def reference_layers(metrics: Sequence[Metric]) -> tuple[str, ...]:
    """Layers, beside "features", that a reference must have statistics of."""
    needed = dict.fromkeys(layer_of(metric) for metric in metrics if needs_real(metric))
    return tuple(layer for layer in needed if layer != "features")


def banks_of(metrics: Sequence[Metric], bank: int) -> dict[str, int]:
    """The layers that metrics read -> rows of the bank of each: `bank`, or all where one must see
    every image."""
    banks = {layer_of(metric): bank for metric in metrics}
    return banks | {
        layer_of(metric): sys.maxsize for metric in metrics if getattr(metric, "whole_bank", False)
    }


def scores_of(
    metrics: Sequence[Metric],
    fake: Mapping[str, FeatureStatistics],
    real: Mapping[str, FeatureStatistics],
) -> dict[str, float]:
    """Metric name -> score of a set, by layer, against the real one.

    One that ignores the real set is handed the generated one in its place.
    """
    layers = [(metric, layer_of(metric)) for metric in metrics]
    return {
        metric.name: metric(fake=fake[layer], real=(real if needs_real(metric) else fake)[layer])
        for metric, layer in layers
    }


def extractors() -> dict[str, str]:
    """Every extractor as it comes, by class name -> why it cannot be used here, or ""."""
    found = {}
    for name, kind in names.public(feature_room).items():
        if "__call__" in dir(kind):  # `Features` and `Reference` are none
            try:
                kind()
                found[name] = ""
            except ValueError as error:
                found[name] = str(error)
    return found


def _check_measured(schedule: Schedule, model: Model) -> None:
    """A rate or costs of this model must be of these weights; another model's are the user's
    choice."""
    found = _measured(schedule)
    if found is None:
        return
    what = "rate" if isinstance(found, Rate) else "costs"
    for made_by in (found.provenance, *found.provenance.get("parts", [])):
        if made_by.get("model") == model.name and made_by.get("model_digest") != model.digest:
            raise ValueError(
                f"{what} {found.name} measured on other weights of {model.name}; "
                f"again: crs-bench measure {model.name} --measure {made_by.get('measure', '...')}"
            )


def _measured(schedule: Schedule) -> Rate | Costs | None:
    """What a schedule, or one that it wraps, was made from."""
    inner = getattr(schedule, "schedule", None)
    if inner is not None:
        return _measured(inner)
    if isinstance(schedule, CheapestPath):
        return schedule.costs
    return schedule.rate if isinstance(schedule, ConstantRate) else None


def rate_of(schedule: Schedule) -> Rate | None:
    """The rate that a schedule, or one that it wraps, was made from."""
    found = _measured(schedule)
    return found if isinstance(found, Rate) else None


def _job(
    lab: Lab, cell: Cell, row: dict[str, Any], anchor: Job | None = None, strip: int = 0
) -> Job:
    model = lab.models[cell.model]
    _check_measured(cell.schedule, model)
    generate.check_fits(model, cell.sampler, cell.guidance)
    grid = grid_of(cell, model.process)
    key = store.digest(
        {
            "model": model.digest,
            # libraries differ in a grid's last bits between machines; nine digits are one grid
            "grid": [f"{sigma:.9g}" for sigma in grid.tolist()],
            "sampler": repr(cell.sampler),
            "seeds": [cell.seeds.start, cell.seeds.stop],
            "guidance": cell.guidance,
            "protocol": protocol_of(lab, cell, anchor),
        }
    )
    row = row | {"nfe": cell.nfe, "n": len(cell.seeds), "sampler": label(cell.sampler), "key": key}
    return Job(cell, grid, key, row | ({"anchor": anchor.key} if anchor else {}), anchor, strip)


def label(sampler: Sampler) -> str:
    """A sampler as tables name it: with those of its fields that are not as they come."""
    if not dataclasses.is_dataclass(sampler):
        return repr(sampler)
    changed = [f"{f.name}={getattr(sampler, f.name)!r}" for f in dataclasses.fields(sampler)
               if getattr(sampler, f.name) != f.default]  # fmt: skip
    return type(sampler).__name__ + (f"({', '.join(changed)})" if changed else "")


def protocol_of(lab: Lab, cell: Cell, anchor: Job | None) -> dict[str, Any]:
    """All that a score depends on beside the images."""
    protocol = {
        "features": lab.extractor.name,
        "features_digest": lab.extractor.digest,
        "reference": lab.reference.name,
        "reference_digest": lab.reference.digest,
        "reference_n": lab.reference.n,
        "bank": len(lab.reference.bank),
        "n": len(cell.seeds),
        "metrics": [repr(metric) for metric in lab.metrics],
        "k": max(getattr(metric, "k", 0) for metric in lab.metrics),
        "quantiser": getattr(lab.models[cell.model], "quantiser", "round"),
        "dtype": lab.scoring.dtype,
    }
    return protocol | ({"converged": anchor.key} if anchor else {})


def tuning_jobs(lab: Lab, experiment: Experiment) -> list[Job]:
    """Every try of every tuned line, on the tuning block's seeds."""
    block = experiment.tuning
    if block is None:
        return []
    tries = [
        (line, experiment.on(line).model, schedule)
        for line in experiment.lines
        for schedule in getattr(experiment.on(line).schedule, "tries", ())
    ]
    return [
        _job(
            lab,
            Cell(model, schedule, sampler, nfe, block.seeds, experiment.guidance),
            {"line": line, "role": "tune", "block": block.name, "model": experiment.model},
        )
        for line, model, schedule in tries
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


def anchor_jobs(lab: Lab, experiment: Experiment) -> dict[tuple[str, Block], Job]:
    """The converged run of every model and block: none if the experiment asks for none."""
    fine = lab.scoring.converged
    if fine is None:
        return {}
    return {
        (model, block): _job(
            lab,
            Cell(model, fine.schedule, fine.sampler, fine.nfe, block.seeds[: fine.images],
                 experiment.guidance),
            {"line": "converged", "role": "converged", "block": block.name,
             "model": experiment.model},
        )
        for model in lab.models
        for block in experiment.blocks
    }  # fmt: skip


def scored_jobs(
    lab: Lab, experiment: Experiment, chosen: Chosen, anchors: dict[tuple[str, Block], Job]
) -> list[Job]:
    """Every cell of the tables; a tuned line without a choice yet is left out."""
    jobs = []
    for line in experiment.lines:
        on = experiment.on(line)
        for sampler in experiment.samplers:
            planned = on.schedule
            schedule = chosen.get((line, sampler)) if isinstance(planned, Tuned) else planned
            if schedule is None:
                continue
            blocks = [b for b in experiment.blocks if not b.lines or line in b.lines]
            for block in blocks:
                row = {"line": line, "role": "score", "block": block.name}
                row |= {"model": experiment.model}
                # a stochastic run has no one image that it should have come to
                anchor = None if is_stochastic(sampler) else anchors.get((on.model, block))
                drawn = {min(block.nfes), max(block.nfes)} if block is blocks[0] else ()
                jobs += [
                    _job(
                        lab,
                        Cell(on.model, schedule, sampler, nfe, block.seeds, experiment.guidance),
                        row,
                        anchor,
                        lab.scoring.strip if nfe in drawn else 0,
                    )
                    for nfe in block.nfes
                ]
    return jobs
