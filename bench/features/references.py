"""The reference sets that a score is taken against: shipped, made here, or of other tools."""

import difflib
import hashlib
import io
import json
import os
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.data import pickle_refusal
from bench.features.sums import Features, fold
from bench.store import write_bytes
from bench.types import FeatureExtractor

REFERENCES = Path(__file__).parents[1] / "references"

_Arrays = Mapping[str, np.ndarray]
_Moments = tuple[int, Tensor, Tensor]  # n, mean, covariance


@dataclass(frozen=True, eq=False)
class Reference:
    """The real set a score is taken against: `n` images, 0 where a file does not say."""

    name: str
    digest: str  # SHA-256 of the statistics file and the bank's images
    n: int
    mean: Tensor = field(repr=False)  # float64 [dim]
    cov: Tensor = field(repr=False)  # float64 [dim, dim]
    bank: Tensor = field(repr=False)  # float32 [m, dim]


def save_reference(
    path: str | Path,
    features: Features,
    provenance: Mapping[str, Any],
    dtype: type[np.floating] = np.float64,
) -> Path:
    """Write statistics, and the bank if it has rows, to an `.npz` that `load_reference` reads.

    provenance: at least `extractor` and `extractor_digest`; also dataset and data_digest. The
    covariance is stored as its upper triangle. dtype: of the covariance in the file; float32, as in
    the shipped one, halves it and moves a Frechet distance by about 1e-8 of itself.
    """
    missing = {"extractor", "extractor_digest"} - set(provenance)
    if missing:
        raise ValueError(f"provenance lacks {sorted(missing)}: say which network made the features")
    arrays = {
        "n": np.array(features.n),
        "mean": features.mean.cpu().numpy(),
        "cov_upper": features.cov.cpu().numpy()[np.triu_indices(len(features.mean))].astype(dtype),
        "provenance": np.array(json.dumps({**provenance, "n": features.n}, sort_keys=True)),
    }
    if len(features.bank):
        arrays["bank"] = features.bank.cpu().numpy()
    np.savez(file := io.BytesIO(), **arrays)  # type: ignore[arg-type]
    return write_bytes(Path(path), file.getvalue())


def reference_path(name: str, extractor: FeatureExtractor) -> Path:
    """Where statistics that were made here are kept under a name: in the cache."""
    return _cache() / "references" / f"{name}.{extractor.name}.npz"


def _reference_files() -> Iterator[tuple[str, str, Path]]:
    """(name, extractor, file) of those made here and those shipped, which win."""
    for folder in (_cache() / "references", REFERENCES):
        for path in sorted(folder.glob("*.npz")):
            name, _, extractor = path.stem.rpartition(".")
            if extractor != "images":
                yield name, extractor, path


def known_references() -> dict[str, list[str]]:
    """References by name: shipped, or made here -> the extractors it has statistics for."""
    known: dict[str, list[str]] = {}
    for name, extractor, _ in sorted(_reference_files()):
        if extractor not in known.setdefault(name, []):
            known[name].append(extractor)
    return known


def _find(name_or_path: str | Path, extractor: FeatureExtractor) -> Path:
    """The statistics file of a shipped name, or of a path that ends in .npz."""
    text = str(name_or_path)
    if text.endswith((".pkl", ".pickle")):
        raise ValueError(pickle_refusal(text))
    if text.endswith(".npz"):
        if not Path(text).is_file():
            raise ValueError(f"there is no reference file {text}; check the path")
        return Path(text)
    known = known_references()
    if text not in known:
        near = difflib.get_close_matches(text, known, n=1, cutoff=0.4)
        hint = f" Did you mean {near[0]}?" if near else ""
        names = ", ".join(known)
        raise ValueError(f"unknown reference {text!r}; known: {names}, or an .npz path.{hint}")
    if extractor.name not in known[text]:
        raise ValueError(
            f"reference {text} has statistics for {', '.join(known[text])}, not {extractor.name}; "
            f"choose one of those, or make it: crs-bench reference {text} --features ..."
        )
    return {(name, made): path for name, made, path in _reference_files()}[text, extractor.name]


def load_reference(
    name_or_path: str | Path, extractor: FeatureExtractor, keep: int = 10_000
) -> Reference:
    """A shipped reference by name, or an `.npz` of ours, of ADM, or of EDM, TTUR, pytorch-fid.

    The bank holds at most `keep` features, at an even stride over the set. In foreign files (`mu`,
    `sigma`, and images `arr_0` uint8 NHWC) `n` is 0, unless the statistics come from `arr_0`.
    """
    path = _find(name_or_path, extractor)
    with np.load(path) as file:
        arrays = {key: file[key] for key in file.files if key not in ("mu_s", "sigma_s")}
    digest = hashlib.sha256(path.read_bytes())
    read = _own if "provenance" in arrays else _foreign
    n, mean, cov = read(arrays, extractor, path)
    images = _bank_images(arrays, path)
    if "bank" in arrays:
        bank = torch.from_numpy(arrays["bank"])[_stride(len(arrays["bank"]), keep)]
    elif images is not None and keep > 0:
        bank = _cached_features(extractor, images, keep)
    else:  # an empty bank; one image tells the dimension
        bank = extractor(torch.zeros(1, 3, 32, 32, dtype=torch.uint8))[:0].cpu()
    if images is not None:
        digest.update(images.tobytes())
    if mean.shape != bank.shape[1:] or cov.shape != (len(mean), len(mean)):
        raise ValueError(
            f"{path} holds mean {list(mean.shape)} and covariance {list(cov.shape)}, but "
            f"{extractor.name} gives {bank.shape[1]} features; it was made by another extractor"
        )
    return Reference(str(name_or_path), digest.hexdigest(), n, mean, cov, bank)


def _own(arrays: _Arrays, extractor: FeatureExtractor, path: Path) -> _Moments:
    made_by = json.loads(str(arrays["provenance"]))
    made = made_by["extractor"], made_by["extractor_digest"]
    if made != (extractor.name, extractor.digest):
        raise ValueError(
            f"{path} was made by {made[0]} with weights {made[1][:12]}, not {extractor.name} with "
            f"{extractor.digest[:12]}; distances between them mean nothing: make it again"
        )
    mean = torch.from_numpy(arrays["mean"])
    cov = torch.zeros(len(mean), len(mean), dtype=torch.float64)
    rows, cols = torch.triu_indices(len(mean), len(mean))
    cov[rows, cols] = cov[cols, rows] = torch.from_numpy(arrays["cov_upper"]).double()
    return int(arrays["n"]), mean, cov


def _foreign(arrays: _Arrays, extractor: FeatureExtractor, path: Path) -> _Moments:
    if "mu" in arrays and "sigma" in arrays:
        mean, cov = (torch.from_numpy(arrays[key]).double() for key in ("mu", "sigma"))
        return 0, mean, cov
    images = _bank_images(arrays, path)
    if images is None:
        found = ", ".join(arrays)
        raise ValueError(f"{path} holds {found}; a reference needs mu and sigma, or images arr_0")
    whole = fold(extractor, torch.from_numpy(images).split(256), keep=0)
    return whole.n, whole.mean, whole.cov


def _bank_images(arrays: _Arrays, path: Path) -> np.ndarray | None:
    """Images for the bank: `arr_0` (ADM, NHWC), or `<name>.images.npz` beside our own file, or
    the shipped one of that name for statistics made here."""
    if "arr_0" in arrays:
        if arrays["arr_0"].ndim != 4:
            raise ValueError(f"{path}: arr_0 must hold images, uint8 [n, h, w, c]")
        return np.ascontiguousarray(arrays["arr_0"].transpose(0, 3, 1, 2))
    beside = path.with_name(path.stem.rpartition(".")[0] + ".images.npz")
    if path.parent == _cache() / "references" and not beside.is_file():
        beside = REFERENCES / beside.name
    if "provenance" in arrays and beside.is_file():
        with np.load(beside) as file:
            return np.asarray(file["images"])
    return None


def _cache() -> Path:
    return Path(os.environ.get("CRS_BENCH_CACHE") or Path.home() / ".cache" / "crs-bench")


def _stride(n: int, keep: int) -> Tensor:
    """At most `keep` of the indices 0..n-1, evenly spaced and always the same, int64."""
    return torch.arange(min(n, keep)) * n // max(min(n, keep), 1)


def _cached_features(extractor: FeatureExtractor, images: np.ndarray, keep: int) -> Tensor:
    """Features of a stride over `images`, computed once: float32 [m, dim] on the CPU."""
    chosen = torch.from_numpy(images)[_stride(len(images), keep)]
    content = (hashlib.sha256(images.tobytes()).hexdigest(), extractor.name, extractor.digest)
    key = hashlib.sha256(repr((*content, images.shape, len(chosen))).encode()).hexdigest()[:20]
    if (path := _cache() / f"bank-{key}.npy").is_file():
        return torch.from_numpy(np.load(path))
    bank = fold(extractor, chosen.split(2048), keep=len(chosen)).bank
    np.save(file := io.BytesIO(), bank.numpy())
    try:
        write_bytes(path, file.getvalue())
    except OSError as error:  # a read-only home costs time, not the result
        warnings.warn(f"bank not cached ({error}); set CRS_BENCH_CACHE", stacklevel=2)
    return bank
