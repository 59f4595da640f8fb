"""Parts that several published networks share: the embedding of time, the U-Net of ADM and LDM."""

import math
from abc import abstractmethod
from collections.abc import Callable
from typing import Any, Self

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from bench.checkpoints.family import Shape
from bench.checkpoints.quick import Quick, filled, taps, transposed
from bench.zoo.base import Flags


def timestep_embedding(timestep: Tensor, width: int) -> Tensor:
    """[n] -> [n, width]: cosines, then sines. Periods: 2 pi to 2 pi 10000, without the last."""
    half = width // 2
    steps = torch.arange(half, dtype=torch.float32, device=timestep.device)
    angle = timestep.float()[:, None] * torch.exp(-math.log(10000) * steps / half)
    return torch.cat([angle.cos(), angle.sin()], 1)


def time_network(width: int) -> nn.Sequential:
    """The layers after `timestep_embedding`: [n, width] -> [n, 4 width]."""
    return nn.Sequential(nn.Linear(width, 4 * width), nn.SiLU(), nn.Linear(4 * width, 4 * width))


class _Conv(nn.Conv2d, Quick):
    """3x3, and the size stays."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__(channels, out, 3, padding=1)


class EntryConv(_Conv):
    """From few channels."""

    def quick(self, half: torch.dtype) -> nn.Module:
        return filled(self)


class DoublingConv(_Conv):
    """Double the size by nearest, then convolve."""

    def forward(self, x: Tensor) -> Tensor:
        """[n, channels, h, w] -> [n, out, 2 h, 2 w]."""
        return super().forward(F.interpolate(x, scale_factor=2, mode="nearest"))

    def quick(self, half: torch.dtype) -> nn.Module:
        return transposed(self)


class LastConv(_Conv):
    """To few channels."""

    def quick(self, half: torch.dtype) -> nn.Module:
        return taps(self, half)


class Attention(nn.Module):
    """Self-attention over pixels. In the legacy order of the files, the rows of qkv are q, k, v of
    each head in turn. In the new order they are all q, all k, all v."""

    def __init__(self, norm: nn.GroupNorm, heads: int, new_order: bool = False) -> None:
        super().__init__()
        channels = norm.num_channels
        self.heads, self.new_order = heads, new_order
        self.norm = norm
        self.qkv = nn.Conv1d(channels, 3 * channels, 1)
        self.proj_out = nn.Conv1d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        n, c, height, width = x.shape
        tokens = self.norm(x).permute(0, 2, 3, 1).reshape(n, -1, c)  # memory is channels last
        qkv = F.linear(tokens, self.qkv.weight[:, :, 0], self.qkv.bias)  # [n, t, 3c]
        order, axis = ((3, self.heads), 2) if self.new_order else ((self.heads, 3), 3)
        parts = qkv.reshape(n, -1, *order, c // self.heads)
        q, k, v = (part.transpose(1, 2) for part in parts.unbind(axis))  # [n, heads, t, c / heads]
        h = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, -1, c)
        h = F.linear(h, self.proj_out.weight[:, :, 0], self.proj_out.bias)
        return x + h.reshape(n, height, width, c).permute(0, 3, 1, 2)


class UNetFlags(Flags):
    """The flags that guided-diffusion and latent-diffusion share, by their names."""

    image_size: int = Field(gt=0)  # of the state
    in_channels: int = Field(gt=0)
    channel_mult: tuple[float, ...] = Field(min_length=1)
    num_res_blocks: int = Field(gt=0)
    attention_resolutions: tuple[int, ...]
    num_head_channels: int = Field(default=0, ge=0)  # channels of a head; 0: num_heads decides
    num_heads: int = Field(default=0, ge=0)  # heads at every level; 0: num_head_channels decides

    @property
    @abstractmethod
    def width(self) -> int:
        """Channels that `channel_mult` multiplies."""

    @abstractmethod
    def attends(self, level: int) -> bool:
        """Whether the blocks of a level have attention. The middle block always has."""

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of each level, the state's own resolution first."""
        return tuple(int(mult * self.width) for mult in self.channel_mult)

    @property
    def shape(self) -> Shape:
        return self.in_channels, self.image_size, self.image_size

    def heads(self, channels: int) -> int:
        """Heads of an attention layer."""
        return self.num_heads or channels // self.num_head_channels

    @model_validator(mode="after")
    def _divides(self) -> Self:
        if bool(self.num_head_channels) == bool(self.num_heads):
            raise ValueError("give num_head_channels or num_heads, one of the two")
        if self.image_size % 2 ** (len(self.widths) - 1):
            raise ValueError(f"image_size {self.image_size} cannot be halved between all levels")
        if wrong := [c for c in (self.width, *self.widths) if c == 0 or c % 32]:
            raise ValueError(f"channels of each level must be multiples of 32, not {wrong[0]}")
        attending = [width for level, width in enumerate(self.widths) if self.attends(level)]
        for width in (*attending, self.widths[-1]):
            if width % (self.num_head_channels or self.num_heads):
                raise ValueError(f"{width} channels do not divide into heads")
        return self


Make = Callable[[int], nn.Module]  # channels -> a layer


class UNet(nn.Module):
    """The blocks of a U-Net, in the order and by the names of ADM and LDM."""

    input_blocks: nn.ModuleList
    middle_block: nn.ModuleList
    output_blocks: nn.ModuleList

    def __init__(self, flags: UNetFlags) -> None:
        super().__init__()
        self.flags: Any = flags
        self.time_embed = time_network(flags.width)

    def add_blocks(
        self, first: int, residual: Callable[[int, int], nn.Module], attention: Make, down: Make,
        up: Make,
    ) -> None:  # fmt: skip
        """Make all blocks.

        Arguments:
            first: channels of the first convolution's output.
            residual: (channels, output channels) -> a residual block.
            attention: the layer after it, at levels that attend.
            down, up: the layer between two levels.
        """

        def stage(level: int, channels: int) -> list[nn.Module]:
            out, attends = flags.widths[level], flags.attends(level)
            return [residual(channels, out), *([attention(out)] if attends else [])]

        flags, skips = self.flags, [first]
        entry = EntryConv(flags.in_channels, first)
        self.input_blocks = nn.ModuleList([nn.ModuleList([entry])])
        for level, width in enumerate(flags.widths):
            for _ in range(flags.num_res_blocks):
                self.input_blocks.append(nn.ModuleList(stage(level, skips[-1])))
                skips.append(width)
            if level < len(flags.widths) - 1:
                self.input_blocks.append(nn.ModuleList([down(width)]))
                skips.append(width)
        channels = skips[-1]
        middle = [residual(channels, channels), attention(channels), residual(channels, channels)]
        self.middle_block, self.output_blocks = nn.ModuleList(middle), nn.ModuleList()
        for level in reversed(range(len(flags.widths))):
            for index in range(flags.num_res_blocks + 1):
                layers = stage(level, channels + skips.pop())  # the last skip first
                channels = flags.widths[level]
                if level and index == flags.num_res_blocks:
                    layers.append(up(channels))
                self.output_blocks.append(nn.ModuleList(layers))

    def through(self, x: Tensor, call: Callable[[nn.Module, Tensor], Tensor]) -> Tensor:
        """x through all blocks. call: (layer, its input) -> its output."""
        skips = []
        for block in self.input_blocks:
            for layer in block.children():
                x = call(layer, x)
            skips.append(x)
        for layer in self.middle_block:
            x = call(layer, x)
        for block in self.output_blocks:
            x = torch.cat([x, skips.pop()], 1)
            for layer in block.children():
                x = call(layer, x)
        return x
