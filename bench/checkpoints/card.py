"""The model card `models/<name>/card.json`. It is validated when it is read.

A card knows no family. The family that it names checks `network` when the network is made.
"""

from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from bench.checkpoints.files import read_json
from bench.process import VE, VP, Process
from bench.store import in_a_line, write_json


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


Quantiser = Literal["round", "floor"]
Arguments = TypeVar("Arguments", bound=BaseModel)


class VPCard(_Strict):
    """Fields of `process.VP`. sigma_min and sigma_max of 0 stand for the ends of its table."""

    kind: Literal["vp"]
    betas: Literal["linear", "scaled_linear", "cosine"] = "linear"
    timesteps: int = Field(1000, gt=1, le=1_000_000)
    sigma_min: float = Field(0.0, ge=0)
    sigma_max: float = Field(0.0, ge=0)
    beta_range: tuple[float, float] | None = None

    def build(self) -> Process:
        """The process itself."""
        return VP(self.betas, self.timesteps, self.sigma_min, self.sigma_max, self.beta_range)


class VECard(_Strict):
    """Fields of `process.VE`."""

    kind: Literal["ve"]
    sigma_min: float = Field(0.002, gt=0)
    sigma_max: float = Field(80.0, gt=0)
    sigma_data: float = Field(0.5, gt=0)

    def build(self) -> Process:
        """The process itself."""
        return VE(self.sigma_min, self.sigma_max, self.sigma_data)


class CodecCard(_Strict):
    """An autoencoder between images and states. `codecs.Latents` uses it."""

    kind: Literal["AutoencoderKL", "VQModel"]
    network: dict[str, Any]  # arguments of that diffusers class
    image: tuple[int, int, int]  # c, h, w
    state: tuple[int, int, int]
    scale: float = Field(default=1.0, gt=0)
    shift: float = 0.0
    file: str = "codec.safetensors"  # a path from the model's folder; models may share a file
    training: dict[str, Any] = {}  # a record of recipe, device and versions; no code reads it
    weights_sha256: str


class Data(_Strict):
    """The training data: name, SHA-256 of the uint8 bytes as the network sees them, licence.

    preparation: how the images were cropped and resized, such as centre-crop-lanczos-32.
    images: their number, without mirror images; 0: not known.
    """

    name: str
    digest: str
    licence: str
    preparation: str = "none"
    images: int = 0


class Card(_Strict):
    """A checkpoint's card. Every load checks `weights_sha256`. An oracle has no weights."""

    name: str
    family: str = "unet2d"  # a built-in family, or module:Name of the user's own
    network: dict[str, Any]  # the network's arguments; the family validates them
    file: str = "model.safetensors"  # a path from the model's folder
    codec: CodecCard | None = None  # None: the states are pixels
    process: Annotated[VPCard | VECard, Field(discriminator="kind")]
    prediction: Literal["eps", "v", "x0", "edm"]
    learned_variance: bool = False  # the network has twice the channels, as ADM's has
    quantiser: Quantiser = "round"  # how a grey level is made whole: to nearest, or down
    clip: bool = True  # clip E[x0|x] to [-1, 1], the range of the data
    classes: int = Field(default=0, ge=0)  # 0: unconditional
    null_class: bool = False  # class number `classes` stands for no class (for guidance)
    data: Data
    training: dict[str, Any]  # a record of recipe, steps, device, versions; no code reads it
    licence: str = "Apache-2.0"
    weights_sha256: str

    @model_validator(mode="after")
    def _agrees(self) -> "Card":
        if self.null_class and not self.classes:
            raise ValueError("null_class needs classes")
        if self.codec and self.clip:
            raise ValueError("clip must be false with a codec: a latent has no known range")
        return self

    def arguments(self, kind: type[Arguments]) -> Arguments:
        """The network's arguments as an object of a pydantic class with a field for each.

        ValueError: the card's network does not fit the class.
        """
        try:
            return kind.model_validate(self.network)
        except ValidationError as error:
            raise ValueError(f"network: {complaint(error)}") from error


def complaint(error: ValueError) -> str:
    """Put an error on one line. An error of pydantic becomes a list of fields and faults."""
    if not isinstance(error, ValidationError):
        return in_a_line(error)
    each = [
        (".".join(map(str, one["loc"])), one["msg"].removeprefix("Value error, "))
        for one in error.errors()
    ]
    return in_a_line("; ".join(f"{where}: {what}" if where else what for where, what in each))


def read_card(folder: Path) -> Card:
    """Read `folder/card.json`. ValueError names the file and the field that is wrong."""
    path = folder / "card.json"
    if not path.is_file():
        raise ValueError(f"{folder} is no model folder: it has no card.json")
    try:
        return Card.model_validate(read_json(path))
    except (ValidationError, ValueError) as error:
        raise ValueError(f"{path} is not a valid card: {complaint(error)}") from error


def read_codec(folder: Path) -> CodecCard:
    """Read the codec of a folder from its `codec.json`, or else from its model's card.

    ValueError: the folder has no codec.
    """
    path = folder / "codec.json"
    if not path.is_file():
        card = read_card(folder)
        if card.codec is None:
            raise ValueError(f"{folder} is a model of pixels: it has no codec")
        return card.codec
    try:
        return CodecCard.model_validate(read_json(path))
    except (ValidationError, ValueError) as error:
        raise ValueError(f"{path} is not a valid codec: {complaint(error)}") from error


def write_card(folder: Path, card: Card) -> Path:
    """Write `folder/card.json`."""
    return write_json(folder / "card.json", card.model_dump())
