"""Rates and costs as small JSON files: `models/MODEL/measures/NAME.json`."""

import keyword
import math
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench import store
from bench.types import Costs, Rate

_EXACT, _SHORT = 17, 6  # significant digits: every bit of a float64; of replicates and costs


def path_of(folder: Path, name: str) -> Path:
    """The file of a rate or of costs in a model folder."""
    return folder / "measures" / f"{name}.json"


def _written(values: np.ndarray, digits: int = _EXACT) -> list[Any]:
    """Nested numbers; None stands for infinity, which JSON does not have."""
    if values.ndim > 1:
        return [_written(row, digits) for row in values]
    return [float(f"{v:.{digits}g}") if math.isfinite(v) else None for v in values.tolist()]


def _array(values: list[Any]) -> np.ndarray:
    def read(value: Any) -> Any:
        if isinstance(value, list):
            return [read(one) for one in value]
        return math.inf if value is None else value

    return np.array(read(values), dtype=np.float64)


def to_json(found: Rate | Costs, digits: int = _EXACT) -> dict[str, Any]:
    """A rate or costs as JSON content.

    Arguments:
        digits: significant digits of replicates and costs; all other numbers keep every bit.
    """
    content: dict[str, Any] = {"kind": type(found).__name__.lower(), "name": found.name}
    content |= {"sigma": _written(found.sigma)}
    if isinstance(found, Costs):
        rows = [_written(row[i + 1 :], digits) for i, row in enumerate(found.cost[:-1])]
        content |= {"coefficient": found.coefficient, "cost": rows}
    else:
        content |= {"v": _written(found.v)}
        if found.replicates is not None:
            content |= {"replicates": _written(found.replicates, digits)}
    return content | {"provenance": found.provenance}


def from_json(content: Any) -> Rate | Costs:
    """The inverse of `to_json`. Content without a "kind" is recognised by its fields.

    Raises:
        ValueError: the content is no rate and no costs.
    """
    try:
        return _parsed(content)
    except Exception as error:  # of numbers of any size and lists of any shape numpy raises more
        raise ValueError(store.in_a_line(error)) from error


def _parsed(content: Any) -> Rate | Costs:
    kind = content.get("kind", "costs" if "cost" in content else "rate")
    name, sigma, provenance = (content[key] for key in ("name", "sigma", "provenance"))
    if not isinstance(name, str) or not isinstance(provenance, dict):
        raise ValueError("its name is no text, or its provenance is no object")
    if kind == "rate":
        rows = content.get("replicates")
        v, replicates = _array(content["v"]), _array(rows) if rows else None
        return Rate(name, _array(sigma), v, provenance, replicates)
    if kind != "costs":
        raise ValueError(f"unknown kind {kind!r}; known: rate, costs")
    rows, n = content["cost"], len(sigma)
    if [len(row) for row in rows] != list(range(n - 1, 0, -1)):
        raise ValueError(f"{len(rows)} rows are no triangle over {n} levels")
    cost = _array([[0.0] * (i + 1) + row for i, row in enumerate(rows)] + [[0.0] * n])
    return Costs(name, _array(sigma), cost, float(content["coefficient"]), provenance)


def save(path: Path, found: Rate | Costs) -> Path:
    """Write a rate or costs. Replicates and costs are rounded to six digits.

    Returns:
        The path.
    """
    return store.write_json(path, to_json(found, _SHORT))


def load(path: Path) -> Rate | Costs:
    """Read a rate or costs.

    Raises:
        ValueError: the file is missing, or it holds something else.
    """
    path = Path(path)
    inside = path.parent.name == "measures"
    whose = path.parent.parent.name if inside else "MODEL"
    again = f"crs-bench measure {whose} --measure MEASURE"
    again += f" --name {path.stem}" if inside else f" --out {shlex.quote(str(path))}"
    if not path.is_file():
        raise ValueError(f"{path} does not exist; measure it first: {again}")
    content = store.read_json(path)
    try:
        return from_json(content)
    except ValueError as error:
        raise ValueError(
            f"{path} holds no rate and no costs ({error}); delete it and measure again: {again}"
        ) from error


def load_rate(path: Path) -> Rate:
    """`load` for a file that must hold a rate."""
    found = load(path)
    if not isinstance(found, Rate):
        raise ValueError(f"{path} holds costs, not a rate; read it with load_costs")
    return found


def load_costs(path: Path) -> Costs:
    """`load` for a file that must hold costs."""
    found = load(path)
    if not isinstance(found, Costs):
        raise ValueError(f"{path} holds a rate, not costs; read it with load_rate")
    return found


def measured(*folders: Path) -> dict[str, Rate | Costs]:
    """All rates and costs of a model, by name.

    Arguments:
        folders: that may hold measurements of it, or files of one measurement each; a name is taken
            from the first that has it.

    Raises:
        ValueError: two files of a folder hold the same name, or a file holds something else.
    """
    found: dict[str, Rate | Costs] = {}
    for folder in reversed(folders):
        here: dict[str, Rate | Costs] = {}
        alone = folder.suffix.lower() == ".json"  # a missing one is said by `load`
        for path in [folder] if alone else sorted((folder / "measures").glob("*.json")):
            one = load(path)
            if one.name in here:
                raise ValueError(f"{path} holds {one.name!r}, and so does another file of this "
                                 "folder; delete one of them")  # fmt: skip
            here[one.name] = one
        found |= here
    return found


def find(folders: Sequence[Path], name: str) -> Any:
    """The rate or costs of a model by name.

    Arguments:
        folders: that may hold measurements of it, as of `checkpoints.Models.homes`.

    Raises:
        ValueError: none of that name.
    """
    known = measured(*folders)
    if name not in known:
        here = ", ".join(known) or "none"
        raise ValueError(f"{folders[0].name} has no measurement {name!r} (known: {here}); see "
                         "crs-bench measure --help")  # fmt: skip
    return known[name]


def check_free(folder: Path, name: str, provenance: dict[str, Any]) -> Path:
    """The file for a new measurement in a model folder.

    Arguments:
        folder: of the model.
        provenance: as of `planned`, what the new file will be measured from.

    Raises:
        ValueError: the name is no plain name; and as `check_same`.
    """
    if not name.isidentifier() or keyword.iskeyword(name):  # no schedule could name it
        raise ValueError(f"{name!r} is no name for a rate or for costs: write letters, digits and "
                         "_ only, no digit first, and no word of Python")  # fmt: skip
    return check_same(path_of(folder, name), provenance, "--name NAME")


def check_same(path: Path, provenance: dict[str, Any], beside: str = "another --out") -> Path:
    """A file that is missing, or that was measured from the same.

    Raises:
        ValueError: the file was measured otherwise; it is not overwritten.
    """
    if not path.is_file():
        return path
    old = load(path).provenance
    other = [f"{key} is {old.get(key)}, not {value}" for key, value in provenance.items()
             if old.get(key) != value]  # fmt: skip
    if other:
        raise ValueError(f"{path} exists and was measured otherwise ({'; '.join(other)}): write "
                         f"the new one beside it with {beside}, or delete the file")  # fmt: skip
    return path
