"""Levels from elsewhere, and schedules around schedules."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from bench import store
from bench.schedules.ends import times, with_ends
from bench.types import Costs, NoiseProcess, Rate, Schedule


@dataclass(frozen=True)
class Between(Schedule):
    """Another schedule between other ends than the process's own.

    A run then starts from noise of that sigma_max alone, beside which the data should be small.
    0 leaves an end as it is.
    """

    schedule: Schedule
    sigma_max: float = 0.0
    sigma_min: float = 0.0

    def __post_init__(self) -> None:
        if not isinstance(self.schedule, Schedule):
            raise ValueError(f"Between needs a schedule, not {self.schedule!r}")
        if min(self.sigma_max, self.sigma_min) < 0:
            raise ValueError("sigma_max and sigma_min must be above 0, or 0 for the process's own")

    @property
    def measured(self) -> tuple[Rate | Costs, ...]:
        """As of the inner schedule."""
        return self.schedule.measured

    def __call__(self, steps: int, process: NoiseProcess) -> Tensor:
        high = self.sigma_max or process.sigma_max
        low = self.sigma_min or process.sigma_min
        if not process.sigma_min <= low < high <= process.sigma_max:
            raise ValueError(
                f"{self!r}: ends {low:g} .. {high:g} do not lie within the model's "
                f"{process.sigma_min:g} .. {process.sigma_max:g}"
            )
        return self.schedule(steps, _Cut(process, low, high))


@dataclass(frozen=True)
class _Cut:
    """A process on a part of its range."""

    process: NoiseProcess
    sigma_min: float
    sigma_max: float

    def timestep(self, sigma: Tensor) -> Tensor:
        return self.process.timestep(sigma)

    def sigma(self, timestep: Tensor) -> Tensor:
        return self.process.sigma(timestep)


@dataclass(frozen=True)
class Levels(Schedule):
    """Given levels, as of a published table or of `crs-bench schedule --json`: sigmas down to 0.

    With their own number of steps they are used as they are; for another number log sigma is
    interpolated linearly in time, as Align Your Steps does with its tables (Sabour et al. 2024).
    """

    sigmas: tuple[float, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "sigmas", tuple(float(sigma) for sigma in self.sigmas))
        above = self.sigmas[:-1]
        falls = all(a > b for a, b in zip(self.sigmas, self.sigmas[1:], strict=False))
        if len(above) < 1 or not falls or self.sigmas[-1] != 0 or not math.isfinite(above[0]):
            raise ValueError(f"Levels must fall strictly from above 0 to 0, not {self.sigmas}")

    def __call__(self, steps: int, process: NoiseProcess) -> Tensor:
        given = np.array(self.sigmas[:-1])
        low, high = process.sigma_min, process.sigma_max
        if given[0] > high * (1 + 1e-6) or given[-1] < low * (1 - 1e-6):
            raise ValueError(
                f"levels {given[0]:g} .. {given[-1]:g} leave the model's {high:g} .. {low:g}: "
                "they are of another model"
            )
        if steps != len(given):
            if len(given) == 1:
                raise ValueError(f"{self!r} holds one level, too few to interpolate {steps} steps")
            nodes = np.linspace(0, 1, len(given))
            given = np.exp(np.interp(times(steps).numpy(), nodes, np.log(given)))
        return torch.cat([torch.as_tensor(given), torch.zeros(1, dtype=torch.float64)])


def load(path: str | Path) -> Levels:
    """The levels that `crs-bench schedule --json` wrote; ValueError naming the file if it has none.

    Any JSON object with a list "sigma" that falls to 0 will do.
    """
    if not Path(path).is_file():
        raise ValueError(f"no schedule {path}; first: crs-bench schedule MODEL --json > {path}")
    content = store.read_json(Path(path))
    try:
        return Levels(tuple(content["sigma"]))
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} holds no list of sigmas that falls to 0 ({error})") from error


_ALIGNED = {
    "sd15": (14.615, 6.475, 3.861, 2.697, 1.886, 1.396, 0.963, 0.652, 0.399, 0.152, 0.029),
    "sdxl": (14.615, 6.315, 3.771, 2.181, 1.342, 0.862, 0.555, 0.380, 0.234, 0.113, 0.029),
    "svd": (700.0, 54.5, 15.886, 7.977, 4.248, 1.789, 0.981, 0.403, 0.173, 0.034, 0.002),
}


@dataclass(frozen=True)
class AlignYourSteps(Schedule):
    """The published tables of Align Your Steps (Sabour et al. 2024, arXiv 2404.14507, Table 3).

    Noise levels that the authors optimised for 10 steps of Stable Diffusion 1.5, SDXL or Stable
    Video Diffusion; other numbers interpolate log sigma linearly, as they recommend. A table has 11
    levels, from sigma_max to sigma_min, and here one more step leads to 0: 11 steps are the table.

    It is stretched affinely in log sigma to the process's ends, by next to nothing for the model it
    was made for. On any other process it is off its model: levels that were optimal elsewhere. To
    optimise for a model of one's own, measure `measures.KLUB` and take `CheapestPath`. Numbers as
    in diffusers' `AysSchedules`, the last level as on the authors' page.
    """

    table: Literal["sd15", "sdxl", "svd"] = "sd15"

    def __post_init__(self) -> None:
        if self.table not in _ALIGNED:
            raise ValueError(f"unknown table {self.table!r}; known: {', '.join(_ALIGNED)}")

    def __call__(self, steps: int, process: NoiseProcess) -> Tensor:
        given = np.log(_ALIGNED[self.table])
        share = (given - given[-1]) / (given[0] - given[-1])  # 1 .. 0
        high, low = math.log(process.sigma_max), math.log(process.sigma_min)
        place = np.interp(times(steps).numpy(), np.linspace(0, 1, len(share)), share)
        return with_ends(torch.as_tensor(np.exp(low + place * (high - low))), process)


@dataclass(frozen=True)
class Snapped(Schedule):
    """Another schedule's grid moved to the nearest integer timesteps the model was trained on."""

    schedule: Schedule

    def __post_init__(self) -> None:
        if not isinstance(self.schedule, Schedule):
            raise ValueError(f"Snapped needs a schedule, not {self.schedule!r}")

    @property
    def measured(self) -> tuple[Rate | Costs, ...]:
        """As of the inner schedule."""
        return self.schedule.measured

    def __call__(self, steps: int, process: NoiseProcess) -> Tensor:
        grid = self.schedule(steps, process)
        index = process.timestep(grid[:-1]).round()
        if (index.diff() >= 0).any():
            raise ValueError(
                f"{self.schedule!r} with {steps} steps puts two levels on one trained timestep; "
                "use fewer steps or do not snap"
            )
        return torch.cat([process.sigma(index), grid[-1:]])
