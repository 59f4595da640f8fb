"""A family of networks: everything that the loader must know about one kind of network.

A card names its family. A plain name such as `adm` is a built-in family, whose module is imported
only when a card asks for it. `module:Name` is a family of the user, in a module that lies in the
working folder or is installed. Importing that module runs its code.
"""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cache

from bench.checkpoints.card import Card
from bench.lazy import Tensor, torch
from bench.names import attribute, nearest
from bench.process import Process

Shape = tuple[int, int, int]

# modules of this room; all others are of bench.zoo
_ALWAYS_HERE = ("unet2d", "dit2d", "oracle", "wrapped")


@dataclass(frozen=True)
class Output:
    """The result of a network, in the form that diffusers' networks have."""

    sample: Tensor


class Family(ABC):
    """One kind of network. A new family overrides `network` and `shape`, and seldom the rest.

    A network is called as diffusers' networks are: net(x, timestep, class_labels=labels).sample.
    x is [n, c, h, w]; timestep and labels are [n]. Labels are given only if the card has classes.
    """

    has_weights: bool = True
    """False if the card alone decides the network, so that no file is read."""

    @abstractmethod
    def network(self, card: Card) -> torch.nn.Module:
        """The network of a card, without trained weights, on the CPU or the meta device.

        ValueError: the card describes no network of this family.
        """

    @abstractmethod
    def shape(self, card: Card) -> Shape:
        """Channels, height and width of the state that the network denoises.

        ValueError: the card describes no network of this family.
        """

    def cast(self, net: torch.nn.Module, dtype: torch.dtype) -> torch.nn.Module:
        """The same network with its float32 weights converted for sampling in float32, float16 or
        bfloat16. By default all weights have the dtype."""
        return torch.nn.Module.to(net, dtype)

    def quick(self, net: torch.nn.Module) -> torch.nn.Module:
        """The same network, in a quicker form for sampling in half precision on a GPU."""
        from bench.checkpoints.quick import own_form, quickened  # they need torch at once

        return quickened(net, own_form())

    def inputs(
        self, x: Tensor, sigma: float, process: Process, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor]:
        """The first two arguments of the network, of x = x0 + sigma noise, [n, c, h, w]: x as the
        process scales it, in the dtype, and the process's timestep [n]."""
        index = float(process.timestep(torch.tensor(sigma)))
        timestep = torch.full((len(x),), index, device=x.device)
        scaled = (x * process.scale(sigma)).to(dtype)
        return scaled.contiguous(memory_format=torch.channels_last), timestep


def find_family(name: str) -> Family:
    """The built-in family of a name, or that of `module:Name`, the user's own `Family` object.

    ValueError: there is no such family. The message has the nearest name.
    """
    return _own(name) if ":" in name else _built_in(name)


def _own(name: str) -> Family:
    found = attribute(name)
    if not isinstance(found, Family):
        raise ValueError(f"family {name} is a {type(found).__name__}: it must be a Family object")
    return found


@cache
def _built_in(name: str) -> Family:
    if name in _ALWAYS_HERE:
        return importlib.import_module(f"bench.checkpoints.{name}").FAMILY
    from bench import zoo  # this holds names alone

    if name not in zoo.FAMILIES:
        known = nearest(name, [*_ALWAYS_HERE, *zoo.FAMILIES])
        raise ValueError(f"no family {name!r}{known}; a family of your own is module:Name")
    return importlib.import_module(f"bench.zoo.{name}").FAMILY


def for_sampling(net: torch.nn.Module, device: str) -> torch.nn.Module:
    """The same network, which has its dtype, on a device, channels last and frozen."""
    net = torch.nn.Module.to(torch.nn.Module.to(net, device), memory_format=torch.channels_last)
    return net.eval().requires_grad_(False)
