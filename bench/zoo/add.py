"""Make a model folder of a published file. Every key and every shape is checked."""

import shlex
import tempfile
from dataclasses import replace
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from bench.checkpoints.card import CodecCard, write_card
from bench.checkpoints.codecs import autoencoder
from bench.checkpoints.family import find_family
from bench.checkpoints.weights import WEIGHTS, current
from bench.store import file_digest
from bench.zoo.autoencoder import codec_at
from bench.zoo.base import Converted, Preset
from bench.zoo.presets import preset_of
from bench.zoo.torch_files import read_weights


def add(
    file: Path,
    preset: str,
    name: str,
    models: Path,
    family: str = "adm",
    codec: Path | None = None,
) -> Path:
    """Make the model folder `models/name` of a published file. Tensors keep their dtype.

    Arguments:
        file: a .pt, .ckpt or .safetensors file, or a .zip with one of them.
        preset: a preset of the family, or a .json file of the preset's fields.
        name: the name of the folder.
        models: the folder that holds one folder a model.
        family: a name of `zoo.FAMILIES`, or module:Name of the user's own.
        codec: the autoencoder of a latent model whose file holds none. `codec_at` says what it
            may be. Its weights are copied.
    Returns:
        The model folder.
    Raises:
        ValueError: the folder exists; the file needs code to be read, is not the published one, or
            has other keys or shapes than the network; the codec is missing, not needed or wrong.
    """
    chosen, home = preset_of(preset, family), models / name
    check_free(name, home)
    _check_readable(file, chosen, preset)
    beside = _codec(chosen, preset, codec)
    sha256 = _published_digest(file, chosen)
    made = chosen.converted(name, read_weights(file))
    network = find_family(made.card.family).network(made.card)
    check_weights(file, made.weights, network.state_dict())
    if beside:
        made = replace(made, card=made.card.model_copy(update={"codec": beside[0]}),
                       codec=current(read_weights(beside[1])))  # fmt: skip
    if made.codec is not None and made.card.codec is not None:
        check_weights(
            beside[1] if beside else file, made.codec, autoencoder(made.card.codec).state_dict()
        )
    record = {"family": family, "preset": preset, "file": file.name, "file_sha256": sha256}
    _write(home, made, record)
    return home


def _check_readable(file: Path, chosen: Preset, preset: str) -> None:
    """Raise ValueError if the file is missing, or is a pickle."""
    if not file.is_file():
        where = f"; crs-bench fetch {preset}, from {chosen.address}" if chosen.address else ""
        raise ValueError(f"no file {file}{where}")
    if file.suffix in (".pkl", ".pickle"):
        way = f"{chosen.convert} {shlex.quote(str(file))}" if chosen.convert else "save its tensors"
        raise ValueError(
            f"{file} is refused: reading it would run its code; if you trust it, "
            f"run in its publisher's environment: {way} ; then add the .safetensors"
        )


def _published_digest(file: Path, chosen: Preset) -> str:
    """The file's SHA-256. ValueError: it is not the one that the preset has."""
    sha256 = file_digest(file)
    if chosen.sha256 and file.suffix == Path(chosen.file).suffix and sha256 != chosen.sha256:
        raise ValueError(f"{file} is not the published file (SHA-256 differs); delete it and "
                         f"fetch it again from {chosen.address}")  # fmt: skip
    return sha256


def check_free(name: str, home: Path) -> None:
    """Raise ValueError unless a model folder `home` of that name can be made."""
    if not name or Path(name).name != name or name.startswith("."):
        raise ValueError(f"--name {name!r}: write a plain folder name, such as my-horse")
    if home.exists():
        raise ValueError(f"{home} is there already; give another --name, or remove it first")


def _codec(chosen: Preset, preset: str, codec: Path | None) -> tuple[CodecCard, Path] | None:
    """The card and the file of --codec. ValueError: it is missing, or the preset needs none."""
    if chosen.codec is None:
        if codec is not None:
            raise ValueError(f"preset {preset} takes no --codec; leave it out")
        return None
    if codec is None:
        raise ValueError(f"preset {preset} needs its autoencoder: fetch {chosen.codec.source} and "
                         "give --codec FOLDER_OR_FILE")  # fmt: skip
    return codec_at(codec, chosen.codec)


def _write(home: Path, made: Converted, record: dict[str, str]) -> None:
    """Write the model folder. It appears when it is complete."""
    home.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{home.name}.", dir=home.parent) as scratch:
        new = Path(scratch) / home.name
        new.mkdir()
        card = made.card.model_copy(update={
            "training": record | made.card.training,
            "weights_sha256": _save(new / WEIGHTS, made.weights),
        })  # fmt: skip
        if made.codec is not None and card.codec is not None:
            sha256 = _save(new / card.codec.file, made.codec)
            codec = card.codec.model_copy(update={"weights_sha256": sha256})
            card = card.model_copy(update={"codec": codec})
        write_card(new, card)
        new.rename(home)


def _save(path: Path, weights: dict[str, Tensor]) -> str:
    """Write tensors in their own dtype, and return the file's SHA-256."""
    save_file({key: value.clone().contiguous() for key, value in weights.items()}, path)
    path.chmod(0o644)
    return file_digest(path)


def check_weights(file: Path, have: dict[str, Tensor], want: dict[str, Tensor]) -> None:
    """Raise ValueError, with the keys, unless `have` has exactly the keys and shapes of `want`."""
    other = [
        f"{key} {list(have[key].shape)} for {list(want[key].shape)}"
        for key in want.keys() & have.keys()
        if have[key].shape != want[key].shape or not have[key].is_floating_point()
    ]
    lists = {
        "missing": want.keys() - have.keys(),
        "extra": have.keys() - want.keys(),
        "mis-shaped": other,
    }
    wrong = [f"{len(keys)} {what}: {_listed(sorted(keys))}" for what, keys in lists.items() if keys]
    if wrong:
        raise ValueError(f"{file} is not of this preset's network; {'; '.join(wrong)}")


def _listed(keys: list[str]) -> str:
    return ", ".join(keys[:5]) + (", ..." if len(keys) > 5 else "")
