"""The main path: an experiment's missing cells are sampled, scored and recorded, then reported.

plan     every cell with its grid and its key, before any sampling
shards   fixed ranges of seeds -> images -> features, one file each
judge    the shards of a cell, merged in seed order -> scores with their errors
record   one JSON file a cell; a score that it has is never taken again
report   records -> tables and figures
"""

import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from bench import checkpoints, plan, records, shards, store
from bench.machine import beside_sampling, limited, scoring_threads
from bench.plan import Bench, Planned
from bench.report import report
from bench.shards import Shard, Task
from bench.share import Share
from bench.types import Experiment

_AT_HAND = 2**29  # bytes of a cell's features that stay in memory until they are scored


def run(
    experiment: Experiment,
    results: Path,
    models: checkpoints.Models | Path | None = None,
    device: str = "cpu",
    prepare: Callable[[Any], Any] = lambda model: model,
    share: Share = Share(),  # noqa: B008 - frozen
) -> list[Path]:
    """Run every missing cell of an experiment, then write its tables and figures.

    Arguments:
        results: folder that holds one folder an experiment.
        models: where models are looked for first; see `checkpoints.Models`.
        device: of torch.
        prepare: Checkpoint -> Checkpoint, applied to each model, such as `checkpoints.compiled`.
        share: which part of the work this process does, of several that share `results`.

    Returns:
        Paths of the tables and figures.

    Raises:
        ValueError: anything that is missing or does not fit, before any sampling.
    """
    bench = plan.open_bench(experiment, results / experiment.name, models, device, prepare)
    tuning, anchors = plan.tuning(bench), plan.converged(bench)
    plan.scored(bench, {}, anchors)  # a grid that cannot be is found now
    fill(bench, tuning, share)
    chosen = plan.choose(bench, tuning)
    scored, fine = plan.scored(bench, chosen, anchors), list(anchors.values())
    tqdm.write(records.disk(bench, [*tuning, *fine, *scored]), file=sys.stderr)
    records.save_plan(bench, [*tuning, *fine, *scored], chosen)
    fill(bench, fine, share, records.needed(bench, fine, scored))
    fill(bench, scored, share)
    for one in [*tuning, *scored]:
        if not records.keeps(bench, one):  # left by a stop, or by a run that kept more
            bench.shelf.drop(one.key)
    return report(bench.folder)


def fill(
    bench: Bench, cells: Sequence[Planned], share: Share, pictures: Collection[str] = ()
) -> None:
    """Make the missing shards of cells, and record each cell when it is whole.

    Cells of few evaluations come first. Another thread scores a cell while the next is sampled.
    pictures: keys of converged runs whose images must be there too.
    """
    cells = sorted({one.key: one for one in cells}.values(), key=lambda one: one.cost)
    todo = {one.key: one for one in cells if records.lacking(bench, one) or one.key in pictures}
    mine = _missing(
        bench, share.of([(one, task) for one in cells for task in one.tasks(bench)]), todo
    )
    futures: list[Future[None]] = []
    with (
        tqdm(total=_evals(mine), unit="eval", unit_scale=True, disable=None) as bar,
        ThreadPoolExecutor(scoring_threads(bench.device)) as scorers,
        ThreadPoolExecutor(1) as writer,
        limited(bench.device),
    ):
        for one in cells:
            bar.set_description(f"{one.row['line']} {one.row['sampler']} {one.cell.nfe}")
            made, saved = make(bench, one, mine.get(one.key, ()), bar, writer)
            if one.key in todo and one in share.of(cells):
                saved = scorers.submit(finish, bench, one, share, made, saved)
            futures += [saved] if saved else []
            while len(futures) > scoring_threads(bench.device):
                futures.pop(0).result()  # an error in scoring stops the run here
        for future in futures:
            future.result()
    share.wait(lambda: all(_there(bench, one, pictures) for one in todo.values()), bench.folder)


def _there(bench: Bench, one: Planned, pictures: Collection[str]) -> bool:
    """Whether a cell has its scores and, of a converged run, its images where they are needed."""
    complete = one.key not in pictures or records.whole(bench, one)
    return complete and not records.lacking(bench, one)


def _missing(
    bench: Bench, tasks: Sequence[tuple[Planned, Task]], todo: Collection[str]
) -> dict[str, list[Task]]:
    """Key of a cell -> its shards that are to be made: those that are not there, or damaged."""
    found: dict[str, list[Task]] = {}
    for one, task in tasks:
        if one.key in todo and not bench.shelf.sound(one.key, task):
            found.setdefault(one.key, []).append(task)
    return found


def _evals(tasks: dict[str, list[Task]]) -> int:
    return sum(len(task.seeds) * task.cell.nfe for of in tasks.values() for task in of)


def make(
    bench: Bench, one: Planned, tasks: Sequence[Task], bar: tqdm, writer: Executor
) -> tuple[dict[range, Shard], Future[None] | None]:
    """Sample shards of a cell and put them on the shelf, each while the next one is sampled.

    Returns:
        Seeds -> shard, of as many as fit in `_AT_HAND`: these need not be read again. And what
        ends when the last shard is written; None where there is none.
    """
    model, made, size = bench.models[one.cell.model], dict[range, Shard](), 0
    saved: Future[None] | None = None

    def progress(images: int) -> None:
        bar.update(images * one.cell.nfe)

    for task in tasks:
        truth = records.truth(bench, one, task)
        shard = shards.make(task, model, bench.judge.extractor, truth, progress)
        if saved:
            saved.result()  # an error in writing stops the run here
        saved = writer.submit(save, bench, one, task, shard)
        size += shard.size
        if size <= _AT_HAND:
            made[task.seeds] = replace(shard, images=None)
    return made, saved


def save(bench: Bench, one: Planned, task: Task, shard: Shard) -> None:
    """Put a shard on the shelf."""
    with beside_sampling(bench.device):
        bench.shelf.save(one.key, task.seeds, shard)


def finish(
    bench: Bench, one: Planned, share: Share, made: Mapping[range, Shard],
    saved: Future[None] | None,
) -> None:  # fmt: skip
    """Merge a cell's shards, score them, write the record, and drop shards that are not kept.

    made, saved: as `make` gives them.
    """
    if saved:
        saved.result()
    share.wait(lambda: records.whole(bench, one), bench.folder)
    with beside_sampling(bench.device):
        merged = records.merged(bench, one, made)
        record = records.content(bench, one, merged)
    store.save_record(bench.folder, record, records.strip(one, merged))
    if not records.keeps(bench, one):
        bench.shelf.drop(one.key)
