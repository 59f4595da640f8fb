"""Engines of one machine: the run's own process, or a process for each worker."""

import multiprocessing
import os
import pickle
import signal
import threading
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from bench.engines.crew import Crew, Engine
from bench.engines.worker import Hand, Hello, Kit, Order, Worker
from bench.shards import Packed
from bench.types import Extractor, Model


@dataclass(frozen=True)
class InProcess(Engine):
    """The run's own process, on one device. What a shard raises stops the run."""

    apart: ClassVar[bool] = False

    def crew(self, models: dict[str, Model], extractor: Extractor, kit: Callable[[], Kit]) -> Crew:
        return _Own(Worker(models.__getitem__, extractor))


class _Own(Crew):
    apart: ClassVar[bool] = False

    def __init__(self, worker: Worker):
        super().__init__()
        self.worker = worker

    def wanted(self) -> int:
        return 1

    def start(self) -> tuple[Worker, "Future[Hello]"]:
        return self.worker, _done(Hello(os.getpid()))

    def submit(self, worker: Worker, order: Order) -> "Future[Any]":
        nfe = order.task.cell.nfe
        return _done(worker.make(order, lambda images: self.evals(images * nfe)))

    def drop(self, worker: Worker) -> None:
        pass


def _done(value: Any) -> "Future[Any]":
    future: Future[Any] = Future()
    future.set_result(value)
    return future


@dataclass(frozen=True)
class Processes(Engine):
    """A process for each worker, all on this machine.

    device: "cpu"; "cuda": all GPUs; or one GPU, as "cuda:1".
    workers: 0: one for each GPU, or for each core. More workers than GPUs share them.
    """

    device: str = "cpu"
    workers: int = 0

    def crew(self, models: dict[str, Model], extractor: Extractor, kit: Callable[[], Kit]) -> Crew:
        devices = [self.device]
        if self.device == "cuda":
            devices = [f"cuda:{i}" for i in range(torch.cuda.device_count())]
        cores = os.cpu_count() or 1
        count = self.workers or (cores if self.device == "cpu" else len(devices))
        every = [devices[i % len(devices)] for i in range(count)]
        return _Processes(kit, every, max(1, cores // count))


class _Processes(Crew):
    """Each worker is a pool of one process, so that the end of one leaves the others.

    What is sent is pickled here: torch's own way to send tensors needs files that both have open.
    """

    def __init__(self, kit: Callable[[], Kit], devices: list[str], threads: int):
        super().__init__()
        self.kit, self.threads, self.unused = kit, threads, devices
        self.count = len(devices)
        self.devices: dict[ProcessPoolExecutor, str] = {}

    def open(self) -> None:
        self.pickled = pickle.dumps(self.kit())
        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()  # the workers need what this process has kept

    def wanted(self) -> int:
        return self.count

    def start(self) -> tuple[ProcessPoolExecutor, "Future[Hello]"]:
        pool = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))
        device = self.devices[pool] = self.unused.pop(0)
        return pool, pool.submit(_hello, self.pickled, device, self.threads)

    def submit(self, worker: ProcessPoolExecutor, order: Order) -> "Future[Any]":
        try:
            return worker.submit(_make, pickle.dumps(order.lean))
        except BrokenProcessPool as error:
            lost: Future[Any] = Future()
            lost.set_exception(error)
            return lost

    def drop(self, worker: ProcessPoolExecutor) -> None:
        self.unused.append(self.devices.pop(worker))
        for process in list((worker._processes or {}).values()):
            with suppress(ProcessLookupError):
                process.kill()
        worker.shutdown(wait=False, cancel_futures=True)


_hand = Hand()  # of a worker's process


def _hello(kit: bytes, device: str, threads: int) -> Hello:
    """Begin a worker's process. It ends with the process that started it, and not by Ctrl-C, which
    that process hears too."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_follow, daemon=True).start()
    return _hand.hello(pickle.loads(kit), device, threads)


def _follow() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _make(order: bytes) -> Packed | str:
    return _hand.make(pickle.loads(order))
