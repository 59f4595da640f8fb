"""What a training leaves behind beside its weights: losses and, now and then, samples."""

import csv
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from bench import store

EVERY = 20  # steps of a row; the loss is read from the device that often


@dataclass(frozen=True)
class Session:
    """How a training runs on this machine. Nothing of it is part of the recipe.

    compile: a mode of `torch.compile` ("default", "reduce-overhead", "max-autotune"), "off", or
        "auto". "auto" on a GPU is "reduce-overhead" (CUDA graphs) for a denoiser and "default" for
        a codec; on a CPU it is "off".
    state: the file of the training's state; None: `state.pt` in the folder of the model.
    samples: steps between two grids of samples; 0: none.
    tensorboard: whether TensorBoard's event files are written too.
    """

    compile: str = "auto"
    state: Path | None = None
    samples: int = 0
    tensorboard: bool = False

    def __post_init__(self) -> None:
        known = ("auto", "off", "default", "reduce-overhead", "max-autotune")
        if self.compile not in known:
            raise ValueError(f"unknown mode {self.compile!r} of compile; known: {', '.join(known)}")
        if self.samples < 0:
            raise ValueError(f"samples must be 0 or more steps, not {self.samples}")

    def mode(self, device: str, usual: str = "reduce-overhead") -> str:
        """The mode on a device: "off", or one of `torch.compile`. usual: of "auto" on a GPU."""
        if self.compile != "auto":
            return self.compile
        return usual if device.startswith("cuda") else "off"


def compiled(module: Any, mode: str) -> Any:
    """The module, compiled in a mode of `Session.mode`."""
    return module if mode == "off" else torch.compile(module, dynamic=False, mode=mode)


class Row(NamedTuple):
    """A row of loss.csv: means over the steps since the row before."""

    step: int
    loss: float
    learning_rate: float
    images_per_second: float
    seconds: float  # of training, up to this step


class Journal:
    """The rows of a training. `rows` is part of the state, so that a resumed training has all."""

    def __init__(self, device: str) -> None:
        self.rows: list[Row] = []
        self.total = torch.zeros((), dtype=torch.float64, device=device)
        self.count = 0

    def add(self, loss: Tensor) -> None:
        """Count the loss of a step. The device is not waited for."""
        self.total += loss.detach()
        self.count += 1

    def close(self, step: int, rate: float, images: float, seconds: float) -> Row:
        """End a row. This waits for the device.

        Arguments:
            rate: the learning rate. images: of a second. seconds: of training, up to this step.
        """
        mean = float(self.total) / max(1, self.count)
        self.total.zero_()
        self.count = 0
        mean, rate = float(f"{mean:.6g}"), float(f"{rate:.6g}")
        self.rows.append(Row(step, mean, rate, round(images, 1), round(seconds, 2)))
        return self.rows[-1]

    def state(self) -> dict[str, Any]:
        """Everything that `load` restores."""
        return {"rows": [tuple(row) for row in self.rows], "total": self.total, "count": self.count}

    def load(self, state: dict[str, Any]) -> None:
        """Restore a state."""
        self.rows = [Row(*row) for row in state["rows"]]
        self.total.copy_(state["total"])
        self.count = state["count"]

    def write(self, path: Path) -> Path:
        """Write all rows as a CSV file."""
        writer = csv.writer(file := io.StringIO(), lineterminator="\n")
        writer.writerows([Row._fields, *self.rows])
        return store.write_text(path, file.getvalue())


class Board:
    """TensorBoard's event files in a folder; without a folder, nothing."""

    def __init__(self, folder: Path | None, step: int = 0) -> None:
        """
        Arguments:
            step: where the training resumes; events of later steps are not shown.

        Raises:
            ValueError: the package tensorboard is not installed.
        """
        self.writer: Any = None
        if folder is None:
            return
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise ValueError("--tensorboard needs the package tensorboard: pip install "
                             "'crs-bench[tensorboard]'") from error  # fmt: skip
        self.writer = SummaryWriter(str(folder), purge_step=step + 1)

    def row(self, row: Row) -> None:
        """Write a row of the journal."""
        for name in ("loss", "learning_rate", "images_per_second") if self.writer else ():
            self.writer.add_scalar(name, getattr(row, name), row.step)

    def picture(self, pixels: Tensor, step: int) -> None:
        """Write a picture, uint8 [c, h, w]."""
        if self.writer:
            self.writer.add_image("samples", pixels, step)

    def close(self) -> None:
        """Finish the file."""
        if self.writer:
            self.writer.close()
