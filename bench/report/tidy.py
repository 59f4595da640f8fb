"""`table.csv`: a row for each score of each planned cell, for pandas.

bench/docs/tables.md says what the columns mean.
"""

import re
from typing import Any

import pandas as pd

from bench.report.frame import Results

_PAIR = re.compile(r"(\w+)=([^,()=]+)")
_FIRST = ["experiment", "role", "key", "model", "sampler", "line", "baseline", "nfe", "nfe_counted",
          "block", "n", "seed_first", "seed_last", "guidance", "dtype", "quantiser", "device",
          "schedule", "schedule_class"]  # fmt: skip
_LAST = ["metric", "k", "value", "error", "low", "high", "features", "reference", "reference_n",
         "bank", "protocol"]  # fmt: skip
_WHOLE = ("nfe", "nfe_counted", "n", "seed_first", "seed_last", "k", "reference_n", "bank")


def tidy(results: Results) -> pd.DataFrame:
    """One row for each score. A cell that was not run has a row without value for each metric."""
    metrics = {one["name"]: one for one in results.plan["metrics"]}
    rows = []
    for row in results.plan["rows"]:
        about, scores = _about(results, row), results.scores(row)
        for name in scores or metrics:
            known = {"protocol": metrics[name]["identity"]} if name in metrics else {}
            rows.append(about | {"metric": name} | known | _score(scores.get(name, {})))
    found = pd.DataFrame(rows)
    parameters = sorted({*found.columns} - {*_FIRST, *_LAST})
    found = found.reindex(columns=[*_FIRST, *parameters, *_LAST])
    return found.astype({name: "Int64" for name in _WHOLE})


def _about(results: Results, row: dict[str, Any]) -> dict[str, Any]:
    """The columns of a planned cell. What only a record knows is left out before the run."""
    line, record = results.plan["lines"].get(row["line"], {}), results.records.get(row["key"])
    about = {name: row[name] for name in ("role", "key", "sampler", "line", "nfe", "block", "n")}
    about |= {"experiment": results.plan["experiment"], "model": line.get("model", row["model"]),
              "baseline": results.baseline(row["line"]) if line else None}  # fmt: skip
    if record is None:
        return about
    cell, (first, end) = record["cell"], record["cell"].get("seeds", (None, None))
    known = {name: cell.get(name) for name in ("model", "guidance", "dtype", "quantiser")}
    known |= {"nfe_counted": record["nfe"], "device": record["device"], "seed_first": first,
              "seed_last": None if end is None else end - 1,
              "schedule": cell["label"], "schedule_class": cell["schedule"]["class"]}  # fmt: skip
    of_schedule = parameters(cell["schedule"], cell["label"])
    of_sampler = parameters(cell["sampler"], row["sampler"])
    known |= {f"schedule_{name}": value for name, value in of_schedule.items()}
    return about | known | {f"sampler_{name}": value for name, value in of_sampler.items()}


def parameters(spec: Any, label: str = "") -> dict[str, Any]:
    """Parameter -> value, of a spec and of the specs in it; of a measurement its name.

    A spec leaves defaults out. A default that the label shows is taken from there.
    """
    found: dict[str, Any] = dict(_PAIR.findall(label))
    for name, value in spec["fields"].items() if isinstance(spec, dict) else ():
        if isinstance(value, dict) and "class" in value:
            measured = "digest" in value["fields"]
            found |= {} if measured else parameters(value)
            found[name] = value["fields"]["name"] if measured else value["class"]
        else:
            found[name] = " ".join(map(str, value)) if isinstance(value, list) else value
    return found


def _score(score: dict[str, Any]) -> dict[str, Any]:
    """The columns of a score. Empty: the cell was not run."""
    if not score:
        return {}
    low, high = score.get("interval_95", (None, None))
    k = re.search(r"\bk=(\d+)", score.get("text", ""))
    known = {name: score.get(name) for name in
             ("value", "error", "features", "reference", "reference_n", "bank")}  # fmt: skip
    other = {"protocol": score["converged"]} if "converged" in score else {}
    return known | other | {"low": low, "high": high, "k": int(k[1]) if k else None}
