"""Families of networks: what a card says -> the network, and the shape of its state.

A network is called as diffusers' are: net(x, timestep [n], class_labels=[n]).sample, x [n, c, h, w]
scaled as its process says, timestep what its process counts, and class_labels only if it has
classes. An oracle alone is given x and sigma themselves, which a float32 timestep would round. A
new family is an entry of `FAMILIES` and its name in `Card.family`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from bench.checkpoints.adm import ADM
from bench.checkpoints.card import Card
from bench.checkpoints.dit import DiT, flags_of
from bench.checkpoints.edm import EDM
from bench.checkpoints.ldm import LDM, LDMFlags
from bench.checkpoints.oracle import Oracle
from bench.checkpoints.oracle import build as build_oracle
from bench.checkpoints.oracle import law as oracle_law
from bench.checkpoints.weights import read_strict

Shape = tuple[int, int, int]


@dataclass(frozen=True)
class Family:
    """build: the network of a card, untrained, on the CPU or (no memory yet) meta device.
    shape: of its state, [c, h, w]. ValueError from either: a card that does not make one."""

    build: Callable[[Card], nn.Module]
    shape: Callable[[Card], Shape]


def _dit2d(card: Card) -> nn.Module:
    from diffusers.models.transformers.dit_transformer_2d import DiTTransformer2DModel

    try:
        return DiTTransformer2DModel(**card.network)
    except (TypeError, ValueError, NotImplementedError) as error:
        raise ValueError(f"DiTTransformer2DModel refuses the card's network: {error}") from error


def _dit2d_shape(card: Card) -> Shape:
    channels, size = card.network["in_channels"], card.network["sample_size"]
    outputs = channels * (2 if card.learned_variance else 1)
    if (card.network.get("out_channels") or channels) != outputs:
        raise ValueError(f"network must have {outputs} out_channels, as learned_variance says")
    return channels, size, size


def network(config: dict[str, Any]) -> nn.Module:
    """A diffusers `UNet2DModel` of the card's arguments; ValueError if it refuses them."""
    from diffusers.models.unets.unet_2d import UNet2DModel  # seconds to import

    try:
        return UNet2DModel(**config)
    except (TypeError, ValueError) as error:
        raise ValueError(f"UNet2DModel refuses the card's network: {error}") from error


def _unet2d_shape(card: Card) -> Shape:
    missing = {"sample_size", "in_channels"} - card.network.keys()
    if missing:
        raise ValueError(f"network must say {', '.join(sorted(missing))}")
    size = card.network["sample_size"]
    height, width = (size, size) if isinstance(size, int) else size
    shape = (card.network["in_channels"], height, width)
    outputs = shape[0] * (2 if card.learned_variance else 1)
    if card.network.get("out_channels", 3) != outputs:
        raise ValueError(
            f"a network of {shape[0]} channels "
            f"{'with' if card.learned_variance else 'without'} learned_variance has {outputs} "
            f"out_channels, not {card.network.get('out_channels', 3)}"
        )
    return shape


def _adm(card: Card) -> nn.Module:
    with torch.device("meta"):
        return ADM(card.flags)


def _adm_shape(card: Card) -> Shape:
    return card.flags.in_channels, card.flags.image_size, card.flags.image_size


def _edm(card: Card) -> nn.Module:
    with torch.device("meta"):
        return EDM(card.edm_flags)


def _edm_shape(card: Card) -> Shape:
    flags = card.edm_flags
    return flags.img_channels, flags.img_resolution, flags.img_resolution


def _dit(card: Card) -> nn.Module:
    flags = flags_of(card)
    with torch.device("meta"):
        return DiT(flags)


def _dit_shape(card: Card) -> Shape:
    flags = flags_of(card)
    return flags.in_channels, flags.input_size, flags.input_size


def _ldm(card: Card) -> nn.Module:
    flags = LDMFlags.model_validate(card.network)
    if flags.n_classes != card.classes + card.null_class:
        raise ValueError("n_classes must be the card's classes, and one more for null_class")
    with torch.device("meta"):
        return LDM(flags)


def _ldm_shape(card: Card) -> Shape:
    flags = LDMFlags.model_validate(card.network)
    return flags.in_channels, flags.image_size, flags.image_size


FAMILIES = {
    "unet2d": Family(lambda card: network(card.network), _unet2d_shape),
    "adm": Family(_adm, _adm_shape),
    "dit2d": Family(_dit2d, _dit2d_shape),  # diffusers' DiTTransformer2DModel
    "edm": Family(_edm, _edm_shape),
    "oracle": Family(build_oracle, lambda card: oracle_law(card).shape),
    "dit": Family(_dit, _dit_shape),
    "ldm": Family(_ldm, _ldm_shape),
}


def build(card: Card) -> nn.Module:
    """The untrained network of a card; ValueError if its library refuses it."""
    return FAMILIES[card.family].build(card)


def open_network(home: Path, card: Card) -> tuple[nn.Module, Shape]:
    """The network of a model folder, float32 on the CPU, and its state's shape [c, h, w].

    ValueError: weights that are missing, damaged or not those of the card, a network that its
    library refuses.
    """
    net = build(card)
    if card.family != "oracle":
        weights = read_strict(home / card.file, card.name, card.weights_sha256, net.state_dict())
        net.load_state_dict(weights, assign=True)
    try:
        shape = FAMILIES[card.family].shape(card)
    except ValueError as error:
        raise ValueError(f"{home}/card.json: {error}") from error
    if card.codec and card.codec.state != shape:
        raise ValueError(
            f"{home}/card.json: the codec's state {list(card.codec.state)} is not the network's "
            f"{list(shape)}"
        )
    return net, shape


def cast(net: nn.Module, device: str, dtype: torch.dtype) -> nn.Module:
    """The network for sampling: on `device`, in `dtype` as its own code casts it, channels last."""
    if isinstance(net, ADM | EDM):
        net = net.to(device).cast(dtype)
    elif isinstance(net, Oracle):
        net = net.to(device)  # float64, whatever the dtype
    else:
        net = nn.Module.to(net, device=device, dtype=dtype)
    return nn.Module.to(net, memory_format=torch.channels_last).eval().requires_grad_(False)
