"""Keys and records: one JSON file a cell, whole or absent, or all of them packed in one file.

Images have a key and scores have another: the key of a score is made of the images' key and of the
identity of the metric with its extractor and reference. Standard library only.
"""

import gzip
import hashlib
import json
import math
import os
import shutil
import tempfile
import zlib
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any


def digest(content: Any) -> str:
    """SHA-256 of the canonical JSON of `content`, first 20 hex digits: an identity.

    Raises:
        ValueError: NaN or infinity in the content.
    """
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:20]


def score_key(images: str, metric: str) -> str:
    """The key of a score, of the key of a cell and the identity of a metric (`Judge.identity`)."""
    return digest({"images": images, "metric": metric})


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes, 64 hex digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def in_a_line(said: object) -> str:
    """A text, or the message of an error, as one line of at most 500 characters."""
    text = " ".join(str(said).split())
    if isinstance(said, KeyError | RecursionError) or (isinstance(said, Exception) and not text):
        text = f"{type(said).__name__} {text}".strip()
    return text if len(text) <= 500 else f"{text[:500]}..."


def first_line(error: Exception) -> str:
    """The first line of an error's message, or its kind; at most 500 characters."""
    return in_a_line((str(error).splitlines() or [type(error).__name__])[0])


def some(names: Sequence[str], most: int = 5) -> str:
    """The first names of a list, with commas; "..." stands for the rest."""
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")


def check_folder_name(name: str, what: str) -> None:
    """Raise ValueError unless a name is that of one folder, which is neither hidden nor above."""
    plain = name and Path(name).name == name and name.isprintable() and name.strip() == name
    if not plain or name.startswith(".") or "\\" in name:
        raise ValueError(f"{what} {name!r}: write a plain folder name, such as my-horse")


def write_bytes(path: Path, data: bytes) -> Path:
    """Write a file so that it is seen whole or not at all, even through SIGKILL or a power cut."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException as error:
        Path(name).unlink(missing_ok=True)
        if isinstance(error, OSError):  # a full disk names no file
            error.filename = str(path)
        raise
    return path


def write_text(path: Path, text: str) -> Path:
    """`write_bytes` for UTF-8 text."""
    return write_bytes(path, text.encode())


def write_json(path: Path, content: Mapping[str, Any]) -> Path:
    """`write_bytes` for JSON, a line an entry; NaN is an error: such a score is no score."""
    lines = (f" {json.dumps(k)}: {json.dumps(v, allow_nan=False)}" for k, v in content.items())
    return write_text(path, "{\n" + ",\n".join(lines) + "\n}\n")


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file; ValueError naming the file where it cannot be read, or holds no object."""
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:  # not JSON, not text, or nested without end
        why = in_a_line(error)
        raise ValueError(f"{path} is not valid JSON ({why}); delete it and run again") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds no JSON object, which begins with {{; delete it and run "
                         "again")  # fmt: skip
    return content


def check_writable(folder: Path) -> None:
    """Raise ValueError now if `folder` cannot take records, rather than after an hour's work."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        why = error.strerror or error
        raise ValueError(
            f"results folder {folder} cannot be written ({why}); choose another with --results"
        ) from error


def check_output(path: Path) -> Path:
    """Check, before any expensive work, that a file can be written; nothing is left behind.

    Raises:
        ValueError: a folder that cannot be written, or a file where a folder should be.
    """
    folder = path.parent
    while not folder.exists():
        folder = folder.parent
    try:
        if path.is_dir():
            raise IsADirectoryError(0, "it is a folder")
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        why = error.strerror or error
        raise ValueError(f"{path} cannot be written ({why}); choose another place") from error
    return path


def save_record(folder: Path, record: Mapping[str, Any], strip: bytes | None) -> Path:
    """Write the record of a cell and its strip of pictures.

    The record is written last, so that it says that the cell is complete.
    """
    if strip is not None:
        write_bytes(folder / "records" / f"{record['key']}.png", strip)
    return write_json(folder / "records" / f"{record['key']}.json", record)


def pack_records(folder: Path) -> Path:
    """Gather the records of a folder in one compressed file and delete the single files.

    It has a tenth of the bytes, a record a line; the plan is compressed too. Both are read as
    before. A record that is written later replaces the packed one of its key.
    """
    records = load_records(folder)
    path = _write_pack(folder, records)
    for key in records:
        (folder / "records" / f"{key}.json").unlink(missing_ok=True)
    plan = folder / "plan.json"
    if plan.is_file():
        write_bytes(folder / _PLAN, gzip.compress(plan.read_bytes(), mtime=0))
        plan.unlink()
    return path


def _write_pack(folder: Path, records: Mapping[str, Any]) -> Path:
    lines = "".join(json.dumps(records[key]) + "\n" for key in sorted(records))
    return write_bytes(folder / "records" / _PACK, gzip.compress(lines.encode(), mtime=0))


def delete_record(folder: Path, key: str) -> None:
    """Delete all of a cell that a folder has: its record, its strip, its shards and its images."""
    for name in ("shards", "converged"):
        shutil.rmtree(folder / name / key, ignore_errors=True)
    packed = dict(_packed(folder))
    if packed.pop(key, None) is not None:
        _write_pack(folder, packed)
    for tail in ("json", "png"):
        (folder / "records" / f"{key}.{tail}").unlink(missing_ok=True)


def load_records(folder: Path) -> dict[str, dict[str, Any]]:
    """All finished records of an experiment folder, by key."""
    found = dict(_packed(folder))
    for path in sorted((folder / "records").glob("*.json")):
        found[path.stem] = _record(path)
    return found


def _record(path: Path) -> dict[str, Any]:
    record = read_json(path)
    if record.get("key") != path.stem:
        raise ValueError(f"{path} holds the record of another cell")
    try:
        return _checked(record)
    except _DAMAGE as error:
        why = in_a_line(error)
        raise ValueError(f"{path} is damaged ({why}); delete it and run again") from error


def _checked(record: dict[str, Any]) -> dict[str, Any]:
    """The record. One of `_DAMAGE`: a score of it is no finite number."""
    for one in dict(record.get("scores", {})).values():
        value = one.get("value", 0) if isinstance(one, dict) else one  # studies nest their scores
        if not math.isfinite(value):
            raise ValueError(f"a score is {value}")
    return record


def load_record(folder: Path, key: str) -> dict[str, Any] | None:
    """The record of a cell; None if there is none."""
    path = folder / "records" / f"{key}.json"
    return _record(path) if path.is_file() else _packed(folder).get(key)


def has_record(folder: Path, key: str) -> bool:
    """Whether a cell has a record."""
    return (folder / "records" / f"{key}.json").is_file() or key in _packed(folder)


PLAN_VERSION = 2
_PACK = "records.jsonl.gz"
_PLAN = "plan.json.gz"
_MOST = 2**29  # bytes that a packed file unpacks to; more is damage


def _packed(folder: Path) -> dict[str, dict[str, Any]]:
    """The records of a folder's compressed file, if it has one."""
    path = folder / "records" / _PACK
    return _unpacked(path, path.stat().st_mtime_ns) if path.is_file() else {}


@lru_cache(maxsize=4)
def _unpacked(path: Path, changed: int) -> dict[str, dict[str, Any]]:
    try:
        records = [json.loads(line) for line in _inflated(path).splitlines()]
        found = {str(record["key"]): _checked(dict(record)) for record in records}
        if odd := [key for key in found if Path(key).name != key]:  # a key is a file's name
            raise ValueError(f"{odd[0]!r} is no key")
        return found
    except _DAMAGE as error:
        why = in_a_line(error)
        raise ValueError(f"{path} is damaged ({why}); fetch it again or delete it") from error


_DAMAGE = (OSError, EOFError, zlib.error, ValueError, KeyError, TypeError, RecursionError)


def _inflated(path: Path) -> bytes:
    """The content of a .gz. ValueError: it is longer than any that this package writes."""
    with gzip.open(path) as file:
        content = file.read(_MOST + 1)
    if len(content) > _MOST:
        raise ValueError(f"it unpacks to more than {_MOST:,} bytes")
    return content


def save_plan(folder: Path, plan: Mapping[str, Any]) -> Path:
    """Write what the experiment asks for: its rows, lines, metrics, choices and rates."""
    return write_json(folder / "plan.json", {"version": PLAN_VERSION, **plan})


def has_plan(folder: Path) -> bool:
    """Whether the folder is that of an experiment that was planned."""
    return (folder / "plan.json").is_file() or (folder / _PLAN).is_file()


def is_packed(folder: Path) -> bool:
    """Whether the folder is that of an experiment that was packed, as shipped ones are."""
    return (folder / _PLAN).is_file()


def has_pack(folder: Path) -> bool:
    """Whether the records of a folder were packed."""
    return (folder / "records" / _PACK).is_file()


def load_plan(folder: Path) -> dict[str, Any]:
    """The plan of an experiment folder.

    Raises:
        ValueError: no plan, a damaged one, or one of another version.
    """
    path, packed = folder / "plan.json", folder / _PLAN
    if not has_plan(folder):
        raise ValueError(f"{folder} holds no plan.json; first: crs-bench run EXPERIMENT")
    if path.is_file():
        plan = read_json(path)
    else:
        try:
            plan = json.loads(_inflated(packed))
        except _DAMAGE as error:
            why = in_a_line(error)
            raise ValueError(f"{packed} is damaged ({why}); fetch it again or run again") from error
    if not isinstance(plan, dict) or plan.get("version") != PLAN_VERSION:
        raise ValueError(f"the plan in {folder} is of another version; the command "
                         "that ran it writes it again")  # fmt: skip
    return plan
