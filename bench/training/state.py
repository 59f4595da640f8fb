"""A training that can be interrupted. Its whole state is saved every minute.

torch's `AveragedModel` does not replace the exponential moving average here. It copies the weights
at the first step and its decay does not rise, so the average differs by 43 % after 3000 steps. Its
update also takes 2.6 times as long on a CPU.
"""

import math
import os
import pickle
import re
import signal
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any, Protocol, Self

import torch
from torch import Tensor
from tqdm import tqdm

from bench.checkpoints.files import unwritable
from bench.training.journal import EVERY, Board, Journal, Row

_DAMAGED = (RuntimeError, LookupError, TypeError, ValueError, EOFError, pickle.UnpicklingError)
_SAID = 30  # seconds between two lines of progress where there is no terminal


class _Recipe(Protocol):
    """The fields that every recipe has."""

    @property
    def steps(self) -> int: ...
    @property
    def minutes(self) -> float: ...
    @property
    def batch(self) -> int: ...
    @property
    def ema(self) -> float: ...
    @property
    def seed(self) -> int: ...


class Resumable(ABC):
    """A network in training, the moving average of its weights, and its random generator.

    parts: names of the attributes whose state_dict is saved.
    data: the digest of the training images, which a resumed training must have again.
    """

    parts: tuple[str, ...] = ("net", "optimizer")
    optimizer: Any
    data: str = ""

    def __init__(self, recipe: _Recipe, net: Any, device: str):
        self.recipe: Any = recipe
        self.device = device
        self.net: Any = net.to(device).to(memory_format=torch.channels_last)
        self.parameters: list[Tensor] = list(self.net.parameters())
        self.weights = [p.detach() for p in self.parameters]  # the same memory
        self.ema = [p.clone() for p in self.weights]
        self.generator = torch.Generator(device).manual_seed(recipe.seed)
        self.step, self.elapsed = 0, 0.0
        self.journal, self.board = Journal(device), Board(None)
        self.stopped = False  # by Ctrl-C, perhaps in the last step
        self._last = time.monotonic()

    def state(self) -> dict[str, Any]:
        """Everything that `load` restores."""
        return {name: getattr(self, name).state_dict() for name in self.parts} | {
            "ema": self.ema, "generator": self.generator.get_state(), "step": self.step,
            "elapsed": self.elapsed, "recipe": self._asked(), "data": self.data,
            "journal": self.journal.state(),
        }  # fmt: skip

    def save(self, path: Path) -> None:
        """Write the state. The last file stays where it cannot be written.

        FloatingPointError: weights are not finite. ValueError: the disk is full.
        """
        if not all(bool(torch.isfinite(p).all()) for p in self.ema):
            raise FloatingPointError(
                f"training diverged before step {self.step}: lower --rate; {path} is older"
            )
        temporary = path.with_suffix(".tmp")
        try:
            with temporary.open("wb") as file:
                torch.save(self.state(), file)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except (OSError, RuntimeError) as error:  # of a full disk torch raises RuntimeError
            raise unwritable(path, error, "make room and repeat the command") from error
        finally:
            temporary.unlink(missing_ok=True)

    def load(self, path: Path) -> dict[str, Any]:
        """Restore a state and return it. ValueError: it is damaged, or of other options or data."""
        state = self._read(path)
        old, new = state["recipe"], self._asked()
        if isinstance(old, str):  # of an earlier version
            same = _nameless(old) == _nameless(repr(self.recipe))
            other = [] if same else ["of an earlier version of crs-bench"]
        else:
            other = [f"{name} {old.get(name, 'unknown')} there, {new[name]} here"
                     for name in new if old.get(name) != new[name]]  # fmt: skip
        if other:
            raise ValueError(
                f"{path} is the state of a training with other options ({'; '.join(other[:3])}); "
                "repeat the first options, or give another folder"
            )
        if state["data"] != self.data:
            raise ValueError(
                f"{path} is the state of a training on other images; give the same --data, or "
                "delete it to start again"
            )
        for name in self.parts:
            getattr(self, name).load_state_dict(state[name])
        self.generator.set_state(state["generator"].cpu())
        for average, kept in zip(self.ema, state["ema"], strict=True):
            average.copy_(kept)
        self.step, self.elapsed = state["step"], state["elapsed"]
        self.journal.load(state["journal"])
        return state

    def _read(self, path: Path) -> dict[str, Any]:
        """A state, on the CPU, so that a full GPU is not taken for a damaged file."""
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
            if not isinstance(state, dict) or not isinstance(state["recipe"], str | dict):
                raise TypeError("it is no state")
            if lacks := self.state().keys() - state.keys():
                raise LookupError(f"it lacks {', '.join(lacks)}")
        except _DAMAGED as error:
            raise ValueError(f"{path} is damaged; delete it to start the training again") from error
        return state

    def begin(self, path: Path, made: Path, tensorboard: bool) -> None:
        """Restore the state of an earlier run, if there is one, and open the board.

        Arguments:
            path: of the state. made: the file that the end of the training writes.
            tensorboard: whether the board has files, beside `made`.

        Raises:
            ValueError: as `load`; or `made` is there without a state.
        """
        if path.is_file():
            self.load(path)
        elif made.is_file():
            raise ValueError(f"{made} is there, but not {path}, the state of its training: give "
                             "another folder, or delete it to train again")  # fmt: skip
        shown = tensorboard and self.progress() < 1
        self.board = Board(made.parent / "tensorboard" if shown else None, self.step)

    @contextmanager
    def end(self, path: Path, losses: Path) -> Iterator[None]:
        """Save all, then let the caller export the network.

        KeyboardInterrupt: Ctrl-C was pressed in the last step. It is raised after the export.
        """
        self.save(path)
        self.journal.write(losses)
        self.board.close()
        yield
        if self.stopped:
            raise KeyboardInterrupt

    def _asked(self) -> dict[str, str]:
        """The recipe in words. A folder may be renamed, so that the name does not count."""
        return {field.name: repr(getattr(self.recipe, field.name)) for field in fields(self.recipe)
                if field.name != "name"}  # fmt: skip

    def progress(self) -> float:
        """The share of the training that is done; 1 at the end."""
        if self.recipe.steps:
            return self.step / self.recipe.steps
        return self.elapsed / (60 * self.recipe.minutes)

    @abstractmethod
    def learning_rate(self) -> float:
        """The learning rate of the next step."""

    def advance(self, loss: Tensor) -> None:
        """End a step: update the moving average. Its decay rises to that of the recipe.

        Arguments:
            loss: of the step.
        """
        self.journal.add(loss)
        decay = min(self.recipe.ema, (1 + self.step) / (10 + self.step))
        torch._foreach_lerp_(self.ema, self.weights, 1 - decay)
        self.step += 1

    def rest(self) -> None:
        """The time since the last step does not count: something else was done."""
        self._last = time.monotonic()

    def turns(self, what: str, path: Path, losses: Path) -> Iterator[None]:
        """Yield before each step, until the training is done. Show progress.

        Arguments:
            path: where the state is saved, every minute.
            losses: where the journal is written, with the state.

        Raises:
            FloatingPointError: the loss is not finite.
            KeyboardInterrupt: Ctrl-C was pressed. The step was ended and the state is saved.
        """
        bar = _Bar(what, self)
        with _Stop() as stop:
            yield from self._turns(bar, stop, path, losses)
        bar.close()
        self.stopped = stop.asked
        if stop.asked and self.progress() < 1:
            self.save(path)
            self.journal.write(losses)
            print(f"{what}: stopped at step {self.step:,}; the same command goes on from there",
                  file=sys.stderr, flush=True)  # fmt: skip
            raise KeyboardInterrupt

    def _turns(self, bar: "_Bar", stop: "_Stop", path: Path, losses: Path) -> Iterator[None]:
        self._last = began = saved = time.monotonic()
        first, at, spent = self.step, self.step, self.elapsed
        while self.progress() < 1 and not stop.asked:
            yield
            now = time.monotonic()
            if self.step > first + 1:  # the first step of a process compiles and does not count
                self.elapsed += now - self._last
            self._last = now
            if self.step % EVERY == 0 or self.progress() >= 1:
                seconds = self.elapsed - spent
                pace = (self.step - at) / seconds if seconds else 0.0
                bar.show(self._row(pace), pace)
                at, spent = self.step, self.elapsed
            if now - saved > (60 if now - began > 60 else 10):  # more often at the start
                self.save(path)
                self.journal.write(losses)
                saved = now

    def _row(self, pace: float) -> Row:
        """A row of the journal; pace: steps in a second."""
        images, rate = self.recipe.batch * pace, self.learning_rate()
        row = self.journal.close(self.step, rate, images, self.elapsed)
        if not math.isfinite(row.loss):
            raise FloatingPointError(f"training diverged before step {row.step}: lower --rate")
        self.board.row(row)
        return row


def _nameless(recipe: str) -> str:
    """The text of a recipe without the name of the model."""
    return re.sub(r"name='[^']*', ", "", recipe, count=1)


class _Stop:
    """Ctrl-C asks for a stop after the step that is under way. A second one stops at once."""

    def __init__(self) -> None:
        self.asked = False

    def __enter__(self) -> Self:
        usual = signal.getsignal(signal.SIGINT) is signal.default_int_handler
        self.here = usual and threading.current_thread() is threading.main_thread()
        if self.here:
            signal.signal(signal.SIGINT, self._ask)
        return self

    def _ask(self, *_: object) -> None:
        self.asked = True
        os.write(2, b"\nstopping after this step; Ctrl-C again stops at once\n")
        signal.signal(signal.SIGINT, signal.default_int_handler)

    def __exit__(self, *_: object) -> None:
        if self.here:
            signal.signal(signal.SIGINT, signal.default_int_handler)


class _Bar:
    """Progress: a bar on a terminal, else a line every half minute."""

    def __init__(self, what: str, run: Resumable) -> None:
        self.what, self.run, self.said = what, run, time.monotonic()
        steps, minutes = run.recipe.steps, run.recipe.minutes
        total, done = (steps, run.step) if steps else (60 * minutes, run.elapsed)
        self.bar = tqdm(
            total=round(total), initial=min(round(done), round(total)), disable=None, desc=what,
            unit="step" if steps else "s",
        )  # fmt: skip

    def show(self, row: Row, pace: float) -> None:
        """Show loss, images per second and the time that is left."""
        run = self.run
        done = run.step if run.recipe.steps else run.elapsed
        self.bar.set_postfix_str(
            f"loss {row.loss:.4g}, {row.images_per_second:,.0f} images/s", refresh=False
        )
        self.bar.update(min(round(done), self.bar.total or 0) - self.bar.n)
        now = time.monotonic()
        if self.bar.disable and now - self.said > _SAID:
            self.said = now
            left = (run.recipe.steps - run.step) / max(1e-9, pace) if run.recipe.steps else (
                60 * run.recipe.minutes - run.elapsed
            )  # fmt: skip
            print(f"{self.what}: step {run.step:,}, loss {row.loss:.4g}, "
                  f"{row.images_per_second:,.0f} images/s, {max(0.0, left) / 60:.1f} minutes left",
                  file=sys.stderr, flush=True)  # fmt: skip

    def close(self) -> None:
        self.bar.close()
