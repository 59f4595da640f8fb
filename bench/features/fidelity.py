"""The networks of torch-fidelity (Obukhov et al. 2020), resize and all, through its own classes."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bench.features.effnet import fold_norms
from bench.features.images import check_images, full_float32
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

    torch-fidelity's `inception-v3-compat`: its TensorFlow-1 bilinear resize to 299, float32, batch
    norms folded and channels last; equal to theirs within 1e-4 of a feature's standard deviation.
    weights: a 566-tensor state dict; without one, the published file in torch.hub's cache.
    """

    weights: str = ""
    device: str = "cpu"

    def __post_init__(self) -> None:
        _ = self.digest  # missing weights are found now, not after sampling

    @property
    def name(self) -> str:
        return _INCEPTION.extractor

    @property
    def digest(self) -> str:
        return _INCEPTION.digest(self.weights)  # SHA-256 of the weights file

    def __call__(self, images: Tensor) -> Tensor:
        """uint8 [n, c, h, w], c 1 or 3 -> float32 [n, 2048] on `device`; grey is repeated."""
        path = _INCEPTION.find(self.weights)
        return _pooled(images, _inception(path, self.device, torch.float32))


@dataclass(frozen=True)
class InceptionV3CompatHalf:
    """`InceptionV3Compat` in bfloat16 on a CPU and float16 on a GPU: another extractor, whose
    distance is near FID and is not FID.

    Resize and features are float32, the network is not. weights: as there.
    """

    weights: str = ""
    device: str = "cpu"

    def __post_init__(self) -> None:
        _ = self.digest  # missing weights are found now, not after sampling

    @property
    def name(self) -> str:
        return f"{_INCEPTION.extractor}-half"

    @property
    def digest(self) -> str:
        return f"{_INCEPTION.digest(self.weights)}-half"  # SHA-256 of the weights file, marked

    def __call__(self, images: Tensor) -> Tensor:
        """uint8 [n, c, h, w], c 1 or 3 -> float32 [n, 2048] on `device`; grey is repeated."""
        kind = torch.bfloat16 if torch.device(self.device).type == "cpu" else torch.float16
        return _pooled(images, _inception(_INCEPTION.find(self.weights), self.device, kind))


@dataclass(frozen=True)
class VGG16:
    """The 4096 features of VGG16's second full layer, after its ReLU: precision and recall of
    Kynkaanniemi et al. 2019, as torch-fidelity's `vgg16` takes them.

    weights: torchvision's state dict; without one, the published file in torch.hub's cache.
    """

    weights: str = ""
    device: str = "cpu"

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
        return _features(images, _vgg(_VGG.find(self.weights), self.device))


@functools.lru_cache(maxsize=2)
def _inception(path: Path, device: str, kind: torch.dtype) -> nn.Module:
    """float [n, 3, 299, 299] in -1..1 -> [n, 2048, 1, 1]."""
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    whole = _load(FeatureExtractorInceptionV3, _INCEPTION.extractor, "2048", path)
    *layers, _ = fold_norms(whole).children()  # in their order; the last makes logits
    network = nn.Sequential(*layers).to(device, kind)
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


@functools.lru_cache(maxsize=2)
def _vgg(path: Path, device: str) -> nn.Module:
    from torch_fidelity.feature_extractor_vgg16 import FeatureExtractorVGG16

    return _load(FeatureExtractorVGG16, _VGG.extractor, "fc2_relu", path).to(device)


def _load(kind: Callable[..., Any], name: str, layer: str, path: Path) -> Any:
    check_tensors(path)  # torch-fidelity unpickles whatever it is given
    try:
        return kind(name, [layer], feature_extractor_weights_path=str(path))
    except (RuntimeError, TypeError) as error:
        first = str(error).splitlines()[0]
        raise ValueError(f"{path} holds no weights of {name} ({first}); give its own") from None


@torch.no_grad()
def _features(images: Tensor, network: nn.Module) -> Tensor:
    check_images(images)
    device = next(network.parameters()).device
    batch = 16 if device.type == "cpu" else 256  # of 299 x 299: fits in caches, or in 8 GiB
    with full_float32():
        parts = [
            network(x.to(device).expand(-1, 3, -1, -1).contiguous())[0] for x in images.split(batch)
        ]
    return torch.cat(parts)


@torch.no_grad()
def _pooled(images: Tensor, network: nn.Module) -> Tensor:
    """uint8 [n, c, h, w] -> float32 [n, 2048]; half as many at once where memory is short."""
    check_images(images)
    weight = next(network.parameters())
    batch = min(len(images), 16 if weight.device.type == "cpu" else 512)
    parts: list[Tensor] = []
    with full_float32():
        while (at := sum(map(len, parts))) < len(images):
            try:
                x = _resized(images[at : at + batch].to(weight.device), 299)
                x = x.to(weight.dtype).contiguous(memory_format=torch.channels_last)
                parts.append(network(x).flatten(1).float())
            except torch.OutOfMemoryError:
                if batch == 1:
                    raise
                batch //= 2
    return torch.cat(parts)


def _resized(images: Tensor, size: int) -> Tensor:
    """uint8 [n, c, h, w] -> float32 [n, 3, size, size] in -1..1, as TensorFlow 1 resizes: bilinear
    with pixel 0 on pixel 0, not centre on centre; grey is repeated."""
    rows, columns = (_weights_of(n, size, images.device) for n in images.shape[2:])
    return ((rows / 128) @ (images.float() @ columns.T) - 1).expand(-1, 3, -1, -1)


def _weights_of(n: int, size: int, device: torch.device) -> Tensor:
    """What each of n pixels adds to each of `size` resized ones: float32 [size, n]."""
    at = torch.arange(size) * torch.tensor(n / size)  # float32, as there
    low = at.long()
    part, row = at - low, torch.arange(size)
    weights = torch.zeros(size, n)
    weights[row, low] += 1 - part
    weights[row, (low + 1).clamp(max=n - 1)] += part
    return weights.to(device)
