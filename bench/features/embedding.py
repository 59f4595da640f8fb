"""Features of a stream of images, kept in the cache by the content of the images.

Images go through the extractor in groups of fixed size. A group that was embedded before, in this
set or in another, is read from the cache: a stopped score loses one group, and the second score of
a set costs a hash.
"""

import hashlib
import io
import os
import warnings
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

import numpy as np

from bench.features.known import cache_folder
from bench.features.sums import check_layers, extract
from bench.lazy import Tensor, torch
from bench.store import write_bytes
from bench.types import Extractor

_GROUP = 256  # images
_MOST = 4 * 2**30  # bytes of the cache; the groups that were read least recently are deleted


def embedded(
    extractor: Extractor, images: Iterable[Tensor], layers: Collection[str]
) -> Iterator[dict[str, Tensor]]:
    """Features of images in groups, in order.

    Arguments:
        images: batches, uint8 [n, c, h, w], of any size.
        layers: of the extractor.

    Returns:
        For each group, layer -> float32 [m, dim] on the CPU.

    Raises:
        ValueError: a layer that the extractor does not have; what the extractor refuses.
    """
    check_layers(extractor, layers)
    at = 0
    for group in _groups(images):
        try:
            yield _of_group(extractor, group, layers)
        except ValueError as error:
            raise ValueError(f"{extractor.name}, images from {at}: {error}") from None
        at += len(group)


def _groups(images: Iterable[Tensor]) -> Iterator[Tensor]:
    """The same images in groups of one size, the last one smaller. Grey images that come before
    the first colour image of a set have one channel, and are groups of their own."""
    waiting: list[Tensor] = []
    count = 0
    for batch in images:
        if waiting and waiting[0].shape[1:] != batch.shape[1:]:
            yield torch.cat(waiting)
            waiting, count = [], 0
        waiting.append(batch)
        count += len(batch)
        while count >= _GROUP:
            whole = torch.cat(waiting)
            yield whole[:_GROUP]
            waiting, count = [whole[_GROUP:]], count - _GROUP
    if count:
        yield torch.cat(waiting)


def _of_group(extractor: Extractor, group: Tensor, layers: Collection[str]) -> dict[str, Tensor]:
    """Features of one group, from the cache where they are there."""
    pixels = group.contiguous().cpu().numpy()
    content = hashlib.sha256(repr((group.shape, extractor.name, extractor.digest)).encode())
    content.update(pixels.tobytes())
    home = cache_folder() / "features" / content.hexdigest()[:32]
    found = {layer: _read(home.with_suffix(f".{layer}.npy")) for layer in layers}
    lacking = [layer for layer, rows in found.items() if rows is None or len(rows) != len(group)]
    if lacking:
        fresh = extract(extractor, group, lacking)
        for layer, rows in fresh.items():
            kept = found[layer] = rows.float().cpu()
            _keep(home.with_suffix(f".{layer}.npy"), kept)
    return {layer: rows for layer, rows in found.items() if rows is not None}


def _read(path: Path) -> Tensor | None:
    """Rows of the cache; None if they are not there, or damaged."""
    try:
        rows = torch.from_numpy(np.load(path))
        os.utime(path)  # read recently
        return rows if torch.isfinite(rows).all() else None
    except (OSError, ValueError, EOFError):
        return None


def _keep(path: Path, rows: Tensor) -> None:
    """Write rows into the cache. A cache that cannot be written costs time, not the result."""
    try:
        np.save(file := io.BytesIO(), rows.numpy())
        write_bytes(path, file.getvalue())
        _trim(path.parent)
    except OSError as error:
        warnings.warn(
            f"features are not kept in the cache ({error}); set CRS_BENCH_CACHE to a writable "
            "folder", stacklevel=2,
        )  # fmt: skip


def _trim(folder: Path) -> None:
    """Delete the files that were read least recently, until the cache is within its size."""
    files = [(one.stat().st_mtime, one.stat().st_size, one) for one in folder.glob("*.npy")]
    size = sum(bytes_ for _, bytes_, _ in files)
    for _, bytes_, path in sorted(files):
        if size <= _MOST:
            return
        path.unlink(missing_ok=True)
        size -= bytes_
