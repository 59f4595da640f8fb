"""What lies in a file, told by its content. The suffix of a name is not trusted."""

import errno
import hashlib
import json
import zipfile
from pathlib import Path
from typing import Any, Literal

from bench.lazy import Tensor, torch
from bench.store import file_digest, in_a_line

Content = Literal["safetensors", "torch", "script", "zip", "pickle", "index", "unknown"]

_OLD_TORCH = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # the magic number of torch before 1.6
_LFS = b"version https://git-lfs"
_ARCHIVES = {  # first bytes -> the format, and the command that unpacks it
    b"\x1f\x8b": ("a gzip archive", "gunzip or tar -xzf"),
    b"BZh": ("a bzip2 archive", "bunzip2 or tar -xjf"),
    b"\xfd7zXZ": ("an xz archive", "unxz or tar -xJf"),
    b"\x28\xb5\x2f\xfd": ("a zstd archive", "unzstd"),
    b"7z\xbc\xaf\x27\x1c": ("a 7z archive", "7z x"),
    b"Rar!": ("a RAR archive", "unrar x"),
}
_OTHERS = {
    b"\x89HDF": "an HDF5 file, as Keras writes", b"\x93NUMPY": "a NumPy array",
    b"GGUF": "a GGUF file of quantised weights",
}  # fmt: skip
_SHARDED = ("*.safetensors.index.json", "*.bin.index.json")
_ENDINGS = (".safetensors", ".pt", ".pth", ".ckpt", ".bin")


def content_of(path: Path) -> Content:
    """What a file of weights is.

    safetensors; torch, which `torch.load` reads; script, a program of TorchScript; zip, an archive
    of other files; pickle, which only code reads; index, which lists shards; unknown.

    Raises:
        ValueError: the path is no file that can be read, is empty, or is known to be no weights.
            The message says what it is and what to do.
    """
    head = _head(path)
    _refuse_others(path, head)
    if head[8:9] == b"{" and 0 < int.from_bytes(head[:8], "little") <= 10**8:
        return "safetensors"
    if head.startswith(b"PK"):
        return _zipped(path)
    if head.startswith(_OLD_TORCH):
        return "torch"
    if head[:1] == b"\x80" and head[1:2] in (b"\2", b"\3", b"\4", b"\5"):
        return "pickle"
    if head.removeprefix(b"\xef\xbb\xbf").lstrip()[:1] in (b"{", b"["):
        return _described(path)
    return "unknown"


def _head(path: Path) -> bytes:
    """The first bytes of a file. ValueError: there are none."""
    if path.is_dir():
        raise ValueError(_of_folder(path))
    if not path.is_file():
        raise ValueError(f"no file {path}; check the path")
    try:
        with open(path, "rb") as file:
            head = file.read(1024)
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}; check its rights") from error
    if not head:
        raise ValueError(f"{path} is empty; delete it and fetch it again")
    return head


def _of_folder(path: Path) -> str:
    """Why a folder is no file of weights, and what to do."""
    if (path / "model_index.json").is_file() or (path / "config.json").is_file():
        return f"{path} is a folder of diffusers, not a file; add it with --family diffusers"
    if any(path.glob("*.distcp")):
        return (
            f"{path} is a distributed checkpoint of torch; make one file of it: python -m "
            f"torch.distributed.checkpoint.format_utils dcp_to_torch {path} FILE.pt"
        )
    inside = sorted(p.name for p in path.iterdir() if p.suffix.lower() in _ENDINGS)
    listed = f"give one of its files: {', '.join(inside[:5])}" if inside else "it holds no weights"
    return f"{path} is a folder, not a file; {listed}"


def _refuse_others(path: Path, head: bytes) -> None:
    """Raise ValueError if a file is something else that often has the name of weights."""
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if text.startswith(_LFS):
        raise ValueError(f"{path} is a Git LFS pointer, not the weights; run git lfs pull in its "
                         "repository")  # fmt: skip
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head", b"<!--", b"<error")):
        raise ValueError(f"{path} is an HTML or XML page, not weights: the server sent an error or "
                         "a login; delete it and fetch it again")  # fmt: skip
    for magic, (what, command) in _ARCHIVES.items():
        if head.startswith(magic):
            raise ValueError(f"{path} is {what}; unpack it ({command} {path.name}) and add the "
                             "file of weights in it")  # fmt: skip
    if head[257:262] == b"ustar":
        raise ValueError(f"{path} is a tar archive; unpack it (tar -xf {path.name}) and add the "
                         "file of weights in it")  # fmt: skip
    for magic, what in _OTHERS.items():
        if head.startswith(magic):
            raise ValueError(f"{path} is {what}; save its tensors as .safetensors and add that")
    known = path.suffix.lower() in (".pkl", ".pickle") or head.startswith((b"PK", b"{", b"["))
    if not known and _is_text(head) and text[:1] not in (b"{", b"["):
        said = head.decode(errors="replace").split("\n")[0].strip()[:60]
        raise ValueError(f"{path} is not a safetensors file nor one of torch: it is text "
                         f"({said!r}); delete it and fetch it again")  # fmt: skip


def _is_text(head: bytes) -> bool:
    return all(32 <= byte < 127 or byte in b"\t\r\n" for byte in head.removeprefix(b"\xef\xbb\xbf"))


def _zipped(path: Path) -> Content:
    """Torch writes a zip too: with data.pkl, and constants.pkl if it is a program."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = {name.rpartition("/")[2] for name in archive.namelist()}
    except Exception as error:  # of a damaged zip zipfile raises nearly anything
        why = in_a_line(error)
        raise ValueError(f"{path} is damaged: it begins as a zip but cannot be opened ({why}); "
                         "fetch it again") from error  # fmt: skip
    if "data.pkl" in names:
        return "script" if "constants.pkl" in names else "torch"
    return "zip"


def _described(path: Path) -> Content:
    """Whether a JSON text is the index of shards."""
    found = read_json(path)
    if isinstance(found, dict) and isinstance(found.get("weight_map"), dict):
        return "index"
    raise ValueError(f"{path} is JSON text, not weights; give the file of weights beside it")


def read_json(path: Path) -> Any:
    """Read a JSON file that another program wrote. It may begin with a byte order mark.

    ValueError: the file is missing, cannot be read or is no JSON.
    """
    try:
        return json.loads(path.read_bytes().decode("utf-8-sig"))
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        why = in_a_line(error)
        raise ValueError(f"{path} is not valid JSON ({why}); fetch it again") from error


def weights_file(path: Path) -> Path:
    """The file that a path stands for: itself, or the index of shards in a folder."""
    if path.is_dir():
        for pattern in _SHARDED:
            found = sorted(path.glob(pattern))
            if len(found) == 1:
                return found[0]
    return path


def shards(index: Path) -> dict[str, list[str]]:
    """The shards of an index, such as model.safetensors.index.json: the name of each shard, beside
    the index -> the names of its tensors.

    ValueError: the index is damaged, or a shard is missing.
    """
    found: dict[str, list[str]] = {}
    content = read_json(index)
    placed = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(placed, dict) or not placed:
        raise ValueError(f"{index} is no index of shards: it has no weight_map")
    for key, name in placed.items():
        if not isinstance(name, str) or Path(name).name != name:
            raise ValueError(f"{index}: the shard of {in_a_line(key)} is no plain file name: "
                             f"{in_a_line(repr(name))}")  # fmt: skip
        found.setdefault(name, []).append(key)
    missing = sorted(name for name in found if not (index.parent / name).is_file())
    if missing:
        raise ValueError(f"{index}: {len(missing)} shards are missing, such as "
                         f"{in_a_line(missing[0])}; fetch them into {index.parent}")  # fmt: skip
    return dict(sorted(found.items()))


def published_digest(path: Path) -> str:
    """The SHA-256 of a file. Of an index of shards: of the digests of all files, a line each."""
    if not path.name.endswith(".index.json"):
        return file_digest(path)
    each = [path, *(path.parent / name for name in shards(path))]
    return hashlib.sha256("\n".join(map(file_digest, each)).encode()).hexdigest()


def check_finite(where: object, weights: dict[str, Tensor]) -> None:
    """Raise ValueError, with the tensor's name, if a weight is NaN or infinite as float32, or if
    all weights are 0, as those of a moving average that was never updated."""
    if weights and not any(bool(value.float().any()) for value in weights.values()):
        raise ValueError(f"{where}: all weights are 0, so every image would be wrong; take weights "
                         "that were trained")  # fmt: skip
    for key, value in weights.items():
        if value.is_floating_point() and not torch.isfinite(value.float()).all():
            what = "NaN" if torch.isnan(value.float()).any() else "infinite numbers"
            raise ValueError(
                f"{where}: {key} holds {what}, so every image would be wrong; take weights that "
                "were saved earlier, or fetch the file again"
            )


def unwritable(folder: Path, error: Exception, way: str) -> ValueError:
    """The error that says why a folder cannot be written."""
    number, said = (error.errno, error.strerror) if isinstance(error, OSError) else (None, None)
    why = (said or str(error)).splitlines()[0]
    if number in (errno.ENOSPC, errno.EDQUOT) or "os error 28" in why:
        return ValueError(f"{folder} cannot be written: no space is left on its disk ({why}); "
                          f"make room, or {way}")  # fmt: skip
    return ValueError(f"{folder} cannot be written: {why}; {way}")
