"""The main path: an experiment's missing cells are sampled, scored and recorded, then reported.

plan     every cell with its grid and its key, before any sampling
shards   fixed ranges of seeds -> images -> features, one file each, made by an engine's workers
judge    the shards of a cell, merged in seed order -> scores with their errors
record   one JSON file a cell; a score that it has is never taken again
report   records -> tables and figures
"""

import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from bench import checkpoints, plan, records, store, talk
from bench.engines import Crew, Engine, InProcess, Job, Kit, Order, Result
from bench.machine import beside_sampling, limited, scoring_threads
from bench.plan import Bench, Planned
from bench.progress import Progress
from bench.report import report
from bench.shards import Packed, Shard, Task
from bench.types import Experiment

_AT_HAND = 2**29  # bytes of a cell's features that stay in memory until they are scored


def _as_it_is(model: Any) -> Any:
    return model


def run(
    experiment: Experiment,
    results: Path,
    models: checkpoints.Models | Path | None = None,
    device: str = "cpu",
    prepare: Callable[[Any], Any] = _as_it_is,
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
    here = (_as_it_is, "cpu") if engine.apart else (prepare, "")
    bench = plan.open_bench(experiment, results / experiment.name, models, device, *here)

    def kit() -> Kit:
        folders = checkpoints.models_of(models)
        dtype, extractor = experiment.scoring.dtype, bench.judge.extractor.on("cpu")
        return Kit.of(bench.models, folders, extractor, dtype, prepare)

    tuning, anchors = plan.tuning(bench), plan.converged(bench)
    scored, fine = plan.scored(bench, plan.first_tries(bench), anchors), list(anchors.values())
    with Progress() as bar, engine.crew(bench.models, bench.judge.extractor, kit) as crew:
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


def expect(bench: Bench, bar: Progress, cells: Sequence[Planned]) -> None:
    """Tell the bar what is left of cells."""
    left = records.left(bench, cells)
    bar.expect(left.evaluations, len(left.images))


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
    cells = sorted({one.key: one for one in cells}.values(), key=lambda one: one.cost)
    todo = {one.key: one for one in cells if records.lacking(bench, one) or one.key in pictures}
    missing = _missing(bench, cells, todo)
    left, failed = {key: len(tasks) for key, tasks in missing.items()}, list[Result]()
    made, saved = dict[str, dict[range, Shard]](), None  # in memory; the last that is written
    with (
        ThreadPoolExecutor(scoring_threads(bench.device)) as scorers,
        ThreadPoolExecutor(1) as writer,
        limited(bench.device),
    ):
        crew.evals = bar.update
        futures = [scorers.submit(finish, bench, one, bar, {}, None) for key, one in todo.items()
                   if key not in left]  # fmt: skip
        for result in crew.make(jobs(bench, _in_order(bench, todo, crew), missing, bar)):
            one, task = result.job.what
            if result.shard is None:
                failed.append(result)
                continue
            if saved:
                saved.result()  # an error in writing stops the run here
            saved = writer.submit(save, bench, one, task, result.shard)
            hold(made.setdefault(one.key, {}), task, result.shard)
            left[one.key] -= 1
            if left[one.key] == 0:
                at_hand = made.pop(one.key)
                futures.append(scorers.submit(finish, bench, one, bar, at_hand, saved))
            futures = _unfinished(bench, crew, futures)
        if saved:
            saved.result()
        for future in futures:
            future.result()
    if failed:
        raise RuntimeError(_failures(failed))


def _in_order(bench: Bench, cells: dict[str, Planned], crew: Crew) -> list[Planned]:
    """Cells in the order in which their shards are made."""
    if not crew.apart:
        return list(cells.values())
    size = bench.scoring.shard
    return sorted(cells.values(), key=lambda one: -one.cell.nfe * min(len(one.cell.seeds), size))


def _unfinished(bench: Bench, crew: Crew, futures: list[Future[None]]) -> list[Future[None]]:
    """Those that go on. An error in scoring stops the run here. A run in one process waits for its
    scores, since cells that are not scored are in memory; others must not wait."""
    futures = list(futures)
    while not crew.apart and len(futures) > scoring_threads(bench.device):
        futures.pop(0).result()
    for future in futures:
        if future.done():
            future.result()
    return [future for future in futures if not future.done()]


def _failures(failed: list[Result]) -> str:
    """What could not be made, in a line for each shard."""
    lines = [f"  {one.job.name}: {one.trouble}" for one in failed[:20]]
    more = [f"  and {len(failed) - 20} more"] if len(failed) > 20 else []
    return "\n".join([f"{len(failed)} shards could not be made. All others are kept; the same "
                      "command tries these again:", *lines, *more])  # fmt: skip


def _missing(
    bench: Bench, cells: Sequence[Planned], todo: Collection[str]
) -> dict[str, list[Task]]:
    """Key of a cell -> its shards that are to be made: those that are not there, or damaged."""
    found: dict[str, list[Task]] = {}
    for one in cells:
        if one.key in todo:
            tasks = [task for task in one.tasks(bench) if not bench.shelf.sound(one.key, task)]
            found |= {one.key: tasks} if tasks else {}
    return found


def jobs(
    bench: Bench, cells: Sequence[Planned], missing: dict[str, list[Task]], bar: Progress
) -> Iterator[Job]:
    """The shards to be made, as jobs of an engine."""
    for one in cells:
        row = one.row
        name = f"{row['line']} {row['sampler']} {one.cell.nfe}"

        def order(one: Planned, task: Task, name: str) -> Order:
            bar.set_description(name)
            return Order(task, records.truth(bench, one, task))

        for task in missing.get(one.key, ()):
            yield Job(
                f"{one.cell.model}, {name}, seeds {task.seeds[0]} to {task.seeds[-1]}",
                len(task.seeds) * one.cell.nfe, partial(order, one, task, name), (one, task),
            )  # fmt: skip


def hold(made: dict[range, Shard], task: Task, shard: Shard | Packed) -> None:
    """Keep a shard that is in memory, so that it need not be read again, if it fits there."""
    if isinstance(shard, Shard) and sum(one.size for one in made.values()) + shard.size <= _AT_HAND:
        made[task.seeds] = replace(shard, images=None)


def save(bench: Bench, one: Planned, task: Task, shard: Shard | Packed) -> None:
    """Put a shard on the shelf."""
    with beside_sampling(bench.device):
        bench.shelf.save(one.key, task.seeds, shard)


def finish(
    bench: Bench, one: Planned, bar: Progress, made: Mapping[range, Shard],
    saved: Future[None] | None,
) -> None:  # fmt: skip
    """Merge a cell's shards, score them, write the record, and drop shards that are not kept.

    made: shards that are in memory. saved: ends when the last shard is written.
    """
    if saved:
        saved.result()
    start = time.perf_counter()
    with beside_sampling(bench.device):
        merged = records.merged(bench, one, made)
        record = records.content(bench, one, merged)
    store.save_record(bench.folder, record, records.strip(one, merged))
    if not records.keeps(bench, one):
        bench.shelf.drop(one.key)
    bar.scored(time.perf_counter() - start)
    talk.cell(one.row, record, bar)
