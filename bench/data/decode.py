"""Convert image files and arrays to 8-bit grey or RGB. Every conversion is exact."""

import io
from pathlib import Path

import numpy as np
from PIL import Image

_PNG = b"\x89PNG\r\n\x1a\n"


def decode(raw: bytes, name: str) -> np.ndarray:
    """Decode an image file.

    A palette becomes RGB and 1-bit becomes grey. An alpha channel is dropped if it is 255
    everywhere.

    Arguments:
        raw: the bytes of the file.
        name: of the file, for the message.

    Returns:
        uint8 [h, w, c], c 1 or 3.

    Raises:
        ValueError: 16-bit, transparency, CMYK, an animation, a damaged file, or no image.
    """
    try:
        with Image.open(io.BytesIO(raw)) as image:
            image.load()
            pictures = int(getattr(image, "n_frames", 1))
    except Exception as error:  # PIL raises nearly any exception for a damaged file
        reason = str(error) if raw else "it is empty"
        reason = reason.replace(" <_io.BytesIO object at", "").split(" 0x")[0]
        raise ValueError(f"{name} cannot be read as an image: {reason}") from error
    if raw.startswith(_PNG) and raw[24] == 16 or image.mode.startswith(("I", "F")):
        raise ValueError(f"{name} has mode {image.mode} with more than 8 bits; save it as 8-bit, "
                         "dividing by its own white")  # fmt: skip
    if pictures > 1:
        raise ValueError(f"{name} contains {pictures} pictures; save each one to its own file")
    return np.atleast_3d(np.asarray(_plain(image, name)))


def _plain(image: Image.Image, name: str) -> Image.Image:
    """The same image in mode L or RGB."""
    if image.mode in ("RGBA", "LA") and image.getchannel("A").getextrema() == (255, 255):
        return image.convert(image.mode.removesuffix("A"))
    if "transparency" in image.info or image.mode in ("RGBA", "LA", "PA", "La", "RGBa"):
        raise ValueError(
            f"{name} has mode {image.mode} with transparency; put it on a background first"
        )
    exact = {"L": "L", "RGB": "RGB", "P": "RGB", "1": "L"}
    if image.mode not in exact:
        raise ValueError(f"{name} has mode {image.mode}; convert it to 8-bit grey or RGB first")
    return image if exact[image.mode] == image.mode else image.convert(exact[image.mode])


def layout(pixels: np.ndarray, path: Path) -> np.ndarray:
    """A view [n, h, w, c] of uint8 images [n, h, w, c] or [n, c, h, w], c 1 or 3.

    Raises:
        ValueError: another dtype or shape, no images, or both layouts are possible.
    """
    if pixels.dtype != np.uint8:
        ends = f" in {pixels.min():.4g}..{pixels.max():.4g}" if _is_number(pixels) else ""
        raise ValueError(
            f"{path} holds {pixels.dtype}{ends}, but images are uint8 in 0..255: scale to 0..255, "
            "round, .astype(np.uint8), and save again"
        )
    if pixels.ndim != 4 or 0 in pixels.shape:
        raise ValueError(
            f"{path} holds uint8 {list(pixels.shape)}; images are [n, h, w, c] or [n, c, h, w], "
            "c 1 or 3, n at least 1"
        )
    last, first = (pixels.shape[axis] in (1, 3) for axis in (3, 1))
    if last == first:
        what = "which fits both layouts" if last else "which has no axis of 1 or 3 channels"
        raise ValueError(
            f"{path} holds uint8 {list(pixels.shape)}, {what}; save [n, h, w, c] with c 1 or 3"
        )
    return pixels if last else pixels.transpose(0, 2, 3, 1)


def _is_number(pixels: np.ndarray) -> bool:
    return pixels.dtype.kind in "iuf" and pixels.size > 0
