"""Latent diffusion (Rombach et al. 2022, arXiv 2112.10752): network, format and presets.

The network is written from the description of the architecture. Its parameters have the names of
the published files (CompVis/latent-diffusion), so that the files load strictly. It differs from
ADM's in three points: it adds the time's embedding and does not scale by it, convolutions resample,
and a network with classes attends to a learned embedding of the class. The network of LSUN churches
has ADM's blocks and is of family adm. In half precision all weights are half.

One file holds the network, its moving average, the first stage and the class's embedding. A preset
is its `config.yaml`, by the same names. Configs and addresses: the scripts and the notebook of
CompVis/latent-diffusion. FID: 50,000 images, as the table in its README says, with its sampler. The
paper's Table 1 gives 500 steps for CelebA-HQ and 200 for churches at the same FID. CompVis
publishes no SHA-256, and weights are not shipped. Networks, keys and processes are those of the
configs. The files were not at hand.
"""

import re
from typing import Literal

import numpy as np
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn

from bench.checkpoints.card import Card, CodecCard, VPCard
from bench.checkpoints.family import Output
from bench.checkpoints.quick import Norm
from bench.process import VP
from bench.zoo.adm import ADMFlags
from bench.zoo.base import Converted, Preset, PublishedFamily
from bench.zoo.layers import Attention, DoublingConv, UNet, UNetFlags, timestep_embedding

_ADDRESS = "https://ommer-lab.com/files/latent-diffusion/"
_UNET, _EMA, _STAGE = "model.diffusion_model.", "model_ema.", "first_stage_model."
_CLASS = "cond_stage_model.embedding.weight"

# the tables of the process in a file; alphas_cumprod is compared, the others are not read
_TABLES = re.compile(r"betas|logvar|lvlb_weights|scale_factor|alphas_cumprod(_prev)?|(log|sqrt)_.*|"
                     r"posterior_(variance|log_variance_clipped|mean_coef[12])")  # fmt: skip

# names of a first stage -> names of diffusers; the levels of its decoder count the other way
_NAMES = [
    (r"^encoder\.down\.(\d+)\.block\.", r"encoder.down_blocks.\1.resnets."),
    (r"^encoder\.down\.(\d+)\.downsample\.", r"encoder.down_blocks.\1.downsamplers.0."),
    (r"^decoder\.up\.(\d+)\.block\.", r"decoder.up_blocks.\1.resnets."),
    (r"^decoder\.up\.(\d+)\.upsample\.", r"decoder.up_blocks.\1.upsamplers.0."),
    (r"\.mid\.block_1\.", ".mid_block.resnets.0."),
    (r"\.mid\.block_2\.", ".mid_block.resnets.1."),
    (r"\.mid\.attn_1\.norm\.", ".mid_block.attentions.0.group_norm."),
    (r"\.mid\.attn_1\.([qkv])\.", r".mid_block.attentions.0.to_\1."),
    (r"\.mid\.attn_1\.proj_out\.", ".mid_block.attentions.0.to_out.0."),
    (r"\.nin_shortcut\.", ".conv_shortcut."),
    (r"\.norm_out\.", ".conv_norm_out."),
]


class LDMFlags(UNetFlags):
    """The parameters of `unet_config`, by their names, and the classes."""

    model_channels: int = Field(gt=0)
    channel_mult: tuple[int, ...] = Field(min_length=1)
    context_dim: int = Field(default=0, ge=0)  # width of the class's embedding; 0: unconditional
    n_classes: int = Field(default=0, ge=0)  # rows of that embedding

    @property
    def width(self) -> int:
        return self.model_channels

    def attends(self, level: int) -> bool:
        """`attention_resolutions` are factors of downsampling; 1 is the latent's own size."""
        return 2**level in self.attention_resolutions

    def disagreement(self, card: Card) -> str:
        """Compare classes."""
        if self.n_classes == card.classes + card.null_class:
            return ""
        return "n_classes must be the card's classes, and one more for null_class"

    @model_validator(mode="after")
    def _fits(self) -> "LDMFlags":
        if bool(self.context_dim) != bool(self.n_classes):
            raise ValueError("context_dim and n_classes go together")
        return self


def _norm(channels: int, eps: float = 1e-5) -> Norm:
    return Norm(32, channels, eps=eps)


class _Residual(nn.Module):
    """[n, channels, h, w] -> [n, out, h, w]. The time's embedding is added in the middle."""

    def __init__(self, channels: int, out: int, embedding: int) -> None:
        super().__init__()
        first = nn.Conv2d(channels, out, 3, padding=1)
        last = nn.Conv2d(out, out, 3, padding=1)
        self.in_layers = nn.Sequential(_norm(channels), nn.SiLU(), first)
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(embedding, out))
        # the third layer is dropout in training
        self.out_layers = nn.Sequential(_norm(out), nn.SiLU(), nn.Identity(), last)
        self.skip_connection = nn.Identity() if out == channels else nn.Conv2d(channels, out, 1)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        h = self.in_layers(x) + self.emb_layers(embedding)[:, :, None, None]
        return self.skip_connection(x) + self.out_layers(h)


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
    """GEGLU: half of a linear map times the GELU of the other half."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.proj = nn.Linear(channels, 8 * channels)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.proj(x).chunk(2, -1)
        return value * F.gelu(gate)


class _Block(nn.Module):
    """A transformer's block: attention to itself, attention to the context, feed-forward."""

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
    """A transformer of one block over pixels. It also attends to the context."""

    def __init__(self, channels: int, context: int, heads: int) -> None:
        super().__init__()
        self.norm = _norm(channels, eps=1e-6)  # the only norm with this eps
        self.proj_in = nn.Conv2d(channels, channels, 1)
        self.transformer_blocks = nn.ModuleList([_Block(channels, context, heads)])
        self.proj_out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        tokens = self.proj_in(self.norm(x)).flatten(2).transpose(1, 2)
        for block in self.transformer_blocks:
            tokens = block(tokens, context)
        return x + self.proj_out(tokens.transpose(1, 2).reshape(x.shape))


class _Resample(nn.Module):
    """op: halve by a convolution of stride 2. conv: double by nearest, then convolve."""

    def __init__(self, channels: int, way: Literal["op", "conv"]) -> None:
        super().__init__()
        self.way = way  # the name of the convolution
        conv = (
            nn.Conv2d(channels, channels, 3, stride=2, padding=1)
            if way == "op"
            else DoublingConv(channels, channels)
        )
        self.add_module(way, conv)

    def forward(self, x: Tensor) -> Tensor:
        return self.get_submodule(self.way)(x)


class LDMNet(UNet):
    """x [n, c, h, w], timesteps [n], class labels [n] -> eps."""

    def __init__(self, flags: LDMFlags) -> None:
        super().__init__(flags)
        embedding = 4 * flags.model_channels
        if flags.n_classes:
            self.class_embed = nn.Embedding(flags.n_classes, flags.context_dim)
        self.add_blocks(
            flags.model_channels,
            residual=lambda channels, out: _Residual(channels, out, embedding),
            attention=lambda channels: _attention(flags, channels),
            down=lambda channels: _Resample(channels, "op"),
            up=lambda channels: _Resample(channels, "conv"),
        )
        last = nn.Conv2d(flags.widths[0], flags.in_channels, 3, padding=1)
        self.out = nn.Sequential(_norm(flags.widths[0]), nn.SiLU(), last)

    def forward(self, x: Tensor, timestep: Tensor, class_labels: Tensor | None = None) -> Output:
        """Return `Output` of [n, c, h, w]."""
        if (class_labels is None) == bool(self.flags.n_classes):
            raise ValueError("a network with n_classes needs labels; another takes none")
        waves = timestep_embedding(timestep, self.flags.model_channels)
        embedding = self.time_embed(waves.to(x.dtype))
        context = None if class_labels is None else self.class_embed(class_labels)[:, None]

        def call(layer: nn.Module, x: Tensor) -> Tensor:
            if isinstance(layer, _Residual):
                return layer(x, embedding)
            return layer(x, context) if isinstance(layer, _Spatial) else layer(x)

        return Output(self.out(self.through(x, call)))


def _attention(flags: LDMFlags, channels: int) -> nn.Module:
    heads = flags.heads(channels)
    if flags.context_dim:
        return _Spatial(channels, flags.context_dim, heads)
    return Attention(_norm(channels), heads)


class FirstStage(BaseModel):
    """The parameters of `first_stage_config`, by their names. Only its middle has attention."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    embed_dim: int = Field(gt=0)  # also z_channels
    n_embed: int = Field(default=0, ge=0)  # codes of a VQ model; 0: a KL model
    resolution: int = Field(default=256, gt=0)
    in_channels: int = Field(default=3, gt=0)  # also out_ch
    ch: int = Field(default=128, gt=0)
    ch_mult: tuple[int, ...] = Field(min_length=1)
    num_res_blocks: int = Field(default=2, gt=0)

    def card(self, scale: float) -> CodecCard:
        """Make the codec's card, without its digest."""
        levels = len(self.ch_mult)
        size = self.resolution // 2 ** (levels - 1)
        network = {
            "sample_size": self.resolution, "in_channels": self.in_channels,
            "out_channels": self.in_channels, "latent_channels": self.embed_dim,
            "layers_per_block": self.num_res_blocks,
            "block_out_channels": [mult * self.ch for mult in self.ch_mult],
            "down_block_types": ["DownEncoderBlock2D"] * levels,
            "up_block_types": ["UpDecoderBlock2D"] * levels,
        }  # fmt: skip
        if self.n_embed:
            network |= {"num_vq_embeddings": self.n_embed, "vq_embed_dim": self.embed_dim}
        return CodecCard(
            kind="VQModel" if self.n_embed else "AutoencoderKL", network=network, scale=scale,
            image=(self.in_channels, self.resolution, self.resolution),
            state=(self.embed_dim, size, size), weights_sha256="",
        )  # fmt: skip

    def weights(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Rename its tensors to diffusers' keys. Those of the training loss are left out."""
        return {
            self._key(key): value[:, :, 0, 0]
            if ".mid.attn_1." in key and value.ndim == 4  # a 1x1 convolution becomes a linear map
            else value
            for key, value in tensors.items()
            if not key.startswith("loss.")
        }

    def _key(self, key: str) -> str:
        for pattern, name in _NAMES:
            key = re.sub(pattern, name, key)
        if match := re.match(r"decoder\.up_blocks\.(\d+)\.", key):
            level = len(self.ch_mult) - 1 - int(match[1])
            key = f"decoder.up_blocks.{level}.{key[match.end() :]}"
        return key


class LDMPreset(Preset):
    """A checkpoint of CompVis/latent-diffusion: the parts of its config that decide a model.

    use_ema: sample with the moving average, `model_ema.*`, as its script does if there is one.
    """

    unet: LDMFlags
    adm_blocks: bool = False  # resblock_updown and use_scale_shift_norm
    first_stage: FirstStage
    linear_start: float = 0.0015
    linear_end: float = 0.0195
    scale_by_std: bool = False  # the latents' scale is the file's scale_factor; if not, 1
    use_ema: bool = True
    null_class: bool = False  # the last class stands for no class
    named: str = ""  # a file name for the list, if the published one is not unique

    @property
    def file(self) -> str:
        """The published file's name, or `named`."""
        return self.named or super().file

    @model_validator(mode="after")
    def _fits(self) -> "LDMPreset":
        state = (self.unet.in_channels, self.unet.image_size, self.unet.image_size)
        if self.first_stage.card(1.0).state != state:
            raise ValueError(f"the first stage does not make latents {list(state)}")
        if self.adm_blocks and self.unet.n_classes:
            raise ValueError("adm_blocks are for networks without classes")
        return self

    def record(self) -> dict[str, object]:
        """The source, and whether the weights are a moving average."""
        return super().record() | {"ema": self.use_ema}

    def converted(self, name: str, tensors: dict[str, Tensor]) -> Converted:
        """Take network, codec and the latents' scale from one file.

        ValueError: the file has no moving average or scale but needs one, or has another process.
        """
        scale = 1.0
        if self.scale_by_std:
            if "scale_factor" not in tensors:
                raise ValueError("the file has no scale_factor: give the whole state dict")
            scale = float(tensors["scale_factor"])
        _check_process((self.linear_start, self.linear_end), tensors)
        weights = self._averaged(tensors) if self.use_ema else _part(tensors, _UNET)
        if self.unet.n_classes and _CLASS in tensors:
            weights["class_embed.weight"] = tensors[_CLASS]
        weights |= self._strangers(tensors)
        codec = self.first_stage.weights(_part(tensors, _STAGE))
        return Converted(self._card(name, scale), weights, codec)

    def draft(self, name: str) -> Card:
        """The card with a scale of 1, which only a file can say."""
        return self._card(name, 1.0)

    def _card(self, name: str, scale: float) -> Card:
        ends = (self.linear_start, self.linear_end)
        process = {"kind": "vp", "betas": "scaled_linear", "beta_range": ends}
        return self.card(
            name, "adm" if self.adm_blocks else "ldm",
            self._adm_flags() if self.adm_blocks else self.unet,
            codec=self.first_stage.card(scale), process=VPCard.model_validate(process),
            prediction="eps", quantiser="floor", clip=False,
            classes=self.unet.n_classes - self.null_class, null_class=self.null_class,
        )  # fmt: skip

    def _adm_flags(self) -> ADMFlags:
        flags = self.unet
        return ADMFlags(
            image_size=flags.image_size, in_channels=flags.in_channels, learn_sigma=False,
            num_channels=flags.model_channels, channel_mult=flags.channel_mult,
            num_res_blocks=flags.num_res_blocks, num_heads=flags.num_heads,
            num_head_channels=flags.num_head_channels,
            attention_resolutions=tuple(
                flags.image_size // factor for factor in flags.attention_resolutions
            ),
        )  # fmt: skip

    def _averaged(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """The moving average with the network's keys. Its own keys have no dots."""
        average = _part(tensors, _EMA)
        keys = {f"diffusion_model{key.replace('.', '')}": key for key in _part(tensors, _UNET)}
        if wrong := sorted(keys.keys() ^ (average.keys() - {"decay", "num_updates"})):
            raise ValueError(
                f"{len(wrong)} keys of the network have no moving average, or the reverse, such as "
                f"{_EMA}{wrong[0]}; to take the weights themselves, give a preset file (--preset "
                "FILE.json) with use_ema false"
            )
        return {key: average[short] for short, key in keys.items()}

    def _strangers(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Tensors that such a file should not have. `add` lists them as extra."""
        known = (_UNET, _EMA, _STAGE, *([_CLASS] if self.unet.n_classes else []))
        return {
            key: value
            for key, value in tensors.items()
            if not key.startswith(known) and not _TABLES.fullmatch(key)
        }


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def _check_process(betas: tuple[float, float], tensors: dict[str, Tensor]) -> None:
    """Raise ValueError if the file has a table of another process."""
    if "alphas_cumprod" not in tensors:
        return
    alpha = tensors["alphas_cumprod"].double().numpy()
    have, want = np.sqrt((1 - alpha) / alpha), VP("scaled_linear", beta_range=betas).table
    if have.shape != want.shape or not np.allclose(have, want, rtol=1e-3):
        raise ValueError(
            f"the file's {len(have)} steps go from sigma {have[0]:.4g} to {have[-1]:.4g}, but the "
            f"preset's {len(want)} steps go from {want[0]:.4g} to {want[-1]:.4g}: correct "
            "linear_start and linear_end of the preset"
        )


_VQ4 = FirstStage(embed_dim=3, n_embed=8192, ch_mult=(1, 2, 4))
_KL8 = FirstStage(embed_dim=4, ch_mult=(1, 2, 4, 4))


def _unet(image_size: int, in_channels: int, width: int, mult: tuple[int, ...],
          attention: tuple[int, ...], **other: int) -> LDMFlags:  # fmt: skip
    return LDMFlags.model_validate({
        "image_size": image_size, "in_channels": in_channels, "model_channels": width,
        "channel_mult": mult, "attention_resolutions": attention, "num_res_blocks": 2,
    } | other)  # fmt: skip


def _vq4(data: str, file: str, fid: float, sampler: str) -> LDMPreset:
    return LDMPreset(
        unet=_unet(64, 3, 224, (1, 2, 3, 4), (8, 4, 2), num_head_channels=32),
        first_stage=_VQ4, data=data, licence="MIT", address=_ADDRESS + file, fid=fid,
        fid_source=f"README of CompVis/latent-diffusion, LDM-VQ-4, {sampler}",
    )  # fmt: skip


PRESETS: dict[str, LDMPreset] = {
    "lsun-churches": LDMPreset(
        unet=_unet(32, 4, 192, (1, 2, 2, 4, 4), (1, 2, 4, 8), num_heads=8), adm_blocks=True,
        first_stage=_KL8, linear_end=0.0155, scale_by_std=True, data="lsun-churches",
        licence="MIT", address=_ADDRESS + "lsun_churches.zip", fid=4.02,
        # 400 does not divide 1000, so its code takes every second step
        fid_source="README of CompVis/latent-diffusion, LDM-KL-8, 400 DDIM steps (500 evaluations "
        "by its code), eta 0",
    ),
    "lsun-bedrooms": _vq4("lsun-bedrooms", "lsun_bedrooms.zip", 2.95, "200 DDIM steps, eta 1"),
    "ffhq-256": _vq4("ffhq", "ffhq.zip", 4.98, "200 DDIM steps, eta 1"),
    "celebahq-256": _vq4("celeba-hq", "celeba.zip", 5.11, "200 DDIM steps, eta 0"),
    "cin256-v2": LDMPreset(
        unet=_unet(64, 3, 192, (1, 2, 3, 5), (8, 4, 2), num_heads=1, context_dim=512,
                   n_classes=1001),
        first_stage=_VQ4, use_ema=False, null_class=True, data="imagenet-ilsvrc-2012",
        licence="MIT", address=_ADDRESS + "nitro/cin/model.ckpt", named="cin256-v2.ckpt", fid=3.60,
        fid_source="arXiv 2112.10752, Table 3, LDM-4-G, 250 DDIM steps with classifier-free "
        "guidance of scale 1.5 (500 evaluations)",
    ),
}  # fmt: skip

FAMILY = PublishedFamily(LDMFlags, LDMNet, LDMPreset, PRESETS)
