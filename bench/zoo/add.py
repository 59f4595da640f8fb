"""Make a model folder of a published file. Every key, shape and number is checked."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
from pydantic import ValidationError
from safetensors.torch import save_file
from torch import Tensor, nn

from bench.checkpoints.card import Card, CodecCard, complaint, write_card
from bench.checkpoints.codecs import autoencoder
from bench.checkpoints.family import find_family
from bench.checkpoints.files import content_of, published_digest, weights_file
from bench.checkpoints.weights import WEIGHTS, current
from bench.process import VP
from bench.store import file_digest
from bench.zoo.base import Converted, Preset
from bench.zoo.checks import check_codec, check_file, check_free, check_weights, made_whole
from bench.zoo.choose import Attempt, Picked, pick
from bench.zoo.presets import preset_of
from bench.zoo.torch_files import Contents, read_file


def add(
    file: Path,
    preset: str,
    name: str,
    models: Path,
    family: str = "adm",
    codec: Path | None = None,
    weights_key: str = "",
) -> Path:
    """Make the model folder `models/name` of a published file. Tensors keep their dtype.

    Of several state dicts in the file the moving average is taken, and a line says so.

    Arguments:
        file: a file of torch or safetensors, a .zip with one of them, or an index of shards or the
            folder of one. The content decides, not the suffix.
        preset: a preset of the family, or a .json file of the preset's fields.
        family: a name of `zoo.FAMILIES`, or module:Name of the user's own.
        codec: the autoencoder of a latent model whose file holds none. `codec_at` says what it
            may be. Its weights are copied.
        weights_key: the key of the state dict to take. Dots join the keys of nested dicts.
    Raises:
        ValueError: the folder exists or cannot be written; the file needs code to be read, is not
            the published one, has other keys or shapes than the network, or has NaN or integer
            weights; it holds several networks; the codec is missing, not needed or wrong.
    """
    chosen, home = preset_of(preset, family), models / name
    check_free(name, home)
    check_file(file, chosen, preset)
    beside = check_codec(chosen, preset, codec)
    want = _known_keys(chosen, name)
    sha256 = _published_digest(file, chosen)
    made, chosen_keys = _read(file, chosen, name, weights_key, want)
    if beside:
        made = _with_codec(made, *beside)
    record: dict[str, object] = {"family": family, "preset": preset, "file": file.name}
    _write(home, made, record | {"file_sha256": sha256} | chosen_keys)
    return home


def _read(
    file: Path, chosen: Preset, name: str, key: str, want: set[str]
) -> tuple[Converted, dict[str, object]]:
    """The model of a file, and the record of what was taken. ValueError: it does not fit."""
    contents = read_file(file)
    picked = pick(contents, key, lambda tensors: _attempt(chosen, name, tensors), want)
    check_weights(file, picked.attempt.have, picked.attempt.want, picked.hint)
    made: Converted = picked.attempt.made
    _check_process(contents, picked, made.card)
    if made.codec is not None and made.card.codec is not None:
        check_weights(file, made.codec, autoencoder(made.card.codec).state_dict())
    picked.tell()
    return made, picked.record


def _network(card: Card) -> Mapping[str, Tensor]:
    network: nn.Module = find_family(card.family).network(card)
    return network.state_dict()


def _known_keys(chosen: Preset, name: str) -> set[str]:
    """The network's keys before the file is read. Empty: the preset needs the file for them."""
    try:
        card = chosen.converted(name, {}).card
    except ValueError:
        return set()
    return set(_network(card))


def _attempt(chosen: Preset, name: str, tensors: dict[str, Tensor]) -> Attempt:
    try:
        made = chosen.converted(name, tensors)
        whole = made.codec is None or bool(made.codec)  # a file with a codec has all of it
        return Attempt(made, made.weights if whole else {}, _network(made.card))
    except ValidationError as error:
        raise ValueError(complaint(error)) from error


def _published_digest(file: Path, chosen: Preset) -> str:
    """The file's SHA-256. ValueError: it is not the one that the preset has."""
    sha256, suffix = published_digest(weights_file(file)), Path(chosen.file).suffix
    kind = {".safetensors": "safetensors", ".zip": "zip"}.get(suffix, "torch")
    if chosen.sha256 and sha256 != chosen.sha256 and content_of(weights_file(file)) == kind:
        raise ValueError(f"{file} is not the published file (SHA-256 differs); delete it and "
                         f"fetch it again from {chosen.address}")  # fmt: skip
    return sha256


def _check_process(contents: Contents, picked: Picked, card: Card) -> None:
    """Raise ValueError if a table of alphas beside the network is that of another process."""
    process = card.process.build()
    for name, value in contents.tensors.items():
        folder, _, leaf = name.rpartition(".")
        near = not folder or picked.view.prefix.startswith(folder + ".")
        if not near or leaf not in ("alphas_cumprod", "betas") or value.ndim != 1:
            continue
        numbers = value.double().numpy()
        alpha = numbers if leaf == "alphas_cumprod" else np.cumprod(1 - numbers)
        with np.errstate(divide="ignore"):
            have = np.sqrt((1 - alpha) / alpha)
        table = process.table if isinstance(process, VP) else np.zeros(0)
        if have.shape != table.shape or not np.allclose(have, table, rtol=1e-3):
            raise ValueError(
                f"{contents.file}: {name} has {len(have)} steps from sigma {have[0]:.4g} to "
                f"{have[-1]:.4g}, which is not the preset's process; correct the preset"
            )


def _with_codec(made: Converted, card: CodecCard, file: Path) -> Converted:
    """The model with the codec of --codec. ValueError: its weights do not fit its card."""
    picked = network_of(file, autoencoder(card).state_dict())
    codec = card.model_copy(update={"training": card.training | picked.record})
    weights = dict(picked.attempt.have)
    return replace(made, card=made.card.model_copy(update={"codec": codec}), codec=weights)


def network_of(file: Path, want: Mapping[str, Tensor]) -> Picked:
    """Of a file of diffusers' tensors those of a state dict, and a line about the choice.

    ValueError: the file has no tensors with these keys and shapes.
    """

    def attempt(tensors: dict[str, Tensor]) -> Attempt:
        return Attempt(tensors, current(tensors), want)

    picked = pick(read_file(file), "", attempt, want.keys())
    check_weights(file, picked.attempt.have, want, picked.hint)
    picked.tell()
    return picked


def _write(home: Path, made: Converted, record: Mapping[str, object]) -> None:
    """Write the model folder. It appears when it is complete."""
    with made_whole(home) as new:
        card = made.card.model_copy(update={
            "training": {**record, **made.card.training},
            "weights_sha256": save_tensors(new / WEIGHTS, made.weights),
        })  # fmt: skip
        if made.codec is not None and card.codec is not None:
            sha256 = save_tensors(new / card.codec.file, made.codec)
            codec = card.codec.model_copy(update={"weights_sha256": sha256})
            card = card.model_copy(update={"codec": codec})
        write_card(new, card)


def save_tensors(path: Path, weights: Mapping[str, Tensor]) -> str:
    """Write tensors in their own dtype, and return the file's SHA-256."""
    save_file({key: value.clone().contiguous() for key, value in weights.items()}, path)
    path.chmod(0o644)
    return file_digest(path)
