"""A faster form of torch-fidelity's Inception, with the same weights.

Batch norms are folded into convolutions. Tensors have channels last. The mean of neighbours is
computed after the convolution that follows it. The resize is two matrix products. The features
differ from torch-fidelity's only by rounding.
"""

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
# a branch, and its fork a or b: branch3x3dbl_3b is fork b of stage 3
_LAYER = re.compile(r"(branch_pool|branch[^_]+)_?\d?([ab]?)")


def resize_matrix(size: int) -> Tensor:
    """The matrix of TensorFlow 1's bilinear resize from `size` to 299 pixels: float32 [299, size].

    Output pixel i is read at i size / 299. TensorFlow 1 aligns neither corners nor centres.
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
    """A convolution that includes its norm, and a ReLU."""

    def __init__(self, layer: Any):
        super().__init__()
        self.conv = fuse_conv_bn_eval(layer.conv, layer.bn)

    def forward(self, x: Tensor) -> Tensor:
        c: Any = self.conv
        if _fuses(x):  # one pass over memory
            return torch.cudnn_convolution_relu(
                x, c.weight, c.bias, c.stride, c.padding, c.dilation, c.groups
            )
        return F.relu_(c(x))


def _fuses(x: Tensor) -> bool:
    """Whether cuDNN's fused call can compute it: on an NVIDIA GPU, because the call may use TF32,
    only where TF32 is allowed or x is not float32."""
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
    """A 1 x 1 convolution of the mean of each 3 x 3 window, and a ReLU.

    The mean counts only pixels inside the image. It is computed after the convolution, which gives
    the same result and has fewer channels.
    """

    def __init__(self, conv: _Conv):
        super().__init__()
        self.conv = conv.conv

    def forward(self, x: Tensor) -> Tensor:
        return mean_relu(self.conv(x))


class _Mixed(nn.Module):
    """Branches that read the same input. A stage of a branch can fork into two."""

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
    """The last branch of torch-fidelity's block, which pools."""
    if not convs:  # B and D
        return _Max(2)
    return nn.Sequential(_Max(1, 1), *convs) if block == "InceptionE_2" else _Mean(*convs)


def _faster(stage: nn.Module) -> nn.Module:
    if isinstance(stage, nn.MaxPool2d):
        return _Max(2)
    return _Conv(stage) if hasattr(stage, "bn") else _Mixed(stage)


class Inception(nn.Module):
    """uint8 [n, 3, h, w] -> features, spatial, logits_unbiased, logits: float32 [n, dim] each."""

    def __init__(self, inception: Any, dtype: torch.dtype, tf32: bool):
        """
        Arguments:
            inception: torch-fidelity's module, which has the weights.
            dtype: of the convolutions.
            tf32: whether float32 convolutions may use TF32.
        """
        super().__init__()
        stages = {name: _faster(inception.get_submodule(name)) for name in _STAGES}
        self.stages = nn.Sequential(*stages.values()).to(dtype)
        self.stages.to(memory_format=torch.channels_last).requires_grad_(False)
        self.fc = inception.fc
        self.dtype, self.tf32 = dtype, tf32
        self.last = threading.local()  # several threads may call the network at once
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
