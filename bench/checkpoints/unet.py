"""The order of blocks that the U-Nets of guided-diffusion and of latent-diffusion share."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn


@dataclass(frozen=True)
class Levels:
    """The levels of a U-Net, the highest resolution first.

    widths: channels of each. stage: (level, channels that come in) -> its layers, which leave the
    level's width. down, up: channels -> the layer between two levels.
    """

    widths: tuple[int, ...]
    repeats: int  # stages a level on the way down; one more on the way up
    stage: Callable[[int, int], list[nn.Module]]
    down: Callable[[int], nn.Module]
    up: Callable[[int], nn.Module]

    def input_blocks(self, first: nn.Module, channels: int) -> tuple[nn.ModuleList, list[int]]:
        """From `first`, which leaves `channels`, to the lowest resolution, and what each leaves."""
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
        """Back to the highest resolution, each block fed with one skip, the last first."""
        blocks, channels, rest = [], skips[-1], list(skips)
        for level in reversed(range(len(self.widths))):
            for index in range(self.repeats + 1):
                layers = self.stage(level, channels + rest.pop())
                channels = self.widths[level]
                if level and index == self.repeats:
                    layers.append(self.up(channels))
                blocks.append(nn.ModuleList(layers))
        return nn.ModuleList(blocks)
