"""The reference sets that a score is taken against: shipped, made here, or of other tools."""

import difflib
import hashlib
import importlib.util
import io
import json
import os
import re
import warnings
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.data import pickle_refusal
from bench.data.arrays import array_names, mapped, readable, shape_in
from bench.features.sums import Features, check_layers, extract, fold, fold_layers, spread
from bench.store import write_bytes
from bench.types import Extractor

REFERENCES = Path(__file__).parents[1] / "references"

# reference batches that others publish: name -> address; ADM's hold images and both statistics
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

_KIND = "the .npz of a reference"
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
    layers: Mapping[str, "Reference"] = field(default_factory=dict, repr=False)  # without banks

    @property
    def by_layer(self) -> dict[str, "Reference"]:
        """Statistics by the extractor's layer: its own are those of "features"."""
        return {"features": self, **self.layers}


def save_reference(
    path: str | Path,
    features: Features,
    provenance: Mapping[str, Any],
    dtype: type[np.floating] = np.float64,
    layers: Mapping[str, Features] | None = None,
) -> Path:
    """Write statistics, and the bank if it has rows, to an `.npz` that `load_reference` reads.

    provenance: at least `extractor` and `extractor_digest`; also dataset and data_digest. layers:
    other layers of the extractor, whose means and covariances are written beside. The covariance is
    stored as its upper triangle. dtype: of the covariance in the file; float32, as in the shipped
    one, halves it and moves a Frechet distance by about 1e-8 of itself.
    """
    missing = {"extractor", "extractor_digest"} - set(provenance)
    if missing:
        raise ValueError(f"provenance lacks {sorted(missing)}: say which network made the features")
    arrays = {
        "n": np.array(features.n),
        **_moments_of(features, "", dtype),
        "provenance": np.array(json.dumps({**provenance, "n": features.n}, sort_keys=True)),
    }
    if len(features.bank):
        arrays["bank"] = features.bank.cpu().numpy()
    for layer, found in (layers or {}).items():
        arrays |= _moments_of(found, f"_{layer}", dtype)
    np.savez(file := io.BytesIO(), **arrays)  # type: ignore[arg-type]
    return write_bytes(Path(path), file.getvalue())


def _moments_of(features: Features, suffix: str, dtype: type[np.floating]) -> dict[str, np.ndarray]:
    """Mean and upper triangle of the covariance, under their names in our files."""
    upper = features.cov.cpu().numpy()[np.triu_indices(len(features.mean))].astype(dtype)
    return {f"mean{suffix}": features.mean.cpu().numpy(), f"cov_upper{suffix}": upper}


def reference_path(name: str, extractor: str) -> Path:
    """Where statistics of an extractor that were made or fetched here are kept: in the cache."""
    return cache_folder() / "references" / f"{name}.{extractor}.npz"


def reference_images(name_or_path: str | Path, extractor: Extractor) -> Path | None:
    """The file of a reference if it holds images of the set (ADM's `arr_0`); ValueError if there is
    no such reference."""
    path = _find(name_or_path, extractor)
    with readable(path, _KIND):
        return path if "arr_0" in array_names(path) else None


def reference_shape(name_or_path: str | Path, extractor: Extractor) -> tuple[int, ...]:
    """[c, h, w] of a reference's images; () where its file does not say. ValueError if there is no
    such reference."""
    path = _find(name_or_path, extractor)
    with readable(path, _KIND):
        if "provenance" in array_names(path):
            with np.load(path) as file:
                shape = json.loads(str(file["provenance"])).get("image")
            if shape:
                return tuple(shape)
        for held, name in ((path, "arr_0"), (_beside(path), "images")):
            if held.is_file() and (shape := shape_in(held, name)):
                return (shape[3], *shape[1:3]) if name == "arr_0" else shape[1:]
    return ()


def clean_fid_folder() -> Path | None:
    """Where clean-fid keeps its statistics; None where it is not installed."""
    spec = importlib.util.find_spec("cleanfid")
    return Path(spec.origin).parent / "stats" if spec and spec.origin else None


def _clean_fid_files() -> Iterator[tuple[str, str, Path]]:
    """Those of mode `clean` on Inception, as clean-fid names them: NAME_clean_SPLIT_SIZE."""
    folder = clean_fid_folder()
    for path in sorted(folder.glob("*_clean_*.npz")) if folder else ():
        if not re.search(r"_kid$|_clean_clip_", path.stem):
            yield f"clean-fid:{path.stem}", "clean", path


def _reference_files() -> Iterator[tuple[str, str, Path]]:
    """(name, extractor, file) of clean-fid's, of those made here and those shipped, which win."""
    yield from _clean_fid_files()
    for folder in (cache_folder() / "references", REFERENCES):
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


def _find(name_or_path: str | Path, extractor: Extractor) -> Path:
    """The statistics file of a shipped name, or of a path that ends in .npz."""
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
        raise ValueError(f"unknown reference {text!r}; known: {names}, or an .npz path.{hint}")
    if extractor.name not in known[text]:
        raise ValueError(
            f"reference {text} has statistics for {', '.join(known[text])}, not {extractor.name}; "
            f"choose one of those, or make it: crs-bench reference {text} --features ..."
        )
    return {(name, made): path for name, made, path in _reference_files()}[text, extractor.name]


def load_reference(
    name_or_path: str | Path,
    extractor: Extractor,
    keep: int = 10_000,
    layers: Collection[str] = (),
) -> Reference:
    """A shipped reference by name, or an `.npz` of ours, of ADM, or of EDM, TTUR, pytorch-fid.

    The bank holds at most `keep` features, at an even stride over the set. In foreign files (`mu`,
    `sigma`, and images `arr_0` uint8 NHWC) `n` is 0, unless the statistics come from `arr_0`.
    layers: others than "features" whose statistics are needed; ADM's `mu_s`, `sigma_s` are those of
    `spatial`. ValueError: no such reference, another extractor's, a layer that it has not.
    """
    path = _find(name_or_path, extractor)
    check_layers(extractor, layers)
    unread = () if layers else ("mu_s", "sigma_s")
    with readable(path, _KIND):
        arrays = _arrays(path, unread)
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256")
    read = _own if "provenance" in arrays else _foreign
    moments = read(arrays, extractor, path, ("features", *layers))
    images = _bank_images(arrays, path)
    banks = {"features": _bank(arrays, images, extractor, keep), **_no_rows(extractor, layers)}
    for layer, (_, mean, cov) in moments.items():
        _check_moments(path, extractor, layer, mean, cov, banks[layer].shape[1])
    if images is not None:
        _hash(digest, images)
    found = {
        layer: Reference(str(name_or_path), digest.hexdigest(), n, mean, cov, banks[layer])
        for layer, (n, mean, cov) in moments.items()
    }
    return replace(found.pop("features"), layers=found)


def _arrays(path: Path, unread: Collection[str]) -> dict[str, np.ndarray]:
    """Arrays of an `.npz`; its images mapped, not read."""
    names = [name for name in array_names(path) if name not in unread]
    with np.load(path) as file:
        return {name: mapped(path, name) if name == "arr_0" else file[name] for name in names}


def _check_moments(
    path: Path, extractor: Extractor, layer: str, mean: Tensor, cov: Tensor, dim: int
) -> None:
    """ValueError unless they are a mean and a covariance of `dim` dimensions."""
    if mean.shape != (dim,) or cov.shape != (dim, dim):
        raise ValueError(
            f"{path} holds mean {list(mean.shape)} and covariance {list(cov.shape)}, but "
            f"{extractor.name} gives {dim} {layer}; it was made by another extractor"
        )
    if not bool(torch.isfinite(mean).all() and (cov.diagonal() >= 0).all()):
        raise ValueError(
            f"{path}: the statistics of {layer} have NaN, infinite or negative variances; make or "
            "delete it and download it again"
        )


def _hash(digest: Any, images: np.ndarray) -> None:
    """Add the bytes of images [n, c, h, w] to a digest, a part at a time."""
    for at in range(0, len(images), 256):
        digest.update(images[at : at + 256].tobytes())


def _bank(arrays: _Arrays, images: np.ndarray | None, extractor: Extractor, keep: int) -> Tensor:
    """At most `keep` features, of the file or of its images: float32 [m, dim]."""
    if "bank" in arrays:
        return torch.from_numpy(arrays["bank"])[spread(len(arrays["bank"]), keep)]
    if images is not None and keep > 0:
        return _cached_features(extractor, images, keep)
    return _no_rows(extractor, ("features",))["features"]


def _no_rows(extractor: Extractor, layers: Collection[str]) -> dict[str, Tensor]:
    """Empty banks, float32 [0, dim]: one image tells the dimensions."""
    if not layers:
        return {}
    one = extract(extractor, torch.zeros(1, 3, 32, 32, dtype=torch.uint8), layers)
    return {layer: row[:0].cpu() for layer, row in one.items()}


def _own(
    arrays: _Arrays, extractor: Extractor, path: Path, layers: Collection[str]
) -> dict[str, _Moments]:
    with readable(path, "a reference of ours"):
        made_by = json.loads(str(arrays["provenance"]))
        made = made_by["extractor"], made_by["extractor_digest"]
    if made != (extractor.name, extractor.digest):
        raise ValueError(
            f"{path} was made by {made[0]} with weights {made[1][:12]}, not {extractor.name} with "
            f"{extractor.digest[:12]}; distances between them mean nothing: make it again"
        )
    found = {}
    for layer in layers:
        suffix = "" if layer == "features" else f"_{layer}"
        if f"mean{suffix}" not in arrays:
            raise ValueError(
                f"{path} has no statistics of {layer}; make it again: crs-bench reference ... "
                f"--layers {layer}"
            )
        with readable(path, "a reference of ours"):
            mean = torch.from_numpy(arrays[f"mean{suffix}"])
            cov = torch.zeros(len(mean), len(mean), dtype=torch.float64)
            rows, cols = torch.triu_indices(len(mean), len(mean))
            upper = torch.from_numpy(arrays[f"cov_upper{suffix}"])
            cov[rows, cols] = cov[cols, rows] = upper.double()
            found[layer] = (int(arrays["n"]), mean, cov)
    return found


_ADM_NAMES = {"features": ("mu", "sigma"), "spatial": ("mu_s", "sigma_s")}  # names in its files


def _foreign(
    arrays: _Arrays, extractor: Extractor, path: Path, layers: Collection[str]
) -> dict[str, _Moments]:
    if "mu" in arrays and "sigma" in arrays:
        found = {}
        for layer in layers:
            mu, sigma = _ADM_NAMES.get(layer, (f"mu of {layer}", ""))
            if mu not in arrays or sigma not in arrays:
                raise ValueError(
                    f"{path} has mu and sigma but no statistics of {layer} ({mu}, {sigma}); take "
                    "ADM's own file, or make one: crs-bench reference ... --layers"
                )
            with readable(path, "mean and covariance"):
                mean, cov = (torch.from_numpy(arrays[name]).double() for name in (mu, sigma))
            found[layer] = (0, mean, cov)
        return found
    images = _bank_images(arrays, path)
    if images is None:
        held = ", ".join(arrays)
        raise ValueError(f"{path} holds {held}; a reference needs mu and sigma, or images arr_0")
    batches = (_tensor(images[at : at + 256]) for at in range(0, len(images), 256))
    whole = fold_layers(extractor, batches, dict.fromkeys(layers, 0))
    return {layer: (one.n, one.mean, one.cov) for layer, one in whole.items()}


def _bank_images(arrays: _Arrays, path: Path) -> np.ndarray | None:
    """Images for the bank: `arr_0` (ADM, NHWC), or `<name>.images.npz` beside our own file, or
    the shipped one of that name for statistics made here."""
    if "arr_0" in arrays:
        if arrays["arr_0"].ndim != 4 or arrays["arr_0"].dtype != np.uint8:
            raise ValueError(f"{path}: arr_0 must hold images, uint8 [n, h, w, c]")
        return arrays["arr_0"].transpose(0, 3, 1, 2)
    beside = _beside(path)
    if "provenance" in arrays and beside.is_file():
        with np.load(beside) as file:
            return np.asarray(file["images"])
    return None


def _tensor(images: np.ndarray) -> Tensor:
    return torch.from_numpy(np.array(images))


def _beside(path: Path) -> Path:
    """Where the images of our own statistics file would be."""
    beside = path.with_name(path.stem.rpartition(".")[0] + ".images.npz")
    if path.parent == cache_folder() / "references" and not beside.is_file():
        return REFERENCES / beside.name
    return beside


def cache_folder() -> Path:
    """Where references, banks of features and downloads are kept: CRS_BENCH_CACHE, or the user's
    own cache."""
    return Path(os.environ.get("CRS_BENCH_CACHE") or Path.home() / ".cache" / "crs-bench")


def _cached_features(extractor: Extractor, images: np.ndarray, keep: int) -> Tensor:
    """Features of a stride over `images`, computed once: float32 [m, dim] on the CPU."""
    _hash(digest := hashlib.sha256(), images)
    chosen = _tensor(images[spread(len(images), keep).numpy()])
    content = (digest.hexdigest(), extractor.name, extractor.digest)
    key = hashlib.sha256(repr((*content, images.shape, len(chosen))).encode()).hexdigest()[:20]
    if (path := cache_folder() / f"bank-{key}.npy").is_file():
        return torch.from_numpy(np.load(path))
    bank = fold(extractor, chosen.split(2048), keep=len(chosen)).bank
    np.save(file := io.BytesIO(), bank.numpy())
    try:
        write_bytes(path, file.getvalue())
    except OSError as error:  # a read-only home costs time, not the result
        warnings.warn(f"bank not cached ({error}); set CRS_BENCH_CACHE", stacklevel=2)
    return bank
