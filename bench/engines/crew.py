"""Workers and the order of their work: what all engines share.

A worker has one shard at a time. It gets the next one when it gives the result, so a slow worker is
waited for by no more than its own shard.
"""

import sys
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import Any, ClassVar, Self

from tqdm import tqdm

from bench.engines.worker import Hello, Kit, Order
from bench.shards import Packed, Shard
from bench.types import Extractor, Model

_TRIES = 3  # of a shard that raises, or whose worker is lost
_HOPELESS = 8  # shards that failed while none was made: the rest is not tried
_POLL = 1.0  # seconds between looks at what workers there should be
_PATIENCE = 60  # looks without any worker, after which the run says so


@dataclass(frozen=True, eq=False)
class Job:
    """A shard to be made.

    name: for messages.
    evals: evaluations of the network, of all its images.
    order: called when the shard is sent, so that waiting shards take no memory.
    what: the caller's own.
    """

    name: str
    evals: int
    order: Callable[[], Order]
    what: Any = None


@dataclass(frozen=True)
class Result:
    """What came of a job. shard: None where it failed. trouble: why."""

    job: Job
    shard: Shard | Packed | None
    trouble: str = ""


class Engine(ABC):
    """Where shards are made. apart: in other processes than the run itself."""

    apart: ClassVar[bool] = True

    @abstractmethod
    def crew(
        self, models: dict[str, Model], extractor: Extractor, kit: Callable[[], Kit]
    ) -> "Crew":
        """The workers of a run. None starts before the first shard.

        Arguments:
            models, extractor: as the run has opened them.
            kit: what other processes open.
        """


class Crew(ABC):
    """Some workers. A subclass says how many there should be, and how one starts and works.

    apart: in other processes than the run itself. They get the longest shards first, so that none
        of them is waited for at the end. A run in one process begins with the shortest.
    evals: called with a number of evaluations, each time some are made.
    """

    apart: ClassVar[bool] = True

    def __init__(self) -> None:
        self.evals: Callable[[int], Any] = lambda count: None
        self._done = SimpleQueue[tuple[Hashable, Job | None, Future[Any]]]()
        self._free: deque[Hashable] = deque()
        self._ready: set[Hashable] = set()  # free and busy
        self._starting: set[Hashable] = set()
        self._stillborn: list[str] = []  # why workers did not start
        self._busy = 0
        self._open = False

    def open(self) -> None:
        """Make ready for the first worker. Called once, when there is a shard to make."""
        return

    @abstractmethod
    def wanted(self) -> int:
        """Workers that there should be now. It may change."""

    @abstractmethod
    def start(self) -> tuple[Hashable, "Future[Hello]"]:
        """A new worker, and what it will say first."""

    @abstractmethod
    def submit(self, worker: Any, order: Order) -> "Future[Any]":
        """Give a worker a shard to make: a `Shard`, a `Packed` one, or a text that says why not. A
        future that raises is one of a worker that is lost."""

    @abstractmethod
    def drop(self, worker: Any) -> None:
        """End a worker, whatever it does."""

    def close(self) -> None:
        """End all workers."""
        for worker in [*self._ready, *self._starting]:
            self.drop(worker)
        self._ready, self._starting = set(), set()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def muster(self) -> None:
        """Start all workers and wait for them, so that the next shards go to all at once.

        Raises:
            RuntimeError: no worker can start.
        """
        self._call_more()
        while self._starting:
            for worker, _, future in self._arrived():
                self._welcome(worker, future)
            self._call_more()

    def make(self, jobs: Iterable[Job]) -> Iterator[Result]:
        """Make shards, and give each when it is there.

        A shard that raises, or whose worker is lost, is tried again, elsewhere if it can be.

        Raises:
            RuntimeError: no worker can start.
        """
        waiting, failed, made, idle = _Waiting(jobs), 0, 0, 0
        while True:
            if waiting:
                self._call_more()
                self._send(waiting)
            if not (waiting or self._busy):
                return
            arrived = self._arrived()
            if not arrived and not self._ready and (idle := idle + 1) == _PATIENCE:
                tqdm.write("still waiting for a first worker", file=sys.stderr)
            for worker, job, future in arrived:
                if job is None:
                    self._welcome(worker, future)
                elif (result := self._result(worker, job, future, waiting)) is not None:
                    made, failed = made + (not result.trouble), failed + bool(result.trouble)
                    if failed >= _HOPELESS and not made:
                        waiting = _Waiting(())
                    try:
                        if self.apart:  # the worker does not wait until the result is written
                            self._send(waiting)
                    except Exception:  # the next order cannot be made; this result is not lost
                        yield result
                        raise
                    yield result

    def _call_more(self) -> None:
        """Start the workers that lack."""
        if not self._open:
            self.open()
            self._open = True
        lacking = self.wanted() - len(self._stillborn) - len(self._ready) - len(self._starting)
        if lacking <= 0 and self._stillborn and not self._ready and not self._starting:
            raise RuntimeError(f"no worker could start: {self._stillborn[0]}")
        for _ in range(lacking):
            worker, future = self.start()
            self._starting.add(worker)
            self._watch(worker, None, future)

    def _watch(self, worker: Hashable, job: Job | None, future: "Future[Any]") -> None:
        future.add_done_callback(lambda done: self._done.put((worker, job, done)))

    def _arrived(self) -> list[tuple[Hashable, Job | None, "Future[Any]"]]:
        """What has ended; empty where nothing does for a while."""
        found = []
        try:
            found.append(self._done.get(timeout=_POLL))
            while True:
                found.append(self._done.get_nowait())
        except Empty:
            return found

    def _welcome(self, worker: Hashable, future: "Future[Hello]") -> None:
        self._starting.discard(worker)
        error = future.exception()
        complaint = f"it ended while it started ({error})" if error else future.result().complaint
        if complaint:
            self._stillborn.append(complaint)
            self.drop(worker)
        else:
            self._ready.add(worker)
            self._free.append(worker)

    def _send(self, waiting: "_Waiting") -> None:
        """Give every free worker a shard."""
        for _ in range(len(self._free)):
            worker = self._free.popleft()
            job = waiting.take(worker, self._ready)
            if job is None:
                self._free.append(worker)
                continue
            self._busy += 1
            self._watch(worker, job, self.submit(worker, job.order()))

    def _result(
        self, worker: Hashable, job: Job, future: "Future[Any]", waiting: "_Waiting"
    ) -> Result | None:
        """The result of a job; None where it is tried again."""
        self._busy -= 1
        error = future.exception()
        found: Shard | Packed | str = f"its worker is lost ({error})" if error else future.result()
        if error:
            self._ready.discard(worker)
            self.drop(worker)
        else:
            self._free.append(worker)
        if not isinstance(found, str):
            if self.apart:
                self.evals(job.evals)
            return Result(job, found)
        if waiting.again(job, worker) < _TRIES:
            return None
        return Result(job, None, found)


@dataclass
class _Waiting:
    """Jobs that wait: fresh ones, in their order, after those that are tried again."""

    fresh: Iterable[Job]
    failed: deque[Job] = field(default_factory=deque)
    tried: dict[Job, list[Hashable]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.rest = iter(self.fresh)
        self.head = next(self.rest, None)

    def __bool__(self) -> bool:
        return bool(self.failed) or self.head is not None

    def take(self, worker: Hashable, ready: set[Hashable]) -> Job | None:
        """A job for a worker: none that it has tried, unless every other worker has too."""
        for job in self.failed:
            if worker not in self.tried[job] or ready <= set(self.tried[job]):
                self.failed.remove(job)
                return job
        head, self.head = self.head, next(self.rest, None)
        return head

    def again(self, job: Job, worker: Hashable) -> int:
        """Note that a worker failed with a job; gives how often it failed. The job waits again
        where that was not too often."""
        tried = self.tried.setdefault(job, [])
        tried.append(worker)
        if len(tried) < _TRIES:
            self.failed.append(job)
        else:
            del self.tried[job]
        return len(tried)
