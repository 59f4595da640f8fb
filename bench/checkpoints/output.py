"""What networks here take and give beside states, by diffusers' conventions."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Output:
    """What a network returns, as diffusers' networks do."""

    sample: Tensor


def clock(timestep: Tensor, width: int) -> Tensor:
    """[n] -> [n, width]: cosines, then sines, of periods 2 pi to 2 pi 10000, the last left out."""
    half = width // 2
    steps = torch.arange(half, dtype=torch.float32, device=timestep.device)
    angle = timestep.float()[:, None] * torch.exp(-math.log(10000) * steps / half)
    return torch.cat([angle.cos(), angle.sin()], 1)
