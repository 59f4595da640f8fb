"""The main path: an experiment's missing cells are sampled, scored and recorded, then reported.

plan     every cell with its grid and its key, before any sampling
shards   fixed ranges of seeds -> images -> features, one file each
judge    the shards of a cell, merged in seed order -> scores with their errors
record   one JSON file a cell; a score that it has is never taken again
report   records -> tables and figures
"""

import sys
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tqdm import tqdm

from bench import checkpoints, plan, records, shards, store
from bench.machine import limited, scoring_threads
from bench.plan import Bench, Planned
from bench.report import report
from bench.shards import Task
from bench.share import Share
from bench.types import Experiment


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
        limited(bench.device),
    ):
        for one in cells:
            bar.set_description(f"{one.row['line']} {one.row['sampler']} {one.cell.nfe}")
            for task in mine.get(one.key, ()):
                make(bench, one, task, bar)
            if one.key in todo and one in share.of(cells):
                futures.append(scorers.submit(finish, bench, one, share))
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


def make(bench: Bench, one: Planned, task: Task, bar: tqdm) -> None:
    """Sample one shard and put it on the shelf."""
    truth, model = records.truth(bench, one, task), bench.models[one.cell.model]

    def progress(images: int) -> None:
        bar.update(images * one.cell.nfe)

    made = shards.make(task, model, bench.judge.extractor, truth, progress)
    bench.shelf.save(one.key, task.seeds, made)


def finish(bench: Bench, one: Planned, share: Share) -> None:
    """Merge a cell's shards, score them, write the record, and drop shards that are not kept."""
    share.wait(lambda: records.whole(bench, one), bench.folder)
    merged = records.merged(bench, one)
    store.save_record(bench.folder, records.content(bench, one, merged), records.strip(one, merged))
    if not records.keeps(bench, one):
        bench.shelf.drop(one.key)
