"""Between images and a sampler's state: pixels as they are, or the latents of an autoencoder."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from bench.checkpoints.card import CodecCard, Quantiser

CPU_CHUNK = 32  # images a forward pass on a CPU


class Codec(Protocol):
    """uint8 images [n, *image] <-> float32 states [n, c, h, w]."""

    @property
    def image(self) -> tuple[int, int, int]: ...  # shape of one: c, h, w
    def encode(self, images: Tensor) -> Tensor: ...
    def decode(self, x: Tensor) -> Tensor: ...


def in_chunks(of: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
    """`of(*inputs)`, all [n, ...]. On a CPU in chunks of one size, padded: its kernels depend on
    the batch, and a seed's image must not."""
    n = len(inputs[0])
    if inputs[0].device.type != "cpu":
        return of(*inputs)
    full = [torch.cat([x, x[:1].expand(-n % CPU_CHUNK, *x.shape[1:])]) for x in inputs]
    full = [x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x for x in full]
    parts = zip(*(x.split(CPU_CHUNK) for x in full), strict=True)
    return torch.cat([of(*part) for part in parts])[:n]


def _floats(images: Tensor) -> Tensor:
    return images.float() / 127.5 - 1


def _bytes(x: Tensor, quantiser: Quantiser) -> Tensor:
    """[-1, 1] to uint8: rounded to nearest as EDM and DiT do, or cut off as ADM's and latent
    diffusion's own scripts do, half a grey level darker."""
    grey = x.float() * 127.5 + 127.5
    whole = grey.round() if quantiser == "round" else grey.floor()
    return whole.clamp(0, 255).to(torch.uint8)


@dataclass(frozen=True)
class Pixels:
    """The state is the image itself, 0..255 as -1..1."""

    image: tuple[int, int, int]
    quantiser: Quantiser = "round"

    def encode(self, images: Tensor) -> Tensor:
        """uint8 -> float32 in [-1, 1]."""
        return _floats(images)

    def decode(self, x: Tensor) -> Tensor:
        """float in [-1, 1] -> uint8, what lies beyond clipped."""
        return _bytes(x, self.quantiser)


@dataclass(frozen=True, eq=False)
class Latents:
    """The state is scale * (latent - shift) of a diffusers autoencoder (Rombach et al. 2022).

    `encode` takes the mean of an AutoencoderKL's posterior, and a VQModel's latent before it is
    quantised, so that it draws nothing; `decode` quantises for a VQModel, as its sampler does.
    """

    image: tuple[int, int, int]
    card: CodecCard
    net: Any  # diffusers' AutoencoderKL or VQModel
    dtype: torch.dtype
    quantiser: Quantiser = "round"

    def encode(self, images: Tensor) -> Tensor:
        """uint8 -> float32."""
        latent = in_chunks(self._latent, _floats(images).to(self.dtype)).float()
        return self.card.scale * (latent - self.card.shift)

    def decode(self, x: Tensor) -> Tensor:
        """float -> uint8."""
        latent = (x.float() / self.card.scale + self.card.shift).to(self.dtype)
        return in_chunks(lambda part: _bytes(self.net.decode(part).sample, self.quantiser), latent)

    @torch.inference_mode()
    def _latent(self, pixels: Tensor) -> Tensor:
        if self.card.kind == "VQModel":
            return self.net.encode(pixels).latents
        return self.net.encode(pixels).latent_dist.mode()


def autoencoder(card: CodecCard) -> nn.Module:
    """The diffusers network of a card; ValueError if it refuses the card's arguments."""
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    from diffusers.models.autoencoders.vq_model import VQModel

    kinds: dict[str, Any] = {"AutoencoderKL": AutoencoderKL, "VQModel": VQModel}
    try:
        return kinds[card.kind](**card.network)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{card.kind} refuses the card's codec network: {error}") from error
