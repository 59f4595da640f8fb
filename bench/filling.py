"""What the main path needs beside it: which shards lack, in what order they are made, which of them
stay in memory, and the threads that write and score.
"""

import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Self

from bench import records
from bench.engines import Job, Order, Result
from bench.machine import scoring_threads
from bench.plan import Bench, Planned
from bench.progress import Progress
from bench.shards import Packed, Shard, Task

_AT_HAND = 2**29  # bytes of a cell's features that stay in memory until they are scored


@dataclass
class Gaps:
    """Cells that lack a score, or images that others need, from the cheapest to the dearest.

    missing: key of a cell -> its shards that are not there, or damaged.
    made: key of a cell -> its shards that are in memory.
    """

    cells: list[Planned]
    missing: dict[str, list[Task]]
    made: dict[str, dict[range, Shard]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.left = {key: len(tasks) for key, tasks in self.missing.items()}

    @classmethod
    def of(cls, bench: Bench, cells: Sequence[Planned], pictures: Collection[str]) -> "Gaps":
        """What cells lack. pictures: keys of converged runs whose images must be there too."""
        each = sorted({one.key: one for one in cells}.values(), key=lambda one: one.cost)
        found = [one for one in each if records.lacking(bench, one) or one.key in pictures]
        sound = bench.shelf.sound
        missing = {one.key: [task for task in one.tasks(bench) if not sound(one.key, task)]
                   for one in found}  # fmt: skip
        return cls(found, missing)

    @property
    def whole(self) -> list[Planned]:
        """Cells whose shards are all there."""
        return [one for one in self.cells if not self.missing[one.key]]

    def jobs(self, bench: Bench, apart: bool, said: Callable[[str], Any]) -> Iterator[Job]:
        """The missing shards as jobs of an engine.

        Arguments:
            apart: whether workers are other processes: then the longest shards come first.
            said: called with the name of a cell when the first of its shards is sent.
        """
        cells, size = self.cells, bench.scoring.shard
        if apart:
            cells = sorted(cells, key=lambda c: -c.cell.nfe * min(len(c.cell.seeds), size))
        for one in cells:
            name = f"{one.row['line']} {one.row['sampler']} {one.cell.nfe}"

            def order(one: Planned, task: Task, name: str) -> Order:
                if task is self.missing[one.key][0]:
                    said(name)
                return Order(task, records.truth(bench, one, task))

            for task in self.missing[one.key]:
                yield Job(
                    f"{one.cell.model}, {name}, seeds {task.seeds[0]} to {task.seeds[-1]}",
                    len(task.seeds) * one.cell.nfe, partial(order, one, task, name), (one, task),
                )  # fmt: skip

    def close(self, one: Planned, task: Task, shard: Shard | Packed) -> bool:
        """Note that a shard is made, and keep it in memory if it fits there, so that it need not be
        read again. Gives whether the cell is whole now."""
        held = self.made.setdefault(one.key, {})
        size = sum(other.size for other in held.values())
        if isinstance(shard, Shard) and size + shard.size <= _AT_HAND:
            held[task.seeds] = replace(shard, images=None)
        self.left[one.key] -= 1
        return self.left[one.key] == 0

    def at_hand(self, one: Planned) -> dict[range, Shard]:
        """Seeds -> shard, of a cell's shards that are in memory. They are given up here."""
        return self.made.pop(one.key)


class Beside:
    """Threads beside the sampling: one writes shards, others score cells.

    An error of theirs is raised by the next call. At the end all their work is done.

    Arguments:
        device: of the scores.
        apart: whether workers are other processes. A run in one process waits for its scores, since
            cells that are not scored are in memory; others must not wait. On a CPU it waits until a
            shard is written, too: then a kill loses only the shard that is under way.
    """

    def __init__(self, device: str, apart: bool):
        count = scoring_threads(device)
        self.at_once = device == "cpu" and not apart
        self.scorers, self.writer = ThreadPoolExecutor(count), ThreadPoolExecutor(1)
        self.most = sys.maxsize if apart else count
        self.scores: list[Future[None]] = []
        self.saved = self.writer.submit(lambda: None)  # the last that is written

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self.saved.result()
                self.most = 0
                self.settle()
        finally:
            self.scorers.shutdown()
            self.writer.shutdown()

    def write(self, call: Callable[..., None], *given: Any) -> None:
        """Write a shard, after all earlier ones are written."""
        self.saved.result()
        self.saved = self.writer.submit(call, *given)
        if self.at_once:
            self.saved.result()

    def score(self, call: Callable[..., None], *given: Any) -> None:
        """Score a cell, after all its shards are written."""

        def scored(saved: Future[None]) -> None:
            saved.result()
            call(*given)

        self.scores.append(self.scorers.submit(scored, self.saved))

    def settle(self) -> None:
        """Wait until no more cells wait for their scores than may."""
        while len(self.scores) > self.most:
            self.scores.pop(0).result()
        for future in self.scores:
            if future.done():
                future.result()
        self.scores = [future for future in self.scores if not future.done()]


def expect(bench: Bench, bar: Progress, cells: Sequence[Planned]) -> None:
    """Tell the bar what is left of cells."""
    left = records.left(bench, cells)
    bar.expect(left.evaluations, len(left.images))


def said(failed: Sequence[Result]) -> str:
    """What could not be made, in a line for each shard."""
    lines = [f"  {one.job.name}: {one.trouble}" for one in failed[:20]]
    more = [f"  and {len(failed) - 20} more"] if len(failed) > 20 else []
    return "\n".join([f"{len(failed)} shards could not be made. All others are kept; the same "
                      "command tries these again:", *lines, *more])  # fmt: skip
