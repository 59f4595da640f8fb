"""The published ADM checkpoints: flags, source, licence and FID of each; weights are not shipped.

Flags and addresses: README of github.com/openai/guided-diffusion. FID: Dhariwal and Nichol 2021
(arXiv 2105.05233), without guidance, 50,000 images, of 250 steps (LSUN: 1000). OpenAI publishes no
SHA-256; the one below is that which users of the file give.
"""

from typing import Literal

from torch import Tensor

from bench.checkpoints.card import ADMFlags, Card, Data, VPCard
from bench.checkpoints.presets.published import Made, Published

_ADDRESS = "https://openaipublic.blob.core.windows.net/diffusion/jul-2021/"


class ADMPreset(Published):
    """A checkpoint of openai/guided-diffusion: the flags that decide its network."""

    flags: ADMFlags
    betas: Literal["linear", "cosine"] = "linear"
    timesteps: int = 1000
    dropout: float | None = None  # of its training

    def card(self, name: str) -> Card:
        """The card of a model made of it, without digests."""
        return Card(
            name=name, family="adm", network=self.flags.model_dump(mode="json"),
            process=VPCard.model_validate(
                {"kind": "vp", "betas": self.betas, "timesteps": self.timesteps}
            ),
            prediction="eps", quantiser="floor", learned_variance=self.flags.learn_sigma,
            classes=self.flags.num_classes,
            data=Data(name=self.data, digest="", licence="see the data's own terms"),
            training=self.record() | {"dropout": self.dropout},
            licence=self.licence, weights_sha256="",
        )  # fmt: skip

    def made(self, name: str, tensors: dict[str, Tensor]) -> Made:
        """Its keys are this project's."""
        return Made(self.card(name), tensors)


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
    "lsun-256": _LSUN,  # whichever of the four
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
