"""EDM (Karras et al. 2022, arXiv 2206.00364): networks, format and presets.

The networks are DDPM++ and NCSN++ (Song et al. 2021, arXiv 2011.13456) and ADM (Dhariwal and Nichol
2021, arXiv 2105.05233), as the EDM paper trains them. They are written from the papers. Their
parameters have the names of NVlabs/edm's networks, so that its state dicts load strictly.
Preconditioning is not here: the network takes c_in x and c_noise = ln(sigma) / 4, and returns F of
equation 7. `process.VE` and prediction "edm" do the rest. Names, shapes and the order of operations
were compared with a second writing of the forward pass. No published file was at hand.

Addresses and options of training: README of github.com/NVlabs/edm. FID: Tables 2 (config F) and 3,
the least of three sets of 50,000 images. The entries name the samplers' evaluations. The files are
pickles, which this project never opens: see `CONVERT`. No SHA-256 is published, the arguments are
those of the README's options, and weights are not shipped.
"""

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from bench.checkpoints.card import Card, VECard
from bench.checkpoints.family import Output, Shape
from bench.zoo.base import Converted, Flags, Preset, PublishedFamily

_ADDRESS = "https://nvlabs-fi-cdn.nvidia.com/edm/pretrained/"

# A command for the shell, on one line because an error prints it. NVlabs' environment has Python
# 3.8. The command refuses other preconditionings than EDM's. Beside the weights it writes a
# preset of the pickle's own arguments, for networks that are not published.
CONVERT = (
    "python -c 'import json, pickle, sys; from safetensors.torch import save_file; "
    'to = sys.argv[1].rsplit(".", 1)[0]; net = pickle.load(open(sys.argv[1], "rb"))["ema"].cpu(); '
    'assert type(net).__name__ == "EDMPrecond" and net.sigma_data == 0.5, "other preconditioning"; '
    "save_file({k: v.contiguous() for k, v in net.state_dict().items()}, "
    'to + ".safetensors"); '
    'rest = {"dropout", "label_dropout", "use_fp16", "sigma_min", "sigma_max", "sigma_data"}; '
    'json.dump({"flags": {k: v for k, v in net.init_kwargs.items() if k not in rest}}, '
    'open(to + ".json", "w"))\''
)

# the defaults of its networks
_DEFAULTS: dict[str, dict[str, Any]] = {
    "SongUNet": {
        "model_channels": 128, "channel_mult": (1, 2, 2, 2), "num_blocks": 4,
        "attn_resolutions": (16,),
    },
    "DhariwalUNet": {
        "model_channels": 192, "channel_mult": (1, 2, 3, 4), "num_blocks": 3,
        "attn_resolutions": (32, 16, 8),
    },
}  # fmt: skip


class EDMFlags(Flags):
    """The arguments of SongUNet or of DhariwalUNet (ADM), by NVlabs/edm's names.

    SongUNet is DDPM++ with a positional embedding and a standard encoder, and NCSN++ with Fourier
    features and a residual encoder.
    """

    model_type: Literal["SongUNet", "DhariwalUNet"]
    img_resolution: int = Field(gt=0)
    img_channels: int = Field(3, gt=0)
    label_dim: int = Field(0, ge=0)  # classes; 0: unconditional
    augment_dim: int = Field(0, ge=0)  # labels of augmentation, used in training alone
    model_channels: int = Field(gt=0)
    channel_mult: tuple[int, ...] = Field(min_length=1)
    channel_mult_emb: int = Field(4, gt=0)
    num_blocks: int = Field(gt=0)
    attn_resolutions: tuple[int, ...]
    embedding_type: Literal["positional", "fourier"] = "positional"
    channel_mult_noise: int = Field(1, gt=0)
    encoder_type: Literal["standard", "residual"] = "standard"
    decoder_type: Literal["standard"] = "standard"
    resample_filter: tuple[int, ...] = (1, 1)

    @model_validator(mode="before")
    @classmethod
    def _filled(cls, given: Any) -> Any:
        known = _DEFAULTS.get(str(given.get("model_type")), {}) if isinstance(given, dict) else {}
        return known | given if known else given

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of each level, the image's own resolution first."""
        return tuple(mult * self.model_channels for mult in self.channel_mult)

    @property
    def noise_channels(self) -> int:
        """Width of the noise level's embedding before its two layers."""
        return self.channel_mult_noise * self.model_channels

    @property
    def shape(self) -> Shape:
        return self.img_channels, self.img_resolution, self.img_resolution

    def disagreement(self, card: Card) -> str:
        """Compare classes. The network has no learned variance."""
        if card.learned_variance:
            return "a network of family edm has no learned_variance"
        return "" if self.label_dim == card.classes else "classes must be the network's label_dim"

    @model_validator(mode="after")
    def _fits(self) -> "EDMFlags":
        if self.img_resolution % 2 ** (len(self.widths) - 1):
            raise ValueError(
                f"img_resolution {self.img_resolution} cannot be halved between all levels"
            )
        if self.noise_channels % 2:
            raise ValueError(f"noise needs an even number of channels, not {self.noise_channels}")
        for width in {self.model_channels, *self.widths}:
            if width % 4 or (width > 128 and width % 32):
                raise ValueError(f"{width} channels do not divide into the groups of the norms")
        if len(self.resample_filter) % 2 or not sum(self.resample_filter):
            raise ValueError(f"resample_filter needs an even number of taps and a sum above 0, not "
                             f"{list(self.resample_filter)}")  # fmt: skip
        if self.model_type == "DhariwalUNet":
            self._dhariwal()
        return self

    def _dhariwal(self) -> None:
        fixed = ("embedding_type", "channel_mult_noise", "encoder_type", "resample_filter")
        for name in fixed:
            if getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"{name} is an argument of SongUNet alone")
        for level, width in enumerate(self.widths):
            last = level == len(self.widths) - 1  # the middle always attends
            if (last or self.img_resolution >> level in self.attn_resolutions) and width % 64:
                raise ValueError(f"{width} channels do not divide into heads of 64")


Resample = Literal["", "up", "down"]


@dataclass(frozen=True)
class _Form:
    """The differences between the blocks of SongUNet and DhariwalUNet."""

    taps: tuple[int, ...]  # the separable filter of resampling
    eps: float
    skip_scale: float  # the factor of each sum with a skip
    adaptive: bool  # the embedding scales and shifts; if not, it shifts alone
    heads_of: int  # channels of an attention head; 0: one head
    project: bool  # a resampled skip of the same width has a 1x1 convolution too
    all_attend: bool  # each block of the decoder attends; if not, only the last of a level


def _form(flags: EDMFlags) -> _Form:
    if flags.model_type == "SongUNet":
        return _Form(flags.resample_filter, 1e-6, 0.5**0.5, False, 0, True, False)
    return _Form(flags.resample_filter, 1e-5, 1.0, True, 64, False, True)


def _filter(taps: tuple[int, ...]) -> Tensor:
    """The filter [1, 1, k, k], whose sum is 1."""
    row = torch.tensor(taps, dtype=torch.float32)
    return (torch.outer(row, row) / row.sum() ** 2)[None, None]


def _resampled(x: Tensor, kernel: Tensor, way: Resample, padding: int | None = None) -> Tensor:
    """Double or halve the size of x. Each channel is filtered alone."""
    each = kernel.expand(x.shape[1], 1, -1, -1)
    pad = (kernel.shape[-1] - 1) // 2 if padding is None else padding
    if way == "up":  # the zeros between pixels need a factor of four
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
    """A convolution that keeps the size. With `way`, x is resampled first."""

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
    """NCSN++'s convolution that halves an image. The filter comes after the convolution, which runs
    at the larger size with padding for both."""

    def __init__(self, channels: int, out: int, taps: tuple[int, ...]) -> None:
        super().__init__(channels, out, 3, "down", taps)

    def forward(self, x: Tensor) -> Tensor:
        padding = 1 + (self.resample_filter.shape[-1] - 1) // 2
        wide = F.conv2d(x, self.weight, self.bias, padding=padding)
        return _resampled(wide, self.resample_filter, "down", 0)


def _norm(channels: int, eps: float) -> nn.GroupNorm:
    return nn.GroupNorm(min(32, channels // 4), channels, eps)


class _Block(nn.Module):
    """[n, channels, h, w] -> [n, out, h', w']: a residual block, then attention if `attends`."""

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
        affine = self.affine(embedding).to(h.dtype)[:, :, None, None]
        if self.form.adaptive:
            scale, shift = affine.chunk(2, 1)
            h = self.norm1(h) * (1 + scale) + shift
        else:
            h = self.norm1(h + affine)
        h = (self.skip(x) + self.conv1(F.silu(h))) * self.form.skip_scale
        return (h + self._attended(h)) * self.form.skip_scale if self.heads else h

    def _attended(self, x: Tensor) -> Tensor:
        # rows of qkv, in order of heads, then of channels: q, k and v of each channel
        rows = self.qkv(self.norm2(x)).reshape(len(x), self.heads, -1, 3, x[0, 0].numel())
        q, k, v = rows.transpose(2, 4).unbind(3)  # each [n, heads, pixels, channels of a head]
        h = F.scaled_dot_product_attention(q, k, v).transpose(2, 3)
        return self.proj(h.reshape(x.shape))


class _Fourier(nn.Module):
    """[n] -> [n, width], with fixed random frequencies, which the file holds."""

    freqs: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("freqs", 16 * torch.randn(width // 2))

    def forward(self, noise: Tensor) -> Tensor:
        return _waves(noise, 2 * math.pi * self.freqs)


class _Positional(nn.Module):
    """[n] -> [n, width], with periods from 2 pi to 2 pi 10000. endpoint includes the last."""

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
    """The network inside the preconditioning. The files call it `model`."""

    def __init__(self, flags: EDMFlags) -> None:
        super().__init__()
        self.song = flags.model_type == "SongUNet"
        noise, embedding = flags.noise_channels, flags.channel_mult_emb * flags.model_channels
        self.map_noise = (
            _Fourier(noise) if flags.embedding_type == "fourier" else _Positional(noise, self.song)
        )
        if flags.label_dim:
            joins = noise if self.song else embedding  # joins before or after the two layers
            self.map_label = nn.Linear(flags.label_dim, joins, bias=self.song)
        if flags.augment_dim:  # sampling has no augmentation, so it never calls this layer
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
        smaller = x  # the residual encoder passes it beside the blocks
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
        """Embed the noise level, and the one-hot classes [n, label_dim]: [n, embedding]."""
        h = self.map_noise(noise)
        if not self.song:
            h = self.map_layer1(F.silu(self.map_layer0(h)))
            return F.silu(h if classes is None else h + self.map_label(classes))
        cosines, sines = h.chunk(2, 1)
        h = torch.cat([sines, cosines], 1)  # SongUNet's order
        if classes is not None:  # scaled to variance 1, like the noise
            h = h + self.map_label(classes * classes.shape[1] ** 0.5)
        return F.silu(self.map_layer1(F.silu(self.map_layer0(h))))


def _at(flags: EDMFlags, level: int, what: str) -> str:
    """A layer's name in the files, such as 16x16_block0."""
    size = flags.img_resolution >> level
    return f"{size}x{size}_{what}"


def _encoder(flags: EDMFlags, embedding: int) -> tuple[nn.ModuleDict, list[int]]:
    """The layers from the image to the lowest resolution, and the channels of each skip."""
    form, beside = _form(flags), flags.img_channels
    # the first layer of SongUNet has model_channels; DhariwalUNet's has the first level's width
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
    """The layers back to the image. Each numbered block takes one skip, the last skip first."""
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


class EDMNet(nn.Module):
    """c_in x [n, c, h, w], c_noise [n], class labels [n] -> F."""

    def __init__(self, flags: EDMFlags) -> None:
        super().__init__()
        self.flags = flags
        self.model = _UNet(flags)

    def forward(self, x: Tensor, timestep: Tensor, class_labels: Tensor | None = None) -> Output:
        """Return `Output` of float32 [n, c, h, w]."""
        if (class_labels is None) == bool(self.flags.label_dim):
            raise ValueError("a network with label_dim needs labels; another takes none")
        classes = class_labels
        if classes is not None:
            classes = F.one_hot(classes.long(), self.flags.label_dim).float()
        dtype = next(self.model.enc.parameters()).dtype  # the convolutions'
        return Output(self.model(x.to(dtype), timestep.float(), classes).float())

    def cast(self, dtype: torch.dtype) -> "EDMNet":
        """Convert convolutions and norms. Embeddings stay float32, as with `use_fp16`."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.GroupNorm | _Resampled):
                module.to(dtype)
        return self


class EDMPreset(Preset):
    """A network of NVlabs/edm with EDM's preconditioning."""

    flags: EDMFlags
    dropout: float | None = None  # in training

    @property
    def given(self) -> str:
        """The converted file."""
        return self.file.replace(".pkl", ".safetensors")

    @property
    def convert(self) -> str:
        """The command that converts the pickle."""
        return CONVERT

    def record(self) -> dict[str, object]:
        """The source and the dropout."""
        return super().record() | {"dropout": self.dropout}

    def converted(self, name: str, tensors: dict[str, Tensor]) -> Converted:
        """The file already has the network's keys. E[x0|x] is not clipped, as published."""
        card = self.card(
            name, "edm", self.flags, prediction="edm", clip=False, classes=self.flags.label_dim,
            process=VECard(kind="ve", sigma_min=0.002, sigma_max=80.0, sigma_data=0.5),
        )  # fmt: skip
        return Converted(card, tensors)


_DDPMPP = {"model_type": "SongUNet", "augment_dim": 9}
_NCSNPP = _DDPMPP | {
    "embedding_type": "fourier", "encoder_type": "residual", "channel_mult_noise": 2,
    "resample_filter": (1, 3, 3, 1),
}  # fmt: skip
_CIFAR = {"img_resolution": 32, "channel_mult": (2, 2, 2)}
_CIFAR_COND = _CIFAR | {"label_dim": 10}
_FACES = {"img_resolution": 64, "channel_mult": (1, 2, 2, 2)}


def _edm(
    file: str, flags: dict[str, object], data: str, dropout: float, fid: float, source: str
) -> EDMPreset:
    return EDMPreset(
        flags=EDMFlags.model_validate(flags), data=data, dropout=dropout, fid=fid,
        licence="CC BY-NC-SA 4.0", address=f"{_ADDRESS}edm-{file}.pkl",
        fid_source=f"arXiv 2206.00364, {source}",
    )  # fmt: skip


def _song(file: str, flags: dict[str, object], dropout: float, fid: float, nfe: int) -> EDMPreset:
    form = _DDPMPP if file.endswith("-vp") else _NCSNPP
    source = f"Table 2, config F, {file[-2:].upper()}, NFE {nfe}"
    return _edm(file, form | flags, file.partition("-")[0], dropout, fid, source)


PRESETS: dict[str, EDMPreset] = {
    "edm-cifar10-cond-vp": _song("cifar10-32x32-cond-vp", _CIFAR_COND, 0.13, 1.79, 35),
    "edm-cifar10-cond-ve": _song("cifar10-32x32-cond-ve", _CIFAR_COND, 0.13, 1.79, 35),
    "edm-cifar10-uncond-vp": _song("cifar10-32x32-uncond-vp", _CIFAR, 0.13, 1.97, 35),
    "edm-cifar10-uncond-ve": _song("cifar10-32x32-uncond-ve", _CIFAR, 0.13, 1.98, 35),
    "edm-ffhq-vp": _song("ffhq-64x64-uncond-vp", _FACES, 0.05, 2.39, 79),
    "edm-ffhq-ve": _song("ffhq-64x64-uncond-ve", _FACES, 0.05, 2.53, 79),
    "edm-afhqv2-vp": _song("afhqv2-64x64-uncond-vp", _FACES, 0.25, 1.96, 79),
    "edm-afhqv2-ve": _song("afhqv2-64x64-uncond-ve", _FACES, 0.25, 2.16, 79),
    "edm-imagenet-64": _edm(
        "imagenet-64x64-cond-adm",
        {"model_type": "DhariwalUNet", "img_resolution": 64, "label_dim": 1000},
        "imagenet-ilsvrc-2012", 0.1, 1.36, "Table 3, retrained, stochastic sampler, NFE 511",
    ),
}  # fmt: skip

FAMILY = PublishedFamily(EDMFlags, EDMNet, EDMPreset, PRESETS, EDMNet.cast)
