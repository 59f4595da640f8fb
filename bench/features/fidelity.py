"""The networks of torch-fidelity (Obukhov et al. 2020), with its own resize."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from bench.features.images import check_images, full_float32, in_batches
from bench.features.weights import Published, PublishedExtractor, check_tensors
from bench.lazy import Tensor, torch


@dataclass(frozen=True)
class InceptionV3Compat(PublishedExtractor):
    """The 2048 pooled features of TensorFlow's Inception of 2015, from which papers compute FID.

    They are those of torch-fidelity's `inception-v3-compat`, whose TensorFlow-1 bilinear resize
    brings the images to 299 x 299.

    weights: torch-fidelity's state dict; without it, the published file in torch.hub's cache.
    precision: of convolutions. `tf32` rounds the factors of products on a GPU. Another precision
        than float32 makes another extractor with another name. `crs-bench bench metrics` measures
        its speed and how far it moves a distance.

    Its other layers are:
        spatial: the first 7 channels of mixed_6/conv, 17 x 17 x 7 = 2023 features in the order
            (height, width, channel). The ADM evaluator computes sFID from them.
        logits_unbiased: 1008 class scores without the bias. The ADM evaluator and torch-fidelity
            compute IS from them.
        logits: the class scores with the bias.
    """

    precision: Literal["float32", "tf32", "float16"] = "float32"
    written = "inception-v3-compat"
    published = Published(
        "inception-v3-compat",
        "weights-inception-2015-12-05-6726825d.pth",
        "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/"
        "weights-inception-2015-12-05-6726825d.pth",
    )
    layers: ClassVar[tuple[str, ...]] = ("features", "spatial", "logits_unbiased", "logits")

    def __post_init__(self) -> None:
        if self.precision not in _PRECISIONS:
            raise ValueError(
                f"unknown precision {self.precision!r}; known: {', '.join(_PRECISIONS)}"
            )
        super().__post_init__()

    @property
    def name(self) -> str:
        plain = self.precision == "float32"
        return self.published.extractor + ("" if plain else f"-{self.precision}")

    def __call__(self, images: Tensor) -> Tensor:
        """uint8 [n, c, h, w], c 1 or 3 -> float32 [n, 2048] on `device`; grey is repeated."""
        return self.of_layers(images, ("features",))["features"]

    def of_layers(self, images: Tensor, wanted: Collection[str]) -> dict[str, Tensor]:
        network = _inception(self.published.find(self.weights), self.device, self.precision)
        found = dict(zip(self.layers, through(images, network), strict=True))
        return {layer: found[layer] for layer in wanted}


@dataclass(frozen=True)
class VGG16(PublishedExtractor):
    """The 4096 features of VGG16's second fully connected layer, after its ReLU.

    Kynkaanniemi et al. 2019 compute precision and recall from them. They are those of
    torch-fidelity's `vgg16`.

    weights: torchvision's state dict; without it, the published file in torch.hub's cache.
    """

    written = "vgg16"
    published = Published(
        "vgg16", "vgg16-397923af.pth", "https://download.pytorch.org/models/vgg16-397923af.pth"
    )

    def __call__(self, images: Tensor) -> Tensor:
        """uint8 [n, c, h, w], c 1 or 3 -> float32 [n, 4096] on `device`; grey is repeated."""
        return through(images, _vgg(self.published.find(self.weights), self.device))[0]


_PRECISIONS = ("float32", "tf32", "float16")


@functools.lru_cache(maxsize=2)
def _inception(path: Path, device: str, precision: str = "float32") -> torch.nn.Module:
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    from bench.features.inception import Inception

    layers = ["2048", "logits_unbiased"]
    theirs = _load(FeatureExtractorInceptionV3, "inception-v3-compat", layers, path)
    dtype = torch.float16 if precision == "float16" else torch.float32
    return Inception(theirs, dtype, precision == "tf32").to(device)


@functools.lru_cache(maxsize=2)
def _vgg(path: Path, device: str) -> torch.nn.Module:
    from torch_fidelity.feature_extractor_vgg16 import FeatureExtractorVGG16

    return _load(FeatureExtractorVGG16, "vgg16", ["fc2_relu"], path).to(device)


def _load(kind: Callable[..., Any], name: str, layers: list[str], path: Path) -> Any:
    check_tensors(path)  # torch-fidelity unpickles any file
    try:
        return kind(name, layers, feature_extractor_weights_path=str(path))
    except (RuntimeError, TypeError) as error:
        first = str(error).splitlines()[0]
        raise ValueError(
            f"{path} does not hold the weights of {name} ({first}); give the right file as "
            "weights='...'"
        ) from None


def through(images: Tensor, network: torch.nn.Module) -> tuple[Tensor, ...]:
    """The results of a network for images, in batches.

    Arguments:
        images: uint8 [n, c, h, w], c 1 or 3; grey is repeated.
        network: uint8 [n, 3, h, w] -> layers.

    Returns:
        Each layer, float32 [n, dim], on the device of the network.
    """
    check_images(images)
    device = next(network.parameters()).device
    batch = 8 if device.type == "cpu" else 512  # 299 x 299 pixels: 8 fit in caches
    with torch.no_grad(), full_float32():
        parts = in_batches(
            lambda x: network(x.expand(-1, 3, -1, -1).contiguous()), images, batch, device
        )
    return tuple(torch.cat(layer) for layer in zip(*parts, strict=True))
