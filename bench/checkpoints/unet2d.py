"""Family unet2d: diffusers' `UNet2DModel`, whose arguments are the card's network."""

from __future__ import annotations

from typing import Any

from bench.checkpoints.card import Card
from bench.checkpoints.family import Family, Shape
from bench.lazy import torch


def network(config: dict[str, Any]) -> torch.nn.Module:
    """A `UNet2DModel` of these arguments, with random weights, on the CPU.

    ValueError: diffusers refuses the arguments.
    """
    from diffusers.models.unets.unet_2d import UNet2DModel  # the import takes seconds

    try:
        return UNet2DModel(**config)
    except (TypeError, ValueError) as error:
        raise ValueError(f"UNet2DModel refuses the card's network: {error}") from error


def quickened(net: Any) -> torch.nn.Module:
    """The network with quick forms of its norms, of its doublings of the size and of its first
    convolution. The last one stays: its quick form rounds more."""
    from diffusers.models.upsampling import Upsample2D

    from bench.checkpoints import quick

    def doubled(layer: Any, half: torch.dtype) -> torch.nn.Module:
        plain = layer.norm or not (layer.use_conv and layer.interpolate)
        if plain or layer.conv.kernel_size != (3, 3):
            return layer
        return quick.Upsampling(quick.transposed(layer.conv, half))

    forms = {torch.nn.GroupNorm: quick.by_channels, Upsample2D: doubled}
    net = quick.quickened(net, forms=forms)
    net.conv_in = quick.placed(quick.filled(net.conv_in, net.conv_in.weight.dtype), net.conv_in)
    return net


class _UNet2D(Family):
    def network(self, card: Card) -> torch.nn.Module:
        return network(card.network)

    def quick(self, net: torch.nn.Module) -> torch.nn.Module:
        return quickened(net)

    def shape(self, card: Card) -> Shape:
        missing = {"sample_size", "in_channels"} - card.network.keys()
        if missing:
            raise ValueError(f"network must have {', '.join(sorted(missing))}")
        channels, size = card.network["in_channels"], card.network["sample_size"]
        outputs = channels * (2 if card.learned_variance else 1)
        if (found := card.network.get("out_channels", 3)) != outputs:
            raise ValueError(
                f"a network of {channels} channels "
                f"{'with' if card.learned_variance else 'without'} learned_variance has {outputs} "
                f"out_channels, not {found}"
            )
        height, width = (size, size) if isinstance(size, int) else size
        return channels, height, width


FAMILY = _UNet2D()
