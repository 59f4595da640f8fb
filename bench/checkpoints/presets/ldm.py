"""The published latent-diffusion checkpoints (Rombach et al. 2022, arXiv 2112.10752).

One file holds the network, its moving average, the first stage and the class's embedding; a preset
is its `config.yaml`, by its own names. Configs and addresses: CompVis/latent-diffusion, its scripts
and notebook. FID: 50,000 images, as the table in its README says, with its sampler; the paper's
Table 1 gives 500 steps for CelebA-HQ and 200 for churches at the same FID. CompVis publishes no
SHA-256. Networks, key names and processes are those of the configs; the files themselves were not
at hand.
"""

import re

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor

from bench.checkpoints.card import ADMFlags, Card, CodecCard, Data, VPCard
from bench.checkpoints.ldm import LDMFlags
from bench.checkpoints.presets.published import Made, Published
from bench.process import VP

_ADDRESS = "https://ommer-lab.com/files/latent-diffusion/"
_UNET, _EMA, _STAGE = "model.diffusion_model.", "model_ema.", "first_stage_model."
_CLASS = "cond_stage_model.embedding.weight"

# the process's tables in a file, beside alphas_cumprod, which is compared
_TABLES = re.compile(r"betas|logvar|lvlb_weights|scale_factor|alphas_cumprod(_prev)?|(log|sqrt)_.*|"
                     r"posterior_(variance|log_variance_clipped|mean_coef[12])")  # fmt: skip

# a first stage's names -> diffusers'; levels of its decoder count the other way
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


class FirstStage(BaseModel):
    """What decides a first stage without attention but in its middle: `first_stage_config`'s
    parameters, by their names."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    embed_dim: int = Field(gt=0)  # and z_channels
    n_embed: int = Field(default=0, ge=0)  # codes of a VQ model; 0: KL
    resolution: int = Field(default=256, gt=0)
    in_channels: int = Field(default=3, gt=0)  # and out_ch
    ch: int = Field(default=128, gt=0)
    ch_mult: tuple[int, ...] = Field(min_length=1)
    num_res_blocks: int = Field(default=2, gt=0)

    def card(self, scale: float) -> CodecCard:
        """The codec's card, without its digest."""
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
        """Its tensors with diffusers' keys; those of its training loss are left out."""
        return {
            self._key(key): value[:, :, 0, 0]
            if ".mid.attn_1." in key and value.ndim == 4  # 1x1 convolutions for linear maps
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


class LDMPreset(Published):
    """A checkpoint of CompVis/latent-diffusion: the parts of its config that decide a model.

    use_ema: sample with `model_ema.*`, as its script does where the config has a moving average.
    """

    unet: LDMFlags
    adm_blocks: bool = False  # unet_config's resblock_updown and use_scale_shift_norm, both
    first_stage: FirstStage
    linear_start: float = 0.0015
    linear_end: float = 0.0195
    scale_by_std: bool = False  # the file's scale_factor is the latents' scale; else 1
    use_ema: bool = True
    null_class: bool = False  # the last class stands for none
    named: str = ""  # to tell the file by, where its published name does not

    @property
    def file(self) -> str:
        """The published file's name, or what tells it from the others."""
        return self.named or super().file

    @model_validator(mode="after")
    def _fits(self) -> "LDMPreset":
        state = (self.unet.in_channels, self.unet.image_size, self.unet.image_size)
        if self.first_stage.card(1.0).state != state:
            raise ValueError(f"the first stage does not make latents {list(state)}")
        if self.adm_blocks and self.unet.n_classes:
            raise ValueError("adm_blocks are for networks without classes")
        return self

    def made(self, name: str, tensors: dict[str, Tensor]) -> Made:
        """Network, codec and the latents' scale, of one file's parts. ValueError: no moving
        average or scale where there should be one, another process than the config's."""
        scale = 1.0
        if self.scale_by_std:
            if "scale_factor" not in tensors:
                raise ValueError("the file has no scale_factor: give the whole state dict")
            scale = float(tensors["scale_factor"])
        _same_process((self.linear_start, self.linear_end), tensors)
        weights = self._averaged(tensors) if self.use_ema else _part(tensors, _UNET)
        if self.unet.n_classes and _CLASS in tensors:
            weights["class_embed.weight"] = tensors[_CLASS]
        weights |= self._strangers(tensors)
        codec = self.first_stage.weights(_part(tensors, _STAGE))
        return Made(self.card(name, scale), weights, codec)

    def card(self, name: str, scale: float = 1.0) -> Card:
        """The card of a model made of it, without digests; scale: of the latents."""
        betas = (self.linear_start, self.linear_end)
        network = self._adm_flags() if self.adm_blocks else self.unet
        return Card(
            name=name, family="adm" if self.adm_blocks else "ldm",
            network=network.model_dump(mode="json"), codec=self.first_stage.card(scale),
            process=VPCard.model_validate(
                {"kind": "vp", "betas": "scaled_linear", "beta_range": betas}
            ),
            prediction="eps", quantiser="floor", clip=False,
            classes=self.unet.n_classes - self.null_class, null_class=self.null_class,
            data=Data(name=self.data, digest="", licence="see the data's own terms"),
            training=self.record() | {"ema": self.use_ema},
            licence=self.licence, weights_sha256="",
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
        """The moving average with the network's keys; its own are those without their dots."""
        average = _part(tensors, _EMA)
        keys = {f"diffusion_model{key.replace('.', '')}": key for key in _part(tensors, _UNET)}
        if wrong := sorted(keys.keys() ^ (average.keys() - {"decay", "num_updates"})):
            raise ValueError(
                f"{len(wrong)} keys of the network have no moving average or it no network, such "
                f"as {_EMA}{wrong[0]}; the weights themselves are a preset's with use_ema false"
            )
        return {key: average[short] for short, key in keys.items()}

    def _strangers(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Tensors that no part of such a file is, for `add` to list as extra."""
        known = (_UNET, _EMA, _STAGE, *([_CLASS] if self.unet.n_classes else []))
        return {
            key: value
            for key, value in tensors.items()
            if not key.startswith(known) and not _TABLES.fullmatch(key)
        }


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def _same_process(betas: tuple[float, float], tensors: dict[str, Tensor]) -> None:
    """ValueError if the file says, and says another process."""
    if "alphas_cumprod" not in tensors:
        return
    alpha = tensors["alphas_cumprod"].double().numpy()
    said, want = np.sqrt((1 - alpha) / alpha), VP("scaled_linear", beta_range=betas).table
    if said.shape != want.shape or not np.allclose(said, want, rtol=1e-3):
        raise ValueError(
            f"the file's {len(said)} steps go from sigma {said[0]:.4g} to {said[-1]:.4g}, the "
            f"preset's {len(want)} from {want[0]:.4g} to {want[-1]:.4g}: check linear_start, "
            "linear_end"
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
        # every second of 1000 steps, for 400 do not divide them
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
