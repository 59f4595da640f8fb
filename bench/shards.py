"""A cell as shards: fixed ranges of seeds, made one by one, kept on disk, merged in seed order.

A shard is the unit of work and of loss: its file is there whole or not at all. It holds the
features of single images, float32. The float64 sums of a shard are a function of them, taken when
the shard is read: at a thousand images they would fill three times the disk. Images go through the
feature extractor in groups of fixed size and sums are added in seed order, so on a CPU the merged
cell has the same bytes whatever the batch size, the number of processes and the order of shards.
"""

import io
import shutil
import time
import zipfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench import generate, store
from bench.features import Features, extract
from bench.types import Cell, Extractor, Model

_GROUP = 256  # images that go through the extractor together
_GROUP_ON_GPU = 2048  # fewer and larger calls; the extractor halves what does not fit
_STRIP = 8  # images that a shard keeps, to be shown


@dataclass(frozen=True, eq=False)
class Shard:
    """What one range of seeds leaves.

    rows: layer -> features of single images, float32 [n, dim], on the extractor's device or, of a
        shard that was read, on the CPU.
    first: the first images of the range, uint8 [<= 8, c, h, w].
    nfe: counted evaluations of an image; seconds: of sampling and feature extraction.
    images: all images, uint8 [n, c, h, w], of a converged run; else None.
    square: sum of squared differences to the converged images, in grey levels; None without any.
    against: key of that converged run, or "".
    batch: images that were sampled at once. device: the hardware, in words. 0 and "": not known.
    """

    rows: Mapping[str, Tensor] = field(repr=False)
    first: Tensor = field(repr=False)
    nfe: int
    seconds: float
    images: Tensor | None = field(default=None, repr=False)
    square: float | None = None
    against: str = ""
    batch: int = 0
    device: str = ""

    @property
    def size(self) -> int:
        """Bytes of its features."""
        return sum(rows.nbytes for rows in self.rows.values())


@dataclass(frozen=True)
class Packed:
    """A shard as the bytes of its files, so that it can be sent and written as it is.

    images: those of a converged run; None: it keeps none.
    """

    data: bytes = field(repr=False)
    images: bytes | None = field(default=None, repr=False)


def pack(shard: Shard) -> Packed:
    """The bytes of a shard's files."""
    arrays: dict[str, Any] = {
        f"rows_{name}": rows.cpu().numpy() for name, rows in shard.rows.items()
    }
    square = np.nan if shard.square is None else shard.square
    arrays |= {"first": shard.first.numpy(), "nfe": shard.nfe, "seconds": shard.seconds,
               "square": square, "against": np.array(shard.against), "batch": shard.batch,
               "device": np.array(shard.device)}  # fmt: skip
    np.savez(file := io.BytesIO(), **arrays)
    if shard.images is None:
        return Packed(file.getvalue())
    np.savez_compressed(pictures := io.BytesIO(), images=shard.images.numpy())
    return Packed(file.getvalue(), pictures.getvalue())


def images_of(data: bytes, where: object = "a converged run") -> Tensor:
    """The images of `Packed.images`, uint8 [n, c, h, w]. ValueError: the bytes are damaged."""
    with _checked(data, where) as file:
        return torch.from_numpy(file["images"])


def ranges(seeds: range, size: int) -> list[range]:
    """The seeds in consecutive ranges of `size`, the last one shorter where they do not divide."""
    return [seeds[at : at + size] for at in range(0, len(seeds), size)]


@dataclass(frozen=True, eq=False)
class Task:
    """What is to be made of one range of seeds: all that a worker needs beside the model.

    layers: of the extractor. batch: images at once; the result does not depend on it.
    keeps_images: whether the shard keeps every image, for other cells to be compared with.
    against: key of the converged run that images are compared with, or "".
    """

    cell: Cell
    grid: Tensor
    seeds: range
    layers: tuple[str, ...]
    batch: int
    keeps_images: bool = False
    against: str = ""

    def __getstate__(self) -> dict[str, Any]:
        """The grid goes as NumPy's: torch takes longer to pickle than all else of a task."""
        return self.__dict__ | {"grid": self.grid.numpy()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, grid=torch.from_numpy(state["grid"]))


def make(
    task: Task,
    model: Model,
    extractor: Extractor,
    truth: Tensor | None = None,
    progress: Callable[[int], Any] = lambda images: None,
) -> Shard:
    """Sample a range of seeds and extract features; reads and writes no file.

    Arguments:
        truth: images of the converged run, uint8, of the first of these seeds.
        progress: called with the number of images, each time some are made.

    Raises:
        ValueError: features that are not finite.
        FloatingPointError: states that are not finite.
        RuntimeError: what `generate.images` raises.
    """
    start, parts, counted, cell = time.perf_counter(), [], set(), task.cell
    for made, calls in generate.images(
        model, cell.sampler, task.grid, task.seeds, task.batch, cell.guidance
    ):
        parts.append(made)
        counted.add(calls)
        progress(len(made))
    images = torch.cat(parts)
    size = _GROUP_ON_GPU if images.is_cuda else _GROUP
    found = [extract(extractor, group, task.layers) for group in images.split(size)]
    rows = {name: torch.cat([one[name] for one in found]).float() for name in task.layers}
    for layer, values in rows.items():
        if not torch.isfinite(values).all():
            raise ValueError(f"{extractor.name} gave NaN or infinite {layer} for images of seeds "
                             f"{task.seeds[0]} to {task.seeds[-1]}; check its weights")  # fmt: skip
    return Shard(
        rows, images[:_STRIP].cpu(), max(counted), time.perf_counter() - start,
        images.cpu() if task.keeps_images else None,
        None if truth is None else _square(images, truth), task.against,
    )  # fmt: skip


def _square(images: Tensor, truth: Tensor) -> float:
    """Sum of squared differences, over the images that both have."""
    difference = images[: len(truth)].float() - truth.to(images.device).float()
    return float(difference.square().sum(dtype=torch.float64))


# ---------------------------------------------------------------- on disk


@dataclass(frozen=True)
class Shelf:
    """Where an experiment keeps its shards: one folder a cell and extractor, one file a range."""

    folder: Path  # of the experiment
    extractor: str  # name and digest

    @classmethod
    def of(cls, folder: Path, extractor: Extractor) -> "Shelf":
        """The shelf of features of an extractor."""
        return cls(folder, f"{extractor.name}-{extractor.digest[:8]}")

    def home(self, key: str) -> Path:
        """The folder of a cell's shards."""
        return self.folder / f"shards/{key}/{self.extractor}"

    def path(self, key: str, seeds: range) -> Path:
        """The file of a shard."""
        return self.home(key) / f"{seeds[0]}-{seeds[-1]}.npz"

    def pictures(self, key: str, seeds: range) -> Path:
        """The file of a converged run's images."""
        return self.folder / "converged" / key / f"{seeds[0]}-{seeds[-1]}.npz"

    def save(self, key: str, seeds: range, made: Shard | Packed) -> Path:
        """Write a shard, whole or not at all; its images first, so that the shard's own file says
        that all is there."""
        shard = made if isinstance(made, Packed) else pack(made)
        if shard.images is not None:
            store.write_bytes(self.pictures(key, seeds), shard.images)
        return store.write_bytes(self.path(key, seeds), shard.data)

    def load(self, key: str, seeds: range, layers: Collection[str]) -> Shard | None:
        """A shard with these layers; None if it is not there, lacks one, or is damaged."""
        try:
            path = self.path(key, seeds)
            with _checked(path.read_bytes(), path) as file:
                rows = {layer: torch.from_numpy(file[f"rows_{layer}"]) for layer in layers}
                square, against = float(file["square"]), str(file["against"])
                known = "device" in file.files  # older shards do not say
                made = (int(file["batch"]), str(file["device"])) if known else ()
                return Shard(
                    rows, torch.from_numpy(file["first"]), int(file["nfe"]),
                    float(file["seconds"]), None, None if np.isnan(square) else square, against,
                    *made,
                )  # fmt: skip
        except Exception:  # of a damaged file, zip and NumPy raise nearly anything
            return None

    def has(self, key: str, task: Task) -> bool:
        """Whether a shard is there with all that a task asks for. Its numbers are not read."""
        if task.keeps_images and not self.pictures(key, task.seeds).is_file():
            return False
        try:
            with np.load(self.path(key, task.seeds)) as file:
                compared = task.against in ("", str(file["against"]))
                return compared and {f"rows_{name}" for name in task.layers} <= set(file.files)
        except Exception:  # as of `load`
            return False

    def sound(self, key: str, task: Task) -> bool:
        """As `has`, but every byte is read, so that a damaged file is found."""
        if not self.has(key, task) or self.load(key, task.seeds, task.layers) is None:
            return False
        try:
            return not task.keeps_images or len(self.images(key, task.seeds)) == len(task.seeds)
        except Exception:  # as of `load`
            return False

    def images(self, key: str, seeds: range) -> Tensor:
        """The images of a converged run, uint8 [n, c, h, w]."""
        path = self.pictures(key, seeds)
        return images_of(path.read_bytes(), path)

    def drop(self, key: str) -> None:
        """Delete a cell's shards."""
        shutil.rmtree(self.home(key), ignore_errors=True)


def _checked(data: bytes, where: object) -> Any:
    """The content of an .npz file, each part of which has its checksum; ValueError otherwise."""
    with zipfile.ZipFile(io.BytesIO(data)) as file:
        if bad := file.testzip():
            raise ValueError(f"{where} is damaged: {bad}")
    return np.load(io.BytesIO(data))


# ---------------------------------------------------------------- the merge


@dataclass(frozen=True, eq=False)
class Merged:
    """All shards of a cell together.

    features: layer -> sums of all images, and single features of the first.
    """

    features: dict[str, Features]
    first: Tensor = field(repr=False)
    nfe: int
    seconds: float
    square: float | None
    against: str
    batch: int = 0  # the smallest of its shards
    device: str = ""  # of all shards


def merge(shards: Sequence[Shard], layers: Mapping[str, int], device: str = "cpu") -> Merged:
    """The shards of a cell, in seed order, as one.

    Arguments:
        layers: layer -> single features that are kept of it, the first ones.
        device: where sums are taken, and where they and the single features are kept.
    """
    features = {
        layer: _summed((one.rows[layer] for one in shards), keep, device)
        for layer, keep in layers.items()
    }
    squares = [one.square for one in shards if one.square is not None]
    return Merged(
        features, shards[0].first, max(one.nfe for one in shards),
        sum(one.seconds for one in shards), sum(squares) if squares else None, shards[0].against,
        min(one.batch for one in shards),
        " + ".join(sorted({one.device for one in shards if one.device})),
    )  # fmt: skip


def _summed(parts: Iterator[Tensor], keep: int, device: str) -> Features:
    """Sums of each part, added in order; the first `keep` rows of all."""
    total: Features | None = None
    for rows in parts:
        left = keep - (len(total.bank) if total else 0)
        one = Features.of(rows.to(device), left)
        total = total + one if total else one
    assert total is not None
    return total
