"""How a dataset's images become squares: part of the identity of a reference made from them.

LSUN prepared in ADM's way and in LDM's are two references: a wrong one turns an FID of 4 into 15.
"""

from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np
from PIL import Image


class Preprocess(Protocol):
    """One image to one of the model's size: uint8 [h, w, c] -> uint8 [h', w', c]."""

    @property
    def name(self) -> str: ...
    def __call__(self, image: np.ndarray) -> np.ndarray: ...


@dataclass(frozen=True)
class AsIs:
    """Images as they lie in their files."""

    name: ClassVar[str] = "none"

    def __call__(self, image: np.ndarray) -> np.ndarray:
        return image


@dataclass(frozen=True)
class ADMLSUN:
    """The short side to `size` with a BOX filter, then the centre: ADM's LSUN (Dhariwal and
    Nichol 2021, guided-diffusion's datasets/lsun_bedroom.py)."""

    size: int = 256

    def __post_init__(self) -> None:
        _check_size(self.size)

    @property
    def name(self) -> str:
        return f"adm-lsun-{self.size}"

    def __call__(self, image: np.ndarray) -> np.ndarray:
        h, w = image.shape[:2]
        scale = self.size / min(h, w)
        resized = _resize(image, round(scale * h), round(scale * w), Image.Resampling.BOX)
        top, left = ((side - self.size) // 2 for side in resized.shape[:2])
        return resized[top : top + self.size, left : left + self.size]


@dataclass(frozen=True)
class LDM:
    """The centre square, then bicubic to `size`: LDM's LSUN (Rombach et al. 2022,
    latent-diffusion's ldm/data/lsun.py), without its random flips."""

    size: int = 256

    def __post_init__(self) -> None:
        _check_size(self.size)

    @property
    def name(self) -> str:
        return f"ldm-{self.size}"

    def __call__(self, image: np.ndarray) -> np.ndarray:
        h, w = image.shape[:2]
        side = min(h, w)
        top, bottom, left, right = (x // 2 for x in (h - side, h + side, w - side, w + side))
        return _resize(
            image[top:bottom, left:right], self.size, self.size, Image.Resampling.BICUBIC
        )


def _check_size(size: int) -> None:
    if not isinstance(size, int) or size < 1:
        raise ValueError(f"a size to prepare images for is a whole number above 0, not {size!r}")


def _resize(image: np.ndarray, h: int, w: int, kind: Image.Resampling) -> np.ndarray:
    """uint8 [., ., c] -> uint8 [h, w, c] by PIL."""
    pixels = Image.fromarray(image[..., 0] if image.shape[2] == 1 else image)
    return np.asarray(pixels.resize((w, h), kind)).reshape(h, w, -1)
