"""Preprocessing: the published ways to make square images of a dataset's images.

The preprocessing belongs to the identity of the reference statistics. ADM and LDM prepare LSUN in
different ways, and the wrong one turns an FID of 4 into 15.
"""

from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np
from PIL import Image


class Preprocess(Protocol):
    """Makes an image of the model's size."""

    @property
    def name(self) -> str:
        """The name in the provenance of reference statistics."""
        ...

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """uint8 [h, w, c] -> uint8 [h', w', c]."""
        ...


@dataclass(frozen=True)
class AsIs:
    """No preprocessing."""

    written: ClassVar[str] = "none"  # the name on the command line
    name: ClassVar[str] = "none"

    def __call__(self, image: np.ndarray) -> np.ndarray:
        return image


@dataclass(frozen=True)
class _Sized:
    """size: of the square image, pixels. way: the name of the preprocessing, without the size."""

    size: int = 256
    way: ClassVar[str]

    def __post_init__(self) -> None:
        if not isinstance(self.size, int) or self.size < 1:
            raise ValueError(f"size must be a whole number above 0, not {self.size!r}")

    @property
    def name(self) -> str:
        return f"{self.way}-{self.size}"


@dataclass(frozen=True)
class ADMLSUN(_Sized):
    """ADM's preprocessing of LSUN: resize the short side to `size` with a box filter, then crop the
    centre (Dhariwal and Nichol 2021, guided-diffusion's datasets/lsun_bedroom.py).
    """

    written: ClassVar[str] = "adm-lsun"
    way: ClassVar[str] = "adm-lsun"

    def __call__(self, image: np.ndarray) -> np.ndarray:
        h, w = image.shape[:2]
        scale = self.size / min(h, w)
        resized = _resize(image, round(scale * h), round(scale * w), Image.Resampling.BOX)
        top, left = ((side - self.size) // 2 for side in resized.shape[:2])
        return resized[top : top + self.size, left : left + self.size]


@dataclass(frozen=True)
class LDMLSUN(_Sized):
    """LDM's preprocessing of LSUN: crop the centre square, then resize it to `size` with a bicubic
    filter (Rombach et al. 2022, latent-diffusion's ldm/data/lsun.py). LDM's random flips are left
    out.
    """

    written: ClassVar[str] = "ldm"
    way: ClassVar[str] = "ldm"

    def __call__(self, image: np.ndarray) -> np.ndarray:
        return _centre(image, self.size, Image.Resampling.BICUBIC)


@dataclass(frozen=True)
class CentreCrop(_Sized):
    """Crop the centre square, then resize it to `size` with Pillow's Lanczos filter, as EDM's
    dataset_tool does (Karras et al. 2022, --transform=center-crop). `--size` means this one. An
    image of that size stays as it is.
    """

    written: ClassVar[str] = "centre-crop"
    way: ClassVar[str] = "centre-crop-lanczos"

    def __call__(self, image: np.ndarray) -> np.ndarray:
        return _centre(image, self.size, Image.Resampling.LANCZOS)


def _centre(image: np.ndarray, size: int, kind: Image.Resampling) -> np.ndarray:
    """The centre square, resized."""
    h, w = image.shape[:2]
    side = min(h, w)
    top, bottom, left, right = (x // 2 for x in (h - side, h + side, w - side, w + side))
    return _resize(image[top:bottom, left:right], size, size, kind)


def _resize(image: np.ndarray, h: int, w: int, kind: Image.Resampling) -> np.ndarray:
    """Resize uint8 [., ., c] with PIL: uint8 [h, w, c]."""
    pixels = Image.fromarray(image[..., 0] if image.shape[2] == 1 else image)
    return np.asarray(pixels.resize((w, h), kind)).reshape(h, w, -1)
