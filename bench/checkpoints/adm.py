"""The ADM network (Dhariwal and Nichol 2021, arXiv 2105.05233) of openai/guided-diffusion's flags.

Written from the architecture's description, with the parameter names of the published files, so
that they load strictly and as they are. Not diffusers' `UNet2DModel`: it has heads of one width at
all levels, where ImageNet 128 has four heads at each, and its half casts all of it, where this
one's norms, embeddings and last layer stay float32, as published. Only what the published diffusion
models use is here: residual up- and downsampling, scale-shift norms.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.checkpoints.card import ADMFlags
from bench.checkpoints.output import Output, clock
from bench.checkpoints.unet import Levels


class _Norm(nn.GroupNorm):
    """32 groups, in float32 whatever the input, with the scale and shift of an embedding.

    Its statistics are those of the channels, put together: a channel's are read in one sweep of
    channels-last memory, where a group's are not. var = E[var of channels] + var[mean of channels].
    """

    def __init__(self, channels: int) -> None:
        super().__init__(32, channels, eps=1e-5)

    def forward(self, x: Tensor, embedded: Tensor | None = None) -> Tensor:
        """x [n, c, h, w]; embedded [n, 2 c], scale then shift: norm(x) (1 + scale) + shift."""
        var, mean = (
            part.unflatten(1, (32, -1)) for part in torch.var_mean(x.float(), (2, 3), correction=0)
        )  # [n, 32, c / 32]
        between, centre = torch.var_mean(mean, 2, correction=0, keepdim=True)
        gain = (var.mean(2, keepdim=True) + between + self.eps).rsqrt().expand_as(mean).flatten(1)
        gain = gain * self.weight
        offset = self.bias - centre.expand_as(mean).flatten(1) * gain
        if embedded is not None:
            scale, shift = embedded.chunk(2, 1)
            gain, offset = gain * (1 + scale), offset * (1 + scale) + shift
        return (x.float() * gain[:, :, None, None] + offset[:, :, None, None]).to(x.dtype)


class _Residual(nn.Module):
    """[n, channels, h, w] -> [n, out, h', w']; BigGAN's resampling, of both branches."""

    def __init__(
        self, channels: int, out: int, embedding: int, resample: Literal["", "up", "down"] = ""
    ) -> None:
        super().__init__()
        self.resample = resample
        first = nn.Conv2d(channels, out, 3, padding=1)
        last = nn.Conv2d(out, out, 3, padding=1)
        self.in_layers = nn.Sequential(_Norm(channels), nn.SiLU(), first)
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(embedding, 2 * out))
        # the third is dropout when it is trained
        self.out_layers = nn.Sequential(_Norm(out), nn.SiLU(), nn.Identity(), last)
        self.skip_connection = nn.Identity() if out == channels else nn.Conv2d(channels, out, 1)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        norm, activation, first = self.in_layers
        h = first(self._resampled(activation(norm(x))))
        norm, activation, _, last = self.out_layers
        h = last(activation(norm(h, self.emb_layers(embedding))))
        return self.skip_connection(self._resampled(x)) + h

    def _resampled(self, x: Tensor) -> Tensor:
        if self.resample == "up":
            return F.interpolate(x, scale_factor=2, mode="nearest")
        return F.avg_pool2d(x, 2) if self.resample == "down" else x


class _Attention(nn.Module):
    """Self-attention over pixels. Rows of qkv: head by head q, k, v in the legacy order of the
    files; all q, all k, all v in the new one."""

    def __init__(self, channels: int, heads: int, new_order: bool) -> None:
        super().__init__()
        self.heads, self.new_order = heads, new_order
        self.norm = _Norm(channels)
        self.qkv = nn.Conv1d(channels, 3 * channels, 1)
        self.proj_out = nn.Conv1d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        n, c, height, width = x.shape
        tokens = self.norm(x).permute(0, 2, 3, 1).reshape(n, -1, c)  # as they lie, channels last
        qkv = F.linear(tokens, self.qkv.weight[:, :, 0], self.qkv.bias)  # [n, t, 3c]
        order, axis = ((3, self.heads), 2) if self.new_order else ((self.heads, 3), 3)
        parts = qkv.reshape(n, -1, *order, c // self.heads)
        q, k, v = (part.transpose(1, 2) for part in parts.unbind(axis))  # [n, heads, t, c / heads]
        h = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, -1, c)
        h = F.linear(h, self.proj_out.weight[:, :, 0], self.proj_out.bias)
        return x + h.reshape(n, height, width, c).permute(0, 3, 1, 2)


class ADM(nn.Module):
    """x [n, c, h, w] at timesteps [n] or [], and of class labels [n] -> eps, and the variance's v
    after it if it is learned."""

    def __init__(self, flags: ADMFlags) -> None:
        super().__init__()
        self.flags = flags
        width, embedding = flags.num_channels, 4 * flags.num_channels
        self.time_embed = nn.Sequential(
            nn.Linear(width, embedding), nn.SiLU(), nn.Linear(embedding, embedding)
        )
        if flags.num_classes:
            self.label_emb = nn.Embedding(flags.num_classes, embedding)
        levels, first = _levels(flags), flags.widths[0]
        entry = nn.Conv2d(flags.in_channels, first, 3, padding=1)
        self.input_blocks, skips = levels.input_blocks(entry, first)
        widest = skips[-1]
        self.middle_block = nn.ModuleList([
            _Residual(widest, widest, embedding), _attention(flags, widest),
            _Residual(widest, widest, embedding),
        ])  # fmt: skip
        self.output_blocks = levels.output_blocks(skips)
        outputs = flags.in_channels * (2 if flags.learn_sigma else 1)
        self.out = nn.Sequential(
            _Norm(flags.widths[0]), nn.SiLU(), nn.Conv2d(flags.widths[0], outputs, 3, padding=1)
        )

    def forward(self, x: Tensor, timestep: Tensor, class_labels: Tensor | None = None) -> Output:
        """`Output` of float32 [n, outputs, h, w]."""
        timestep = timestep.expand(len(x))  # diffusers' loops give one for all
        embedding = self.time_embed(clock(timestep, self.flags.num_channels))
        if (class_labels is None) == bool(self.flags.num_classes):
            raise ValueError("labels are for networks with num_classes, which need them")
        if class_labels is not None:
            embedding = embedding + self.label_emb(class_labels)
        x, skips = x.to(next(self.input_blocks.parameters()).dtype), []  # the convolutions'
        for block in self.input_blocks:
            x = _through(block, x, embedding)
            skips.append(x)
        x = _through(self.middle_block, x, embedding)
        for block in self.output_blocks:
            x = _through(block, torch.cat([x, skips.pop()], 1), embedding)
        return Output(self.out(x.float()))

    def cast(self, dtype: torch.dtype) -> "ADM":
        """Convolutions of all blocks to `dtype`, the rest left float32: as its `use_fp16`."""
        for blocks in (self.input_blocks, self.middle_block, self.output_blocks):
            for module in blocks.modules():
                if isinstance(module, nn.Conv1d | nn.Conv2d):
                    module.to(dtype)
        return self


def _through(block: nn.Module, x: Tensor, embedding: Tensor) -> Tensor:
    for layer in block.children():
        x = layer(x, embedding) if isinstance(layer, _Residual) else layer(x)
    return x


def _attention(flags: ADMFlags, channels: int) -> _Attention:
    heads = flags.num_heads or channels // flags.num_head_channels
    return _Attention(channels, heads, flags.use_new_attention_order)


def _stage(flags: ADMFlags, level: int, channels: int) -> list[nn.Module]:
    """A residual block to the level's width, with attention where the level has it."""
    out = flags.widths[level]
    layers: list[nn.Module] = [_Residual(channels, out, 4 * flags.num_channels)]
    if flags.image_size >> level in flags.attention_resolutions:
        layers.append(_attention(flags, out))
    return layers


def _levels(flags: ADMFlags) -> Levels:
    embedding = 4 * flags.num_channels
    return Levels(
        flags.widths, flags.num_res_blocks,
        stage=lambda level, channels: _stage(flags, level, channels),
        down=lambda channels: _Residual(channels, channels, embedding, "down"),
        up=lambda channels: _Residual(channels, channels, embedding, "up"),
    )  # fmt: skip
