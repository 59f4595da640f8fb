"""Plans, records and published numbers of a results folder -> what the page shows, as JSON.

A row is one line at one NFE, over its seed blocks. Rows are compared only within a protocol: the
feature space, the reference, the number of images of a block, and the dtype of the network.
"""

import csv
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bench import store
from bench.report import published
from bench.report.frame import Results, Score, label
from bench.report.levels import Curve
from bench.report.lines import SAMPLERS, looks, parts_of
from bench.types.described import written

Row = dict[str, Any]
About = Callable[[str, str], dict[str, str]]  # (model, digest) -> its space and training law

UNKNOWN = {"space": "unknown", "law": "unknown"}
_GREY = "#777777"


@dataclass
class Content:
    """What the page shows.

    rows: one a line and NFE.
    protocols: what the numbers of `Row["protocol"]` stand for.
    metrics: key -> label, and whether higher is better.
    experiments: name -> title, note, rates and converged runs.
    records: experiment -> key -> the whole record.
    strips: key -> the folder's picture of the first images of a cell.
    """

    rows: list[Row] = field(default_factory=list)
    protocols: list[dict[str, Any]] = field(default_factory=list)
    metrics: dict[str, dict[str, Any]] = field(default_factory=dict)
    experiments: dict[str, dict[str, Any]] = field(default_factory=dict)
    records: dict[str, dict[str, Any]] = field(default_factory=dict)
    strips: dict[str, Path] = field(default_factory=dict)

    def number(self, protocol: dict[str, Any]) -> int:
        """The number of a protocol, which is added if it is new."""
        if protocol not in self.protocols:
            self.protocols.append(protocol)
        return self.protocols.index(protocol)


def collect(results: Path, about: About = lambda *_: UNKNOWN) -> Content:
    """Everything that a results folder holds, and the published numbers.

    Arguments:
        results: folder with one folder for each experiment.
        about: space (pixel or latent) and training law of a model.

    Raises:
        ValueError: there is no experiment with a record, or a plan or a record is damaged.
    """
    content = Content()
    found = {path.parent for path in results.glob("*/plan.json*")}
    for folder in sorted(one for one in found if store.has_plan(one)):
        plan, records = store.load_plan(folder), store.load_records(folder)
        try:
            _Shown(content, folder.name, Results(plan, records), about).add()
        except Exception as error:  # of content that no run wrote pandas raises anything
            raise ValueError(
                f"{folder}: the plan or a record is damaged ({type(error).__name__}: "
                f"{store.in_a_line(error)}); fetch the folder again, or delete it and run again"
            ) from error
        content.strips |= {path.stem: path for path in sorted((folder / "records").glob("*.png"))
                           if path.stem in records}  # fmt: skip
    if not content.rows:
        raise ValueError(f"no experiment in --results {results} has a record yet; first: crs-bench "
                         "run quick")  # fmt: skip
    _merge(content)
    _add_published(content, results)
    return content


@dataclass
class _Shown:
    """One experiment, on its way to the page."""

    content: Content
    name: str
    results: Results
    about: About

    def add(self) -> None:
        """Add its rows, its records and what stands around them."""
        plan, results = self.results.plan, self.results
        if not results.done:
            return
        self.content.rows += self.rows()
        self.content.records[self.name] = {one["key"]: one for one in results.done}
        rates = [_curve(rate) for rate in plan["rates"]]
        fine = [{"model": row["model"], "n": row["n"], "sampler": row["sampler"],
                 "nfe": row["nfe"], "key": row["key"]} for row in results.converged]  # fmt: skip
        self.content.experiments[self.name] = {
            "title": plan["title"], "note": plan["note"], "rates": rates, "converged": fine,
        }  # fmt: skip

    def rows(self) -> Iterator[Row]:
        """One row for each line, sampler, NFE and number of images that has a record."""
        frame = self.results.frame
        ran = frame[(frame.role == "score") & frame.counted.notna()]
        for (model, n, sampler, nfe), cells in ran.groupby(
            ["model", "n", "sampler", "nfe"], sort=False
        ):
            columns = {metric: self.results.column(model, n, sampler, nfe, metric)
                       for metric in self.results.metrics}  # fmt: skip
            full = int(cells.groupby("line").block.nunique().max())
            for line, blocks in cells.groupby("line", sort=False):
                scores = {metric: score for metric, column in columns.items()
                          if (score := column.get(line)) is not None}  # fmt: skip
                if scores:
                    yield self.row(str(line), blocks, scores) | {"full": full}

    def row(self, line: str, blocks: pd.DataFrame, scores: dict[str, Score]) -> Row:
        """A line at one NFE. blocks: the rows of its seed blocks."""
        first = blocks.iloc[0]
        record = self.results.records[first.key]
        cell = record["cell"]
        entries = self.entries(blocks.key)
        known = [self.metric(name, entries[name]) for name in scores if name in entries]
        found = [_numbers(scores[name]) for name in scores if name in entries]
        return {
            "experiments": [self.name], "data": self.data(entries), "model": cell["model"],
            **self.about(cell["model"], cell["model_digest"]),
            "sampler": _published_name(first.sampler), "line": line,
            "schedule": cell["label"], "form": form_of(cell["schedule"]),
            "color": self.colors[line], "nfe": int(first.nfe), "counted": int(first.counted),
            "steps": len(record["grid"]) - 1, "n": int(first.n), "blocks": len(blocks),
            "guidance": cell.get("guidance"), "keys": list(blocks.key),
            "protocol": self.content.number(_protocol(entries, cell, int(first.n))),
            "scores": dict(zip(known, found, strict=True)),
        }  # fmt: skip

    def entries(self, keys: Iterable[str]) -> dict[str, dict[str, Any]]:
        """Name of a metric -> a score of it with its protocol, of cells of one line."""
        found: dict[str, dict[str, Any]] = {}
        for key in keys:
            found = self.results.scores(self.planned[key]) | found
        return found

    @cached_property
    def planned(self) -> dict[str, dict[str, Any]]:
        """Key -> row of the plan."""
        return {row["key"]: row for row in self.results.plan["rows"]}

    @cached_property
    def colors(self) -> dict[str, str]:
        """Line -> its colour, as the figures have it."""
        return {line: look.color for line, look in looks(self.results.plan["lines"]).items()}

    def data(self, entries: dict[str, dict[str, Any]]) -> str:
        """The data set: as published.csv names it, else the name of the reference."""
        named = (one["reference"] for one in entries.values() if "reference" in one)
        return self.results.plan.get("published") or Path(next(named, "unknown")).stem

    def metric(self, name: str, entry: dict[str, Any]) -> str:
        """The key of a metric. The same key means the same computation on the same features."""
        what = {"name": name, "metric": entry.get("metric"), "bank": entry.get("bank")}
        text = label(name, entry.get("features") or self.results.features)
        # JavaScript sorts keys that are numbers
        key = f"m{store.digest(what | {'label': text})[:8]}"
        alike = [one for k, one in self.content.metrics.items() if k != key and one["text"] == text]
        longer = f"{text} [{entry.get('text', name)}, {entry.get('bank') or 'no'} rows]"
        self.content.metrics.setdefault(key, {
            "text": text, "label": longer if alike else text,
            "higher": self.results.higher_is_better(name), "name": name,
        })  # fmt: skip
        return key


def form_of(spec: dict[str, Any]) -> str:
    """A spec as the command line takes it: `ConstantRate(rate=v_x, xi=0.5)`.

    "" if it uses a rate that no file has, such as a mix of two.
    """
    measured = [part["fields"]["name"] for part in parts_of(spec) if "digest" in part["fields"]]
    return written(spec) if all(map(str.isidentifier, measured)) else ""


def _published_name(sampler: str) -> str:
    """`DPMpp2M(...)` as its paper writes it, with the bench's own name."""
    name, bracket, rest = sampler.partition("(")
    return f"{SAMPLERS[name]} = {name}{bracket}{rest}" if name in SAMPLERS else sampler


def _protocol(entries: dict[str, dict[str, Any]], cell: dict[str, Any], n: int) -> dict[str, Any]:
    """What two numbers must share before they are compared."""
    one = next((entry for entry in entries.values() if "reference" in entry), {})
    names = ("features", "features_digest", "reference", "reference_digest", "reference_n")
    return {name: one.get(name) for name in names} | {"n": n, "dtype": cell.get("dtype")}


def _numbers(score: Score) -> list[Any]:
    """[mean, low, high, blocks, whether it is the best or a tie, whether it is below converged,
    mean over the blocks that all lines have].

    low and high are the interval that the tables print as ±; None where there are too few blocks.
    """
    low, high = (None, None) if score.half is None else (
        score.mean - score.half, score.mean + score.half
    )  # fmt: skip
    return [score.mean, low, high, score.blocks, bool(score.leads), bool(score.beyond),
            score.shared]  # fmt: skip


def _curve(rate: dict[str, Any]) -> dict[str, Any]:
    """A measured rate, per degree of atan sigma, divided by its area; with its band if any."""
    curve = Curve(rate, rate["model"])
    angle, per_degree = curve.angle, curve.per_degree
    names = ("v", "low", "high")[: per_degree.shape[1]]
    return {"model": rate["model"], "name": rate["name"], "angle": _short(angle)} | {
        name: _short(column) for name, column in zip(names, per_degree.T, strict=True)
    }


def _short(values: np.ndarray) -> list[float]:
    return [float(f"{value:.5g}") for value in values]


def _merge(content: Content) -> None:
    """Make one row of the same cells that several experiments have, under the first one's name."""
    found: dict[str, Row] = {}
    for row in content.rows:
        same = store.digest([row[name] for name in ("keys", "sampler", "protocol", "nfe")])
        kept = found.setdefault(same, row)
        if kept is row:
            continue
        if set(kept["experiments"]) & set(row["experiments"]):  # two lines of one experiment
            found[store.digest([same, *row["experiments"], row["line"]])] = row
            continue
        kept["experiments"] += row["experiments"]
        kept["also"] = list(dict.fromkeys([*kept.get("also", []), row["line"]]))
        kept["scores"] = row["scores"] | kept["scores"]
    content.rows = list(found.values())


def _add_published(content: Content, results: Path) -> None:
    """Numbers of other authors. Each source is a protocol of its own."""
    for row in _every(results):
        scores = {}
        for name, text, higher in (("fid", "FID", False), ("precision", "Precision", True),
                                   ("recall", "Recall", True)):  # fmt: skip
            if row[name]:
                content.metrics.setdefault(key := f"published-{name}", {
                    "text": text, "label": f"{text} (published)", "higher": higher, "name": name,
                })  # fmt: skip
                value = _number(row, name)
                scores[key] = [value, None, None, 0, False, False, value]
        content.rows.append({
            "experiments": [], "data": row["dataset"], "model": row["model"],
            "space": row.get("space") or "unknown", "law": "unknown",
            "sampler": row["sampler"] or "not stated", "line": row["schedule"] or "not stated",
            "schedule": row["schedule"], "form": "", "color": _GREY,
            "nfe": int(_number(row, "nfe")) if row["nfe"] else None, "counted": None,
            "steps": None, "n": None, "blocks": 0, "full": 0, "guidance": None, "keys": [],
            "protocol": content.number({"published": row["source"]}), "scores": scores,
            "note": row["note"], "source": row["source"],
        })  # fmt: skip


def _number(row: published.Row, name: str) -> float:
    try:
        return float(row[name])
    except ValueError:
        raise ValueError(f"published.csv: {name} of {row['model']} is {row[name]!r}, which is no "
                         "number; correct it or leave it empty") from None  # fmt: skip


def _every(results: Path) -> Iterator[published.Row]:
    """All rows of the published.csv of a results folder, else of the shipped one."""
    beside = results / "published.csv"
    path = beside if beside.is_file() else published.shipped()
    if path.is_file():
        with open(path, newline="", encoding="utf-8") as file:
            names = dict.fromkeys(row.get("dataset") or "" for row in csv.DictReader(file))
        for name in names:
            yield from published.read(results / "any", name)
