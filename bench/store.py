"""Keys and records: one JSON file a cell, written whole or not at all. Standard library only."""

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def digest(content: Any) -> str:
    """SHA-256 of the canonical JSON of `content`, first 20 hex digits: the identity of a cell."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:20]


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes, 64 hex digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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
    except BaseException:
        Path(name).unlink(missing_ok=True)
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
    """A JSON file; ValueError naming the file where it cannot be read."""
    try:
        return json.loads(Path(path).read_text())
    except ValueError as error:  # not JSON, or not text
        raise ValueError(f"{path} is not valid JSON ({error}); delete it and run again") from error


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


def save_record(folder: Path, record: Mapping[str, Any], strip: bytes | None) -> Path:
    """Write one cell's record and its picture strip; the record last, so it marks completion."""
    if strip is not None:
        write_bytes(folder / "records" / f"{record['key']}.png", strip)
    return write_json(folder / "records" / f"{record['key']}.json", record)


def load_records(folder: Path) -> dict[str, dict[str, Any]]:
    """All finished records of an experiment folder, by key."""
    found = {path.stem: read_json(path) for path in sorted((folder / "records").glob("*.json"))}
    for key, record in found.items():
        if record.get("key") != key:
            raise ValueError(f"{folder}/records/{key}.json holds the record of another cell")
    return found


def has_record(folder: Path, key: str) -> bool:
    """Whether that cell is finished."""
    return (folder / "records" / f"{key}.json").is_file()


def save_plan(folder: Path, plan: Mapping[str, Any]) -> Path:
    """Write what the experiment asks for: its rows, what was chosen, the rates it used."""
    return write_json(folder / "plan.json", plan)


def load_plan(folder: Path) -> dict[str, Any]:
    """The plan of an experiment folder; ValueError if it was never run."""
    path = folder / "plan.json"
    if not path.is_file():
        raise ValueError(f"{folder} holds no plan.json; first: crs-bench run {folder.name}")
    return read_json(path)
