"""The model card `models/<name>/card.json`: what a checkpoint is, validated when it is read."""

import json
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from bench.process import VE, VP, Process
from bench.store import write_json


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class VPCard(_Strict):
    """Fields of `process.VP`; sigma_min, sigma_max 0 stand for the table's own ends."""

    kind: Literal["vp"]
    betas: Literal["linear", "scaled_linear", "cosine"] = "linear"
    timesteps: int = Field(1000, gt=1)
    sigma_min: float = Field(0.0, ge=0)
    sigma_max: float = Field(0.0, ge=0)

    def build(self) -> Process:
        """The process itself."""
        return VP(self.betas, self.timesteps, self.sigma_min, self.sigma_max)


class VECard(_Strict):
    """Fields of `process.VE`."""

    kind: Literal["ve"]
    sigma_min: float = Field(0.002, gt=0)
    sigma_max: float = Field(80.0, gt=0)
    sigma_data: float = Field(0.5, gt=0)

    def build(self) -> Process:
        """The process itself."""
        return VE(self.sigma_min, self.sigma_max, self.sigma_data)


class Data(_Strict):
    """What it was trained on: name, SHA-256 of the uint8 bytes, licence."""

    name: str
    digest: str
    licence: str


class Card(_Strict):
    """A checkpoint's card. `weights_sha256` is checked at every load."""

    name: str
    network: dict[str, Any]  # arguments of diffusers.UNet2DModel
    process: Annotated[VPCard | VECard, Field(discriminator="kind")]
    prediction: Literal["eps", "v", "x0", "edm"]
    learned_variance: bool = False  # the network's second half of channels says it (ADM)
    clip: bool = True  # E[x0|x] lies within the data's range [-1, 1]; keep it there
    data: Data
    training: dict[str, Any]  # recipe, steps, device, versions: a record, not read back
    licence: str = "Apache-2.0"
    weights_sha256: str


def read_card(folder: Path) -> Card:
    """Read and validate `folder/card.json`; ValueError naming the file and the field."""
    path = folder / "card.json"
    if not path.is_file():
        raise ValueError(f"{folder} is no model folder: it has no card.json")
    try:
        return Card.model_validate(json.loads(path.read_text()))
    except (ValidationError, ValueError) as error:
        raise ValueError(f"{path} is not a valid card: {error}") from error


def write_card(folder: Path, card: Card) -> Path:
    """Write `folder/card.json` whole."""
    return write_json(folder / "card.json", card.model_dump())
