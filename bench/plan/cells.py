"""What a run shares, opened once, and its cells: every error is found here, before any sampling."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from bench import checkpoints, generate, store
from bench.judge import Judge
from bench.machine import device_name, versions
from bench.shards import Shelf, Task, ranges
from bench.store import digest
from bench.types import (
    Block,
    Cell,
    Experiment,
    Model,
    Sampler,
    Schedule,
    Scoring,
    Tuned,
    grid_of,
)

# (line, sampler, range of NFEs) -> the winner of a tuned line
Chosen = dict[tuple[str, Sampler, tuple[int, int]], Schedule]
KEYS = 2  # raise it when the same cell gives other images: every key changes
# the same, of grids that end above 0: multistep samplers did not lower their order there before
KEYS_ABOVE_0 = 3


@dataclass(frozen=True, eq=False)
class Bench:
    """What all cells of a run share."""

    experiment: Experiment
    models: dict[str, Model]
    judge: Judge
    folder: Path  # of the results
    device: str

    @property
    def scoring(self) -> Scoring:
        """The experiment's protocol."""
        return self.experiment.scoring

    @property
    def shelf(self) -> Shelf:
        """Where shards lie."""
        return Shelf.of(self.folder, self.judge.extractor)

    @property
    def layers(self) -> dict[str, int]:
        """Layer -> single features that scores read. The distance to a converged run reads
        "features", whatever the metrics read."""
        found = dict(self.judge.layers)
        if self.scoring.converged:
            found["features"] = max(self.scoring.converged.images, found.get("features", 0))
        return found


@dataclass(frozen=True, eq=False)
class Planned:
    """A cell with its grid and key, and the row of the table that it stands in.

    anchor: the converged run that it is compared with.
    strip: images that are shown of it.
    """

    cell: Cell
    grid: Tensor
    key: str
    row: dict[str, Any]
    anchor: "Planned | None" = field(default=None, repr=False)
    strip: int = 0

    @property
    def cost(self) -> int:
        """Evaluations of the network, for single images."""
        return len(self.cell.seeds) * self.cell.nfe

    @property
    def role(self) -> str:
        """ "tune", "converged" or "score"."""
        return str(self.row["role"])

    def tasks(self, bench: Bench) -> list[Task]:
        """Its shards, in seed order."""
        layers, batch = tuple(sorted(bench.layers)), bench.scoring.batch
        against = self.anchor.key if self.anchor else ""
        return [
            Task(self.cell, self.grid, seeds, layers, batch, self.role == "converged", against)
            for seeds in ranges(self.cell.seeds, bench.scoring.shard)
        ]


def open_bench(
    experiment: Experiment,
    folder: Path,
    models: checkpoints.Models | Path | None = None,
    device: str = "cpu",
    prepare: Callable[[Any], Any] = checkpoints.as_it_is,
    sampling: str = "",
) -> Bench:
    """Open everything that a run needs.

    Arguments:
        folder: of the results.
        models: where models are looked for first; see `checkpoints.Models`.
        prepare: Checkpoint -> Checkpoint, applied to each model, such as `checkpoints.compiled`.
        sampling: device of the models; "": `device`, which scores.

    Raises:
        ValueError: anything that is missing, does not fit or cannot be written.
    """
    store.check_writable(folder)
    scoring = experiment.scoring
    judge = Judge.open(
        scoring.reference, scoring.features, scoring.metrics, device, bank=scoring.bank
    )
    if any(map(experiment.tries, experiment.lines)) and "fd" not in judge.columns:
        raise ValueError(f"experiment {experiment.name} has tuned lines, which fd chooses, but its "
                         "metrics lack fd; add it to Scoring(metrics=...)")  # fmt: skip
    used = dict.fromkeys(experiment.on(line).model for line in experiment.lines)
    opened = {
        name: prepare(checkpoints.load(name, sampling or device, scoring.dtype, models))
        for name in used
    }
    return Bench(experiment, opened, judge, folder, device)


# ---------------------------------------------------------------- cells


def planned(
    bench: Bench, cell: Cell, row: dict[str, Any], anchor: Planned | None = None, strip: int = 0
) -> Planned:
    """A cell with its grid and key.

    Raises:
        ValueError: a schedule or sampler that does not fit the model.
    """
    model = bench.models[cell.model]
    generate.check_fits(model, cell.sampler, cell.guidance, cell.schedule)
    grid = grid_of(cell, model.process)
    key = digest(image_identity(cell, grid, model, bench.scoring.dtype))
    row = {"model": bench.experiment.model, **row, "nfe": cell.nfe, "n": len(cell.seeds),
           "sampler": cell.sampler.label, "key": key}  # fmt: skip
    return Planned(cell, grid, key, row | ({"anchor": anchor.key} if anchor else {}), anchor, strip)


def image_identity(cell: Cell, grid: Tensor, model: Model, dtype: str) -> dict[str, Any]:
    """All that decides the images of a cell.

    The grid has nine digits: libraries differ in its last bits between machines.
    """
    return {
        "keys": KEYS if grid[-1] == 0 else KEYS_ABOVE_0,
        "model": model.digest,
        "grid": [f"{sigma:.9g}" for sigma in grid.tolist()],
        "sampler": cell.sampler.spec(),
        "seeds": [cell.seeds.start, cell.seeds.stop],
        "guidance": cell.guidance,
        "dtype": dtype,
        "quantiser": model.quantiser,
    }


def manifest_of(cell: Cell, grid: Tensor, model: Model, dtype: str) -> dict[str, Any]:
    """What a folder of samples should say of itself: choices, digest, versions, and their key.

    The key is the same for all seeds.
    """
    identity = image_identity(cell, grid, model, dtype)
    return {
        "key": digest({name: value for name, value in identity.items() if name != "seeds"}),
        "model": model.name, "model_digest": model.digest, "sampler": cell.sampler.label,
        "schedule": cell.schedule.label, "nfe": cell.nfe, "grid": grid.tolist(),
        "guidance": cell.guidance, "dtype": dtype, "quantiser": model.quantiser,
        "device": device_name(model.device), "versions": versions(),
    }  # fmt: skip


def tuning(bench: Bench) -> list[Planned]:
    """Every try of every tuned line, on the tuning block's seeds."""
    experiment = bench.experiment
    block = experiment.tuning
    if block is None:
        return []
    return [
        planned(
            bench,
            Cell(
                experiment.on(line).model, schedule, sampler, nfe, block.seeds, experiment.guidance
            ),
            {"line": line, "role": "tune", "block": block.name},
        )
        for line in experiment.lines
        for schedule in experiment.tries(line)
        for sampler in experiment.samplers
        for nfe in block.nfes
    ]


def choose(bench: Bench, cells: Sequence[Planned]) -> Chosen:
    """The winner of each tuned line for each sampler and range: lowest geometric mean FD."""
    records = store.load_records(bench.folder)
    identity = bench.judge.identity(bench.judge.columns["fd"]) if cells else ""
    means: dict[tuple[str, Sampler, tuple[int, int]], dict[Schedule, float]] = {}
    for one in cells:
        where = bench.experiment.range_of(one.cell.nfe)
        tries = means.setdefault((one.row["line"], one.cell.sampler, where), {})
        fd = records[one.key]["scores"][store.score_key(one.key, identity)]["value"]
        tries[one.cell.schedule] = tries.get(one.cell.schedule, 0.0) + math.log(fd)
    return {which: min(tries, key=lambda one: tries[one]) for which, tries in means.items()}


def first_tries(bench: Bench) -> Chosen:
    """The first try of each tuned line, for counts before the tuning."""
    experiment = bench.experiment
    where = {experiment.range_of(nfe) for block in experiment.blocks for nfe in block.nfes}
    return {
        (line, sampler, one): tries[0]
        for line in experiment.lines
        if (tries := experiment.tries(line))
        for sampler in experiment.samplers
        for one in where
    }


def converged(bench: Bench) -> dict[tuple[str, Block], Planned]:
    """(model, block) -> its converged run; none if the experiment asks for none."""
    fine, experiment = bench.scoring.converged, bench.experiment
    if fine is None:
        return {}
    return {
        (model, block): planned(
            bench,
            Cell(model, fine.schedule, fine.sampler, fine.nfe, block.seeds[: fine.images],
                 experiment.guidance),
            {"line": "converged", "role": "converged", "block": block.name},
        )
        for model in bench.models
        for block in experiment.blocks
    }  # fmt: skip


def scored(
    bench: Bench, chosen: Chosen, anchors: dict[tuple[str, Block], Planned]
) -> list[Planned]:
    """Every cell of the tables; a tuned line that has no winner yet is left out."""
    experiment = bench.experiment
    return [
        one
        for line in experiment.lines
        for sampler in experiment.samplers
        for one in _of_line(bench, line, sampler, chosen, anchors)
    ]


def _of_line(
    bench: Bench,
    line: str,
    sampler: Sampler,
    chosen: Chosen,
    anchors: dict[tuple[str, Block], Planned],
) -> list[Planned]:
    """The cells of one line under one sampler. Those of a tuned line need its winner."""
    experiment, on = bench.experiment, bench.experiment.on(line)
    model = on.model
    blocks = [block for block in experiment.blocks if not block.lines or line in block.lines]
    cells = []
    for block in blocks:
        # the images of a stochastic sampler have no one image to converge to
        anchor = None if sampler.stochastic else anchors.get((model, block))
        shown = experiment.pictured if block.name == blocks[0].name else ()
        for nfe in block.nfes:
            schedule: Schedule | Tuned | None = on.schedule
            if isinstance(schedule, Tuned):
                schedule = chosen.get((line, sampler, experiment.range_of(nfe)))
            if schedule is None:
                continue
            cell = Cell(model, schedule, sampler, nfe, block.seeds, experiment.guidance)
            row = {"line": line, "role": "score", "block": block.name}
            strip = bench.scoring.strip if nfe in shown else 0
            cells.append(planned(bench, cell, row, anchor, strip))
    return cells
