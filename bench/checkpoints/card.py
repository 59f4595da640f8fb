"""The model card `models/<name>/card.json`: what a checkpoint is, validated when it is read."""

import json
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from bench.checkpoints.edm_flags import EDMFlags
from bench.process import VE, VP, Process
from bench.store import write_json


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


Quantiser = Literal["round", "floor"]


class VPCard(_Strict):
    """Fields of `process.VP`; sigma_min, sigma_max 0 stand for the table's own ends."""

    kind: Literal["vp"]
    betas: Literal["linear", "scaled_linear", "cosine"] = "linear"
    timesteps: int = Field(1000, gt=1)
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


class ADMFlags(_Strict):
    """What decides an ADM network: openai/guided-diffusion's flags, by its names, of models with
    resblock_updown and use_scale_shift_norm."""

    image_size: int = Field(gt=0)
    in_channels: int = Field(3, gt=0)
    num_channels: int = Field(gt=0)
    channel_mult: tuple[float, ...] = Field(min_length=1)
    num_res_blocks: int = Field(gt=0)
    attention_resolutions: tuple[int, ...]
    num_head_channels: int = Field(0, ge=0)  # channels a head, or ...
    num_heads: int = Field(0, ge=0)  # ... heads, at every level
    num_classes: int = Field(default=0, ge=0)  # 0: unconditional
    learn_sigma: bool = True
    use_new_attention_order: bool = False

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of each level, the image's own resolution first."""
        return tuple(int(mult * self.num_channels) for mult in self.channel_mult)

    @model_validator(mode="after")
    def _fits(self) -> "ADMFlags":
        if bool(self.num_head_channels) == bool(self.num_heads):
            raise ValueError("give num_head_channels or num_heads, one of the two")
        if self.image_size % 2 ** (len(self.widths) - 1):
            raise ValueError(f"image_size {self.image_size} cannot be halved between all levels")
        if wrong := [c for c in (self.num_channels, *self.widths) if c == 0 or c % 32]:
            raise ValueError(f"channels of each level must be multiples of 32, not {wrong[0]}")
        levels = [w for i, w in enumerate(self.widths) if self._attends(i)]
        if wrong := [w for w in levels if w % (self.num_head_channels or self.num_heads)]:
            raise ValueError(f"{wrong[0]} channels do not divide into heads as asked")
        return self

    def _attends(self, level: int) -> bool:
        last = level == len(self.widths) - 1  # the middle block always does
        return last or self.image_size >> level in self.attention_resolutions


class CodecCard(_Strict):
    """An autoencoder between images and states; see `codecs.Latents`."""

    kind: Literal["AutoencoderKL", "VQModel"]
    network: dict[str, Any]  # arguments of that diffusers class
    image: tuple[int, int, int]  # c, h, w
    state: tuple[int, int, int]
    scale: float = Field(default=1.0, gt=0)
    shift: float = 0.0
    file: str = "codec.safetensors"  # from the model's folder; several models may share one
    training: dict[str, Any] = {}  # recipe, device, versions: a record, not read back
    weights_sha256: str


class Data(_Strict):
    """What it was trained on: name, SHA-256 of the uint8 bytes, licence."""

    name: str
    digest: str
    licence: str


class Card(_Strict):
    """A checkpoint's card. `weights_sha256` is checked at every load; an oracle has no weights."""

    name: str
    family: Literal["unet2d", "adm", "dit", "dit2d", "edm", "ldm", "oracle"] = "unet2d"
    network: dict[str, Any]  # arguments of diffusers' class, or the family's own flags
    file: str = "model.safetensors"  # from the model's folder
    codec: CodecCard | None = None  # None: in pixel space
    process: Annotated[VPCard | VECard, Field(discriminator="kind")]
    prediction: Literal["eps", "v", "x0", "edm"]
    learned_variance: bool = False  # the network's second half of channels says it (ADM)
    quantiser: Quantiser = "round"  # of its images: to nearest, or as the authors' own floor
    clip: bool = True  # E[x0|x] lies within the data's range [-1, 1]; keep it there
    classes: int = Field(default=0, ge=0)  # that it is conditioned on; 0: unconditional
    null_class: bool = False  # class number `classes` stands for none (classifier-free guidance)
    data: Data
    training: dict[str, Any]  # recipe, steps, device, versions: a record, not read back
    licence: str = "Apache-2.0"
    weights_sha256: str

    @model_validator(mode="after")
    def _agrees(self) -> "Card":
        if self.null_class and not self.classes:
            raise ValueError("null_class needs classes")
        if self.codec and self.clip:
            raise ValueError("clip must be false with a codec: a latent has no known range")
        if self.family == "adm":
            if self.flags.learn_sigma != self.learned_variance:
                raise ValueError("learned_variance must be the network's learn_sigma")
            if self.flags.num_classes != self.classes:
                raise ValueError("classes must be the network's num_classes")
        if self.family == "edm":
            if self.edm_flags.label_dim != self.classes:
                raise ValueError("classes must be the network's label_dim")
            if self.learned_variance:
                raise ValueError("a network of family edm has no learned_variance")
        return self

    @property
    def flags(self) -> ADMFlags:
        """The network's arguments, of family adm."""
        return ADMFlags.model_validate(self.network)

    @property
    def edm_flags(self) -> EDMFlags:
        """The network's arguments, of family edm."""
        return EDMFlags.model_validate(self.network)


def complaint(error: ValueError) -> str:
    """What pydantic, or anything else, has to say, in one line: each field and what is wrong."""
    if not isinstance(error, ValidationError):
        return str(error)
    each = [
        (".".join(map(str, one["loc"])), one["msg"].removeprefix("Value error, "))
        for one in error.errors()
    ]
    return "; ".join(f"{where}: {what}" if where else what for where, what in each).replace(
        "\n", " "
    )


def read_card(folder: Path) -> Card:
    """Read and validate `folder/card.json`; ValueError naming the file and the field."""
    path = folder / "card.json"
    if not path.is_file():
        raise ValueError(f"{folder} is no model folder: it has no card.json")
    try:
        return Card.model_validate(json.loads(path.read_text()))
    except (ValidationError, ValueError) as error:
        raise ValueError(f"{path} is not a valid card: {complaint(error)}") from error


def read_codec(folder: Path) -> CodecCard:
    """The codec of a folder: its `codec.json`, or its model's; ValueError if it has neither."""
    path = folder / "codec.json"
    if not path.is_file():
        card = read_card(folder)
        if card.codec is None:
            raise ValueError(f"{folder} is a model of pixels: it has no codec")
        return card.codec
    try:
        return CodecCard.model_validate(json.loads(path.read_text()))
    except (ValidationError, ValueError) as error:
        raise ValueError(f"{path} is not a valid codec: {complaint(error)}") from error


def write_card(folder: Path, card: Card) -> Path:
    """Write `folder/card.json` whole."""
    return write_json(folder / "card.json", card.model_dump())
