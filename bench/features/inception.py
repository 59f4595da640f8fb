"""torch-fidelity's Inception, faster: its weights in the same network, with norms folded into
convolutions, channels last, means of neighbours taken after the convolution that follows them, and
the resize as the two matrix products that it is. Features move by rounding alone."""

import functools
import re
import threading
from contextlib import nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from bench.features.images import tensor_float32
from bench.features.windows import greatest, mean_relu

SIDE = 299
# torch-fidelity's names of the network's stages, in order
_STAGES = (
    "Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3", "MaxPool_1", "Conv2d_3b_1x1",
    "Conv2d_4a_3x3", "MaxPool_2", "Mixed_5b", "Mixed_5c", "Mixed_5d", "Mixed_6a", "Mixed_6b",
    "Mixed_6c", "Mixed_6d", "Mixed_6e", "Mixed_7a", "Mixed_7b", "Mixed_7c",
)  # fmt: skip
_LAYER = re.compile(r"(branch_pool|branch[^_]+)_?\d?([ab]?)")  # branch3x3dbl_3b: fork b of stage 3


def resize_matrix(size: int) -> Tensor:
    """TensorFlow 1's bilinear resize of a line of `size` pixels: float32 [299, size].

    A pixel lies at its index times size / 299, as if corners were neither aligned nor centred.
    """
    place = torch.arange(SIDE, dtype=torch.float32) * torch.tensor(size / SIDE)
    low = place.long()
    part, rows = place - low.float(), torch.arange(SIDE)
    matrix = torch.zeros(SIDE, size)
    matrix[rows, low] = 1 - part
    matrix[rows, (low + 1).clamp(max=size - 1)] += part
    return matrix


@functools.lru_cache(maxsize=16)
def _resize(size: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    return resize_matrix(size).to(device, dtype)


class _Conv(nn.Module):
    """A convolution with its norm folded in, and its ReLU."""

    def __init__(self, layer: Any):
        super().__init__()
        self.conv = fuse_conv_bn_eval(layer.conv, layer.bn)

    def forward(self, x: Tensor) -> Tensor:
        c = self.conv
        if _fuses(x):  # in one pass over memory
            return torch.cudnn_convolution_relu(
                x, c.weight, c.bias, c.stride, c.padding, c.dilation, c.groups
            )
        return F.relu_(c(x))


def _fuses(x: Tensor) -> bool:
    """On an NVIDIA GPU, where TF32 is allowed or does not matter: the fused call may take it."""
    conv: Any = torch.backends.cudnn.conv  # type: ignore[attr-defined]
    full = x.dtype == torch.float32 and conv.fp32_precision == "ieee"
    return x.is_cuda and torch.version.cuda is not None and not full


class _Max(nn.Module):
    """Maximum of each 3 x 3 window."""

    def __init__(self, stride: int, padding: int = 0):
        super().__init__()
        self.stride, self.padding = stride, padding

    def forward(self, x: Tensor) -> Tensor:
        return greatest(x, self.stride, self.padding)


class _Mean(nn.Module):
    """A 1 x 1 convolution of the mean of each 3 x 3 window, what lies outside left out, and its
    ReLU. The two commute, and the convolution leaves fewer channels."""

    def __init__(self, conv: _Conv):
        super().__init__()
        self.conv = conv.conv

    def forward(self, x: Tensor) -> Tensor:
        return mean_relu(self.conv(x))


class _Mixed(nn.Module):
    """Branches over one input, side by side; a stage of a branch may fork into two."""

    def __init__(self, block: Any):
        super().__init__()
        branches: dict[str, list[list[_Conv]]] = {}
        for name, layer in block.named_children():
            branch, fork = _LAYER.findall(name)[0]
            stages = branches.setdefault(branch, [])
            if fork != "b":
                stages.append([])
            stages[-1].append(_Conv(layer))
        self.layers = nn.ModuleList(
            conv for stages in branches.values() for stage in stages for conv in stage
        )
        self.pool = _pool(type(block).__name__, branches.pop("branch_pool", [[]])[0])
        self.branches = list(branches.values())

    def forward(self, x: Tensor) -> Tensor:
        found: list[Tensor] = []
        for stages in self.branches:
            now = [x]
            for stage in stages:
                now = [conv(now[0]) for conv in stage]
            found += now
        return torch.cat([*found, self.pool(x)], 1)


def _pool(block: str, convs: list[_Conv]) -> nn.Module:
    """What torch-fidelity's block does in its last branch."""
    if not convs:  # B and D
        return _Max(2)
    return nn.Sequential(_Max(1, 1), *convs) if block == "InceptionE_2" else _Mean(*convs)


def _faster(stage: nn.Module) -> nn.Module:
    if isinstance(stage, nn.MaxPool2d):
        return _Max(2)
    return _Conv(stage) if hasattr(stage, "bn") else _Mixed(stage)


class Inception(nn.Module):
    """uint8 [n, 3, h, w] -> features, spatial, unbiased logits and logits, float32 [n, dim] each.

    inception: torch-fidelity's module, whose weights are taken over. dtype: of the convolutions.
    """

    def __init__(self, inception: Any, dtype: torch.dtype, tf32: bool):
        super().__init__()
        stages = {name: _faster(getattr(inception, name)) for name in _STAGES}
        self.stages = nn.Sequential(*stages.values()).to(dtype)
        self.stages.to(memory_format=torch.channels_last).requires_grad_(False)
        self.fc = inception.fc
        self.dtype, self.tf32 = dtype, tf32
        self.last = threading.local()  # cells are scored by one thread while another samples
        branch1x1 = next(part for part in stages["Mixed_6d"].modules() if isinstance(part, _Conv))
        branch1x1.register_forward_hook(self._keep)

    def _keep(self, module: nn.Module, inputs: Any, output: Tensor) -> None:
        self.last.conv = output[:, :7]  # [n, 7, 17, 17]

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        dtype = self.dtype if images.is_cuda else torch.float32
        down, across = (_resize(n, images.device, dtype) for n in images.shape[2:])
        x = down @ ((images.to(dtype) - 128) / 128) @ across.T  # [n, 3, 299, 299]
        x = x.to(self.dtype, memory_format=torch.channels_last)
        with tensor_float32() if self.tf32 else nullcontext():
            features = self.stages(x).float().mean((2, 3))  # [n, 2048]
        spatial = self.last.conv.permute(0, 2, 3, 1).flatten(1).float()  # [n, 2023]
        del self.last.conv
        unbiased = features @ self.fc.weight.T
        return features, spatial, unbiased, unbiased + self.fc.bias
