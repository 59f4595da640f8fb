"""What the driver costs with many workers: `python tests/scale.py --workers 256 --shards 100000`.

Workers are stand-ins that wait as long as a shard would take, or Ray's actors that do (--ray). The
driver does all its own work: tasks, pickles, the order of work, one file a shard.
"""

import argparse
import asyncio
import heapq
import os
import pickle
import random
import resource
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import torch

from bench.engines import Crew, Job, Order
from bench.engines.worker import Hello
from bench.samplers import DDIM
from bench.schedules import Karras
from bench.shards import Packed, Shelf, Task, ranges
from bench.types import Cell

RESULT = Packed(bytes(2_000))


class Timed(Crew):
    """Stand-ins that one thread answers for, when their time has come."""

    def __init__(self, count: int, seconds: float):
        super().__init__()
        self.count, self.seconds, self.draw = count, seconds, random.Random(0)
        self.slept = self.spent = 0.0
        self.names = iter(range(10**9))
        self.heap: list[tuple[float, int, Future[Any]]] = []
        self.ready = threading.Condition()
        threading.Thread(target=self._answer, daemon=True).start()

    def wanted(self) -> int:
        return self.count

    def start(self) -> tuple[Any, "Future[Hello]"]:
        future: Future[Hello] = Future()
        future.set_result(Hello(0))
        return next(self.names), future

    def time(self, order: Order) -> float:
        """How long a shard takes: half as long to one and a half times as long as the mean."""
        pickle.dumps(order.lean)
        self.slept += (seconds := self.seconds * self.draw.uniform(0.5, 1.5))
        return seconds

    def submit(self, worker: Any, order: Order) -> "Future[Packed | str]":
        future: Future[Packed | str] = Future()
        with self.ready:
            entry = (time.monotonic() + self.time(order), next(self.names), future)
            heapq.heappush(self.heap, entry)
            self.ready.notify()
        return future

    def drop(self, worker: Any) -> None:
        pass

    def _answer(self) -> None:
        while True:
            with self.ready:
                while not self.heap or self.heap[0][0] > time.monotonic():
                    self.ready.wait(
                        max(0.0, self.heap[0][0] - time.monotonic()) if self.heap else None
                    )
                future = heapq.heappop(self.heap)[2]
            future.set_result(RESULT)
            self.spent = time.thread_time()


class Waiter:
    """An actor that stands for many workers."""

    async def wait(self, seconds: float, order: bytes) -> Packed:
        await asyncio.sleep(seconds)
        return RESULT


class OnRay(Timed):
    """The same, but the waiting is done in Ray's actors."""

    def __init__(self, count: int, seconds: float, actors: int = 2):
        from bench.engines.cluster import _connect

        _connect("")
        import ray

        super().__init__(count, seconds)
        kind: Any = ray.remote(Waiter)
        options = {"num_cpus": 0, "max_concurrency": count}
        self.actors = [kind.options(**options).remote() for _ in range(actors)]

    def submit(self, worker: Any, order: Order) -> "Future[Packed | str]":
        actor = self.actors[worker % len(self.actors)]
        return actor.wait.remote(self.time(order), pickle.dumps(order.lean)).future()


def jobs(count: int) -> Iterator[Job]:
    """Shards of cells of 50,000 images."""
    grid = torch.linspace(80, 0, 21, dtype=torch.float64)
    cell = Cell("model", Karras(), DDIM(), 20, range(50_000))
    tasks = [Task(cell, grid, seeds, ("features",), 64)
             for _ in range(-(-count // 200)) for seeds in ranges(cell.seeds, 250)]  # fmt: skip
    for i, task in enumerate(tasks[:count]):
        yield Job(f"{i}", 250 * 20, lambda task=task: Order(task), i)  # type: ignore[misc]


def simulate(crew: Timed, count: int) -> dict[str, float]:
    """Make so many shards; gives times in seconds and memory in MB.

    ideal: how long the workers would take if the driver took no time.
    overhead: CPU seconds of this process, but for the stand-ins' thread, over the ideal time. So it
        is what the driver would add if all workers waited while it works. It hardly depends on what
        other programs do.
    late: time taken over the ideal time, less 1. Other programs add to it.
    """
    memory, start, spent = _memory(), time.monotonic(), time.process_time() - crew.spent
    made = 0
    with tempfile.TemporaryDirectory() as folder:
        shelf = Shelf(Path(folder), "stand-in")
        for result in crew.make(jobs(count)):
            assert result.shard
            at = result.job.what
            shelf.save(f"{at // 200}", range(at % 200 * 250, at % 200 * 250 + 250), result.shard)
            made += 1
    wall, ideal = time.monotonic() - start, crew.slept / crew.count
    cpu = time.process_time() - crew.spent - spent
    return {
        "shards": made, "wall": wall, "ideal": ideal, "overhead": cpu / ideal,
        "late": wall / ideal - 1, "cpu a shard": cpu / made, "memory": _memory() - memory,
    }  # fmt: skip


def _memory() -> float:
    """The largest memory of this process so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    """Print what a simulation finds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, default=256)
    parser.add_argument("--shards", type=int, default=100_000)
    parser.add_argument("--seconds", type=float, default=1.0, help="of a shard")
    parser.add_argument("--ray", action="store_true")
    asked = parser.parse_args()
    crew = (OnRay if asked.ray else Timed)(asked.workers, asked.seconds)
    for name, value in simulate(crew, asked.shards).items():
        print(f"{name}: {value:.6g}")
    os._exit(0)


if __name__ == "__main__":
    main()
