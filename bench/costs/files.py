"""Costs as small JSON files: `models/<name>/costs/<costs>.json`, one row of the triangle a line."""

import json
from pathlib import Path
from typing import Any

import torch

from bench import store
from bench.types import Costs


def to_text(costs: Costs) -> str:
    """JSON: levels with every bit, costs above the diagonal with six digits."""
    n = len(costs.sigma)
    rows = [
        "[" + ", ".join(f"{value:.6g}" for value in costs.cost[i, i + 1 :].tolist()) + "]"
        for i in range(n - 1)
    ]
    head = {"name": costs.name, "coefficient": costs.coefficient, "sigma": costs.sigma.tolist()}
    lines = [f'"{key}": {json.dumps(value)}' for key, value in head.items()]
    lines.append('"cost": [\n' + ",\n".join(rows) + "\n]")
    lines.append(f'"provenance": {json.dumps(costs.provenance, indent=1)}')
    return "{\n" + ",\n".join(lines) + "\n}\n"


def from_json(content: Any) -> Costs:
    """The inverse of `to_text`, parsed; KeyError, TypeError or ValueError for anything else."""
    sigma, rows = content["sigma"], content["cost"]
    if [len(row) for row in rows] != list(range(len(sigma) - 1, 0, -1)):
        raise ValueError(f"{len(rows)} rows are no triangle over {len(sigma)} levels")
    full = [[0.0] * (i + 1) + row for i, row in enumerate(rows)] + [[0.0] * len(sigma)]
    return Costs(
        content["name"],
        torch.tensor(sigma, dtype=torch.float64),
        torch.tensor(full, dtype=torch.float64),
        float(content["coefficient"]),
        content["provenance"],
    )


def save_costs(path: Path, costs: Costs) -> Path:
    """Write costs as a small JSON file."""
    return store.write_text(path, to_text(costs))


def load_costs(path: Path) -> Costs:
    """Read costs; ValueError naming the file if it is missing or holds none."""
    if not Path(path).is_file():
        model, name = Path(path).parent.parent.name, Path(path).stem
        raise ValueError(f"no costs {path}; first: crs-bench measure {model} --measure {name}")
    content = store.read_json(path)
    try:
        return from_json(content)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"{path} is not a costs file ({error}); measure them again") from error


def measured(folder: Path) -> dict[str, Costs]:
    """All costs of a model folder, by name: those of `folder/costs/*.json`."""
    found = [load_costs(path) for path in sorted((folder / "costs").glob("*.json"))]
    return {costs.name: costs for costs in found}
