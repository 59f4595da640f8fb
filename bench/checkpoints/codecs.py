"""Codecs between images and a sampler's state, which is pixels or the latents of an autoencoder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from bench.checkpoints.card import CodecCard, Quantiser
from bench.lazy import Tensor, torch
from bench.machine import side_by_side

CPU_CHUNK = 32  # images a forward pass on a CPU, at most
_CHUNK_PIXELS = 2**15  # fewer images where they have more pixels in all: memory and time


class Codec(Protocol):
    """uint8 images [n, *image] <-> float32 states [n, c, h, w]."""

    @property
    def image(self) -> tuple[int, int, int]: ...  # shape of one: c, h, w
    def encode(self, images: Tensor) -> Tensor: ...
    def decode(self, x: Tensor) -> Tensor: ...


def cpu_chunk(height: int, width: int) -> int:
    """How many states of this size go through a network together on a CPU: 32 up to 32 x 32."""
    return max(1, min(CPU_CHUNK, _CHUNK_PIXELS // (height * width)))


def in_chunks(of: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
    """Call `of(*inputs)`, all [n, ...], the first [n, c, h, w]. On a CPU, call it in padded chunks
    of one size: there the result of a kernel depends on the size of the batch, and the image of a
    seed must not."""
    n = len(inputs[0])
    if inputs[0].device.type != "cpu":
        return of(*inputs)
    size = cpu_chunk(*inputs[0].shape[2:])
    full = [torch.cat([x, x[:1].expand(-n % size, *x.shape[1:])]) for x in inputs]
    full = [x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x for x in full]
    parts = zip(*(x.split(size) for x in full), strict=True)
    return torch.cat(side_by_side(lambda part: of(*part), parts))[:n]


def _floats(images: Tensor) -> Tensor:
    return images.float() / 127.5 - 1


def _bytes(x: Tensor, quantiser: Quantiser) -> Tensor:
    """[-1, 1] to uint8. EDM and DiT round to nearest. The scripts of ADM and latent diffusion round
    down, which is half a grey level darker."""
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
        """float, clipped to [-1, 1] -> uint8."""
        return _bytes(x, self.quantiser)


@dataclass(frozen=True, eq=False)
class Latents:
    """The state is scale * (latent - shift) of a diffusers autoencoder (Rombach et al. 2022).

    `encode` draws no random numbers: it takes the mean of an AutoencoderKL's posterior, or a
    VQModel's latent before quantisation. `decode` of a VQModel quantises, as its sampler does.
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

    def _latent(self, pixels: Tensor) -> Tensor:
        with torch.inference_mode():
            found = self.net.encode(pixels)
            return found.latents if self.card.kind == "VQModel" else found.latent_dist.mode()


def autoencoder(card: CodecCard) -> torch.nn.Module:
    """Make the diffusers network of a card. ValueError: it refuses the card's arguments."""
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    from diffusers.models.autoencoders.vq_model import VQModel

    kinds: dict[str, Any] = {"AutoencoderKL": AutoencoderKL, "VQModel": VQModel}
    try:
        return kinds[card.kind](**card.network)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{card.kind} refuses the card's codec network: {error}") from error
