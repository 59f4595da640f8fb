"""The networks of torch-fidelity (Obukhov et al. 2020), resize and all, through its own classes."""

import functools
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from bench.features.images import check_images, full_float32, in_batches
from bench.features.inception import Inception
from bench.features.weights import Published, check_tensors

_INCEPTION = Published(
    "inception-v3-compat",
    "weights-inception-2015-12-05-6726825d.pth",
    "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/"
    "weights-inception-2015-12-05-6726825d.pth",
)
_VGG = Published(
    "vgg16", "vgg16-397923af.pth", "https://download.pytorch.org/models/vgg16-397923af.pth"
)


@dataclass(frozen=True)
class InceptionV3Compat:
    """The 2048 pooled features of TensorFlow's Inception of 2015: the FID of papers.

    torch-fidelity's `inception-v3-compat`: its TensorFlow-1 bilinear resize to 299, float32.
    weights: a 566-tensor state dict; without one, the published file in torch.hub's cache.
    precision: other than float32 it is another extractor, under another name: `tf32`, float32 but
    for the factors of products, and `float16`. See `crs-bench bench metrics` for speed and shift.

    Other layers: `spatial`, the ADM evaluator's for sFID, which are the first 7 channels of
    mixed_6/conv, 17 x 17 x 7 = 2023 in its order (height, width, channel); `logits_unbiased`, 1008
    class scores without the bias, as both it and torch-fidelity take them for IS; `logits`, with.
    """

    weights: str = ""
    device: str = "cpu"
    precision: Literal["float32", "tf32", "float16"] = "float32"  # of convolutions, on a GPU
    published: ClassVar[Published] = _INCEPTION
    layers: ClassVar[tuple[str, ...]] = ("features", "spatial", "logits_unbiased", "logits")

    def __post_init__(self) -> None:
        if self.precision not in _PRECISIONS:
            raise ValueError(
                f"unknown precision {self.precision!r}; known: {', '.join(_PRECISIONS)}"
            )
        _ = self.digest  # missing weights are found now, not after sampling

    @property
    def name(self) -> str:
        plain = self.precision == "float32"
        return _INCEPTION.extractor + ("" if plain else f"-{self.precision}")

    @property
    def digest(self) -> str:
        return _INCEPTION.digest(self.weights)  # SHA-256 of the weights file

    def __call__(self, images: Tensor) -> Tensor:
        """uint8 [n, c, h, w], c 1 or 3 -> float32 [n, 2048] on `device`; grey is repeated."""
        return self.of_layers(images, ("features",))["features"]

    def of_layers(self, images: Tensor, wanted: Collection[str]) -> dict[str, Tensor]:
        """The wanted `layers` in one pass, each float32 [n, dim] on `device`."""
        network = _inception(_INCEPTION.find(self.weights), self.device, self.precision)
        found = dict(zip(self.layers, through(images, network), strict=True))
        return {layer: found[layer] for layer in wanted}


@dataclass(frozen=True)
class VGG16:
    """The 4096 features of VGG16's second full layer, after its ReLU: precision and recall of
    Kynkaanniemi et al. 2019, as torch-fidelity's `vgg16` takes them.

    weights: torchvision's state dict; without one, the published file in torch.hub's cache.
    """

    weights: str = ""
    device: str = "cpu"
    published: ClassVar[Published] = _VGG

    def __post_init__(self) -> None:
        _ = self.digest  # missing weights are found now, not after sampling

    @property
    def name(self) -> str:
        return _VGG.extractor

    @property
    def digest(self) -> str:
        return _VGG.digest(self.weights)  # SHA-256 of the weights file

    def __call__(self, images: Tensor) -> Tensor:
        """uint8 [n, c, h, w], c 1 or 3 -> float32 [n, 4096] on `device`; grey is repeated."""
        return through(images, _vgg(_VGG.find(self.weights), self.device))[0]


_PRECISIONS = {"float32": torch.float32, "tf32": torch.float32, "float16": torch.float16}


@functools.lru_cache(maxsize=2)
def _inception(path: Path, device: str, precision: str = "float32") -> nn.Module:
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    layers = ["2048", "logits_unbiased"]
    theirs = _load(FeatureExtractorInceptionV3, _INCEPTION.extractor, layers, path)
    return Inception(theirs, _PRECISIONS[precision], precision == "tf32").to(device)


@functools.lru_cache(maxsize=2)
def _vgg(path: Path, device: str) -> nn.Module:
    from torch_fidelity.feature_extractor_vgg16 import FeatureExtractorVGG16

    return _load(FeatureExtractorVGG16, _VGG.extractor, ["fc2_relu"], path).to(device)


def _load(kind: Callable[..., Any], name: str, layers: list[str], path: Path) -> Any:
    check_tensors(path)  # torch-fidelity unpickles whatever it is given
    try:
        return kind(name, layers, feature_extractor_weights_path=str(path))
    except (RuntimeError, TypeError) as error:
        first = str(error).splitlines()[0]
        raise ValueError(f"{path} holds no weights of {name} ({first}); give its own") from None


@torch.no_grad()
def through(images: Tensor, network: nn.Module) -> tuple[Tensor, ...]:
    """What a network gives of uint8 [n, c, h, w]; grey is repeated.

    c is 1 or 3. Each layer float32 [n, dim] on the network's device. Batches of 512 on a GPU, and
    half as many for as long as its memory does not hold them.
    """
    check_images(images)
    device = next(network.parameters()).device
    batch = 8 if device.type == "cpu" else 512  # of 299 x 299: the first fits in caches
    with full_float32():
        parts = in_batches(
            lambda x: network(x.expand(-1, 3, -1, -1).contiguous()), images, batch, device
        )
    return tuple(torch.cat(layer) for layer in zip(*parts, strict=True))
