"""A published file of weights -> a model folder: read without running code, checked key by key."""

import pickle
import shlex
import tempfile
import warnings
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from bench.checkpoints.card import CodecCard, read_card, write_card
from bench.checkpoints.codecs import autoencoder
from bench.checkpoints.families import build
from bench.checkpoints.given import codec_at
from bench.checkpoints.presets import FAMILIES, Made, Published
from bench.checkpoints.presets import preset as preset_of
from bench.checkpoints.weights import WEIGHTS, current
from bench.store import file_digest


class _Inert:
    """Stands in for a class whose objects lie beside the weights and are not used."""


# Lightning's trainer names it in the files that it saves, beside the state dict
_INERT: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [
    (_Inert, "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint")
]


def add(
    file: Path,
    preset: str,
    name: str,
    models: Path,
    family: str = "adm",
    codec: Path | None = None,
) -> Path:
    """Make `models/name` of a published checkpoint, .pt, .ckpt, .safetensors or one of them in a
    .zip, by a preset of that family; tensors keep their dtype.

    codec: the autoencoder of a latent model whose file holds none, as `given.codec_at` takes it;
    its weights are copied.
    ValueError: the folder is there already, a file that needs code to be read or is not the
    published one, keys or shapes other than those of the preset's network, a codec that is missing,
    not asked for or not the one asked for.
    """
    chosen, home = preset_of(preset, family), models / name
    check_free(name, home)
    if not file.is_file():
        where = f"; crs-bench fetch {preset}, from {chosen.address}" if chosen.address else ""
        raise ValueError(f"no file {file}{where}")
    if file.suffix in (".pkl", ".pickle"):
        way = f"{chosen.convert} {shlex.quote(str(file))}" if chosen.convert else "save its tensors"
        raise ValueError(
            f"{file} is refused: reading it would run its code; where you trust it, "
            f"run in its publisher's environment: {way} ; then add the .safetensors"
        )
    beside = _given(chosen, preset, codec)
    sha256 = file_digest(file)
    if chosen.sha256 and file.suffix == Path(chosen.file).suffix and sha256 != chosen.sha256:
        raise ValueError(f"{file} is not the published file (SHA-256 differs); delete it and "
                         f"fetch it again from {chosen.address}")  # fmt: skip
    made = chosen.made(name, read_weights(file))
    check_weights(file, made.weights, build(made.card).state_dict())
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


def check_free(name: str, home: Path) -> None:
    """ValueError unless a model folder of that name can be made at `home`."""
    if not name or Path(name).name != name or name.startswith("."):
        raise ValueError(f"--name {name!r}: write a plain folder name, such as my-horse")
    if home.exists():
        raise ValueError(f"{home} is there already; give another --name, or remove it first")


def _given(chosen: Published, preset: str, codec: Path | None) -> tuple[CodecCard, Path] | None:
    """The card and the weights' file of --codec; ValueError if it is missing or not asked for."""
    if chosen.codec is None:
        if codec is not None:
            raise ValueError(f"preset {preset} takes no --codec; leave it out")
        return None
    if codec is None:
        raise ValueError(f"preset {preset} needs its autoencoder: fetch {chosen.codec.source} and "
                         "give --codec FOLDER_OR_FILE")  # fmt: skip
    return codec_at(codec, chosen.codec)


def _write(home: Path, made: Made, record: dict[str, str]) -> None:
    """The model folder, whole or not at all."""
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
    """Write tensors as they are; the file's SHA-256."""
    save_file({key: value.clone().contiguous() for key, value in weights.items()}, path)
    path.chmod(0o644)
    return file_digest(path)


def preset_lines(models: Path) -> list[str]:
    """A line for each published checkpoint: the models in `models` made of it, or its source."""
    of: dict[tuple[str, str], list[str]] = {}
    broken = []
    for home in sorted(path.parent for path in models.glob("*/card.json")):
        try:
            card = read_card(home)
        except ValueError as error:
            broken.append(f"model {home.name} cannot be used: {error}")
            continue
        for key in {card.training.get("preset"), card.training.get("file")} - {None}:
            if (home / WEIGHTS).is_file():
                of.setdefault((card.training.get("family", card.family), str(key)), []).append(
                    home.name
                )
    lines = []
    for family, (_, presets) in FAMILIES.items():
        for name, chosen in presets.items():
            keys = {name, chosen.file, chosen.given}
            found = sorted({home for key in keys for home in of.get((family, key), [])})
            if found:
                lines.append(f"preset {name}: present as {', '.join(found)}")
            elif chosen.file:
                lines.append(f"preset {name}: absent; {chosen.commands(family, name, name)}")
            else:
                lines.append(f"preset {name}: any file of these flags")
    return broken + lines


def read_weights(file: Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors file, or of a state dict in a .pt or .ckpt file, or of a .zip
    that holds one such file, on the CPU.

    No code of the file runs: `torch.load(weights_only=True)`. ValueError if it asks for that, is
    damaged, or holds anything else.
    """
    if file.suffix == ".zip":
        return _unpacked(file)
    if file.suffix == ".safetensors":
        try:
            return load_file(file)
        except safetensors.SafetensorError as error:
            raise ValueError(f"{file} is not a safetensors file: {_line(error)}") from error
    try:
        mapped = zipfile.is_zipfile(file)  # files older than torch 1.6 cannot be
        quiet = warnings.catch_warnings(action="ignore")  # of pickles that it then refuses
        with quiet, torch.serialization.safe_globals(_INERT):
            found: Any = torch.load(file, map_location="cpu", weights_only=True, mmap=mapped)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{file} is refused: reading it would run its code, or it is damaged; delete and "
            "fetch it again, or, where you trust it, save its state dict as .safetensors in a "
            f"throw-away environment and add that: {_way_out(file)}"
        ) from error
    except Exception as error:  # of a damaged pickle nearly anything is raised
        raise ValueError(f"{file} is damaged or no torch file: {_line(error)}") from error
    for key in ("ema", "state_dict", "model"):  # beside it a trainer's own state
        if isinstance(found, dict) and isinstance(found.get(key), dict):
            found = found[key]
            break
    if not isinstance(found, dict) or not all(isinstance(v, Tensor) for v in found.values()):
        raise ValueError(
            f"{file} holds no plain state dict; save the network's own with torch.save and add that"
        )
    if any(value.layout != torch.strided or value.is_meta for value in found.values()):
        raise ValueError(f"{file} holds sparse or meta tensors; save it dense")
    return {str(key): value for key, value in found.items()}


def _way_out(file: Path) -> str:
    """The command that does it, by the user, where the classes of the file are installed."""
    code = (
        "import sys, torch; from safetensors.torch import save_file; "
        "w = torch.load(sys.argv[1], map_location='cpu', weights_only=False); "
        "w = next((w[k] for k in ('ema', 'state_dict', 'model') if k in w), w); "
        "save_file({k: v.clone().contiguous() for k, v in w.items()}, sys.argv[2])"
    )
    paths = shlex.join([str(file), str(file.with_suffix(".safetensors"))])
    return f'python -c "{code}" {paths}'


def _unpacked(file: Path) -> dict[str, Tensor]:
    """The tensors of the one file of weights in an archive, which lies beside it while it is
    read."""
    try:
        with (
            zipfile.ZipFile(file) as archive,
            tempfile.TemporaryDirectory(prefix=f".{file.stem}.", dir=file.parent) as scratch,
        ):
            names = [n for n in archive.namelist() if n.endswith((".ckpt", ".pt", ".safetensors"))]
            if len(names) != 1:
                raise ValueError(f"{file} holds {len(names)} files of weights; unpack it and add "
                                 "the one")  # fmt: skip
            inside = Path(archive.extract(names[0], scratch))
            try:
                return read_weights(inside)
            except ValueError as error:
                said = str(error).replace(scratch, str(file.parent))
                raise ValueError(f"{file} unpacked: {said}") from error
    except (zipfile.BadZipFile, OSError) as error:
        raise ValueError(f"{file} is damaged, or cannot be unpacked: {_line(error)}") from error


def _line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def check_weights(file: Path, have: dict[str, Tensor], want: dict[str, Tensor]) -> None:
    """ValueError, with the keys, unless `have` has exactly the keys and shapes of `want`."""
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
