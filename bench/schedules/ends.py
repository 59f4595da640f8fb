"""What every schedule shares: equal times, and exact ends."""

import torch
from torch import Tensor

from bench.types import NoiseProcess


def times(steps: int) -> Tensor:
    """Equal schedule times t of the levels, 0 (noise) to 1 (data): float64 [steps]."""
    if steps < 1:
        raise ValueError(f"a schedule needs at least 1 step, not {steps}")
    return torch.linspace(0, 1, steps, dtype=torch.float64)  # t: 0 noise end, 1 data end


def with_ends(levels: Tensor, process: NoiseProcess) -> Tensor:
    """Exact end points, and the final 0."""
    levels = levels.clone()
    levels[-1] = process.sigma_min
    levels[0] = process.sigma_max  # second, so that one step starts at the noise end
    return torch.cat([levels, torch.zeros(1, dtype=torch.float64)])
