"""What the report reads beside the records: rows, lines, metrics, choices, rates, grids' bands."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from bench.plan.cells import Bench, Chosen, Planned
from bench.schedules import ConstantRate
from bench.store import digest
from bench.types import Metric, NoiseProcess, Rate, Sampler, Schedule, Tuned


def outline(bench: Bench, cells: Sequence[Planned], chosen: Chosen) -> dict[str, Any]:
    """The content of `plan.json`."""
    experiment, scoring = bench.experiment, bench.scoring
    measured = [
        (one.cell.model, found)
        for one in cells for found in one.cell.schedule.measured if isinstance(found, Rate)
    ]  # fmt: skip
    used = {(model, rate.name): rate for model, rate in measured}
    return {
        "experiment": experiment.name,
        "title": experiment.title,
        "note": experiment.note,
        "published": experiment.published,
        "protocol": {
            "features": scoring.features, "reference": scoring.reference, "bank": scoring.bank,
            "shard": scoring.shard, "dtype": scoring.dtype, "layers": bench.layers,
        },
        "lines": {line: _line(bench, line) for line in experiment.lines},
        "metrics": [metric_entry(bench.judge.identity(metric), name, metric)
                    for name, metric in bench.judge.columns.items()],
        "chosen": [_choice(bench, *which, schedule) for which, schedule in chosen.items()],
        "rates": [_curve(model, rate) for (model, _), rate in used.items()],
        "grid_bands": grid_bands(bench, cells),
        "rows": [one.row for one in cells],
    }  # fmt: skip


def metric_entry(identity: str, name: str, metric: Metric) -> dict[str, Any]:
    """A metric as the report knows it. identity: as of `Judge.identity`; name: of its column."""
    return {"identity": identity, "name": name, "text": repr(metric), "metric": metric.spec(),
            "higher_is_better": metric.higher_is_better}  # fmt: skip


def _line(bench: Bench, line: str) -> dict[str, Any]:
    """A line and its identity, which is the same in every experiment of the same model."""
    on = bench.experiment.on(line)
    other = {} if on.model == bench.experiment.model else {"model": on.model}
    content = {"schedule": on.schedule.spec()} | other
    label = "tuned" if isinstance(on.schedule, Tuned) else on.schedule.label
    return {"identity": digest(content), "label": label, "model": on.model, **content,
            "baseline": bench.experiment.baseline(line)}  # fmt: skip


def _choice(
    bench: Bench, line: str, sampler: Sampler, nfes: tuple[int, int], schedule: Schedule
) -> dict[str, Any]:
    """What a tuned line was chosen to be, under one sampler, in one range of NFEs."""
    block, tuned = bench.experiment.tuning, bench.experiment.on(line).schedule
    return {
        "line": line, "sampler": sampler.label, "nfe": f"{nfes[0]} to {nfes[1]}",
        "schedule": schedule.label, "tries": len(bench.experiment.tries(line)),
        "edge": isinstance(tuned, Tuned) and tuned.at_edge(schedule),
        "block": block.name if block else "",
    }  # fmt: skip


def _curve(model: str, rate: Rate) -> dict[str, Any]:
    """A rate as the report draws it; its band holds 90 % of its bootstrap replicates."""
    known = {key: rate.provenance.get(key) for key in ("images", "levels", "measure")}
    v = [value if math.isfinite(value) else None for value in rate.v.tolist()]
    levels = {"sigma": rate.sigma.tolist(), "v": v}
    band = {} if rate.replicates is None else {
        name: np.quantile(rate.replicates, share, 0).tolist()
        for name, share in (("v_low", 0.05), ("v_high", 0.95))
    }  # fmt: skip
    return {"model": model, "name": rate.name, **levels, **band, **known}


def _band(schedule: ConstantRate, steps: int, process: NoiseProcess) -> list[list[float]]:
    rate = schedule.rate
    assert rate.replicates is not None
    rates = [Rate(rate.name, rate.sigma, v) for v in rate.replicates]
    grids = [replace(schedule, rate=one).noise_levels(steps, process) for one in rates]
    return np.quantile(grids, (0.05, 0.95), 0).tolist()


def grid_bands(bench: Bench, cells: Sequence[Planned]) -> dict[str, list[list[float]]]:
    """Key -> [low, high] sigmas of a constant-rate grid: 90 % of its rate's bootstrap replicates.

    For the cells of the NFE nearest to 10, which the report draws.
    """
    near = min((one.cell.nfe for one in cells), key=lambda nfe: (abs(nfe - 10), nfe), default=0)
    bands, known = {}, {}
    for one in cells:
        schedule = one.cell.schedule
        if one.cell.nfe != near or not isinstance(schedule, ConstantRate):
            continue
        if schedule.rate.replicates is None or one.key in bands:
            continue
        steps, model = len(one.grid) - 1, one.cell.model
        if (what := (schedule, steps, model)) not in known:  # other blocks have the same grid
            known[what] = _band(schedule, steps, bench.models[model].process)
        bands[one.key] = known[what]
    return bands
