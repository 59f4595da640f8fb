"""The shared part of published formats: arguments of a network, presets, and the family itself."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from bench.checkpoints.card import Card, Data
from bench.checkpoints.family import Family, Shape


class Flags(BaseModel, ABC):
    """The arguments that decide a network, by the names that its publisher uses."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @property
    @abstractmethod
    def shape(self) -> Shape:
        """The shape of the network's state: channels, height, width."""

    def disagreement(self, card: Card) -> str:
        """What the card of these arguments must say instead. Empty: it agrees with them."""
        return ""


@dataclass(frozen=True)
class Converted:
    """A published file in this project's terms. The card's digests are still empty.

    weights: the tensors, with the keys of the card's network.
    codec: the tensors of the card's codec, if the same file holds one.
    """

    card: Card
    weights: dict[str, Tensor]
    codec: dict[str, Tensor] | None = None


@dataclass(frozen=True)
class WantedCodec:
    """An autoencoder that a model needs and that its file does not hold.

    source: the address where one is published. The other fields are those of `CodecCard`.
    """

    source: str
    state: Shape
    scale: float
    shift: float = 0.0


class Preset(BaseModel, ABC):
    """A published checkpoint. A subclass adds the fields that decide its network.

    A checkpoint of the same code that has no preset can have one in a JSON file of these fields.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    address: str = ""  # of the published file; empty: any file of this network
    sha256: str | None = None  # of that file; None: not known
    data: str = "unknown"
    licence: str = "unknown"
    fid: float | None = None  # None: not published
    fid_source: str | None = None

    @abstractmethod
    def converted(self, name: str, tensors: dict[str, Tensor]) -> Converted:
        """The model of a file's tensors, and its codec if the file holds one.

        The tensors may lack keys of the network or have other keys: `add` compares them later.

        Raises:
            ValueError: the file is of another kind than the preset.
        """

    def draft(self, name: str) -> Card:
        """The card of a model of this preset, without a file: its architecture."""
        return self.converted(name, {}).card

    def card(self, name: str, family: str, network: Flags, **fields: Any) -> Card:
        """A card with the record of this preset. Its digests are empty.

        fields: the other fields of `Card`; process and prediction are needed.
        """
        return Card(
            name=name, family=family, network=network.model_dump(mode="json"),
            data=Data(name=self.data, digest="", licence="see the data's own terms"),
            training=self.record(), licence=self.licence, weights_sha256="", **fields,
        )  # fmt: skip

    def record(self) -> dict[str, object]:
        """The source, for the card's field `training`."""
        return {"address": self.address, "published_sha256": self.sha256,
                "published_fid": self.fid, "fid_source": self.fid_source}  # fmt: skip

    @property
    def file(self) -> str:
        """The published file's name."""
        return self.address.rpartition("/")[2]

    @property
    def given(self) -> str:
        """The name of the file that `crs-bench add` reads. It may be converted from `file`."""
        return self.file

    @property
    def convert(self) -> str:
        """The command that converts a pickle into `given`, to which the pickle's path is added.

        The user runs it in the publisher's environment, because it runs the code of the pickle.
        Empty: the file needs no conversion.
        """
        return ""

    @property
    def codec(self) -> WantedCodec | None:
        """The autoencoder that `crs-bench add` needs beside the file. None: it needs none."""
        return None

    @property
    def options(self) -> str:
        """The options that `crs-bench add` needs beside the file. Empty: it needs none."""
        return f" --codec FOLDER, which is at {self.codec.source}" if self.codec else ""

    def commands(self, family: str, preset: str, name: str) -> str:
        """A line of the commands that make a model of that name: one downloads the file of this
        preset, one reads it from disk."""
        made = ", then converted by the command that it prints" if self.convert else ""
        whole = f"crs-bench fetch {preset}{self.options}{made}, from {self.address}; or"
        return (  # `fetch` gives the model the preset's name
            f"{whole if name == preset else f'{self.download(preset)}; then'} with {self.given} on "
            f"disk: crs-bench add {self.given} --family {family} --preset {preset} --name {name}"
            f"{self.options}"
        )

    def download(self, preset: str) -> str:
        """The command that puts the file of this preset into the working folder."""
        made = f", then: {self.convert} {self.file}" if self.convert else ""
        return f"crs-bench fetch {preset} --only-file --to . (from {self.address}){made}"


@dataclass(frozen=True)
class PublishedFamily(Family):
    """A family of networks whose weights are published.

    flags: the class of a network's arguments.
    make: flags -> the network. It is called on the meta device.
    preset: the class of its presets.
    presets: the published checkpoints, by name.
    half: (network, dtype) -> the network for sampling in that dtype. By default all weights change.
    """

    flags: type[Flags]
    make: Callable[[Any], nn.Module]
    preset: type[Preset]
    presets: Mapping[str, Preset] = field(default_factory=dict)
    half: Callable[[Any, torch.dtype], nn.Module] = nn.Module.to

    def network(self, card: Card) -> nn.Module:
        """Make the network of a card on the meta device. ValueError: the card makes none."""
        flags = self._flags(card)
        with torch.device("meta"):
            return self.make(flags)

    def shape(self, card: Card) -> Shape:
        """Give the shape of the state of a card. ValueError: the card makes no network."""
        return self._flags(card).shape

    def cast(self, net: nn.Module, dtype: torch.dtype) -> nn.Module:
        """Convert the network's weights as its publisher's code does."""
        return self.half(net, dtype)

    def _flags(self, card: Card) -> Flags:
        flags = card.arguments(self.flags)
        if wrong := flags.disagreement(card):
            raise ValueError(wrong)
        return flags
