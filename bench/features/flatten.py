"""The extractor without a network."""

from dataclasses import dataclass

from bench.lazy import Tensor
from bench.types import Extractor


@dataclass(frozen=True)
class Flatten(Extractor):
    """The pixels of an image, or the entries of a latent, as its features."""

    written = "flatten"

    @property
    def name(self) -> str:
        return "flatten"

    @property
    def digest(self) -> str:
        return ""  # it has no weights

    def __call__(self, images: Tensor) -> Tensor:
        """Any [n, c, h, w] -> float32 [n, c h w]."""
        return images.float().flatten(1)
