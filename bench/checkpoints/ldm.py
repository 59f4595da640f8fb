"""The latent-diffusion network (Rombach et al. 2022, arXiv 2112.10752), by its config's names.

Written from the architecture's description, with the parameter names of the published files
(CompVis/latent-diffusion), so that they load strictly. It differs from ADM's in that the time's
embedding is added and not a scale and shift, that convolutions resample, and that a network with
classes attends to a learned embedding of the class. Its LSUN-churches network is not here: that one
has ADM's blocks and is `adm.ADM`. Half precision is that of all its weights.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn

from bench.checkpoints.output import Output, clock
from bench.checkpoints.unet import Levels


class LDMFlags(BaseModel):
    """What decides an LDM network: `unet_config`'s parameters by their names, and the classes."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    image_size: int = Field(gt=0)  # of the latent
    in_channels: int = Field(gt=0)  # and out
    model_channels: int = Field(gt=0)
    channel_mult: tuple[int, ...] = Field(min_length=1)
    num_res_blocks: int = Field(gt=0)
    attention_resolutions: tuple[int, ...]  # factors of downsampling: 1 is the latent's own size
    num_head_channels: int = Field(default=0, ge=0)  # channels a head, or ...
    num_heads: int = Field(default=0, ge=0)  # ... heads, at every level
    context_dim: int = Field(default=0, ge=0)  # of the class's embedding; 0: unconditional
    n_classes: int = Field(default=0, ge=0)  # rows of that embedding

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of each level, the latent's own resolution first."""
        return tuple(mult * self.model_channels for mult in self.channel_mult)

    @model_validator(mode="after")
    def _fits(self) -> "LDMFlags":
        if bool(self.num_head_channels) == bool(self.num_heads):
            raise ValueError("give num_head_channels or num_heads, one of the two")
        if bool(self.context_dim) != bool(self.n_classes):
            raise ValueError("context_dim and n_classes go together")
        if self.image_size % 2 ** (len(self.widths) - 1):
            raise ValueError(f"image_size {self.image_size} cannot be halved between all levels")
        if wrong := [c for c in (self.model_channels, *self.widths) if c == 0 or c % 32]:
            raise ValueError(f"channels of each level must be multiples of 32, not {wrong[0]}")
        attending = [w for level, w in enumerate(self.widths) if self.attends(level)]
        for width in (*attending, self.widths[-1]):  # the middle block always does
            if width % (self.num_head_channels or self.num_heads):
                raise ValueError(f"{width} channels do not divide into heads as asked")
        return self

    def attends(self, level: int) -> bool:
        """Whether the blocks of a level have attention."""
        return 2**level in self.attention_resolutions


def _norm(channels: int, eps: float = 1e-5) -> nn.GroupNorm:
    return nn.GroupNorm(32, channels, eps=eps)


class _Residual(nn.Module):
    """[n, channels, h, w] -> [n, out, h, w]; the time's embedding is added between."""

    def __init__(self, channels: int, out: int, embedding: int) -> None:
        super().__init__()
        first = nn.Conv2d(channels, out, 3, padding=1)
        last = nn.Conv2d(out, out, 3, padding=1)
        self.in_layers = nn.Sequential(_norm(channels), nn.SiLU(), first)
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(embedding, out))
        # the third is dropout when it is trained
        self.out_layers = nn.Sequential(_norm(out), nn.SiLU(), nn.Identity(), last)
        self.skip_connection = nn.Identity() if out == channels else nn.Conv2d(channels, out, 1)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        h = self.in_layers(x) + self.emb_layers(embedding)[:, :, None, None]
        return self.skip_connection(x) + self.out_layers(h)


class _Attention(nn.Module):
    """Self-attention over pixels. Rows of qkv: head by head q, k, v, ADM's legacy order."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = _norm(channels)
        self.qkv = nn.Conv1d(channels, 3 * channels, 1)
        self.proj_out = nn.Conv1d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        n, c = x.shape[:2]
        qkv = self.qkv(self.norm(x).reshape(n, c, -1)).reshape(
            n, self.heads, 3, c // self.heads, -1
        )
        q, k, v = qkv.transpose(-1, -2).unbind(2)  # each [n, heads, t, c / heads]
        h = F.scaled_dot_product_attention(q, k, v).transpose(-1, -2)
        return x + self.proj_out(h.reshape(n, c, -1)).reshape(x.shape)


class _Across(nn.Module):
    """Attention from tokens [n, t, channels] to tokens [n, s, context]."""

    def __init__(self, channels: int, context: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(channels, channels, bias=False)
        self.to_k = nn.Linear(context, channels, bias=False)
        self.to_v = nn.Linear(context, channels, bias=False)
        self.to_out = nn.Sequential(nn.Linear(channels, channels), nn.Identity())

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        q, k, v = (
            tokens.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for tokens in (self.to_q(x), self.to_k(context), self.to_v(context))
        )  # each [n, heads, tokens, channels / heads]
        return self.to_out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class _Gated(nn.Module):
    """GEGLU: half of a linear map, times the GELU of its other half."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.proj = nn.Linear(channels, 8 * channels)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.proj(x).chunk(2, -1)
        return value * F.gelu(gate)


class _Block(nn.Module):
    """A transformer's block: attention to itself, to the context, and the feed-forward part."""

    def __init__(self, channels: int, context: int, heads: int) -> None:
        super().__init__()
        self.attn1 = _Across(channels, channels, heads)
        self.attn2 = _Across(channels, context, heads)
        last = nn.Linear(4 * channels, channels)
        self.ff = nn.ModuleDict({"net": nn.Sequential(_Gated(channels), nn.Identity(), last)})
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(channels) for _ in range(3))

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        tokens = self.norm1(x)
        x = x + self.attn1(tokens, tokens)
        x = x + self.attn2(self.norm2(x), context)
        return x + self.ff["net"](self.norm3(x))


class _Spatial(nn.Module):
    """A transformer over pixels that also attends to the context, one block deep."""

    def __init__(self, channels: int, context: int, heads: int) -> None:
        super().__init__()
        self.norm = _norm(channels, eps=1e-6)  # the only norm of the network with that eps
        self.proj_in = nn.Conv2d(channels, channels, 1)
        self.transformer_blocks = nn.ModuleList([_Block(channels, context, heads)])
        self.proj_out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        tokens = self.proj_in(self.norm(x)).flatten(2).transpose(1, 2)
        for block in self.transformer_blocks:
            tokens = block(tokens, context)
        return x + self.proj_out(tokens.transpose(1, 2).reshape(x.shape))


class _Resample(nn.Module):
    """To half the size by a convolution of stride 2, or to double by nearest and a convolution."""

    def __init__(self, channels: int, way: Literal["op", "conv"]) -> None:
        super().__init__()
        self.way = way  # down or up, by the name of its convolution
        self.add_module(way, nn.Conv2d(channels, channels, 3, 2 if way == "op" else 1, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        if self.way == "conv":
            x = F.interpolate(x, scale_factor=2, mode="nearest")
        return self.get_submodule(self.way)(x)


class LDM(nn.Module):
    """x [n, c, h, w] at timesteps [n], and of class labels [n] -> eps."""

    def __init__(self, flags: LDMFlags) -> None:
        super().__init__()
        self.flags = flags
        width, embedding = flags.model_channels, 4 * flags.model_channels
        self.time_embed = nn.Sequential(
            nn.Linear(width, embedding), nn.SiLU(), nn.Linear(embedding, embedding)
        )
        if flags.n_classes:
            self.class_embed = nn.Embedding(flags.n_classes, flags.context_dim)
        levels, entry = _levels(flags), nn.Conv2d(flags.in_channels, width, 3, padding=1)
        self.input_blocks, skips = levels.input_blocks(entry, width)
        widest = skips[-1]
        self.middle_block = nn.ModuleList([
            _Residual(widest, widest, embedding), _attention(flags, widest),
            _Residual(widest, widest, embedding),
        ])  # fmt: skip
        self.output_blocks = levels.output_blocks(skips)
        last = nn.Conv2d(flags.widths[0], flags.in_channels, 3, padding=1)
        self.out = nn.Sequential(_norm(flags.widths[0]), nn.SiLU(), last)

    def forward(self, x: Tensor, timestep: Tensor, class_labels: Tensor | None = None) -> Output:
        """`Output` of [n, c, h, w]."""
        if (class_labels is None) == bool(self.flags.n_classes):
            raise ValueError("labels are for networks with n_classes, which need them")
        embedding = self.time_embed(clock(timestep, self.flags.model_channels).to(x.dtype))
        context = None if class_labels is None else self.class_embed(class_labels)[:, None]
        skips = []
        for block in self.input_blocks:
            x = _through(block, x, embedding, context)
            skips.append(x)
        x = _through(self.middle_block, x, embedding, context)
        for block in self.output_blocks:
            x = _through(block, torch.cat([x, skips.pop()], 1), embedding, context)
        return Output(self.out(x))


def _through(block: nn.Module, x: Tensor, embedding: Tensor, context: Tensor | None) -> Tensor:
    for layer in block.children():
        if isinstance(layer, _Residual):
            x = layer(x, embedding)
        else:
            x = layer(x, context) if isinstance(layer, _Spatial) else layer(x)
    return x


def _attention(flags: LDMFlags, channels: int) -> nn.Module:
    heads = flags.num_heads or channels // flags.num_head_channels
    if flags.context_dim:
        return _Spatial(channels, flags.context_dim, heads)
    return _Attention(channels, heads)


def _stage(flags: LDMFlags, level: int, channels: int) -> list[nn.Module]:
    """A residual block to the level's width, with attention where the level has it."""
    out = flags.widths[level]
    layers: list[nn.Module] = [_Residual(channels, out, 4 * flags.model_channels)]
    if flags.attends(level):
        layers.append(_attention(flags, out))
    return layers


def _levels(flags: LDMFlags) -> Levels:
    return Levels(
        flags.widths, flags.num_res_blocks,
        stage=lambda level, channels: _stage(flags, level, channels),
        down=lambda channels: _Resample(channels, "op"),
        up=lambda channels: _Resample(channels, "conv"),
    )  # fmt: skip
