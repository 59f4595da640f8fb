"""Where references are: their names, their files, and the folders in which they are kept."""

import difflib
import importlib.util
import os
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

from bench.data import pickle_refusal
from bench.types import Extractor, written

REFERENCES = Path(__file__).parents[1] / "references"

# reference batches that others publish: name -> address. ADM's have images and all statistics.
_ADM = "https://openaipublic.blob.core.windows.net/diffusion/jul-2021/ref_batches"
PUBLISHED = {
    "VIRTUAL_lsun_bedroom256": f"{_ADM}/lsun/bedroom/VIRTUAL_lsun_bedroom256.npz",
    "VIRTUAL_lsun_cat256": f"{_ADM}/lsun/cat/VIRTUAL_lsun_cat256.npz",
    "VIRTUAL_lsun_horse256": f"{_ADM}/lsun/horse/VIRTUAL_lsun_horse256.npz",
    "VIRTUAL_imagenet64_labeled": f"{_ADM}/imagenet/64/VIRTUAL_imagenet64_labeled.npz",
    "VIRTUAL_imagenet128_labeled": f"{_ADM}/imagenet/128/VIRTUAL_imagenet128_labeled.npz",
    "VIRTUAL_imagenet256_labeled": f"{_ADM}/imagenet/256/VIRTUAL_imagenet256_labeled.npz",
    "VIRTUAL_imagenet512": f"{_ADM}/imagenet/512/VIRTUAL_imagenet512.npz",
    "edm-cifar10-32x32": "https://nvlabs-fi-cdn.nvidia.com/edm/fid-refs/cifar10-32x32.npz",
}


def cache_folder() -> Path:
    """The folder for references, banks and downloads.

    It is CRS_BENCH_CACHE, or ~/.cache/crs-bench if that is not set.
    """
    return Path(os.environ.get("CRS_BENCH_CACHE") or Path.home() / ".cache" / "crs-bench")


def reference_path(name: str, extractor: str) -> Path:
    """The file in the cache for statistics that were made or fetched on this machine."""
    return cache_folder() / "references" / f"{name}.{extractor}.npz"


def clean_fid_folder() -> Path | None:
    """The folder of clean-fid's statistics, or None if clean-fid is not installed."""
    spec = importlib.util.find_spec("cleanfid")
    return Path(spec.origin).parent / "stats" if spec and spec.origin else None


def _clean_fid_files() -> Iterator[tuple[str, str, Path]]:
    """(name, extractor, file) of clean-fid's Inception statistics in mode `clean`.

    clean-fid names the files NAME_clean_SPLIT_SIZE.npz.
    """
    folder = clean_fid_folder()
    for path in sorted(folder.glob("*_clean_*.npz")) if folder else ():
        if not re.search(r"_kid$|_clean_clip_", path.stem):
            yield f"clean-fid:{path.stem}", "clean", path


def _reference_files() -> Iterator[tuple[str, str, Path]]:
    """(name, extractor, file) of all references on this machine.

    Where two have the same name and extractor, the later one is used: shipped ones are the last.
    """
    yield from _clean_fid_files()
    for folder in (cache_folder() / "references", REFERENCES):
        for path in sorted(folder.glob("*.npz")):
            name, _, extractor = path.stem.rpartition(".")
            if extractor != "images":
                yield name, extractor, path


def known_references() -> dict[str, list[str]]:
    """Name of each reference on this machine -> the extractors for which it has statistics."""
    known: dict[str, list[str]] = {}
    for name, extractor, _ in sorted(_reference_files()):
        if extractor not in known.setdefault(name, []):
            known[name].append(extractor)
    return known


def find_reference(name_or_path: str | Path, extractor: Extractor) -> Path:
    """The statistics file of a known name, or of a path that ends in .npz.

    Raises:
        ValueError: there is no such reference, or not for this extractor.
    """
    text = str(name_or_path)
    if text.lower().endswith((".pkl", ".pickle")):
        raise ValueError(pickle_refusal(text))
    if text.lower().endswith(".npz"):
        if not Path(text).is_file():
            raise ValueError(f"there is no reference file {text}; check the path")
        return Path(text)
    known = known_references()
    if text not in known:
        near = difflib.get_close_matches(text, known, n=1, cutoff=0.4)
        hint = f" Did you mean {near[0]}?" if near else ""
        names = ", ".join(known)
        raise ValueError(f"unknown reference {text!r}; known: {names}; or give an .npz, or a "
                         f"folder, zip or array of images.{hint}")  # fmt: skip
    if extractor.name not in known[text]:
        raise ValueError(
            f"reference {text} has statistics for {', '.join(known[text])}, not {extractor.name}; "
            f"choose one of those, or make them of the same images: crs-bench reference {text} "
            f"--features {shlex.quote(written(extractor.spec()))} --data FOLDER"
        )
    return {(name, made): path for name, made, path in _reference_files()}[text, extractor.name]


def images_beside(path: Path) -> Path:
    """The file of the images for a statistics file of ours: `NAME.images.npz` in its folder.

    For a file in the cache without one it is the shipped file of that name.
    """
    beside = path.with_name(path.stem.rpartition(".")[0] + ".images.npz")
    if path.parent == cache_folder() / "references" and not beside.is_file():
        return REFERENCES / beside.name
    return beside
