"""Read files of weights that torch wrote. No code of such a file runs."""

import pickle
import shlex
import tempfile
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import load_file
from torch import Tensor


class _Inert:
    """It replaces a class whose objects lie beside the weights. They are not used."""


# Lightning's trainer saves an object of this class beside the state dict
_INERT: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [
    (_Inert, "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint")
]


def read_weights(file: Path) -> dict[str, Tensor]:
    """Read the tensors of a file. No code of it runs: `torch.load(weights_only=True)`.

    Arguments:
        file: a .safetensors file, a .pt or .ckpt file of a state dict, or a .zip with one of them.
    Returns:
        The tensors, on the CPU.
    Raises:
        ValueError: the file needs code to be read, is damaged, or holds something else.
    """
    if file.suffix == ".zip":
        return _unpacked(file)
    if file.suffix == ".safetensors":
        try:
            return load_file(file)
        except safetensors.SafetensorError as error:
            raise ValueError(f"{file} is not a safetensors file: {_line(error)}") from error
    try:
        mapped = zipfile.is_zipfile(file)  # files of torch before 1.6 cannot be mapped
        quiet = warnings.catch_warnings(action="ignore")  # torch warns, then refuses
        with quiet, torch.serialization.safe_globals(_INERT):
            found: Any = torch.load(file, map_location="cpu", weights_only=True, mmap=mapped)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{file} is refused: reading it would run its code, or it is damaged; delete it and "
            "fetch it again, or, if you trust it, save its state dict as .safetensors in a "
            f"throw-away environment and add that: {_way_out(file)}"
        ) from error
    except Exception as error:  # a damaged pickle raises almost any error
        raise ValueError(f"{file} is damaged or no torch file: {_line(error)}") from error
    for key in ("ema", "state_dict", "model"):  # a trainer's file has more than the weights
        if isinstance(found, dict) and isinstance(found.get(key), dict):
            found = found[key]
            break
    if not isinstance(found, dict) or not all(isinstance(v, Tensor) for v in found.values()):
        raise ValueError(
            f"{file} holds no plain state dict; save net.state_dict() with torch.save and add that"
        )
    if any(value.layout != torch.strided or value.is_meta for value in found.values()):
        raise ValueError(f"{file} holds sparse or meta tensors; save dense tensors and add that")
    return {str(key): value for key, value in found.items()}


def _way_out(file: Path) -> str:
    """The command for an environment that has the classes of the file. The user runs it."""
    code = (
        "import sys, torch; from safetensors.torch import save_file; "
        "w = torch.load(sys.argv[1], map_location='cpu', weights_only=False); "
        "w = next((w[k] for k in ('ema', 'state_dict', 'model') if k in w), w); "
        "save_file({k: v.clone().contiguous() for k, v in w.items()}, sys.argv[2])"
    )
    paths = shlex.join([str(file), str(file.with_suffix(".safetensors"))])
    return f'python -c "{code}" {paths}'


def _unpacked(file: Path) -> dict[str, Tensor]:
    """Read the one file of weights in an archive. It is unpacked beside the archive."""
    try:
        with (
            zipfile.ZipFile(file) as archive,
            tempfile.TemporaryDirectory(prefix=f".{file.stem}.", dir=file.parent) as scratch,
        ):
            names = [n for n in archive.namelist() if n.endswith((".ckpt", ".pt", ".safetensors"))]
            if len(names) != 1:
                raise ValueError(f"{file} holds {len(names)} files of weights; unpack it and add "
                                 "one of them")  # fmt: skip
            inside = Path(archive.extract(names[0], scratch))
            try:
                return read_weights(inside)
            except ValueError as error:
                why = str(error).replace(scratch, str(file.parent))
                raise ValueError(f"{file} unpacked: {why}") from error
    except (zipfile.BadZipFile, OSError) as error:
        raise ValueError(f"{file} is damaged, or cannot be unpacked: {_line(error)}") from error


def _line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
