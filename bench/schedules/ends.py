"""Equal times and exact ends, which all schedules share. They compute in numpy, without torch."""

from abc import abstractmethod
from typing import Any

import numpy as np

from bench.lazy import Tensor, torch
from bench.types import NoiseProcess, Schedule


class Grid(Schedule):
    """A schedule that defines `noise_levels`. Called, it gives them as a tensor."""

    def __init_subclass__(cls, **more: Any) -> None:
        super().__init_subclass__(**more)
        if "__call__" in vars(cls) and "noise_levels" not in vars(cls):
            raise ValueError(
                f"{cls.__name__} changes __call__, but its base class is called through "
                "noise_levels: define noise_levels(steps, process) instead, which gives an array"
            )

    @abstractmethod
    def noise_levels(self, steps: int, process: NoiseProcess) -> np.ndarray:
        """As a `Schedule` is called: float64 [steps + 1]."""

    def __call__(self, steps: int, process: NoiseProcess) -> Tensor:
        return torch.as_tensor(self.noise_levels(steps, process))


def times(steps: int) -> np.ndarray:
    """Equal times t of the levels.

    Returns:
        float64 [steps], from 0 (sigma_max) to 1 (sigma_min).

    Raises:
        ValueError: less than one step.
    """
    if steps < 1:
        raise ValueError(f"a schedule needs at least 1 step, not {steps}")
    return np.linspace(0, 1, steps)


def with_ends(levels: np.ndarray, process: NoiseProcess) -> np.ndarray:
    """The levels with the process's exact ends, and a final 0.

    Arguments:
        levels: float64 [steps], decreasing.

    Returns:
        float64 [steps + 1].
    """
    grid = np.append(levels, 0.0)
    grid[-2] = process.sigma_min
    grid[0] = process.sigma_max  # set last: a grid of one step starts at sigma_max
    return grid
