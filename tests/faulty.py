"""A sampler of a user's module that fails as the files of the folder FAULTS say.

kill*     whoever deletes the file kills its own process at once
raise     the number in the file, as the first number of the noise: raises
memory    more images at once than the number in the file: out of memory
slow      each walk takes as many seconds more as the file says
log       gets a line for each walk: the process
"""

import os
import signal
import time
from dataclasses import dataclass, replace
from pathlib import Path

import tiny
import torch
from torch import Tensor

from bench.checkpoints import Models
from bench.samplers import DDIM
from bench.types import Denoiser, Experiment, Noise, Sampler


@dataclass(frozen=True)
class Faulty(Sampler):
    """DDIM, where nothing fails."""

    def __call__(self, denoise: Denoiser, x: Tensor, grid: Tensor, noise: Noise) -> Tensor:
        if "FAULTS" in os.environ:
            fail(Path(os.environ["FAULTS"]), x, float(grid[0]))
        return DDIM()(denoise, x, grid, noise)


def fail(folder: Path, x: Tensor, scale: float) -> None:
    """Fail as the files say. x: the noise; scale: its standard deviation."""
    for path in folder.glob("kill*"):
        try:
            path.unlink()
        except FileNotFoundError:
            continue
        os.kill(os.getpid(), signal.SIGKILL)
    for path in folder.iterdir():
        if path.name == "log":
            with open(path, "a") as file:
                file.write(f"{os.getpid()}\n")
            continue
        try:
            number = float(path.read_text() or 0)
        except FileNotFoundError:
            continue
        if path.name == "raise" and abs(float(x.flatten()[0]) / scale - number) < 1e-5:
            raise ArithmeticError("this shard cannot be made")
        if path.name == "memory" and len(x) > number:
            raise torch.OutOfMemoryError("out of memory, as a test wants it")
        if path.name == "slow":
            time.sleep(number)


def experiment(models: Models | Path) -> Experiment:
    """`tiny.pooled` under the sampler of this module."""
    return replace(tiny.pooled(models), samplers=(Faulty(),))
