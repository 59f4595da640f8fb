"""Equal times and exact ends, which all schedules share."""

from bench.lazy import Tensor, torch
from bench.types import NoiseProcess


def times(steps: int) -> Tensor:
    """Equal times t of the levels.

    Returns:
        float64 [steps], from 0 (sigma_max) to 1 (sigma_min).

    Raises:
        ValueError: less than one step.
    """
    if steps < 1:
        raise ValueError(f"a schedule needs at least 1 step, not {steps}")
    return torch.linspace(0, 1, steps, dtype=torch.float64)


def with_ends(levels: Tensor, process: NoiseProcess) -> Tensor:
    """The levels with the process's exact ends, and a final 0.

    Arguments:
        levels: float64 [steps], decreasing.

    Returns:
        float64 [steps + 1].
    """
    levels = levels.clone()
    levels[-1] = process.sigma_min
    levels[0] = process.sigma_max  # set last: a grid of one step starts at sigma_max
    return torch.cat([levels, torch.zeros(1, dtype=torch.float64)])
