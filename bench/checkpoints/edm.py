"""The networks of EDM (Karras et al. 2022, arXiv 2206.00364): DDPM++, NCSN++ (Song et al. 2021,
arXiv 2011.13456) and ADM (Dhariwal and Nichol 2021, arXiv 2105.05233), as that paper trains them.

Written from the papers' descriptions, with the parameter names of NVlabs/edm's published networks,
so that their state dicts load strictly and as they are. Preconditioning is not here: x comes in
multiplied by c_in, the noise level as c_noise = ln(sigma) / 4, and what goes out is F of the
paper's equation 7; `process.VE` and prediction "edm" are the rest. No published file was at hand:
names, shapes and order of operations are checked against an independent forward pass, not against
the published outputs.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.checkpoints.edm_flags import EDMFlags
from bench.checkpoints.output import Output

Resample = Literal["", "up", "down"]


@dataclass(frozen=True)
class _Form:
    """In what SongUNet and DhariwalUNet differ, block by block."""

    taps: tuple[int, ...]  # of the separable filter that resamples
    eps: float
    skip_scale: float  # of each sum with a skip
    adaptive: bool  # the embedding scales and shifts, or shifts alone
    heads_of: int  # channels of an attention head; 0: one head
    project: bool  # a resampled skip has a 1x1 convolution though its width stays
    all_attend: bool  # each block of the decoder attends, or the last of a level alone


def _form(flags: EDMFlags) -> _Form:
    if flags.model_type == "SongUNet":
        return _Form(flags.resample_filter, 1e-6, 0.5**0.5, False, 0, True, False)
    return _Form(flags.resample_filter, 1e-5, 1.0, True, 64, False, True)


def _filter(taps: tuple[int, ...]) -> Tensor:
    """[1, 1, k, k], of sum 1."""
    row = torch.tensor(taps, dtype=torch.float32)
    return (torch.outer(row, row) / row.sum() ** 2)[None, None]


def _resampled(x: Tensor, kernel: Tensor, way: Resample, padding: int | None = None) -> Tensor:
    """x twice or half as large, each channel filtered alone."""
    each = kernel.expand(x.shape[1], 1, -1, -1)
    pad = (kernel.shape[-1] - 1) // 2 if padding is None else padding
    if way == "up":  # zeros between the pixels cost a factor of four
        return F.conv_transpose2d(x, 4 * each, stride=2, padding=pad, groups=x.shape[1])
    return F.conv2d(x, each, stride=2, padding=pad, groups=x.shape[1])


class _Resampled(nn.Module):
    """Up- or downsampling without weights."""

    resample_filter: Tensor

    def __init__(self, taps: tuple[int, ...], way: Resample) -> None:
        super().__init__()
        self.way = way
        self.register_buffer("resample_filter", _filter(taps))

    def forward(self, x: Tensor) -> Tensor:
        return _resampled(x, self.resample_filter, self.way)


class _Conv(nn.Conv2d):
    """A convolution that keeps the size, of x resampled first if so asked."""

    resample_filter: Tensor

    def __init__(
        self, channels: int, out: int, kernel: int, way: Resample = "", taps: tuple[int, ...] = ()
    ) -> None:
        super().__init__(channels, out, kernel, padding=kernel // 2)
        self.way = way
        if way:
            self.register_buffer("resample_filter", _filter(taps))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(_resampled(x, self.resample_filter, self.way) if self.way else x)


class _Halving(_Conv):
    """NCSN++'s convolution of the smaller image from the larger: filtered after the convolution,
    at the larger size, whose padding covers both."""

    def __init__(self, channels: int, out: int, taps: tuple[int, ...]) -> None:
        super().__init__(channels, out, 3, "down", taps)

    def forward(self, x: Tensor) -> Tensor:
        padding = 1 + (self.resample_filter.shape[-1] - 1) // 2
        wide = F.conv2d(x, self.weight, self.bias, padding=padding)
        return _resampled(wide, self.resample_filter, "down", 0)


def _norm(channels: int, eps: float) -> nn.GroupNorm:
    return nn.GroupNorm(min(32, channels // 4), channels, eps)


class _Block(nn.Module):
    """[n, channels, h, w] -> [n, out, h', w']: a residual block, then attention if asked."""

    def __init__(
        self, form: _Form, channels: int, out: int, embedding: int, way: Resample = "",
        attends: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        self.form, self.heads = form, 0
        self.norm0 = _norm(channels, form.eps)
        self.conv0 = _Conv(channels, out, 3, way, form.taps)
        self.affine = nn.Linear(embedding, out * (2 if form.adaptive else 1))
        self.norm1 = _norm(out, form.eps)
        self.conv1 = _Conv(out, out, 3)
        self.skip: nn.Module = nn.Identity()
        if channels != out or (way and form.project):
            self.skip = _Conv(channels, out, 1, way, form.taps)
        elif way:
            self.skip = _Resampled(form.taps, way)
        if attends:
            self.heads = out // form.heads_of if form.heads_of else 1
            self.norm2 = _norm(out, form.eps)
            self.qkv = _Conv(out, 3 * out, 1)
            self.proj = _Conv(out, out, 1)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        h = self.conv0(F.silu(self.norm0(x)))
        said = self.affine(embedding).to(h.dtype)[:, :, None, None]
        if self.form.adaptive:
            scale, shift = said.chunk(2, 1)
            h = self.norm1(h) * (1 + scale) + shift
        else:
            h = self.norm1(h + said)
        h = (self.skip(x) + self.conv1(F.silu(h))) * self.form.skip_scale
        return (h + self._attended(h)) * self.form.skip_scale if self.heads else h

    def _attended(self, x: Tensor) -> Tensor:
        # rows of qkv: head by head, in each channel by channel, its q, k and v
        rows = self.qkv(self.norm2(x)).reshape(len(x), self.heads, -1, 3, x[0, 0].numel())
        q, k, v = rows.transpose(2, 4).unbind(3)  # each [n, heads, pixels, channels of a head]
        h = F.scaled_dot_product_attention(q, k, v).transpose(2, 3)
        return self.proj(h.reshape(x.shape))


class _Fourier(nn.Module):
    """[n] -> [n, width] of fixed random frequencies, which are in the file."""

    freqs: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("freqs", 16 * torch.randn(width // 2))

    def forward(self, noise: Tensor) -> Tensor:
        return _waves(noise, 2 * math.pi * self.freqs)


class _Positional(nn.Module):
    """[n] -> [n, width], of periods 2 pi to 2 pi 10000, the last included if endpoint."""

    def __init__(self, width: int, endpoint: bool) -> None:
        super().__init__()
        self.waves, self.endpoint = width // 2, endpoint

    def forward(self, noise: Tensor) -> Tensor:
        steps = torch.arange(self.waves, dtype=torch.float32, device=noise.device)
        return _waves(noise, 10000 ** -(steps / (self.waves - self.endpoint)))


def _waves(noise: Tensor, freqs: Tensor) -> Tensor:
    angle = noise[:, None] * freqs
    return torch.cat([angle.cos(), angle.sin()], 1)


class _UNet(nn.Module):
    """The network within the preconditioning, `model` in the files."""

    def __init__(self, flags: EDMFlags) -> None:
        super().__init__()
        self.song = flags.model_type == "SongUNet"
        noise, embedding = flags.noise_channels, flags.channel_mult_emb * flags.model_channels
        self.map_noise = (
            _Fourier(noise) if flags.embedding_type == "fourier" else _Positional(noise, self.song)
        )
        if flags.label_dim:
            joins = noise if self.song else embedding  # before the two layers, or after them
            self.map_label = nn.Linear(flags.label_dim, joins, bias=self.song)
        if flags.augment_dim:  # of no augmentation it is 0, so that sampling never calls it
            self.map_augment = nn.Linear(flags.augment_dim, noise, bias=False)
        self.map_layer0 = nn.Linear(noise, embedding)
        self.map_layer1 = nn.Linear(embedding, embedding)
        self.enc, skips = _encoder(flags, embedding)
        self.dec = _decoder(flags, embedding, skips)
        norm = _norm(flags.widths[0], 1e-6 if self.song else 1e-5)
        last = _Conv(flags.widths[0], flags.img_channels, 3)
        if self.song:
            self.dec[_at(flags, 0, "aux_norm")] = norm
            self.dec[_at(flags, 0, "aux_conv")] = last
        else:
            self.out_norm, self.out_conv = norm, last

    def forward(self, x: Tensor, noise: Tensor, classes: Tensor | None) -> Tensor:
        embedding, h, skips = self._embedding(noise, classes), x, list[Tensor]()
        smaller = x  # what the residual encoder passes beside the blocks
        for layer in self.enc.values():
            if isinstance(layer, _Halving):
                h = smaller = skips[-1] = (h + layer(smaller)) * 0.5**0.5
            else:
                h = layer(h, embedding) if isinstance(layer, _Block) else layer(h)
                skips.append(h)
        for name, layer in self.dec.items():
            if isinstance(layer, _Block):
                h = layer(torch.cat([h, skips.pop()], 1) if "_block" in name else h, embedding)
        norm, last = list(self.dec.values())[-2:] if self.song else (self.out_norm, self.out_conv)
        return last(F.silu(norm(h)))

    def _embedding(self, noise: Tensor, classes: Tensor | None) -> Tensor:
        """Of the noise level and, one-hot [n, label_dim], of the classes: [n, embedding]."""
        of = self.map_noise(noise)
        if not self.song:
            of = self.map_layer1(F.silu(self.map_layer0(of)))
            return F.silu(of if classes is None else of + self.map_label(classes))
        cosines, sines = of.chunk(2, 1)
        of = torch.cat([sines, cosines], 1)  # SongUNet's order
        if classes is not None:  # of variance 1, as the noise's
            of = of + self.map_label(classes * classes.shape[1] ** 0.5)
        return F.silu(self.map_layer1(F.silu(self.map_layer0(of))))


def _at(flags: EDMFlags, level: int, what: str) -> str:
    """A layer's name in the files: 16x16_block0."""
    size = flags.img_resolution >> level
    return f"{size}x{size}_{what}"


def _encoder(flags: EDMFlags, embedding: int) -> tuple[nn.ModuleDict, list[int]]:
    """From the image to the lowest resolution, and the channels of what each layer leaves."""
    form, beside = _form(flags), flags.img_channels
    # SongUNet's first layer has model_channels, DhariwalUNet's the first level's
    channels = flags.model_channels if flags.model_type == "SongUNet" else flags.widths[0]
    layers: dict[str, nn.Module] = {}
    layers[_at(flags, 0, "conv")] = _Conv(flags.img_channels, channels, 3)
    skips = [channels]
    for level, width in enumerate(flags.widths):
        if level:
            layers[_at(flags, level, "down")] = _Block(form, channels, channels, embedding, "down")
            skips.append(channels)
            if flags.encoder_type == "residual":
                halving = _Halving(beside, channels, form.taps)
                layers[_at(flags, level, "aux_residual")] = halving
                beside = channels
        attends = flags.img_resolution >> level in flags.attn_resolutions
        for index in range(flags.num_blocks):
            block = _Block(form, channels, width, embedding, attends=attends)
            layers[_at(flags, level, f"block{index}")] = block
            channels = width
            skips.append(channels)
    return nn.ModuleDict(layers), skips


def _decoder(flags: EDMFlags, embedding: int, skips: list[int]) -> nn.ModuleDict:
    """Back to the image's resolution; each numbered block is fed with one skip, the last first."""
    form, channels, rest = _form(flags), skips[-1], list(skips)
    layers: dict[str, nn.Module] = {}
    for level in reversed(range(len(flags.widths))):
        if level == len(flags.widths) - 1:
            layers[_at(flags, level, "in0")] = _Block(
                form, channels, channels, embedding, attends=True
            )
            layers[_at(flags, level, "in1")] = _Block(form, channels, channels, embedding)
        else:
            layers[_at(flags, level, "up")] = _Block(form, channels, channels, embedding, "up")
        here = flags.img_resolution >> level in flags.attn_resolutions
        for index in range(flags.num_blocks + 1):
            attends = here and (form.all_attend or index == flags.num_blocks)
            block = _Block(
                form, channels + rest.pop(), flags.widths[level], embedding, attends=attends
            )
            layers[_at(flags, level, f"block{index}")] = block
            channels = flags.widths[level]
    return nn.ModuleDict(layers)


class EDM(nn.Module):
    """x [n, c, h, w], multiplied by c_in, at c_noise [n], and of class labels [n] -> F."""

    def __init__(self, flags: EDMFlags) -> None:
        super().__init__()
        self.flags = flags
        self.model = _UNet(flags)

    def forward(self, x: Tensor, timestep: Tensor, class_labels: Tensor | None = None) -> Output:
        """`Output` of float32 [n, c, h, w]."""
        if (class_labels is None) == bool(self.flags.label_dim):
            raise ValueError("labels are for networks with label_dim, which need them")
        classes = class_labels
        if classes is not None:
            classes = F.one_hot(classes.long(), self.flags.label_dim).float()
        dtype = next(self.model.enc.parameters()).dtype  # the convolutions'
        return Output(self.model(x.to(dtype), timestep.float(), classes).float())

    def cast(self, dtype: torch.dtype) -> "EDM":
        """Convolutions and norms to `dtype`, embeddings left float32: as its `use_fp16`."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.GroupNorm | _Resampled):
                module.to(dtype)
        return self
