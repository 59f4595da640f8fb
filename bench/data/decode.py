"""One image file, or one array of images, to 8-bit grey or RGB."""

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image

from bench.store import in_a_line

# what to do with an image whose EXIF says that the camera was turned
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM, 5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE, 8: Image.Transpose.ROTATE_90,
}  # fmt: skip
# Those whose bits a channel `depth` tells. Of others Pillow cuts colours, or starts a program.
_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF")


@dataclass(frozen=True)
class Picture:
    """A decoded image.

    pixels: uint8 [h, w, c], c 1 or 3.
    lossy: whether the file's compression changed it.
    converted: whether its colours were converted to RGB, as those of CMYK are.
    turned: whether it was turned or mirrored, as its EXIF says that it is to be shown.
    enlarged: whether a preprocessing made it larger than it is.
    """

    pixels: np.ndarray
    lossy: bool = False
    converted: bool = False
    turned: bool = False
    enlarged: bool = False


def decode(raw: bytes, name: str) -> Picture:
    """An image file.

    A palette becomes RGB, 1-bit becomes grey, and an alpha that is 255 everywhere is dropped: these
    are exact. CMYK and YCbCr are converted to RGB by Pillow, as torch-fidelity and clean-fid do.
    An orientation in the EXIF is applied, which those two do not do. Of a JPEG with further
    pictures in it, such as a depth map, the first is taken.

    Arguments:
        raw: the bytes of the file. Its kind is read from them, not from its name.
        name: for messages.

    Raises:
        ValueError: more than 8 bits a channel, transparency, several pictures, a damaged file, or
            no image. The message names the file.
    """
    with _readable(raw, name):
        with Image.open(io.BytesIO(raw), formats=_FORMATS) as image:
            _check_size(image)
            # Pillow turns a TIFF when it loads it, and drops the tag
            turned = image.format == "TIFF" and _orientation(image) in _TURNS
            image.load()
            pictures = 1 if image.format == "MPO" else int(getattr(image, "n_frames", 1))
            turn = _TURNS.get(_orientation(image))
        bits, lossy = depth(raw, image), is_lossy(raw, image)
    if image.mode.startswith(("I", "F")) or bits > 8:
        found = f"mode {image.mode}" if image.mode.startswith(("I", "F")) else f"{bits} bits"
        raise ValueError(f"{name} has {found}, more than 8 bits a channel; scale its values to 0 "
                         "to 255 and save it as 8-bit")  # fmt: skip
    if pictures > 1:
        raise ValueError(f"{name} holds {pictures} pictures; write each to a file")
    mode = _plain_mode(image, name)
    with _readable(raw, name):
        plain = image if mode == image.mode else image.convert(mode)
        plain = plain if turn is None else plain.transpose(turn)
    converted = image.mode in ("CMYK", "YCbCr", "LAB", "HSV")
    return Picture(np.atleast_3d(np.asarray(plain)), lossy, converted, turned or turn is not None)


@contextmanager
def _readable(raw: bytes, name: str) -> Iterator[None]:
    """Raise ValueError for a damaged file, of which Pillow raises nearly any exception."""
    try:
        yield
    except Exception as error:
        reason = in_a_line(error) if raw else "it is empty"
        reason = reason.replace(" <_io.BytesIO object at", "").split(" 0x")[0]
        raise ValueError(f"{name} cannot be read as an image: {reason}") from error


def _orientation(image: Image.Image) -> int:
    """The orientation in the EXIF; 1 without any, or if the EXIF is damaged."""
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # Pillow raises nearly any
        return 1


def _check_size(image: Image.Image) -> None:
    """Raise ValueError for an image of which Pillow warns that it may be a bomb, before it is
    unpacked: a small file can claim a gigabyte."""
    most = Image.MAX_IMAGE_PIXELS
    if most and image.width * image.height > most:
        raise ValueError(f"it has {image.width} x {image.height} pixels, more than {most:,}")


def depth(raw: bytes, image: Image.Image) -> int:
    """The most bits of a channel, as the file itself says: Pillow cuts 16-bit colour to 8 bits."""
    kind = image.format or ""
    if kind == "PNG":
        return raw[24]
    if kind == "TIFF":
        bits = image.tag_v2.get(258, (1,))  # type: ignore[attr-defined]
        return int(max(bits)) if isinstance(bits, tuple) else int(bits)
    if kind == "PPM":
        head = re.match(
            rb"P[1-7]\s+(?:#.*\n\s*)*\d+\s+(?:#.*\n\s*)*\d+\s+(?:#.*\n\s*)*(\d+)\s", raw
        )
        most = int(head[1]) if head and raw[1:2] in b"2356" else 255
        return 8 if most == 255 else most.bit_length() if most > 255 else 9  # 9: to be refused too
    if kind == "JPEG2000":
        at = raw.find(b"\xff\x4f\xff\x51")  # start of codestream, and its size marker
        count = int.from_bytes(raw[at + 40 : at + 42], "big")
        return max(((raw[at + 42 + 3 * i] & 0x7F) + 1 for i in range(count)), default=8)
    if kind == "AVIF" and (at := raw.find(b"pixi")) > 0:
        return max(raw[at + 9 : at + 9 + raw[at + 8]], default=8)
    return 8


def is_lossy(raw: bytes, image: Image.Image) -> bool:
    """Whether the compression of a file changes the image, by its content."""
    kind = image.format or ""
    if kind == "WEBP":
        return b"VP8L" not in raw[:64] or b"VP8 " in raw[:64]
    if kind == "JPEG2000":
        at = raw.find(b"\xff\x52")  # coding style; its last byte: 1 for the reversible transform
        return at < 0 or raw[at + 13] != 1
    if kind == "TIFF":
        return str(image.info.get("compression", "")).endswith("jpeg")
    return kind in ("JPEG", "MPO", "AVIF")


def _plain_mode(image: Image.Image, name: str) -> str:
    """The mode that shows the same picture: L or RGB."""
    if image.mode in ("RGBA", "LA") and image.getchannel("A").getextrema() == (255, 255):
        return image.mode.removesuffix("A")
    if "transparency" in image.info or image.mode in ("RGBA", "LA", "PA", "La", "RGBa"):
        raise ValueError(
            f"{name} has mode {image.mode} with transparency; lay it on a background first"
        )
    known = {"L": "L", "RGB": "RGB", "P": "RGB", "1": "L"}
    known |= dict.fromkeys(("CMYK", "YCbCr", "LAB", "HSV"), "RGB")
    if image.mode not in known:
        raise ValueError(f"{name} has mode {image.mode}; convert it to 8-bit grey or RGB first")
    return known[image.mode]


def layout(pixels: np.ndarray, path: Path) -> np.ndarray:
    """An array of images, whatever its layout, as a view [n, h, w, c].

    Arguments:
        pixels: uint8 [n, h, w, c] or [n, c, h, w], c 1 or 3.

    Raises:
        ValueError: floats, other integers, other shapes, no images, or a shape that fits both
            layouts. The message names the file.
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
        what = "which fits both layouts" if last else "no axis of 1 or 3 channels"
        raise ValueError(
            f"{path} holds uint8 {list(pixels.shape)}, {what}; save [n, h, w, c] with c 1 or 3"
        )
    return pixels if last else pixels.transpose(0, 2, 3, 1)


def _is_number(pixels: np.ndarray) -> bool:
    return pixels.dtype.kind in "iuf" and pixels.size > 0
