"""What decides an EDM network: the arguments of NVlabs/edm's networks, by their names."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

# what its networks take where a file's arguments do not say
_DEFAULTS: dict[str, dict[str, Any]] = {
    "SongUNet": {
        "model_channels": 128, "channel_mult": (1, 2, 2, 2), "num_blocks": 4,
        "attn_resolutions": (16,),
    },
    "DhariwalUNet": {
        "model_channels": 192, "channel_mult": (1, 2, 3, 4), "num_blocks": 3,
        "attn_resolutions": (32, 16, 8),
    },
}  # fmt: skip


class EDMFlags(BaseModel):
    """Arguments of SongUNet (DDPM++ with positional embedding and a standard encoder, NCSN++ with
    Fourier features and a residual one) or of DhariwalUNet (ADM)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model_type: Literal["SongUNet", "DhariwalUNet"]
    img_resolution: int = Field(gt=0)
    img_channels: int = Field(3, gt=0)
    label_dim: int = Field(0, ge=0)  # classes; 0: unconditional
    augment_dim: int = Field(0, ge=0)  # labels of augmentation in training, none when it samples
    model_channels: int = Field(gt=0)
    channel_mult: tuple[int, ...] = Field(min_length=1)
    channel_mult_emb: int = Field(4, gt=0)
    num_blocks: int = Field(gt=0)
    attn_resolutions: tuple[int, ...]
    embedding_type: Literal["positional", "fourier"] = "positional"
    channel_mult_noise: int = Field(1, gt=0)
    encoder_type: Literal["standard", "residual"] = "standard"
    decoder_type: Literal["standard"] = "standard"
    resample_filter: tuple[int, ...] = (1, 1)

    @model_validator(mode="before")
    @classmethod
    def _filled(cls, given: Any) -> Any:
        known = _DEFAULTS.get(str(given.get("model_type")), {}) if isinstance(given, dict) else {}
        return known | given if known else given

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of each level, the image's own resolution first."""
        return tuple(mult * self.model_channels for mult in self.channel_mult)

    @property
    def noise_channels(self) -> int:
        """Width of the noise level's embedding before its two layers."""
        return self.channel_mult_noise * self.model_channels

    @model_validator(mode="after")
    def _fits(self) -> "EDMFlags":
        if self.img_resolution % 2 ** (len(self.widths) - 1):
            raise ValueError(
                f"img_resolution {self.img_resolution} cannot be halved between all levels"
            )
        if self.noise_channels % 2:
            raise ValueError(f"noise is embedded in an even number, not {self.noise_channels}")
        for width in {self.model_channels, *self.widths}:
            if width % 4 or (width > 128 and width % 32):
                raise ValueError(f"{width} channels do not divide into groups of the norms")
        if len(self.resample_filter) % 2 or not sum(self.resample_filter):
            raise ValueError(f"resample_filter needs an even number of taps and a sum, not "
                             f"{list(self.resample_filter)}")  # fmt: skip
        if self.model_type == "DhariwalUNet":
            self._dhariwal()
        return self

    def _dhariwal(self) -> None:
        fixed = ("embedding_type", "channel_mult_noise", "encoder_type", "resample_filter")
        for name in fixed:
            if getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"{name} is of SongUNet alone")
        for level, width in enumerate(self.widths):
            last = level == len(self.widths) - 1  # where the middle always attends
            if (last or self.img_resolution >> level in self.attn_resolutions) and width % 64:
                raise ValueError(f"{width} channels do not divide into heads of 64")
