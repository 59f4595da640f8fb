"""Reference sets, with which scores compare: they are written, read and checked here."""

import hashlib
import io
import json
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from bench.data import hashed
from bench.data.arrays import array_names, first_rows, mapped, readable, shape_in, spread
from bench.data.decode import layout
from bench.features.embedding import embedded
from bench.features.known import find_reference, images_beside
from bench.features.sums import Features, check_layers, extract, fold_rows
from bench.lazy import Tensor, torch
from bench.store import in_a_line, write_bytes
from bench.types import Extractor

_KIND = "the .npz of a reference"
MADE_OF = "data_digest", "preprocess", "preprocessing", "extractor", "extractor_digest"
_Arrays = Mapping[str, np.ndarray]
_Moments = tuple[int, Tensor, Tensor]  # n, mean, covariance


@dataclass(frozen=True, eq=False)
class Reference:
    """Statistics of a real set.

    digest: of a file of ours with a data_digest, SHA-256 of what it says it was made from
        (`MADE_OF`) and of how many single features it has. So it is the same on machines that round
        otherwise. Of another file, SHA-256 of its bytes. Images beside it, which give the bank, are
        hashed too.
    n: number of images; 0 if the file does not say it.
    mean: float64 [dim].
    cov: float64 [dim, dim].
    bank: float32 [m, dim].
    layers: statistics of other layers of the extractor. Only those that it has banked have a bank.
    """

    name: str
    digest: str
    n: int
    mean: Tensor = field(repr=False)
    cov: Tensor = field(repr=False)
    bank: Tensor = field(repr=False)
    layers: Mapping[str, "Reference"] = field(default_factory=dict, repr=False)

    def to(self, device: str) -> "Reference":
        """The same on a torch device."""
        layers = {name: one.to(device) for name, one in self.layers.items()}
        mean, cov, bank = (x.to(device) for x in (self.mean, self.cov, self.bank))
        return replace(self, mean=mean, cov=cov, bank=bank, layers=layers)

    @property
    def by_layer(self) -> dict[str, "Reference"]:
        """Layer -> its statistics. Those of "features" are the reference itself."""
        return {"features": self, **self.layers}


def save_reference(
    path: str | Path,
    features: Features,
    provenance: Mapping[str, Any],
    dtype: type[np.floating] = np.float64,
    layers: Mapping[str, Features] | None = None,
    images: Tensor | None = None,
) -> Path:
    """Write statistics, and the bank if it is not empty, to an `.npz` that `load_reference` reads.

    The file contains the upper triangle of the covariance.

    Arguments:
        provenance: at least `extractor` and `extractor_digest`. `data_digest`, if it is there, is
            SHA-256 of the pixels that the extractor got: files with the same one and as many single
            features, evenly spaced, are the same reference (`MADE_OF`), whatever else they say.
        dtype: of the covariance in the file. Float32 makes the file half as large and changes a
            Frechet distance by about 1e-8 of its value. The shipped file has it.
        layers: other layers of the extractor, which are written like "features".
        images: a few images for figures, uint8 [n, c, h, w].

    Raises:
        ValueError: `provenance` does not say which extractor made the features.
    """
    missing = {"extractor", "extractor_digest"} - set(provenance)
    if missing:
        raise ValueError(
            f"the provenance of {path} has no {' and no '.join(sorted(missing))}; add the name and "
            "the digest of the extractor that made the features"
        )
    arrays = {
        "n": np.array(features.n),
        **_moments_of(features, "", dtype),
        "provenance": np.array(json.dumps({**provenance, "n": features.n}, sort_keys=True)),
    }
    arrays |= _bank_of(features, "")
    if images is not None:
        arrays["shown"] = images.numpy()
    for layer, found in (layers or {}).items():
        arrays |= _moments_of(found, suffix := _suffix(layer), dtype) | _bank_of(found, suffix)
    np.savez(file := io.BytesIO(), **arrays)  # type: ignore[arg-type]
    return write_bytes(Path(path), file.getvalue())


def _moments_of(features: Features, suffix: str, dtype: type[np.floating]) -> dict[str, np.ndarray]:
    """Name in our files -> mean or upper triangle of the covariance."""
    upper = features.cov.cpu().numpy()[np.triu_indices(len(features.mean))].astype(dtype)
    return {f"mean{suffix}": features.mean.cpu().numpy(), f"cov_upper{suffix}": upper}


def _bank_of(features: Features, suffix: str) -> dict[str, np.ndarray]:
    """Name in our files -> bank, if it is not empty."""
    return {f"bank{suffix}": features.bank.cpu().numpy()} if len(features.bank) else {}


def _suffix(layer: str) -> str:
    """What the names of a layer's arrays in our files end in."""
    return "" if layer == "features" else f"_{layer}"


def reference_images(name_or_path: str | Path, extractor: Extractor) -> Path | None:
    """The file of a reference if it contains images (ADM's `arr_0`), otherwise None.

    Raises:
        ValueError: there is no such reference.
    """
    path = find_reference(name_or_path, extractor)
    with readable(path, _KIND):
        return path if "arr_0" in array_names(path) else None


def reference_shape(name_or_path: str | Path, extractor: Extractor) -> tuple[int, ...]:
    """The shape of a reference's images.

    Returns:
        (c, h, w), or () if the file does not say it.

    Raises:
        ValueError: there is no such reference.
    """
    path = find_reference(name_or_path, extractor)
    with readable(path, _KIND):
        if "provenance" in array_names(path):
            with np.load(path) as file:
                shape = json.loads(str(file["provenance"])).get("image")
            if shape:
                return tuple(shape)
        for held, name in ((path, "arr_0"), (images_beside(path), "images")):
            shape = shape_in(held, name) if held.is_file() else ()
            if len(shape) == 4:
                last = name == "arr_0" and shape[3] in (1, 3)
                return (shape[3], *shape[1:3]) if last else shape[1:]
    return ()


def first_images(name_or_path: str | Path, extractor: Extractor, count: int) -> Tensor | None:
    """The first images of a reference, uint8 [at most count, c, h, w]. None: it holds none.

    Raises:
        ValueError: there is no such reference, or it is damaged.
    """
    path = find_reference(name_or_path, extractor)
    with readable(path, _KIND):
        names, beside = array_names(path), images_beside(path)
        if "shown" in names:
            return _tensor(first_rows(path, "shown", count))
        if "arr_0" in names:
            images = layout(first_rows(path, "arr_0", count), path)
            return _tensor(images.transpose(0, 3, 1, 2))
        if "provenance" in names and beside.is_file():
            return _tensor(first_rows(beside, "images", count))
    return None


def load_reference(
    name_or_path: str | Path,
    extractor: Extractor,
    keep: int = 10_000,
    layers: Collection[str] = (),
) -> Reference:
    """Read a reference.

    Files of ADM, EDM, TTUR and pytorch-fid have `mu` and `sigma`, or images `arr_0`, uint8 NHWC.
    Then `n` is 0, except where the statistics are computed from `arr_0`.

    Arguments:
        name_or_path: a name among `known_references`, or the path of an `.npz` file.
        keep: maximum rows of a bank, which are evenly spaced over the set.
        layers: other layers than "features" whose statistics are needed. ADM's `mu_s` and
            `sigma_s` are those of `spatial`.

    Raises:
        ValueError: there is no such reference, the file is damaged, it belongs to another
            extractor, or it has not all `layers`.
    """
    path = find_reference(name_or_path, extractor)
    check_layers(extractor, layers)
    unread = () if layers else ("mu_s", "sigma_s")
    with readable(path, _KIND):
        arrays = _arrays(path, unread)
        digest = _identity(path, arrays)
    read = _own if "provenance" in arrays else _foreign
    moments = read(arrays, extractor, path, ("features", *layers))
    of_images = keep or "provenance" in arrays or "mu" not in arrays
    images = _bank_images(arrays, path) if of_images else None
    banks = _banks(path, arrays, images, extractor, keep, ("features", *layers))
    for layer, (_, mean, cov) in moments.items():
        _check_moments(path, extractor, layer, mean, cov, banks[layer].shape[1])
    if images is not None and "arr_0" not in arrays:  # images in another file
        _hash(digest, images)
    found = {
        layer: Reference(str(name_or_path), digest.hexdigest(), n, mean, cov, banks[layer])
        for layer, (n, mean, cov) in moments.items()
    }
    return replace(found.pop("features"), layers=found)


def identity_of(path: Path) -> str:
    """The digest of a file of ours without the images beside it; "" if it is none, or damaged."""
    try:
        with readable(path, _KIND), np.load(path) as file:
            return str(_identity(path, file).hexdigest()) if "provenance" in file else ""
    except ValueError:
        return ""


def _identity(path: Path, arrays: _Arrays) -> Any:
    """The digest of a reference, as a hashlib object. See `Reference`."""
    said = json.loads(str(arrays["provenance"])) if "provenance" in arrays else {}
    if not said.get("data_digest"):
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256")
    rows = {name: len(array) for name, array in arrays.items() if name.startswith("bank")}
    made_of = {name: said[name] for name in MADE_OF if name in said}
    made_of |= {"n": int(arrays["n"]), "rows": rows}
    return hashlib.sha256(json.dumps(made_of, sort_keys=True).encode())


def _arrays(path: Path, unread: Collection[str]) -> dict[str, np.ndarray]:
    """The arrays of an `.npz` file. Images `arr_0` are mapped into memory and not read."""
    names = [name for name in array_names(path) if name not in unread]
    with np.load(path) as file:
        found = {name: mapped(path, name) if name == "arr_0" else file[name] for name in names}
    for name, array in found.items():
        if not isinstance(array, np.ndarray):  # another file in the archive
            raise ValueError(f"{name} is no array")
    return found


def _numbers(array: np.ndarray) -> Tensor:
    """An array as float64. ValueError: its entries are no real numbers."""
    if array.dtype.kind not in "fiu":
        raise ValueError(f"it holds {array.dtype}, not numbers")
    return torch.from_numpy(array.astype(np.float64))


def _check_moments(
    path: Path, extractor: Extractor, layer: str, mean: Tensor, cov: Tensor, dim: int
) -> None:
    """Check that they are a mean and a covariance of `dim` dimensions.

    Raises:
        ValueError: they are not.
    """
    if mean.shape != (dim,) or cov.shape != (dim, dim):
        raise ValueError(
            f"{path} has mean {list(mean.shape)} and covariance {list(cov.shape)}, but "
            f"{extractor.name} gives {dim} {layer}; choose the extractor that made the file"
        )
    if not bool(torch.isfinite(mean).all() and (cov.diagonal() >= 0).all()):
        raise ValueError(
            f"{path}: the statistics of {layer} have NaN, infinite or negative variances; delete "
            "the file, and make it or download it again"
        )


def _hash(digest: Any, images: np.ndarray) -> None:
    """Add the bytes of images [n, c, h, w] to a digest, 256 images at a time."""
    for at in range(0, len(images), 256):
        digest.update(images[at : at + 256].tobytes())


def _banks(
    path: Path, arrays: _Arrays, images: np.ndarray | None, extractor: Extractor, keep: int,
    layers: Collection[str],
) -> dict[str, Tensor]:  # fmt: skip
    """At most `keep` features of each layer, from the file or its images: float32 [m, dim]."""
    banked = [layer for layer in layers if layer in extractor.banked]
    held = {layer: name for layer in banked if (name := f"bank{_suffix(layer)}") in arrays}
    found = {layer: _bank(path, arrays[name], keep) for layer, name in held.items()}
    made = [layer for layer in banked if layer not in held]
    if made and images is not None and (keep > 0 or "provenance" not in arrays):
        rows = _features_of(extractor, images, max(keep, 1), made)  # one gives the dimensions
        found |= {layer: one[:keep] for layer, one in rows.items()}
    return found | _no_rows(extractor, [layer for layer in layers if layer not in found])


def _bank(path: Path, bank: np.ndarray, keep: int) -> Tensor:
    """At most `keep` features of a bank of a file, float32 [m, dim]. ValueError: it is none."""
    if bank.ndim != 2 or bank.dtype != np.float32:
        raise ValueError(f"{path} holds a bank of {bank.dtype} {list(bank.shape)}, but a bank "
                         "is float32 [m, dim]; make the file again")  # fmt: skip
    return torch.from_numpy(bank)[spread(len(bank), keep)]


def _no_rows(extractor: Extractor, layers: Collection[str]) -> dict[str, Tensor]:
    """Empty banks, float32 [0, dim]. The features of one image give the dimensions."""
    if not layers:
        return {}
    one = extract(extractor, torch.zeros(1, 3, 32, 32, dtype=torch.uint8), layers)
    return {layer: row[:0].cpu() for layer, row in one.items()}


def _own(
    arrays: _Arrays, extractor: Extractor, path: Path, layers: Collection[str]
) -> dict[str, _Moments]:
    with readable(path, "a reference of ours"):
        made_by = json.loads(str(arrays["provenance"]))
        made = tuple(in_a_line(made_by[key]) for key in ("extractor", "extractor_digest"))
    if made != (extractor.name, extractor.digest):
        raise ValueError(
            f"{path} was made by {made[0]} with weights {made[1][:12]}, not {extractor.name} with "
            f"{extractor.digest[:12]}; their features cannot be compared: make it again with "
            "crs-bench reference ... --data FOLDER"
        )
    found = {}
    for layer in layers:
        suffix = _suffix(layer)
        if f"mean{suffix}" not in arrays:
            raise ValueError(
                f"{path} has no statistics of {layer}; make it again with crs-bench reference ... "
                f"--layers {layer}"
            )
        with readable(path, "a reference of ours"):
            mean = _numbers(arrays[f"mean{suffix}"])
            cov = _whole(_numbers(arrays[f"cov_upper{suffix}"]), len(mean))
            if (n := int(arrays["n"])) < 2:
                raise ValueError(f"it says n = {n}, but a covariance needs 2 images")
            found[layer] = (n, mean, cov)
    return found


def _whole(upper: Tensor, dim: int) -> Tensor:
    """The covariance of an upper triangle. ValueError: it is none of that many dimensions."""
    if upper.shape != (dim * (dim + 1) // 2,):  # before a matrix of dim x dim takes memory
        raise ValueError(f"{list(upper.shape)} is no upper triangle of {dim} x {dim}")
    cov = torch.zeros(dim, dim, dtype=torch.float64)
    rows, cols = torch.triu_indices(dim, dim)
    cov[rows, cols] = cov[cols, rows] = upper
    return cov


_ADM_NAMES = {"features": ("mu", "sigma"), "spatial": ("mu_s", "sigma_s")}  # names in ADM's files


def _foreign(
    arrays: _Arrays, extractor: Extractor, path: Path, layers: Collection[str]
) -> dict[str, _Moments]:
    if "mu" in arrays and "sigma" in arrays:
        found = {}
        for layer in layers:
            mu, sigma = _ADM_NAMES.get(layer, (f"mu of {layer}", ""))
            if mu not in arrays or sigma not in arrays:
                raise ValueError(
                    f"{path} has mu and sigma but no statistics of {layer} ({mu}, {sigma}); use "
                    f"ADM's own file, or make one: crs-bench reference ... --layers {layer}"
                )
            with readable(path, "mean and covariance"):
                mean, cov = (_numbers(arrays[name]) for name in (mu, sigma))
            found[layer] = (0, mean, cov)
        return found
    images = _bank_images(arrays, path)
    if images is None:
        held = in_a_line(", ".join(arrays))
        raise ValueError(
            f"{path} has only {held}; a reference needs mu and sigma, or images arr_0; choose "
            "another file"
        )
    batches = (_tensor(images[at : at + 256]) for at in range(0, len(images), 256))
    shown = barred(batches, len(images), f"{extractor.name} features of {path.name}")
    try:
        whole = fold_rows(embedded(extractor, shown, layers), dict.fromkeys(layers, 0))
        return {layer: (one.n, one.mean, one.cov) for layer, one in whole.items()}
    except ValueError as error:  # one image has no covariance; what the extractor refuses
        raise ValueError(f"{path}: {error}") from error


def _bank_images(arrays: _Arrays, path: Path) -> np.ndarray | None:
    """The images of the bank, uint8 [n, c, h, w], or None.

    They are `arr_0` of the file (NHWC or NCHW), or those of `images_beside` for a file of ours.
    """
    if "arr_0" in arrays:
        return layout(arrays["arr_0"], path).transpose(0, 3, 1, 2)
    beside = images_beside(path)
    if "provenance" in arrays and beside.is_file():
        with readable(beside, "the images of a reference"), np.load(beside) as file:
            return np.asarray(file["images"])
    return None


def _tensor(images: np.ndarray) -> Tensor:
    return torch.from_numpy(np.array(images))


def _features_of(
    extractor: Extractor, images: np.ndarray, keep: int, layers: Collection[str]
) -> dict[str, Tensor]:
    """Features of `keep` evenly spaced images, float32 [m, dim] on the CPU, with a bar."""
    chosen = spread(len(images), keep).tolist()
    parts = (_tensor(images[chosen[at : at + 256]]) for at in range(0, len(chosen), 256))
    about = f"{extractor.name} features of {len(chosen):,} reference images, kept for next time"
    groups = list(embedded(extractor, barred(parts, len(chosen), about), layers))
    return {layer: torch.cat([group[layer] for group in groups]) for layer in layers}


def barred(images: Iterable[Tensor], count: int | None, about: str) -> Iterator[Tensor]:
    """The same batches, while a bar on stderr counts their images."""
    with tqdm(total=count, unit="image", desc=about, disable=None) as bar:
        for batch in images:
            yield batch
            bar.update(len(batch))


def reference_of(
    images: Iterable[Tensor], extractor: Extractor, keep: Mapping[str, int], name: str,
    count: int | None = None,
) -> Reference:  # fmt: skip
    """A set of images as a reference. Its features are kept in the cache.

    Arguments:
        images: batches, uint8 [n, c, h, w].
        keep: layer -> single features of its bank, evenly spaced; "features" is among them.
        name: for records.
        count: number of all images.

    Raises:
        ValueError: no images, fewer than 2, or what the extractor refuses.
    """
    digest = hashlib.sha256()
    found = fold_rows(embedded(extractor, hashed(images, digest), tuple(keep)), keep, count)
    made = {
        layer: Reference(name, digest.hexdigest(), one.n, one.mean, one.cov, one.bank)
        for layer, one in found.items()
    }
    return replace(made.pop("features"), layers=made)
