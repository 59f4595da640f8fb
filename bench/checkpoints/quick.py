"""Quick forms of layers: equal up to rounding, and quicker on a GPU in half precision.

A network with them is for sampling alone, because some have weights of other shapes.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.checkpoints.family import for_sampling


class Quick(ABC):
    """A layer that knows its quick form."""

    @abstractmethod
    def quick(self, half: torch.dtype) -> nn.Module:
        """That form. half: the dtype of its products, where the network keeps float32."""


def quickened(net: nn.Module, form: Callable[[str, Any], nn.Module]) -> nn.Module:
    """A copy of a network with the quick forms of its layers. All other weights are shared.

    form: (name of a layer, the layer) -> its quick form, or the layer itself.
    """
    made = {name: new for name, one in net.named_modules() if (new := form(name, one)) is not one}
    if not made:
        return net
    weights: dict[int, Any] = {id(one): one for one in (*net.parameters(), *net.buffers())}
    device = str(next(net.parameters()).device)
    net = copy.deepcopy(net, weights)
    for name, new in made.items():
        net.set_submodule(name, for_sampling(new, device))
    return net


def own_form(half: torch.dtype = torch.float16) -> Callable[[str, Any], nn.Module]:
    """The `form` of networks whose layers are `Quick` themselves."""
    return lambda name, layer: layer.quick(half) if isinstance(layer, Quick) else layer


def filled(conv: nn.Conv2d) -> nn.Module:
    """A convolution from few channels: zeros fill them up to a multiple of 8, as tensor cores
    want."""
    return _Filled(F.pad(conv.weight, (0, 0, 0, 0, 0, -conv.in_channels % 8)), conv.bias)


def transposed(conv: nn.Conv2d) -> nn.Module:
    """A doubling of the size by nearest, then this 3x3 convolution: one transposed convolution,
    which has 4/9 of the operations. Its kernel is 4x4 with stride 2: sums of the weights that meet
    the same pixel."""
    weight = conv.weight.double()  # [out, channels, 3, 3]
    for axis in (2, 3):
        a, b, c = weight.unbind(axis)
        weight = torch.stack([c, b + c, a + b, a], axis)
    return _Transposed(weight.transpose(0, 1).to(conv.weight.dtype), conv.bias)


def taps(conv: nn.Conv2d, half: torch.dtype) -> nn.Module:
    """A 3x3 convolution to few channels: one product of matrices for all nine taps, then their
    shifted sum. The rows of the matrix are tap, then channel. Zeros fill them to a multiple of
    32."""
    rows = conv.weight.permute(2, 3, 0, 1).flatten(0, 2).to(half)  # [9 out, channels]
    return _Taps(F.pad(rows, (0, 0, 0, -len(rows) % 32)), conv.bias)


class _Weighted(nn.Module):
    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight.contiguous(), requires_grad=False)
        self.bias = bias


class _Filled(_Weighted):
    def forward(self, x: Tensor) -> Tensor:
        x = F.pad(x, (0, 0, 0, 0, 0, self.weight.shape[1] - x.shape[1]))
        return F.conv2d(x, self.weight, self.bias, padding=1)


class _Transposed(_Weighted):
    def forward(self, x: Tensor, size: None = None) -> Tensor:  # diffusers' blocks give a size
        return F.conv_transpose2d(x, self.weight, self.bias, stride=2, padding=1)


class _Taps(_Weighted):
    def forward(self, x: Tensor) -> Tensor:
        assert self.bias is not None
        height, width = x.shape[2:]
        y = F.linear(x.permute(0, 2, 3, 1).to(self.weight.dtype), self.weight)  # [n, h, w, rows]
        y = F.pad(y[..., : 9 * len(self.bias)], (0, 0, 1, 1, 1, 1)).unflatten(3, (3, 3, -1))
        parts = [y[:, a : a + height, b : b + width, a, b].to(x.dtype)
                 for a in range(3) for b in range(3)]  # fmt: skip
        return sum(parts, self.bias).permute(0, 3, 1, 2)


class ChannelNorm(nn.GroupNorm):
    """A norm of groups in float32, which can take the scale and shift of an embedding.

    The statistics of a group come from those of its channels: var = E[var of channels] +
    var[mean of channels]. With channels-last memory this reads the memory in order.
    """

    def forward(self, x: Tensor, embedded: Tensor | None = None) -> Tensor:
        """x [n, c, ...]; embedded [n, 2 c], scale then shift: norm(x) (1 + scale) + shift."""
        places = tuple(range(2, x.ndim))
        var, mean = (
            part.unflatten(1, (self.num_groups, -1))
            for part in torch.var_mean(x.float(), places, correction=0)
        )  # [n, groups, channels of a group]
        between, centre = torch.var_mean(mean, 2, correction=0, keepdim=True)
        gain = (var.mean(2, keepdim=True) + between + self.eps).rsqrt().expand_as(mean).flatten(1)
        gain = gain * self.weight
        offset = self.bias - centre.expand_as(mean).flatten(1) * gain
        if embedded is not None:
            scale, shift = embedded.chunk(2, 1)
            gain, offset = gain * (1 + scale), offset * (1 + scale) + shift
        gain, offset = (part.view(*x.shape[:2], *(1 for _ in places)) for part in (gain, offset))
        return (x.float() * gain + offset).to(x.dtype)


class Norm(nn.GroupNorm, Quick):
    """A norm of groups in the dtype of its weights."""

    def quick(self, half: torch.dtype) -> nn.Module:
        return by_channels(self)


def by_channels(norm: nn.GroupNorm) -> nn.Module:
    """`ChannelNorm` with the weights of a norm of groups."""
    form = ChannelNorm(norm.num_groups, norm.num_channels, norm.eps, device="meta")
    form.weight, form.bias = norm.weight, norm.bias
    return form
