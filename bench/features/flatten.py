"""The extractor without a network."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Flatten:
    """The pixels, or a latent's entries, themselves: any [n, c, h, w] -> float32 [n, c h w]."""

    @property
    def name(self) -> str:
        return "flatten"

    @property
    def digest(self) -> str:
        return ""  # it has no weights

    def __call__(self, images: Tensor) -> Tensor:
        return images.float().flatten(1)
