"""The autoencoder of a latent model whose published file holds none: `crs-bench add --codec`."""

import math
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from bench.checkpoints.card import CodecCard, complaint, read_codec
from bench.checkpoints.files import published_digest, read_json, weights_file
from bench.store import file_digest
from bench.zoo.base import WantedCodec

DIFFUSERS = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin")
SCALE = 0.18215  # for a config of diffusers without scaling_factor

# Stable Diffusion's first autoencoder (Rombach et al. 2022), with a latent of an eighth of the
# image's size. A file without a config is read as this one.
SD_VAE: dict[str, Any] = {
    "in_channels": 3, "out_channels": 3, "latent_channels": 4, "layers_per_block": 2,
    "block_out_channels": [128, 256, 512, 512], "norm_num_groups": 32, "act_fn": "silu",
    "down_block_types": ["DownEncoderBlock2D"] * 4, "up_block_types": ["UpDecoderBlock2D"] * 4,
}  # fmt: skip


def codec_at(path: Path, wanted: WantedCodec) -> tuple[CodecCard, Path]:
    """Find the card and the file of weights of an autoencoder.

    Arguments:
        path: a folder in diffusers' layout (config.json of an AutoencoderKL or VQModel), a model
            or codec folder of this project, or a file of weights of Stable Diffusion's first
            autoencoder with diffusers' names. SDXL's file looks the same but has another scale.
        wanted: the autoencoder that the model needs.
    Returns:
        The card, and the file. The file is not read here.
    Raises:
        ValueError: the path is none of these, the scale, shift or state is not the wanted one, or
            the file is damaged.
    """
    if path.is_file():
        card, file = _card(path, {"_class_name": "AutoencoderKL", **SD_VAE}, wanted), path
    elif (path / "config.json").is_file():
        card, file = _card(path, _config(path / "config.json"), wanted), _weights(path)
    elif (path / "codec.json").is_file() or (path / "card.json").is_file():
        card, file = _own(path)
    else:
        raise ValueError(f"--codec {path} is no file, diffusers folder (config.json) nor model "
                         f"folder (card.json); fetch {wanted.source}")  # fmt: skip
    for what, have, want in (("scale", card.scale, wanted.scale),
                             ("shift", card.shift, wanted.shift)):  # fmt: skip
        if not math.isclose(have, want, rel_tol=1e-9):
            raise ValueError(f"--codec {path} has {what} {have:g}, not the {want:g} that the model "
                             f"was trained with; fetch {wanted.source}")  # fmt: skip
    if card.state != wanted.state:
        raise ValueError(f"--codec {path} has states {list(card.state)}, not the model's "
                         f"{list(wanted.state)}; fetch {wanted.source}")  # fmt: skip
    record = card.training or {"file": file.name, "file_sha256": published_digest(file)}
    return card.model_copy(update={"file": "codec.safetensors", "training": record}), file


def _own(path: Path) -> tuple[CodecCard, Path]:
    card = read_codec(path)
    file = path / card.file
    if not file.is_file():
        raise ValueError(f"--codec {path}: weights {file} are missing")
    if file_digest(file) != card.weights_sha256:
        raise ValueError(f"--codec {path}: {file} is not the file its card names (SHA-256 differs)")
    return card, file


def _config(path: Path) -> dict[str, Any]:
    found = read_json(path)
    if not isinstance(found, dict):
        raise ValueError(f"{path} is no config of diffusers: it holds no fields")
    for key in ("latents_mean", "latents_std"):
        if found.get(key) is not None:
            raise ValueError(f"{path}: {key} {found[key]!r} is not supported, only None")
    return found


def _weights(folder: Path) -> Path:
    for name in DIFFUSERS:
        if (folder / name).is_file():
            return folder / name
    if (found := weights_file(folder)) != folder:
        return found
    raise ValueError(f"--codec {folder} has a config.json, but neither {' nor '.join(DIFFUSERS)}")


def _card(path: Path, config: dict[str, Any], wanted: WantedCodec) -> CodecCard:
    """Make a card from a config of diffusers, for the size of state that the model needs."""
    network = {
        key: value for key, value in config.items()
        if not key.startswith("_") and key not in ("scaling_factor", "shift_factor")
    }  # fmt: skip
    try:
        _, height, width = wanted.state
        factor = 2 ** (len(network["block_out_channels"]) - 1)  # each level halves, except the last
        return CodecCard.model_validate({
            "kind": config["_class_name"], "network": network, "weights_sha256": "",
            "image": (network["out_channels"], factor * height, factor * width),
            "state": (network["latent_channels"], height, width),
            "scale": config.get("scaling_factor", SCALE), "shift": config.get("shift_factor") or 0,
        })  # fmt: skip
    except KeyError as error:
        raise ValueError(f"--codec {path}: its config lacks {error}") from error
    except ValidationError as error:
        raise ValueError(
            f"--codec {path}: no autoencoder that can be used: {complaint(error)}"
        ) from error
