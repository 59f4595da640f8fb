"""torch-fidelity's Inception, faster: its weights, with norms folded into convolutions, channels
last, and its resize as the two matrix products that it is. Features move by rounding alone."""

import threading
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from bench.features.images import tensor_float32

SIDE = 299
# torch-fidelity's names of the network's stages, in order
_STAGES = (
    "Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3", "MaxPool_1", "Conv2d_3b_1x1",
    "Conv2d_4a_3x3", "MaxPool_2", "Mixed_5b", "Mixed_5c", "Mixed_5d", "Mixed_6a", "Mixed_6b",
    "Mixed_6c", "Mixed_6d", "Mixed_6e", "Mixed_7a", "Mixed_7b", "Mixed_7c", "AvgPool",
)  # fmt: skip


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


class Inception(nn.Module):
    """uint8 [n, 3, h, w] -> features, spatial, unbiased logits and logits, float32 [n, dim] each.

    inception: torch-fidelity's module, whose stages are taken over. dtype: of the convolutions.
    """

    def __init__(self, inception: Any, dtype: torch.dtype, tf32: bool):
        super().__init__()
        stages = [getattr(inception, name) for name in _STAGES]
        for stage in stages:
            for part in stage.modules():
                if hasattr(part, "conv") and hasattr(part, "bn"):
                    part.conv = fuse_conv_bn_eval(part.conv, part.bn)
                    part.bn = nn.Identity()
        self.stages = nn.Sequential(*stages).to(dtype).to(memory_format=torch.channels_last)
        self.fc = inception.fc
        self.dtype, self.tf32 = dtype, tf32
        self.last = threading.local()  # cells are scored by one thread while another samples
        inception.Mixed_6d.branch1x1.register_forward_hook(self._keep)

    def _keep(self, module: nn.Module, inputs: Any, output: Tensor) -> None:
        self.last.conv = output[:, :7]  # [n, 7, 17, 17]

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        down, across = (resize_matrix(n).to(images.device) for n in images.shape[2:])
        x = (down @ images.float() @ across.T - 128) / 128
        x = x.to(self.dtype).contiguous(memory_format=torch.channels_last)
        with tensor_float32() if self.tf32 else nullcontext():
            features = self.stages(x).flatten(1).float()  # [n, 2048]
        spatial = self.last.conv.permute(0, 2, 3, 1).flatten(1).float()  # [n, 2023]
        del self.last.conv
        unbiased = features @ self.fc.weight.T
        return features, spatial, unbiased, unbiased + self.fc.bias
