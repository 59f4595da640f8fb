"""Given levels, published tables, and schedules that change another schedule."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np

from bench import store
from bench.schedules.ends import Grid, times, with_ends
from bench.types import Costs, NoiseProcess, Rate, Schedule
from bench.types.roles import Values


@dataclass(frozen=True)
class _Changed(Grid):
    """A schedule that changes another one."""

    schedule: Schedule

    def __post_init__(self) -> None:
        if not isinstance(self.schedule, Schedule):
            raise ValueError(f"{type(self).__name__} needs a schedule, not {self.schedule!r}")

    @property
    def measured(self) -> tuple[Rate | Costs, ...]:
        return self.schedule.measured


@dataclass(frozen=True)
class Between(_Changed):
    """Another schedule, between other ends than those of the process.

    Sampling starts from noise of standard deviation sigma_max, without any data in it. sigma_max
    should therefore be large compared with the data.

    Arguments:
        schedule: the other schedule.
        sigma_max: the first level; 0: that of the process.
        sigma_min: the last level above 0; 0: that of the process.
    """

    sigma_max: float = 0.0
    sigma_min: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(self.sigma_max, self.sigma_min) < 0:
            raise ValueError(
                "Between needs sigma_max and sigma_min above 0, or 0 for the ends of the process; "
                f"not {self.sigma_max} and {self.sigma_min}"
            )

    def noise_levels(self, steps: int, process: NoiseProcess) -> np.ndarray:
        high = self.sigma_max or process.sigma_max
        low = self.sigma_min or process.sigma_min
        if not process.sigma_min <= low < high <= process.sigma_max:
            raise ValueError(
                f"{self.label}: the ends {low:g} .. {high:g} do not lie within the model's "
                f"{process.sigma_min:g} .. {process.sigma_max:g}; choose other ends"
            )
        return self.schedule.noise_levels(steps, _Cut(process, low, high))


@dataclass(frozen=True)
class _Cut:
    """A process whose range of sigma is a part of another's."""

    process: NoiseProcess
    sigma_min: float
    sigma_max: float

    def timestep(self, sigma: Values) -> Values:
        return self.process.timestep(sigma)

    def sigma(self, timestep: Values) -> Values:
        return self.process.sigma(timestep)


@dataclass(frozen=True)
class Levels(Grid):
    """Levels that the user gives. `crs-bench schedule ... --json` prints such levels.

    Arguments:
        sigmas: strictly decreasing, the last 0.
        resample: whether another number of steps is allowed. Then log sigma is interpolated
            linearly in time, as Align Your Steps recommends for its tables (Sabour et al. 2024).
    """

    sigmas: tuple[float, ...]
    resample: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "sigmas", tuple(float(sigma) for sigma in self.sigmas))
        above = self.sigmas[:-1]
        falls = all(a > b for a, b in zip(self.sigmas, self.sigmas[1:], strict=False))
        if len(above) < 1 or not falls or self.sigmas[-1] != 0 or not math.isfinite(above[0]):
            raise ValueError(f"Levels must fall strictly from above 0 to 0; got {self.sigmas}")

    def noise_levels(self, steps: int, process: NoiseProcess) -> np.ndarray:
        t, given = times(steps), np.array(self.sigmas[:-1])
        low, high = process.sigma_min, process.sigma_max
        if given[0] > high * (1 + 1e-6) or given[-1] < low * (1 - 1e-6):
            raise ValueError(
                f"the levels {given[0]:g} .. {given[-1]:g} exceed the model's range {high:g} .. "
                f"{low:g}: they are levels of another model"
            )
        if steps != len(given):
            if not self.resample:
                raise ValueError(
                    f"the levels are a grid of {len(given)} steps, not of {steps}; ask for "
                    f"{len(given)} steps, or write resampled(FILE.json) to interpolate"
                )
            if len(given) == 1:
                raise ValueError(f"{self!r} has one level, too few to interpolate {steps} steps")
            nodes = np.linspace(0, 1, len(given))
            given = np.exp(np.interp(t, nodes, np.log(given)))
        return np.append(given, 0.0)


def load(path: str | Path, resample: bool = False) -> Levels:
    """The levels in a JSON file, such as `crs-bench schedule ... --json` prints.

    Arguments:
        path: a file that holds an object with a list "sigma", which decreases to 0.
        resample: as of `Levels`.

    Raises:
        ValueError: no such file, or no such list in it. The message names the file.
    """
    if not Path(path).is_file():
        raise ValueError(
            f"there is no schedule {path}; make it with: crs-bench schedule MODEL --schedule "
            f"SCHEDULE --json > {path}"
        )
    content = store.read_json(Path(path))
    try:
        sigmas = content["sigma"]
        if not isinstance(sigmas, list) or {type(one) for one in sigmas} - {int, float}:
            raise TypeError("it is no list of numbers")
        return Levels(tuple(sigmas), resample)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise ValueError(
            f'{path} must hold an object with a list "sigma" that decreases to 0 '
            f"({store.in_a_line(error)})"
        ) from error


_ALIGNED = {
    "sd15": (14.615, 6.475, 3.861, 2.697, 1.886, 1.396, 0.963, 0.652, 0.399, 0.152, 0.029),
    "sdxl": (14.615, 6.315, 3.771, 2.181, 1.342, 0.862, 0.555, 0.380, 0.234, 0.113, 0.029),
    "svd": (700.0, 54.5, 15.886, 7.977, 4.248, 1.789, 0.981, 0.403, 0.173, 0.034, 0.002),
}


@dataclass(frozen=True)
class AlignYourSteps(Grid):
    """The published tables of Align Your Steps (Sabour et al. 2024, arXiv 2404.14507, Table 3).

    The authors optimised these noise levels for 10 steps. A table has 11 levels, from sigma_max to
    sigma_min. Here one more step goes to 0, so a grid of 11 steps has the levels of the table. For
    another number of steps, log sigma is interpolated linearly in time, as the authors recommend.

    An affine map of log sigma moves the ends of the table to the ends of the process. For the model
    of the table this changes almost nothing. For any other process the levels are those that were
    optimal for the table's model. To optimise levels for your own model, measure `measures.KLUB`
    and use `CheapestPath`.

    The numbers are those of `AysSchedules` in diffusers. The last level is that on the authors'
    page.

    Arguments:
        table: "sd15" for Stable Diffusion 1.5, "sdxl" for SDXL, "svd" for Stable Video Diffusion.
    """

    table: Literal["sd15", "sdxl", "svd"] = "sd15"
    shown: ClassVar[tuple[str, ...]] = ("table",)

    def __post_init__(self) -> None:
        if self.table not in _ALIGNED:
            raise ValueError(
                f"AlignYourSteps: unknown table {self.table!r}; known: {', '.join(_ALIGNED)}"
            )

    def noise_levels(self, steps: int, process: NoiseProcess) -> np.ndarray:
        given = np.log(_ALIGNED[self.table])
        share = (given - given[-1]) / (given[0] - given[-1])  # 1 .. 0
        high, low = math.log(process.sigma_max), math.log(process.sigma_min)
        place = np.interp(times(steps), np.linspace(0, 1, len(share)), share)
        return with_ends(np.exp(low + place * (high - low)), process)


@dataclass(frozen=True)
class Snapped(_Changed):
    """Another schedule with every level moved to the nearest timestep of training, an integer.

    Arguments:
        schedule: the other schedule.
    """

    def noise_levels(self, steps: int, process: NoiseProcess) -> np.ndarray:
        grid = self.schedule.noise_levels(steps, process)
        index = process.timestep(grid[:-1]).round()
        if (np.diff(index) >= 0).any():
            raise ValueError(
                f"Snapped: {self.schedule.label} with {steps} steps has two levels on one trained "
                f"timestep; use fewer steps, or {self.schedule.label} without Snapped"
            )
        return np.append(process.sigma(index), grid[-1])
