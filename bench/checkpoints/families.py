"""Families of networks: a card and its folder -> the loaded network and the shape of its state.

A network is called as diffusers' are: net(x, timestep [n], class_labels=[n]).sample, x [n, c, h, w]
scaled as its process says, timestep what its process counts, and class_labels only if it has
classes. A new family is a function here and its name in `Card.family`.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from bench.checkpoints.adm import ADM
from bench.checkpoints.card import Card
from bench.checkpoints.weights import WEIGHTS, read_strict

Shape = tuple[int, int, int]


def network(config: dict[str, Any]) -> nn.Module:
    """A diffusers `UNet2DModel` of the card's arguments; ValueError if it refuses them."""
    from diffusers.models.unets.unet_2d import UNet2DModel  # seconds to import

    try:
        return UNet2DModel(**config)
    except (TypeError, ValueError) as error:
        raise ValueError(f"UNet2DModel refuses the card's network: {error}") from error


def _unet2d(home: Path, card: Card) -> tuple[nn.Module, Shape]:
    net = network(card.network)
    net.load_state_dict(
        read_strict(home / WEIGHTS, card.name, card.weights_sha256, net.state_dict())
    )
    missing = {"sample_size", "in_channels"} - card.network.keys()
    if missing:
        raise ValueError(f"{home}/card.json: network must say {', '.join(sorted(missing))}")
    size = card.network["sample_size"]
    height, width = (size, size) if isinstance(size, int) else size
    shape = (card.network["in_channels"], height, width)
    outputs = shape[0] * (2 if card.learned_variance else 1)
    if card.network.get("out_channels", 3) != outputs:
        raise ValueError(
            f"{home}/card.json: a network of {shape[0]} channels "
            f"{'with' if card.learned_variance else 'without'} learned_variance has {outputs} "
            f"out_channels, not {card.network.get('out_channels', 3)}"
        )
    return net, shape


def _adm(home: Path, card: Card) -> tuple[nn.Module, Shape]:
    flags = card.flags
    with torch.device("meta"):
        net = ADM(flags)
    weights = read_strict(home / WEIGHTS, card.name, card.weights_sha256, net.state_dict())
    net.load_state_dict(weights, assign=True)
    return net, (flags.in_channels, flags.image_size, flags.image_size)


FAMILIES: dict[str, Callable[[Path, Card], tuple[nn.Module, Shape]]] = {
    "unet2d": _unet2d,
    "adm": _adm,
}


def open_network(home: Path, card: Card) -> tuple[nn.Module, Shape]:
    """The network of a model folder, float32 on the CPU, and its state's shape [c, h, w].

    ValueError: weights that are missing, damaged or not those of the card, a network that its
    library refuses.
    """
    net, shape = FAMILIES[card.family](home, card)
    if card.codec and card.codec.state != shape:
        raise ValueError(
            f"{home}/card.json: the codec's state {list(card.codec.state)} is not the network's "
            f"{list(shape)}"
        )
    return net, shape


def cast(net: nn.Module, device: str, dtype: torch.dtype) -> nn.Module:
    """The network for sampling: on `device`, in `dtype` as its own code casts it, channels last."""
    if isinstance(net, ADM):
        net = net.to(device).cast(dtype)
    else:
        net = nn.Module.to(net, device=device, dtype=dtype)
    return nn.Module.to(net, memory_format=torch.channels_last).eval().requires_grad_(False)
