"""The main path: an experiment's missing cells are sampled, scored and recorded, then reported.

plan     every cell with its grid and its key, before any sampling
shards   fixed ranges of seeds -> images -> features, one file each, made by an engine's workers
judge    the shards of a cell, merged in seed order -> scores with their errors
record   one JSON file a cell; a score that it has is never taken again
report   records -> tables and figures
"""

import sys
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from bench import checkpoints, plan, records, store, talk
from bench.engines import Crew, Engine, InProcess, Kit
from bench.filling import Beside, Gaps, expect, said
from bench.machine import beside_sampling, limited
from bench.plan import Bench, Planned
from bench.progress import Progress
from bench.report import report
from bench.shards import Packed, Shard, Task
from bench.types import Experiment


def run(
    experiment: Experiment,
    results: Path,
    models: checkpoints.Models | Path | None = None,
    device: str = "cpu",
    prepare: Callable[[Any], Any] = checkpoints.as_it_is,
    engine: Engine = InProcess(),  # noqa: B008 - frozen
) -> list[Path]:
    """Run every missing cell of an experiment, then write its tables and figures.

    Arguments:
        results: folder that holds one folder an experiment.
        models: where models are looked for first; see `checkpoints.Models`.
        device: of torch; it scores, and it samples unless the engine has devices of its own.
        prepare: Checkpoint -> Checkpoint, applied to each model, such as `checkpoints.compiled`.
        engine: where shards are made.

    Returns:
        Paths of the tables and figures.

    Raises:
        ValueError: anything that is missing or does not fit, before any sampling.
        RuntimeError: shards that could not be made; all others are there.
    """
    folder = results / experiment.name
    bench, workers = opened(experiment, folder, models, device, prepare, engine)
    tuning, anchors = plan.tuning(bench), plan.converged(bench)
    scored, fine = plan.scored(bench, plan.first_tries(bench), anchors), list(anchors.values())
    with Progress() as bar, workers as crew:
        expect(bench, bar, [*tuning, *fine, *scored])
        fill(bench, tuning, crew, bar)
        chosen = plan.choose(bench, tuning)
        scored = plan.scored(bench, chosen, anchors)
        expect(bench, bar, [*fine, *scored])
        tqdm.write(records.disk(bench, [*tuning, *fine, *scored]), file=sys.stderr)
        records.save_plan(bench, [*tuning, *fine, *scored], chosen)
        fill(bench, fine, crew, bar, records.needed(bench, fine, scored))
        fill(bench, scored, crew, bar)
    for one in [*tuning, *scored]:
        if not records.keeps(bench, one):  # left by a stop, or by a run that kept more
            bench.shelf.drop(one.key)
    return report(bench.folder)


def opened(
    experiment: Experiment,
    folder: Path,
    models: checkpoints.Models | Path | None,
    device: str,
    prepare: Callable[[Any], Any],
    engine: Engine,
) -> tuple[Bench, Crew]:
    """What a run shares, and its workers, none of which is started yet. The arguments, and what is
    raised, are those of `run`; folder is that of the experiment's results."""
    here = (checkpoints.as_it_is, "cpu") if engine.apart else (prepare, "")
    bench = plan.open_bench(experiment, folder, models, device, *here)

    def kit() -> Kit:
        folders, extractor = checkpoints.models_of(models), bench.judge.extractor.on("cpu")
        return Kit.of(bench.models, folders, extractor, experiment.scoring.dtype, prepare)

    return bench, engine.crew(bench.models, bench.judge.extractor, kit)


def fill(
    bench: Bench, cells: Sequence[Planned], crew: Crew, bar: Progress,
    pictures: Collection[str] = (),
) -> None:  # fmt: skip
    """Make the missing shards of cells, and record each cell when it is whole.

    Another thread scores a cell while the next is sampled.
    pictures: keys of converged runs whose images must be there too.

    Raises:
        RuntimeError: shards that could not be made; all others are there.
    """
    gaps, failed = Gaps.of(bench, cells, pictures), []
    with limited(bench.device), Beside(bench.device, crew.apart) as beside:
        crew.evals = bar.update
        for one in gaps.whole:
            beside.score(finish, bench, one, bar)
        for result in crew.make(gaps.jobs(bench, crew.apart, bar.set_description)):
            if result.shard is None:
                failed.append(result)
                continue
            one, task = result.job.what
            beside.write(save, bench, one, task, result.shard)
            if gaps.close(one, task, result.shard):
                beside.score(finish, bench, one, bar, gaps.at_hand(one))
            beside.settle()
    if failed:
        raise RuntimeError(said(failed))


def save(bench: Bench, one: Planned, task: Task, shard: Shard | Packed) -> None:
    """Put a shard on the shelf."""
    with beside_sampling(bench.device):
        bench.shelf.save(one.key, task.seeds, shard)


def finish(
    bench: Bench, one: Planned, bar: Progress, at_hand: Mapping[range, Shard] | None = None
) -> None:
    """Merge a cell's shards, score them, write the record, and drop shards that are not kept.

    at_hand: shards that are in memory; the others are read.
    """
    start = time.perf_counter()
    with beside_sampling(bench.device):
        merged = records.merged(bench, one, at_hand or {})
        record = records.content(bench, one, merged)
    store.save_record(bench.folder, record, records.strip(one, merged))
    if not records.keeps(bench, one):
        bench.shelf.drop(one.key)
    bar.scored(time.perf_counter() - start)
    talk.cell(one.row, record, bar)
