"""Rates as small JSON files: `models/<name>/rates/<rate>.json`."""

import math
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench import store
from bench.types import Rate


def _written(values: Tensor) -> list[Any]:
    """Numbers; None for infinity, which JSON does not have."""
    if values.ndim > 1:
        return [_written(row) for row in values]
    return [value if math.isfinite(value) else None for value in values.tolist()]


def _tensor(values: list[Any]) -> Tensor:
    rows = [[math.inf if v is None else v for v in row] for row in values] if (
        values and isinstance(values[0], list)
    ) else [math.inf if v is None else v for v in values]  # fmt: skip
    return torch.tensor(rows, dtype=torch.float64)


def to_json(rate: Rate) -> dict[str, Any]:
    """A rate as JSON content, every bit kept."""
    content = {"name": rate.name, "sigma": _written(rate.sigma), "v": _written(rate.v)}
    if rate.replicates is not None:
        content["replicates"] = _written(rate.replicates)
    return content | {"provenance": rate.provenance}


def from_json(content: Any) -> Rate:
    """The inverse of `to_json`; KeyError, TypeError or ValueError for anything else."""
    replicates = content.get("replicates")
    return Rate(
        content["name"],
        _tensor(content["sigma"]),
        _tensor(content["v"]),
        content["provenance"],
        _tensor(replicates) if replicates else None,
    )


def save_rate(path: Path, rate: Rate) -> Path:
    """Write a rate as a small JSON file; bootstrap replicates with six digits."""
    content = to_json(rate)
    if rate.replicates is not None:
        content["replicates"] = [
            [v if v is None else float(f"{v:.6g}") for v in row] for row in content["replicates"]
        ]
    return store.write_json(path, content)


def check_free(folder: Path, name: str, said: dict[str, Any]) -> None:
    """ValueError unless `folder/rates/name.json` may be written: a plain name, and none there or
    one whose provenance agrees with `said`."""
    if name and not re.fullmatch(r"\w[\w.+-]*", name):
        raise ValueError(f"{name!r} is no name for a rate: letters, digits, _ . + - alone")
    path = folder / "rates" / f"{name}.json"
    if not path.is_file():
        return
    old = load_rate(path).provenance
    other = [f"{key} {old.get(key)}, not {value}" for key, value in said.items()
             if old.get(key) != value]  # fmt: skip
    if other:
        raise ValueError(f"{path} is there, of {'; '.join(other)}: give --name for another beside "
                         "it, or delete it")  # fmt: skip


def load_rate(path: Path) -> Rate:
    """Read a rate; ValueError naming the file if it is missing or no rate."""
    if not Path(path).is_file():
        model = Path(path).parent.parent.name
        raise ValueError(f"no rate {path}; first: crs-bench measure {model}")
    content = store.read_json(path)
    try:
        return from_json(content)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"{path} is not a rate file ({error}); measure it again") from error


def measured(folder: Path) -> dict[str, Rate]:
    """All rates of a model folder, by name: those of `folder/rates/*.json`."""
    found = [load_rate(path) for path in sorted((folder / "rates").glob("*.json"))]
    return {rate.name: rate for rate in found}
