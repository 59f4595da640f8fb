"""Files of weights, read strictly: the digest, every key and every shape are checked first."""

import re
from pathlib import Path

import safetensors
from safetensors.torch import load_file, save_file
from torch import Tensor

from bench.store import file_digest

WEIGHTS = "model.safetensors"
_OLD = re.compile(r"(attentions\.\d+)\.(query|key|value|proj_attn)\.(weight|bias)")
_NEW = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


def current(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename tensors to diffusers' names of today. Its files of 2022, such as the autoencoders of
    Stable Diffusion, have other names for attention."""
    return {
        _OLD.sub(lambda found: f"{found[1]}.{_NEW[found[2]]}.{found[3]}", key): value
        for key, value in weights.items()
    }


def read_strict(path: Path, name: str, sha256: str, want: dict[str, Tensor]) -> dict[str, Tensor]:
    """Read a safetensors file, as float32.

    Arguments:
        path: the file.
        name: the model's name, for messages.
        sha256: the digest that the file must have.
        want: a state dict whose keys and shapes the file must have.
    Returns:
        The state dict.
    Raises:
        ValueError: the file is missing or damaged, has another SHA-256, or has keys that are
            missing, extra or mis-shaped.
    """
    if not path.is_file():
        raise ValueError(f"{name}: weights {path} are missing")
    if file_digest(path) != sha256:
        raise ValueError(
            f"{name}: {path} is not the file its card names (SHA-256 differs); fetch it again"
        )
    try:
        have = current(load_file(path))
    except safetensors.SafetensorError as error:
        raise ValueError(f"{name}: {path} is not a safetensors file ({error})") from error
    wrong = sorted(
        key
        for key in want.keys() | have.keys()
        if key not in want or key not in have or want[key].shape != have[key].shape
    )
    if wrong:
        listed = ", ".join(wrong[:5]) + (", ..." if len(wrong) > 5 else "")
        raise ValueError(f"{name}: {len(wrong)} keys are missing, extra or mis-shaped: {listed}")
    return {key: value.float() for key, value in have.items()}


def write_half(path: Path, weights: dict[str, Tensor]) -> str:
    """Write fp16 safetensors and return their SHA-256. The file appears when it is complete."""
    half = {key: value.detach().cpu().half().contiguous() for key, value in weights.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}")
    save_file(half, temporary)
    temporary.chmod(0o644)  # safetensors lets only the owner read its files
    temporary.replace(path)
    return file_digest(path)
