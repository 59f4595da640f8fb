"""Files of weights, read strictly: the digest, every key and every shape are checked first."""

import hashlib
import re
from collections.abc import Callable
from pathlib import Path

import safetensors

from bench.checkpoints.files import check_finite, content_of, shards, unwritable
from bench.lazy import Tensor
from bench.store import file_digest, first_line, in_a_line, some

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


def loaded(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file. ValueError: it is none, or is damaged."""
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except Exception as error:  # of a damaged file safetensors and torch raise nearly anything
        raise ValueError(f"{path} is not a safetensors file, or is damaged: {first_line(error)}; "
                         "fetch it again") from error  # fmt: skip


def joined(index: Path, read: Callable[[Path], dict[str, Tensor]] = loaded) -> dict[str, Tensor]:
    """The tensors of all shards that an index lists. read: file of a shard -> its tensors.

    ValueError: a shard is missing, cannot be read, or holds other tensors.
    """
    found: dict[str, Tensor] = {}
    for name, keys in shards(index).items():
        part = read(index.parent / name)
        if part.keys() != set(keys):
            one = in_a_line(min(part.keys() ^ set(keys)))
            raise ValueError(f"{index}: {name} holds other tensors than the index says, such as "
                             f"{one}; fetch both again")  # fmt: skip
        found |= part
    return found


def one_digest(path: Path) -> str:
    """The SHA-256 of a file. Of an index: of the one file that its shards make."""
    if not path.name.endswith(".index.json"):
        return file_digest(path)
    from safetensors.torch import save

    return hashlib.sha256(save(joined(path))).hexdigest()


def read_strict(path: Path, name: str, sha256: str, want: dict[str, Tensor]) -> dict[str, Tensor]:
    """Read a safetensors file, as float32.

    Arguments:
        path: the file, or an index of shards.
        name: the model's name, for messages.
        sha256: the digest that the file must have.
        want: a state dict whose keys and shapes the file must have.
    Raises:
        ValueError: the file is missing or damaged, has another SHA-256, has keys that are
            missing, extra or mis-shaped, or has integer, NaN or infinite weights.
    """
    if not path.exists():
        raise ValueError(f"{name}: weights {path} are missing")
    try:
        content_of(path)
        if one_digest(path) != sha256:
            raise ValueError(
                f"{path} is not the file its card names (SHA-256 differs); fetch it again"
            )
        have = current(joined(path) if path.name.endswith(".index.json") else loaded(path))
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
    _check_like(name, have, want)
    found = {key: x.float() if want[key].is_floating_point() else x for key, x in have.items()}
    check_finite(f"{name}: {path}", found)
    return found


def _check_like(name: str, have: dict[str, Tensor], want: dict[str, Tensor]) -> None:
    """Raise ValueError unless the tensors have the keys, the shapes and the kind of number."""
    wrong = sorted(
        key
        for key in want.keys() | have.keys()
        if key not in want or key not in have or want[key].shape != have[key].shape
    )
    if wrong:
        raise ValueError(f"{name}: {len(wrong)} keys are missing, extra or mis-shaped: "
                         f"{some(wrong)}")  # fmt: skip
    for key, value in have.items():
        if want[key].is_floating_point() and not value.is_floating_point():
            raise ValueError(f"{name}: {key} is {value.dtype}, of a quantised model; save the "
                             "weights as float16 or float32 first")  # fmt: skip


def write_half(path: Path, weights: dict[str, Tensor]) -> str:
    """Write fp16 safetensors and return their SHA-256. The file appears when it is complete.

    ValueError: a weight is NaN, or is too large for float16; or the disk is full.
    """
    from safetensors.torch import save_file

    half = {key: value.detach().cpu().half().contiguous() for key, value in weights.items()}
    check_finite(f"{path}, in float16", half)
    temporary = path.with_name(f".{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(half, temporary)
        temporary.chmod(0o644)  # safetensors lets only the owner read its files
        temporary.replace(path)
    except (OSError, safetensors.SafetensorError) as error:
        raise unwritable(path, error, "choose another folder") from error
    finally:
        temporary.unlink(missing_ok=True)
    return file_digest(path)
