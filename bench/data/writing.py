"""Images to disk: one PNG for each seed in a folder, or one .npz, with a manifest of choices."""

import io
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from bench.data.manifest import MANIFEST, joined, merged_spans, read_manifest, write_manifest
from bench.data.sets import open_images
from bench.lazy import Tensor
from bench.store import check_output, write_bytes


def spans_of(seeds: Iterable[int]) -> list[list[int]]:
    """Seeds as half-open ranges."""
    return merged_spans([(seed, seed + 1) for seed in seeds])


def check_npz(out: Path, manifest: dict[str, Any]) -> str:
    """What is lost where an .npz is written; "" where nothing is.

    Raises:
        ValueError: it cannot be written, or holds something that no run of ours made.
    """
    check_output(out)
    old = read_manifest(out) if out.is_file() else manifest
    spans = (merged_spans(one["seeds"]) for one in (old, manifest))
    same = old.get("key") == manifest["key"] and next(spans) == next(spans)
    return "" if same else f"{out} held images of other choices or seeds; they are replaced"


def write_npz(out: Path, images: Tensor, manifest: dict[str, Any] | None = None) -> Path:
    """Write uint8 [n, c, h, w] as `arr_0`, [n, h, w, c], and the manifest as JSON text."""
    arrays: dict[str, Any] = {"arr_0": images.permute(0, 2, 3, 1).numpy()}
    if manifest is not None:
        arrays["manifest"] = np.array(json.dumps(manifest))
    np.savez_compressed(file := io.BytesIO(), **arrays)
    return write_bytes(out, file.getvalue())


def write_png(path: Path, image: Tensor) -> Path:
    """Write uint8 [c, h, w] as a PNG."""
    return write_bytes(path, png(image))


def png(image: Tensor) -> bytes:
    """uint8 [c, h, w] as the content of a PNG file."""
    pixels = image.permute(1, 2, 0).numpy()
    plain = pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels
    Image.fromarray(np.ascontiguousarray(plain)).save(file := io.BytesIO(), "png")
    return file.getvalue()


class SampleFolder:
    """A folder of PNGs that one set of choices made, which grows batch by batch.

    A stopped run keeps the images that are there, and the same command makes the others.
    """

    def __init__(self, out: Path, manifest: dict[str, Any]) -> None:
        """
        Arguments:
            manifest: choices, with their "key".

        Raises:
            ValueError: the folder cannot be written, or holds other images.
        """
        self.out, self.choices = out, manifest
        check_output(out / "0.png")
        if not (out / MANIFEST).is_file() and out.is_dir() and any(out.iterdir()):
            self._refuse_images()
        self._joined([])

    def _refuse_images(self) -> None:
        try:
            found = len(open_images(self.out))
        except ValueError:
            return  # other files do no harm
        raise ValueError(f"{self.out} holds {found} images that no {MANIFEST} tells of; choose an "
                         "empty folder")  # fmt: skip

    def missing(self, seeds: Sequence[int]) -> list[int]:
        """The seeds whose images are not there."""
        return [seed for seed in seeds if not self._path(seed).is_file()]

    def add(self, seeds: Sequence[int], images: Tensor) -> None:
        """Write the images of some seeds, and the manifest. Another run may do so too.

        Raises:
            ValueError: a run of other choices has begun in this folder.
        """
        write_manifest(self.out, self._joined([]))
        for seed, image in zip(seeds, images, strict=True):
            write_png(self._path(seed), image)
        write_manifest(self.out, self._joined(seeds))

    def _joined(self, seeds: Sequence[int]) -> dict[str, Any]:
        """The manifest that lies there now, with some more seeds."""
        old = read_manifest(self.out) if (self.out / MANIFEST).is_file() else None
        return joined(old, {**self.choices, "seeds": spans_of(seeds)}, self.out)

    def _path(self, seed: int) -> Path:
        return self.out / f"{seed:06d}.png"


def in_parts(seeds: Sequence[int], images: Iterable[Tensor]) -> Iterator[tuple[list[int], Tensor]]:
    """Batches of images with their seeds."""
    at = 0
    for batch in images:
        yield list(seeds[at : at + len(batch)]), batch
        at += len(batch)
