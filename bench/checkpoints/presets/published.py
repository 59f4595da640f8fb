"""What every published checkpoint has, whatever its network: source, licence, score."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict
from torch import Tensor

from bench.checkpoints.card import Card


@dataclass(frozen=True)
class Made:
    """A file of weights in this project's terms: digests in the card still empty."""

    card: Card
    weights: dict[str, Tensor]  # with the keys of the card's network
    codec: dict[str, Tensor] | None = None  # of the card's codec, if the same file holds one


@dataclass(frozen=True)
class WantedCodec:
    """An autoencoder that a model needs and its file does not hold: where one is published, and
    its states' shape [c, h, w], scale and shift, as of `CodecCard`."""

    source: str
    state: tuple[int, int, int]
    scale: float
    shift: float = 0.0


class Published(BaseModel, ABC):
    """What a file of weights is, before it is a model folder."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    address: str = ""  # of the published file; none: any file of this network
    sha256: str | None = None  # of that file; None: not known
    data: str = "unknown"
    licence: str = "unknown"
    fid: float | None = None  # None: not published
    fid_source: str | None = None

    @property
    def file(self) -> str:
        """The published file's name."""
        return self.address.rpartition("/")[2]

    @property
    def given(self) -> str:
        """The name of the file that `crs-bench add` reads: the published one, or made of it."""
        return self.file

    @property
    def convert(self) -> str:
        """The command that makes, in the publisher's own environment, `given` of the pickle that
        follows it, whose code this project does not run; empty for files that need none."""
        return ""

    @property
    def how(self) -> str:
        """What `crs-bench add` needs beside the file, as its options; empty for nothing."""
        return f" --codec FOLDER, of {self.codec.source}" if self.codec else ""

    @property
    def codec(self) -> WantedCodec | None:
        """What `add` must be given beside the file; None for nothing."""
        return None

    def commands(self, family: str, preset: str, name: str) -> str:
        """How a model `name` is made of it: by download, or of the file on disk."""
        made = ", converted as it says" if self.convert else ""
        return (
            f"crs-bench fetch {preset}{self.how}{made}, from {self.address}; or with {self.given} "
            f"on disk: crs-bench add {self.given} --family {family} --preset {preset} "
            f"--name {name}{self.how}"
        )

    def record(self) -> dict[str, object]:
        """What the card says of the source."""
        return {"address": self.address, "published_sha256": self.sha256,
                "published_fid": self.fid, "fid_source": self.fid_source}  # fmt: skip

    @abstractmethod
    def made(self, name: str, tensors: dict[str, Tensor]) -> Made:
        """The model `name` of a file's tensors, which may lack or have keys that the network of
        the card does not: `add` compares them. Tensors of a file that holds several networks are
        taken apart here."""
