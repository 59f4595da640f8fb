"""A published file of weights -> a model folder: read without running code, checked key by key."""

import pickle
import tempfile
import warnings
import zipfile
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from bench.checkpoints.adm import ADM
from bench.checkpoints.card import ADMFlags, read_card, write_card
from bench.checkpoints.presets import PRESETS
from bench.checkpoints.presets import preset as preset_of
from bench.checkpoints.weights import WEIGHTS
from bench.store import file_digest


def add(file: Path, preset: str, name: str, models: Path) -> Path:
    """Make `models/name` of an ADM checkpoint, .pt or .safetensors; tensors keep their dtype.

    ValueError: the folder is there already, a file that needs code to be read or is not the
    published one, keys or shapes other than those of the preset's network.
    """
    chosen, home = preset_of(preset), models / name
    if not name or Path(name).name != name or name.startswith("."):
        raise ValueError(f"--name {name!r}: write a plain folder name, such as my-horse")
    if home.exists():
        raise ValueError(f"{home} is there already; give another --name, or remove it first")
    if not file.is_file():
        raise ValueError(f"no file {file}{f'; fetch {chosen.address}' if chosen.address else ''}")
    sha256 = file_digest(file)
    if chosen.sha256 and file.suffix != ".safetensors" and sha256 != chosen.sha256:
        raise ValueError(f"{file} is not the published file (SHA-256 differs); fetch it again "
                         f"from {chosen.address}")  # fmt: skip
    weights = read_weights(file)
    check_weights(file, weights, chosen.flags)
    record = {"preset": preset, "file": file.name, "file_sha256": sha256}
    models.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{name}.", dir=models) as scratch:
        new = Path(scratch) / name
        new.mkdir()
        save_file({key: value.contiguous() for key, value in weights.items()}, new / WEIGHTS)
        (new / WEIGHTS).chmod(0o644)
        made = chosen.card(name, record)
        digest = file_digest(new / WEIGHTS)
        write_card(new, made.model_copy(update={"weights_sha256": digest}))
        new.rename(home)
    return home


def preset_lines(models: Path) -> list[str]:
    """A line for each published checkpoint: the models in `models` made of it, or its source."""
    of: dict[str, list[str]] = {}
    for home in sorted(path.parent for path in models.glob("*/card.json")):
        made = read_card(home)
        for key in {made.training.get("preset"), made.training.get("file")} - {None}:
            if made.family == "adm" and (home / WEIGHTS).is_file():
                of.setdefault(str(key), []).append(home.name)
    lines = []
    for name, chosen in PRESETS.items():
        found = sorted({*of.get(name, []), *of.get(chosen.file, [])})
        if found:
            lines.append(f"preset {name}: present as {', '.join(found)}")
        elif chosen.file:
            lines.append(f"preset {name}: absent; fetch {chosen.address}, then crs-bench add "
                         f"{chosen.file} --family adm --preset {name} --name {name}")  # fmt: skip
        else:
            lines.append(f"preset {name}: any file of these flags")
    return lines


def read_weights(file: Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors file, or of a state dict in a .pt file, on the CPU.

    No code of the file runs: `torch.load(weights_only=True)`. ValueError if it asks for that, is
    damaged, or holds anything else.
    """
    if file.suffix == ".safetensors":
        try:
            return load_file(file)
        except safetensors.SafetensorError as error:
            raise ValueError(f"{file} is not a safetensors file: {_line(error)}") from error
    try:
        mapped = zipfile.is_zipfile(file)  # files older than torch 1.6 cannot be
        with warnings.catch_warnings(action="ignore"):  # of pickles that it then refuses
            found: Any = torch.load(file, map_location="cpu", weights_only=True, mmap=mapped)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{file} is refused: reading it would run its code, or it is damaged; fetch it again, "
            "or, where you trust it, save its state dict as .safetensors and add that"
        ) from error
    except (RuntimeError, EOFError, KeyError, OSError, ValueError) as error:
        raise ValueError(f"{file} is damaged or no torch file: {_line(error)}") from error
    if not isinstance(found, dict) or not all(isinstance(v, Tensor) for v in found.values()):
        raise ValueError(
            f"{file} holds no plain state dict; save the network's own with torch.save and add that"
        )
    return {str(key): value for key, value in found.items()}


def _line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def check_weights(file: Path, have: dict[str, Tensor], flags: ADMFlags) -> None:
    """ValueError, with the keys, unless `have` is exactly what the network of `flags` takes."""
    with torch.device("meta"):
        want = ADM(flags).state_dict()
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
