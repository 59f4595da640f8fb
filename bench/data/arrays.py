"""Memory-mapped arrays of `.npz` files. The images need not fit in memory."""

import math
import shutil
import struct
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np

from bench.store import in_a_line


def spread(n: int, keep: int) -> np.ndarray:
    """At most `keep` of the indices 0..n-1, evenly spaced, int64."""
    return np.arange(min(n, keep)) * n // max(min(n, keep), 1)


@contextmanager
def readable(path: str | Path, what: str) -> Iterator[None]:
    """Raise ValueError for a damaged file, for which numpy and zipfile raise nearly any exception.

    what: what the file should be, for the message.
    """
    try:
        yield
    except Exception as error:
        raise ValueError(f"{path} cannot be read as {what}: {in_a_line(error)}") from error


def array_names(path: Path) -> list[str]:
    """Names of the arrays in an `.npz`."""
    with zipfile.ZipFile(path) as archive:
        return [name.removesuffix(".npy") for name in archive.namelist()]


def mapped(path: Path, name: str) -> np.ndarray:
    """Memory-map an array of an `.npz`, after a check of its checksum.

    A compressed array is first unpacked to a temporary file without a name.

    Raises:
        KeyError: there is no such array.
        BadZipFile, ValueError: the array is damaged.
    """
    with zipfile.ZipFile(path) as archive:
        info = archive.getinfo(f"{name}.npy")
        with archive.open(info) as member:
            if info.compress_type == zipfile.ZIP_STORED:
                while member.read(2**24):
                    pass
                with path.open("rb") as file:
                    return _map(file, _start(file, info.header_offset))
            copy = tempfile.TemporaryFile()  # noqa: SIM115  # the array keeps it open
            shutil.copyfileobj(member, copy, 2**24)
        copy.flush()
        return _map(copy, 0)


def first_rows(path: Path, name: str, count: int) -> np.ndarray:
    """The first rows of an array of an `.npz`. The other rows are neither read nor unpacked.

    Raises:
        KeyError: there is no such array.
        BadZipFile, ValueError: the array is damaged.
    """
    with zipfile.ZipFile(path) as archive, archive.open(f"{name}.npy") as member:
        shape, columns, dtype = _head(member)
        if not columns and not dtype.hasobject and shape:
            rows = (min(count, shape[0]), *shape[1:])
            raw = member.read(math.prod(rows) * dtype.itemsize)
            return np.frombuffer(raw, dtype).reshape(rows)
    return mapped(path, name)[:count]


def shape_in(path: Path, name: str) -> tuple[int, ...]:
    """The shape of an array in an `.npz`, from the array's header. () if there is no such array."""
    with zipfile.ZipFile(path) as archive:
        if f"{name}.npy" not in archive.namelist():
            return ()
        with archive.open(f"{name}.npy") as member:
            return _head(member)[0]


def _start(file: IO[bytes], header: int) -> int:
    """The first byte of a zip member. Its local header has a name and an extra field before it."""
    file.seek(header + 26)
    return header + 30 + sum(struct.unpack("<2H", file.read(4)))


def _head(file: Any) -> tuple[tuple[int, ...], bool, np.dtype]:
    version = np.lib.format.read_magic(file)
    if version == (1, 0):
        return np.lib.format.read_array_header_1_0(file)
    return np.lib.format.read_array_header_2_0(file)


def _map(file: IO[bytes], start: int) -> np.ndarray:
    file.seek(start)
    shape, columns, dtype = _head(file)
    if dtype.hasobject:
        raise ValueError("it contains Python objects; save an array of numbers")
    if 0 in shape:
        return np.zeros(shape, dtype)
    return np.memmap(file, dtype, "r", file.tell(), shape, "F" if columns else "C")
