"""The published DiT checkpoints (Peebles and Xie 2023, arXiv 2212.09748); weights are not shipped.

Addresses and licence: README of github.com/facebookresearch/DiT. FID: the paper, 50,000 images of
250 DDPM steps with the learned variance, through the ft-EMA autoencoder, with guidance of the first
three latent channels alone (see `dit.DiT`). No SHA-256 is published. Not checked here, without the
files: that they load, and the scores.
"""

from torch import Tensor

from bench.checkpoints.card import Card, Data, VPCard
from bench.checkpoints.dit import DiTFlags
from bench.checkpoints.presets.published import Made, Published, WantedCodec

_ADDRESS = "https://dl.fbaipublicfiles.com/DiT/models/"


class DiTPreset(Published):
    """A checkpoint of facebookresearch/DiT: the flags that decide its network."""

    flags: DiTFlags
    autoencoder: str | None = "https://huggingface.co/stabilityai/sd-vae-ft-ema"  # None: of pixels
    scale: float = 0.18215  # of its latents
    guided: tuple[float, float] | None = None  # scale of guidance, and FID with it; None: unknown

    @property
    def codec(self) -> WantedCodec | None:
        """Its states' autoencoder, a file of its own."""
        if self.autoencoder is None:
            return None
        size = self.flags.input_size
        return WantedCodec(self.autoencoder, (self.flags.in_channels, size, size), self.scale)

    def record(self) -> dict[str, object]:
        """What the card says of the source."""
        return super().record() | {"published_fid_guided": self.guided}

    def made(self, name: str, tensors: dict[str, Tensor]) -> Made:
        """Its keys are this project's; the codec comes from elsewhere."""
        flags = self.flags
        card = Card(
            name=name, family="dit", network=flags.model_dump(mode="json"),
            process=VPCard.model_validate({"kind": "vp"}), prediction="eps",
            learned_variance=flags.learn_sigma,
            clip=self.autoencoder is None, classes=flags.num_classes, null_class=flags.null_class,
            data=Data(name=self.data, digest="", licence="see the data's own terms"),
            training=self.record(), licence=self.licence, weights_sha256="",
        )  # fmt: skip
        return Made(card, tensors)


def _xl(image: int, fid: float, guided_fid: float) -> DiTPreset:
    flags = DiTFlags(input_size=image // 8, patch_size=2, hidden_size=1152, depth=28, num_heads=16)
    return DiTPreset(
        flags=flags, address=f"{_ADDRESS}DiT-XL-2-{image}x{image}.pt",
        data="imagenet-ilsvrc-2012", licence="CC-BY-NC-4.0", fid=fid, guided=(1.5, guided_fid),
        fid_source=f"arXiv 2212.09748, table of ImageNet {image}, DiT-XL/2 and DiT-XL/2-G (1.50)",
    )  # fmt: skip


PRESETS: dict[str, DiTPreset] = {
    "dit-xl-2-256": _xl(256, 9.62, 2.27),
    "dit-xl-2-512": _xl(512, 12.03, 3.04),
}
