"""What `crs-bench sample` writes beside its images, so that a folder knows what it holds."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from bench.store import in_a_line, write_json

MANIFEST = "crs-bench.json"
_CHOICES = ("model", "model_digest", "sampler", "schedule", "nfe", "guidance", "dtype", "quantiser")


def read_manifest(path: Path) -> dict[str, Any]:
    """The manifest of a folder, or of an .npz.

    Raises:
        ValueError: a file that is no manifest.
    """
    file = path / MANIFEST if path.is_dir() else path
    try:
        if path.is_dir():
            return parsed_manifest(file.read_text(encoding="utf-8-sig"))
        with np.load(path) as arrays:
            return parsed_manifest(str(arrays["manifest"]))
    except Exception as error:  # of a damaged file zipfile and numpy raise nearly anything
        why = in_a_line(error)
        raise ValueError(f"{file} holds no manifest of crs-bench ({why}); delete or rename it "
                         "if it is something else") from error  # fmt: skip


def parsed_manifest(text: str) -> dict[str, Any]:
    """The manifest of a JSON text. Nearly any exception: the text is none."""
    content = json.loads(text)
    return {**content, "seeds": [(int(a), int(b)) for a, b in content["seeds"]]}


def joined(old: dict[str, Any] | None, new: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The manifest of a folder with the images of another run of the same choices.

    Raises:
        ValueError: the folder holds images of other choices.
    """
    if old is None:
        return new
    if old.get("key") != new["key"]:
        was = {name: old.get(name) for name in _CHOICES}
        differ = [f"{name} {value}" for name, value in was.items() if value != new.get(name)]
        raise ValueError(f"{folder} holds images of another run ({', '.join(differ) or 'other'}); "
                         "choose another place, or delete it")  # fmt: skip
    return {**new, "seeds": merged_spans([*old["seeds"], *new["seeds"]])}


def merged_spans(spans: list[Any]) -> list[list[int]]:
    """Half-open ranges of seeds, sorted, with those that touch or overlap as one."""
    found: list[list[int]] = []
    for start, stop in sorted((int(a), int(b)) for a, b in spans):
        if found and start <= found[-1][1]:
            found[-1][1] = max(found[-1][1], stop)
        else:
            found.append([start, stop])
    return found


def write_manifest(folder: Path, content: dict[str, Any]) -> Path:
    """Write the manifest of a folder."""
    return write_json(folder / MANIFEST, content)
