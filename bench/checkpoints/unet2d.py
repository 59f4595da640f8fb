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


def quickened(net: torch.nn.Module) -> torch.nn.Module:
    """The network with quick forms of its norms, of its doublings of the size and of its first
    convolution. The last one stays: its quick form rounds more."""
    from diffusers.models.upsampling import Upsample2D

    from bench.checkpoints import quick

    def form(name: str, layer: Any) -> torch.nn.Module:
        if name == "conv_in":
            return quick.filled(layer)
        if type(layer) is torch.nn.GroupNorm:
            return quick.by_channels(layer)
        doubles = type(layer) is Upsample2D and layer.interpolate and not layer.norm
        conv: Any = layer.conv if doubles and layer.use_conv else None
        return quick.transposed(conv) if conv and conv.kernel_size == (3, 3) else layer

    return quick.quickened(net, form)


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
