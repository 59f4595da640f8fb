"""The batches of torchvision's CIFAR-10 folder, which are pickles, read without running their code.

A pickle names functions, and a plain reader calls them. This reader knows four names. Each stands
for a function of this module, so that a file can make numbers, texts, lists, dictionaries and
arrays of bytes, and can do nothing else. No function of NumPy is called with what a file says.
"""

import io
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np


class _Kind:
    """The dtype of a pickled array. Only bytes are known."""

    def __init__(self, kind: Any = None, *_: Any) -> None:
        if kind not in (b"u1", "u1"):
            raise pickle.UnpicklingError(f"it has an array of {kind!r}, not of bytes")

    def __setstate__(self, state: Any) -> None:
        """Byte order and the like, which bytes do not have."""


class _Array:
    """A pickled array of bytes; `pixels` is uint8 of the shape that the file says."""

    pixels: np.ndarray

    def __setstate__(self, state: Any) -> None:
        _, shape, kind, columns, raw = state
        if not isinstance(kind, _Kind) or not isinstance(raw, bytes):
            raise pickle.UnpicklingError("it has an array that is not of bytes")
        order = "F" if columns else "C"
        self.pixels = np.frombuffer(raw, np.uint8).reshape(shape, order=order)  # type: ignore


def _new_array(*_: Any) -> _Array:
    return _Array()


def _encoded(text: Any, encoding: Any) -> bytes:
    """How Python 3 writes bytes in the old protocol of the published files."""
    return str(text).encode("latin1")


_KNOWN: dict[tuple[str, str], Callable[..., Any]] = {
    ("numpy.core.multiarray", "_reconstruct"): _new_array,
    ("numpy._core.multiarray", "_reconstruct"): _new_array,
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Kind,
    ("_codecs", "encode"): _encoded,
}


class _Reader(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _KNOWN:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which is refused")
        return _KNOWN[module, name]


def read_batch(raw: bytes) -> np.ndarray:
    """The pixels of a CIFAR-10 batch.

    Arguments:
        raw: the bytes of `data_batch_1`, say: a pickle of a dictionary with `data`.

    Returns:
        uint8 [n, 32, 32, 3].

    Raises:
        Exception: of nearly any kind, for a damaged file, a file that asks for any other function,
            or another content. `arrays.readable` makes one error of them.
    """
    content = _Reader(io.BytesIO(raw), encoding="bytes").load()
    if not isinstance(content, dict):
        raise ValueError("it holds no dictionary")
    found = content.get(b"data", content.get("data"))
    if not isinstance(found, _Array) or found.pixels.shape[1:] != (3072,):
        raise ValueError("its `data` is no array of 3,072 bytes an image")
    return found.pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
