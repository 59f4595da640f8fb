"""The features of torch-fidelity's DINOv2 (Oquab et al. 2023), from a weights file on this machine.

torch-fidelity 0.4 builds these networks from code that torch.hub downloads, and accepts no path.
Here timm builds them and reads the published file. torch-fidelity's class does the rest.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from bench.features.fidelity import through
from bench.features.weights import Published, PublishedExtractor, check_tensors
from bench.lazy import Tensor, torch

_SIDE = 224 // 14  # patches on a side of torch-fidelity's input; Meta's grids have 37


@dataclass(frozen=True)
class _DINOv2(PublishedExtractor):
    """The class token after the last norm.

    torch-fidelity's TensorFlow-1 bilinear resize brings the images to 224 x 224.

    weights: Meta's state dict; without it, the published file in torch.hub's cache.
    """

    network: ClassVar[str]  # timm's name

    def __post_init__(self) -> None:
        super().__post_init__()
        path = self.published.find(self.weights)
        _check(path, path.stat().st_mtime_ns, self.network)

    def __call__(self, images: Tensor) -> Tensor:
        """uint8 [n, c, h, w], c 1 or 3 -> float32 [n, dim] on `device`; grey is repeated."""
        path = self.published.find(self.weights)
        return through(images, _network(path, self.network, self.device))[0]


def _published(size: str) -> Published:
    file = f"dinov2_{size}_pretrain.pth"
    url = f"https://dl.fbaipublicfiles.com/dinov2/dinov2_{size}/{file}"
    return Published(f"dinov2-{size}", file, url)


@dataclass(frozen=True)
class DINOv2ViTS14(_DINOv2):
    """The 384 features of DINOv2's ViT-S/14: torch-fidelity's `dinov2-vit-s-14`."""

    written = "dinov2-vits14"
    published = _published("vits14")
    network = "vit_small_patch14_dinov2"


@dataclass(frozen=True)
class DINOv2ViTB14(_DINOv2):
    """The 768 features of DINOv2's ViT-B/14: torch-fidelity's `dinov2-vit-b-14`."""

    written = "dinov2-vitb14"
    published = _published("vitb14")
    network = "vit_base_patch14_dinov2"


@dataclass(frozen=True)
class DINOv2ViTL14(_DINOv2):
    """The 1024 features of DINOv2's ViT-L/14: torch-fidelity's `dinov2-vit-l-14`.

    FD-DINOv2 of Stein et al. 2023 uses this network, but a bicubic resize.
    """

    written = "dinov2-vitl14"
    published = _published("vitl14")
    network = "vit_large_patch14_dinov2"


@dataclass(frozen=True)
class DINOv2ViTG14(_DINOv2):
    """The 1536 features of DINOv2's ViT-g/14: torch-fidelity's `dinov2-vit-g-14`."""

    written = "dinov2-vitg14"
    published = _published("vitg14")
    network = "vit_giant_patch14_dinov2"


def _timm_key(key: str) -> str:
    """timm's name for a weight in Meta's file. Only the gated layers of ViT-g differ."""
    return key.replace(".mlp.w12.", ".mlp.fc1.").replace(".mlp.w3.", ".mlp.fc2.")


def _state(path: Path) -> dict[str, Tensor]:
    """timm's state dict of Meta's file, mapped and not read. The position embeddings are Meta's."""
    check_tensors(path)
    found = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    return {_timm_key(key): value for key, value in found.items() if key != "mask_token"}


def _build(network: str) -> torch.nn.Module:
    import timm

    return timm.create_model(network, pretrained=False, num_classes=0, img_size=224)


@functools.lru_cache(maxsize=8)
def _check(path: Path, changed: int, network: str) -> None:
    """Check that a file has exactly the weights of a network, in the right shapes.

    Arguments:
        changed: time of the last change of the file, for the cache.

    Raises:
        ValueError: it has not.
    """
    with torch.device("meta"):
        wanted = {key: value.shape for key, value in _build(network).state_dict().items()}
    try:
        found = {key: value.shape for key, value in _state(path).items()}
    except AttributeError:  # a dictionary whose values are no tensors
        found = {}
    grid = found.pop("pos_embed", torch.Size())
    tokens, dim = wanted.pop("pos_embed")[1:]
    square = len(grid) == 3 and grid[2] == dim and round((grid[1] - 1) ** 0.5) ** 2 == grid[1] - 1
    odd = sorted({key for key, _ in wanted.items() ^ found.items()})
    if odd or not square:
        raise ValueError(
            f"{path} does not hold the weights of {network} ({odd[0] if odd else 'pos_embed'} "
            "differs); give Meta's file for that network as weights='...'"
        )


def _positions(embedding: Tensor) -> Tensor:
    """Position embeddings for 224 x 224 images, by the formula of Meta's code.

    The interpolation is bicubic without antialiasing. Its factor has an offset of 0.1 patches.
    timm's own interpolation is antialiased and has no offset.

    Arguments:
        embedding: [1, 1 + k k, dim], from Meta's file.

    Returns:
        [1, 1 + 16 16, dim].
    """
    token, grid = embedding[:, :1], embedding[:, 1:]
    side = round(grid.shape[1] ** 0.5)
    if side == _SIDE:
        return embedding
    grid = grid.unflatten(1, (side, side)).permute(0, 3, 1, 2)
    factor = (_SIDE + 0.1) / side
    grid = torch.nn.functional.interpolate(grid, scale_factor=(factor, factor), mode="bicubic")
    return torch.cat([token, grid.permute(0, 2, 3, 1).flatten(1, 2)], 1)


@functools.lru_cache(maxsize=2)
def _network(path: Path, network: str, device: str) -> torch.nn.Module:
    """timm's network inside torch-fidelity's class, whose `forward` does the preprocessing."""
    from torch_fidelity.feature_extractor_base import FeatureExtractorBase
    from torch_fidelity.feature_extractor_dinov2 import FeatureExtractorDinoV2

    class Local(FeatureExtractorDinoV2):  # type: ignore[misc]
        def __init__(self, model: torch.nn.Module):
            FeatureExtractorBase.__init__(self, network, ["dinov2"])
            self.feature_extractor_internal_dtype = torch.float32
            self.model: Any = model

    model, state = _build(network), _state(path)
    model.load_state_dict(state | {"pos_embed": _positions(state["pos_embed"].float())})
    return Local(model).eval().requires_grad_(False).to(device)
