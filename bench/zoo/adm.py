"""ADM (Dhariwal and Nichol 2021, arXiv 2105.05233): network, format and presets.

The network is written from the description of the architecture. Its parameters have the names of
the published files, so that the files load strictly. It is not diffusers' `UNet2DModel`, which has
heads of one width at all levels, where ImageNet 128 has four heads at each level. Norms, embeddings
and the last layer stay float32 in half precision, as published. The network has only the options
of the published diffusion models: residual up- and downsampling, scale-shift norms.

Flags and addresses: README of github.com/openai/guided-diffusion. FID: the paper, without guidance,
50,000 images, 250 steps (LSUN: 1000). OpenAI publishes no SHA-256. The SHA-256 below is the one
that users of the file give. Weights are not shipped.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from bench.checkpoints.card import Card, VPCard
from bench.checkpoints.family import Output
from bench.checkpoints.quick import ChannelNorm
from bench.zoo.base import Converted, Preset, PublishedFamily
from bench.zoo.layers import Attention, DoublingConv, LastConv, UNet, UNetFlags, timestep_embedding

_ADDRESS = "https://openaipublic.blob.core.windows.net/diffusion/jul-2021/"


class ADMFlags(UNetFlags):
    """The flags of openai/guided-diffusion, for models with resblock_updown and
    use_scale_shift_norm."""

    in_channels: int = Field(3, gt=0)
    num_channels: int = Field(gt=0)
    num_classes: int = Field(default=0, ge=0)  # 0: unconditional
    learn_sigma: bool = True
    use_new_attention_order: bool = False

    @property
    def width(self) -> int:
        return self.num_channels

    def attends(self, level: int) -> bool:
        """`attention_resolutions` are sizes."""
        return self.image_size >> level in self.attention_resolutions

    def disagreement(self, card: Card) -> str:
        """Compare learned variance and classes."""
        if self.learn_sigma != card.learned_variance:
            return "learned_variance must be the network's learn_sigma"
        return "" if self.num_classes == card.classes else "classes must be its num_classes"


class _Norm(ChannelNorm):
    """A norm of 32 groups."""

    def __init__(self, channels: int) -> None:
        super().__init__(32, channels, eps=1e-5)


class _Residual(nn.Module):
    """[n, channels, h, w] -> [n, out, h', w']. Both branches are resampled, as in BigGAN."""

    def __init__(
        self, channels: int, out: int, embedding: int, resample: Literal["", "up", "down"] = ""
    ) -> None:
        super().__init__()
        self.resample = resample
        up = resample == "up"
        first = DoublingConv(channels, out) if up else nn.Conv2d(channels, out, 3, padding=1)
        last = nn.Conv2d(out, out, 3, padding=1)
        self.in_layers = nn.Sequential(_Norm(channels), nn.SiLU(), first)
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(embedding, 2 * out))
        # the third layer is dropout in training
        self.out_layers = nn.Sequential(_Norm(out), nn.SiLU(), nn.Identity(), last)
        self.skip_connection = nn.Identity() if out == channels else nn.Conv2d(channels, out, 1)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        norm, activation, first = self.in_layers
        h = activation(norm(x))
        h = first(h if self.resample == "up" else self._resampled(h))
        norm, activation, _, last = self.out_layers
        h = last(activation(norm(h, self.emb_layers(embedding))))
        return self.skip_connection(self._resampled(x)) + h

    def _resampled(self, x: Tensor) -> Tensor:
        if self.resample == "up":
            return F.interpolate(x, scale_factor=2, mode="nearest")
        return F.avg_pool2d(x, 2) if self.resample == "down" else x


class ADMNet(UNet):
    """x [n, c, h, w], timesteps [n] or [], class labels [n] -> eps, followed by the variance's v if
    it is learned."""

    def __init__(self, flags: ADMFlags) -> None:
        super().__init__(flags)
        embedding = 4 * flags.num_channels
        if flags.num_classes:
            self.label_emb = nn.Embedding(flags.num_classes, embedding)
        self.add_blocks(
            flags.widths[0],
            residual=lambda channels, out: _Residual(channels, out, embedding),
            attention=lambda channels: Attention(
                _Norm(channels), flags.heads(channels), flags.use_new_attention_order
            ),
            down=lambda channels: _Residual(channels, channels, embedding, "down"),
            up=lambda channels: _Residual(channels, channels, embedding, "up"),
        )
        outputs = flags.in_channels * (2 if flags.learn_sigma else 1)
        last = LastConv(flags.widths[0], outputs)
        self.out = nn.Sequential(_Norm(flags.widths[0]), nn.SiLU(), last)

    def forward(self, x: Tensor, timestep: Tensor, class_labels: Tensor | None = None) -> Output:
        """Return `Output` of float32 [n, outputs, h, w]."""
        timestep = timestep.expand(len(x))  # diffusers' loops give one timestep for all
        embedding = self.time_embed(timestep_embedding(timestep, self.flags.num_channels))
        if (class_labels is None) == bool(self.flags.num_classes):
            raise ValueError("a network with num_classes needs labels; another takes none")
        if class_labels is not None:
            embedding = embedding + self.label_emb(class_labels)

        def call(layer: nn.Module, x: Tensor) -> Tensor:
            return layer(x, embedding) if isinstance(layer, _Residual) else layer(x)

        dtype = next(self.input_blocks.parameters()).dtype  # the convolutions'
        return Output(self.out(self.through(x.to(dtype), call).float()))

    def cast(self, dtype: torch.dtype) -> "ADMNet":
        """Convert the convolutions of all blocks. The rest stays float32, as with `use_fp16`."""
        for blocks in (self.input_blocks, self.middle_block, self.output_blocks):
            for module in blocks.modules():
                if isinstance(module, nn.Conv1d | nn.Conv2d):
                    module.to(dtype)
        return self


class ADMPreset(Preset):
    """A checkpoint of openai/guided-diffusion."""

    flags: ADMFlags
    betas: Literal["linear", "cosine"] = "linear"
    timesteps: int = 1000
    dropout: float | None = None  # in training

    def record(self) -> dict[str, object]:
        """The source and the dropout."""
        return super().record() | {"dropout": self.dropout}

    def converted(self, name: str, tensors: dict[str, Tensor]) -> Converted:
        """The file already has the network's keys."""
        process = {"kind": "vp", "betas": self.betas, "timesteps": self.timesteps}
        card = self.card(
            name, "adm", self.flags, process=VPCard.model_validate(process), prediction="eps",
            quantiser="floor", learned_variance=self.flags.learn_sigma,
            classes=self.flags.num_classes,
        )  # fmt: skip
        return Converted(card, tensors)


def _flags(image_size: int, channel_mult: tuple[float, ...], **other: object) -> ADMFlags:
    fields = {
        "image_size": image_size, "channel_mult": channel_mult, "num_channels": 256,
        "num_res_blocks": 2, "attention_resolutions": (32, 16, 8), "num_head_channels": 64,
    }  # fmt: skip
    return ADMFlags.model_validate(fields | other)


_MULT_256 = (1, 1, 2, 2, 4, 4)
_LSUN = ADMPreset(flags=_flags(256, _MULT_256), data="lsun", licence="MIT")


def _lsun(kind: str, file: str, dropout: float, fid: float, row: str) -> ADMPreset:
    return _LSUN.model_copy(update={
        "data": f"lsun-{kind}", "address": _ADDRESS + file, "dropout": dropout, "fid": fid,
        "fid_source": f"arXiv 2105.05233, table of sample quality, {row}",
    })  # fmt: skip


def _imagenet(flags: ADMFlags, file: str, fid: float, row: str, **other: object) -> ADMPreset:
    return ADMPreset.model_validate({
        "flags": flags, "data": "imagenet-ilsvrc-2012", "licence": "MIT",
        "address": _ADDRESS + file, "fid": fid, "fid_source": f"arXiv 2105.05233, {row}",
    } | {"dropout": 0.0} | other)  # fmt: skip


PRESETS: dict[str, ADMPreset] = {
    "lsun-256": _LSUN,  # any of the four
    "lsun-bedroom": _lsun("bedroom", "lsun_bedroom.pt", 0.1, 1.90, "ADM (dropout)"),
    "lsun-cat": _lsun("cat", "lsun_cat.pt", 0.1, 5.57, "ADM (dropout)"),
    "lsun-horse": _lsun("horse", "lsun_horse.pt", 0.1, 2.57, "ADM (dropout)"),
    "lsun-horse-nodropout": _lsun("horse", "lsun_horse_nodropout.pt", 0.0, 2.95, "ADM"),
    "imagenet-64": _imagenet(
        _flags(64, (1, 2, 3, 4), num_channels=192, num_res_blocks=3, num_classes=1000,
               use_new_attention_order=True),
        "64x64_diffusion.pt", 2.07, "table of sample quality, ADM (dropout)", dropout=0.1,
        betas="cosine",
    ),
    "imagenet-128": _imagenet(
        _flags(128, (1, 1, 2, 3, 4), num_head_channels=0, num_heads=4, num_classes=1000),
        "128x128_diffusion.pt", 5.91, "table of sample quality, ADM",
    ),
    "imagenet-256": _imagenet(
        _flags(256, _MULT_256, num_classes=1000),
        "256x256_diffusion.pt", 10.94, "table of sample quality, ADM",
    ),
    "imagenet-256-uncond": _imagenet(
        _flags(256, _MULT_256),
        "256x256_diffusion_uncond.pt", 26.21, "table of classifier guidance, neither",
        sha256="a37c32fffd316cd494cf3f35b339936debdc1576dad13fe57c42399a5dbc78b1",
    ),
    "imagenet-512": _imagenet(
        _flags(512, (0.5, 1, 1, 2, 2, 4, 4), num_classes=1000),
        "512x512_diffusion.pt", 23.24, "table of sample quality, ADM",
    ),
}  # fmt: skip


FAMILY = PublishedFamily(ADMFlags, ADMNet, ADMPreset, PRESETS, ADMNet.cast)
