"""What makes shards, in whatever process: models, extractor and compiled graphs stay warm in it."""

import hashlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch

from bench import checkpoints, shards
from bench.machine import device_name
from bench.schedules import Native
from bench.shards import Packed, Shard, Task
from bench.store import in_a_line
from bench.types import Extractor, Model

_SOURCE = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Order:
    """A shard to be made.

    truth: file of the converged images that it is compared with (`Packed.images`); None: of none.
    """

    task: Task
    truth: bytes | None = field(default=None, repr=False)

    @property
    def lean(self) -> "Order":
        """The same without the schedule and its rates: the grid holds what they gave."""
        cell = replace(self.task.cell, schedule=Native())
        return replace(self, task=replace(self.task, cell=cell))


class Worker:
    """Makes shards, one after the other.

    Where memory does not suffice, it halves the batch and keeps to that batch for the model. A
    shard says what batch it was made with.
    """

    def __init__(self, models: Callable[[str], Model], extractor: Extractor):
        """models: name in the experiment -> the model on the worker's device."""
        self.models, self.extractor = models, extractor
        self.most: dict[str, int] = {}  # model -> images at once that fit

    def make(self, order: Order, progress: Callable[[int], Any] = lambda images: None) -> Shard:
        """Make a shard.

        Arguments:
            progress: called with the number of images, each time some are made; with a number
                below 0 where they are made again.

        Raises:
            ValueError, FloatingPointError, RuntimeError: as of `shards.make`.
        """
        task, name = order.task, order.task.cell.model
        model = self.models(name)
        truth = None if order.truth is None else shards.images_of(order.truth)
        while True:
            batch, done = min(task.batch, self.most.get(name, task.batch)), 0

            def count(images: int) -> None:
                nonlocal done
                done += images
                progress(images)

            try:
                at_once = replace(task, batch=batch)
                made = shards.make(at_once, model, self.extractor, truth, count)
                device = device_name(model.device)
                return replace(made, batch=batch, device=device)
            except Exception as error:
                fits = min(batch, len(task.seeds)) // 2
                if fits == 0 or not _lacks_memory(error):
                    raise
                self.most[name] = fits
            progress(-done)
            if torch.cuda.is_available():
                torch.cuda.empty_cache()


def _lacks_memory(error: Exception) -> bool:
    words = ("out of memory", "can't allocate memory")
    known = isinstance(error, MemoryError | torch.OutOfMemoryError)
    return known or any(word in str(error).lower() for word in words)


@dataclass(frozen=True)
class Kit:
    """All that a worker opens before its first shard, and what it must turn out to be.

    models: name in the experiment -> its folder on the worker's machine.
    extractor: on no device yet.
    dtype: of the networks.
    prepare: Checkpoint -> Checkpoint, such as `checkpoints.compiled`.
    digests: name of a model, of the extractor and "crs-bench" -> the digest that it must have.
    """

    models: Mapping[str, Path]
    extractor: Extractor
    dtype: str
    prepare: Callable[[Any], Any]
    digests: Mapping[str, str]

    @classmethod
    def of(
        cls,
        models: Mapping[str, Model],
        folders: checkpoints.Models,
        extractor: Extractor,
        dtype: str,
        prepare: Callable[[Any], Any],
    ) -> "Kit":
        """The kit of opened models. folders: where they were looked up."""
        digests = {name: model.digest for name, model in models.items()}
        digests |= {extractor.name: extractor.digest, "crs-bench": source_digest()}
        homes = {name: folders.folder(name).absolute() for name in models}
        return cls(homes, extractor, dtype, prepare, digests)

    def open(self, device: str) -> Worker:
        """A worker on a device. Its models are opened when a shard needs them, and kept.

        Raises:
            ValueError: the machine has another crs-bench, or another extractor.
        """
        extractor = self.extractor.on(device)
        self._check("crs-bench", source_digest())
        self._check(extractor.name, extractor.digest)

        @cache
        def model(name: str) -> Model:
            found = self.prepare(checkpoints.load(self.models[name], device, self.dtype))
            self._check(name, found.digest)
            return found

        return Worker(model, extractor)

    def _check(self, name: str, digest: str) -> None:
        if digest != self.digests[name]:
            raise ValueError(f"{name} on machine {os.uname().nodename} is another than that of the "
                             "run (its digest differs); install the same one")  # fmt: skip


@cache
def source_digest() -> str:
    """SHA-256 of this package's source."""
    found = hashlib.sha256()
    for path in sorted(_SOURCE.rglob("*.py")):
        found.update(f"{path.relative_to(_SOURCE).as_posix()}\0".encode() + path.read_bytes())
    return found.hexdigest()


@dataclass(frozen=True)
class Hello:
    """What a new worker says first. complaint: why it cannot work; "": it can."""

    process: int
    complaint: str = ""


class Hand:
    """A worker in a process of its own, which an engine calls. It raises nothing."""

    def hello(self, kit: Kit, device: str, threads: int) -> Hello:
        """Open a kit. threads: of torch on a CPU."""
        try:
            if device == "cpu":
                torch.set_num_threads(threads)
            else:
                torch.cuda.set_device(device)
            self.worker = kit.open(device)
            return Hello(os.getpid())
        except Exception as error:
            return Hello(os.getpid(), said(error))

    def make(self, order: Order) -> Packed | str:
        """A shard; or, where making it raised, what was raised."""
        try:
            return shards.pack(self.worker.make(order))
        except Exception as error:
            return said(error)


def said(error: Exception) -> str:
    """An error as one line."""
    return in_a_line(f"{type(error).__name__}: {error}")
