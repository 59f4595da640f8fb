"""Parts that several published networks share: the embedding of time, the order of blocks."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn


def timestep_embedding(timestep: Tensor, width: int) -> Tensor:
    """[n] -> [n, width]: cosines, then sines. Periods: 2 pi to 2 pi 10000, without the last."""
    half = width // 2
    steps = torch.arange(half, dtype=torch.float32, device=timestep.device)
    angle = timestep.float()[:, None] * torch.exp(-math.log(10000) * steps / half)
    return torch.cat([angle.cos(), angle.sin()], 1)


def time_network(width: int) -> nn.Sequential:
    """The layers after `timestep_embedding`: [n, width] -> [n, 4 width]."""
    return nn.Sequential(nn.Linear(width, 4 * width), nn.SiLU(), nn.Linear(4 * width, 4 * width))


@dataclass(frozen=True)
class UNetBlocks:
    """The blocks of a U-Net, in the order of guided-diffusion and latent-diffusion.

    widths: the channels of each level, the highest resolution first.
    repeats: the stages of a level on the way down. The way up has one more.
    stage: (level, input channels) -> the layers of a stage. Their output has the level's width.
    down, up: channels -> the layer between two levels.
    """

    widths: tuple[int, ...]
    repeats: int
    stage: Callable[[int, int], list[nn.Module]]
    down: Callable[[int], nn.Module]
    up: Callable[[int], nn.Module]

    def input_blocks(self, first: nn.Module, channels: int) -> tuple[nn.ModuleList, list[int]]:
        """The blocks from `first` to the lowest resolution, and the channels of each output."""
        blocks, skips = [nn.ModuleList([first])], [channels]
        for level, width in enumerate(self.widths):
            for _ in range(self.repeats):
                blocks.append(nn.ModuleList(self.stage(level, channels)))
                channels = width
                skips.append(channels)
            if level < len(self.widths) - 1:
                blocks.append(nn.ModuleList([self.down(channels)]))
                skips.append(channels)
        return nn.ModuleList(blocks), skips

    def output_blocks(self, skips: list[int]) -> nn.ModuleList:
        """The blocks back to the highest resolution. The last skip is taken first."""
        blocks, channels, rest = [], skips[-1], list(skips)
        for level in reversed(range(len(self.widths))):
            for index in range(self.repeats + 1):
                layers = self.stage(level, channels + rest.pop())
                channels = self.widths[level]
                if level and index == self.repeats:
                    layers.append(self.up(channels))
                blocks.append(nn.ModuleList(layers))
        return nn.ModuleList(blocks)
