"""Plan and records as one table, and statistics over seed blocks for tables and figures.

A column of a table is one sampler at one NFE. In a column, a seed block has the same seeds for all
schedules. Two schedules are therefore compared in pairs, block by block.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from bench import store
from bench.report.intervals import half_width, ties
from bench.report.lines import is_baseline

MANY_LINES = 16  # the tables of a group with more schedule lines are sorted
FEW_LINES = 6  # more curves cannot be told apart
_NAMES = {
    "rms_error": "RMS to converged (grey levels)",
    "fd_error": "FD to converged",
    "precision": "Precision",
    "recall": "Recall",
    "density": "Density",
    "coverage": "Coverage",
    "kid": "KID",
    "is": "IS",
    "sfid": "sFID",
    "precision_adm": "Precision (ADM)",
    "recall_adm": "Recall (ADM)",
    "fd_infinity": "FD at infinite N",
}


def label(metric: str, features: str) -> str:
    """The name of a metric in tables. Only the Inception protocols of published FIDs give "FID"."""
    name, bracket, rest = metric.partition("(")  # `precision(k=5)`
    if name in ("fd2", "precision2", "recall2"):
        lites = features.startswith("effnet-lite0-lite2")
        space = "effnet-lite2" if lites else f"{features}, second space"
        one = name.removesuffix("2")
        return label("fd", space) if one == "fd" else f"{_NAMES[one]} ({space})" + bracket + rest
    if metric == "fd":
        known = {"inception-v3-compat": "FID", "clean": "FID (clean)"}
        for start, name in (("effnet-lite0", "FD-EffNet"), ("effnet-lite2", "FD-EffNet2")):
            if features.startswith(start):
                return name
        return known.get(features, f"FD ({features})")
    return _NAMES.get(name, name) + bracket + rest


@dataclass(frozen=True)
class Score:
    """A cell of a table.

    mean: mean over its seed blocks.
    half: half the width of the t interval of the mean. None: too few blocks.
    blocks: number of seed blocks.
    leads: it is the best of its column, or it is not told apart from the best. The best is taken
        on the blocks that all lines of the column have. False while cells of a block that was begun
        are not run yet.
    beyond: its FD is lower than that of the model's own converged samples of the same seeds. Such a
        gain is no closeness to the model's distribution.
    shared: mean over the blocks that all lines of the column have. Places are taken by it. None:
        the line has no such block.
    """

    mean: float
    half: float | None
    blocks: int
    leads: bool
    beyond: bool = False
    shared: float | None = None


@dataclass(frozen=True)
class Results:
    """An experiment's plan, and the records that exist.

    plan: the content of `plan.json`.
    records: key -> record.
    published: rows of `published.csv`, numbers of other authors.
    """

    plan: dict[str, Any]
    records: dict[str, dict[str, Any]]
    published: list[dict[str, str]] = field(default_factory=list)

    @cached_property
    def done(self) -> list[dict[str, Any]]:
        """The records of the plan's rows, in plan order, without repetition."""
        keys = dict.fromkeys(row["key"] for row in self.plan["rows"])
        return [self.records[key] for key in keys if key in self.records]

    def scores(self, row: dict[str, Any]) -> dict[str, dict[str, Any]]:
        """The scores of a row of the plan.

        Returns:
            Name of a metric -> value, error and protocol. Metrics without a score are left out.
        """
        record = self.records.get(row["key"])
        if record is None:
            return {}
        keys = {metric["name"]: store.score_key(row["key"], metric["identity"])
                for metric in self.plan["metrics"]}  # fmt: skip
        keys |= row.get("errors", {})
        return {name: record["scores"][key] for name, key in keys.items()
                if key in record["scores"]}  # fmt: skip

    @cached_property
    def metrics(self) -> list[str]:
        """Names of the metrics that some cell has, in plan order.

        The distances to converged samples, rms_error and fd_error, come last.
        """
        taken = {name for row in self.plan["rows"] for name in self.scores(row)}
        every = [*(metric["name"] for metric in self.plan["metrics"]), "rms_error", "fd_error"]
        return [name for name in every if name in taken]

    @property
    def features(self) -> str:
        """Name of the feature extractor."""
        found = (score for row in self.plan["rows"] for score in self.scores(row).values())
        return str(next(score["features"] for score in found if "features" in score))

    @cached_property
    def frame(self) -> pd.DataFrame:
        """One row for each planned cell. A metric without a score is NaN."""
        rows = []
        for row in self.plan["rows"]:
            record, scores = self.records.get(row["key"]), self.scores(row)
            values = {name: scores[name]["value"] if name in scores else np.nan
                      for name in self.metrics}  # fmt: skip
            counted = record["nfe"] if record else None
            schedule = record["cell"]["label"] if record else None
            plain = {name: value for name, value in row.items() if name != "errors"}
            rows.append({**plain, "schedule": schedule, "counted": counted, **values})
        return pd.DataFrame(rows)

    @cached_property
    def planned(self) -> pd.DataFrame:
        """The rows of `frame` without tuning and converged runs."""
        return self.frame[self.frame.role == "score"]

    @cached_property
    def begun(self) -> pd.DataFrame:
        """The rows of `planned` that tables and figures show.

        A sampler, NFE and seed block is left out until one of its cells has a record. So a run that
        was stopped after a block has whole tables of that block.
        """
        parts = [self.planned[name] for name in ("model", "n", "sampler", "nfe", "block")]
        ran = self.planned.counted.notna()
        return self.planned[ran.groupby(parts).transform("any").astype(bool)]

    @cached_property
    def blocks(self) -> int:
        """The largest number of scored seed blocks of a cell."""
        run = self.begun[self.begun.counted.notna()]
        where = ["model", "n", "line", "sampler", "nfe"]
        return int(run.groupby(where).block.nunique().max()) if len(run) else 0

    def scored(self, model: str, n: int) -> pd.DataFrame:
        """The rows of `begun` of a model at one number of images."""
        return self.begun[(self.begun.model == model) & (self.begun.n == n)]

    def ran(self, model: str, n: int) -> pd.DataFrame:
        """The rows of `scored` that have a record."""
        rows = self.scored(model, n)
        return rows[rows.counted.notna()]

    def groups(self) -> Iterator[tuple[str, int]]:
        """(model, images a cell) of all groups, in plan order."""
        yield from dict.fromkeys(zip(self.begun.model, self.begun.n, strict=True))

    def models(self, model: str, n: int) -> str:
        """Names of the models that made the images of a group. A line can have its own model."""
        keys = self.ran(model, n).key
        return " and ".join(dict.fromkeys(self.records[k]["cell"]["model"] for k in keys)) or model

    def subject(self, model: str, n: int) -> str:
        """The group in headings: its models, and its number of images."""
        return f"{self.models(model, n)}, {n:,} images a cell"

    def higher_is_better(self, metric: str) -> bool:
        """What the plan says. False for the distances to converged samples."""
        return any(one["name"] == metric and one["higher_is_better"]
                   for one in self.plan["metrics"])  # fmt: skip

    def sweeps(self, model: str, n: int) -> bool:
        """Whether a group has so many schedule lines that its tables are sorted."""
        return "fd" in self.metrics and self.scored(model, n).line.nunique() > MANY_LINES

    def ranked(self, model: str, n: int, sampler: str) -> pd.DataFrame:
        """Mean FD over seed blocks.

        Returns:
            [lines, NFEs], sorted by the mean of `behind`, the lowest first, over the NFEs at which
            every line was run; if there is none, over all. A cell without any block is NaN. Lines
            without any cell come last.
        """
        rows = self.scored(model, n)
        means = rows[rows.sampler == sampler].groupby(["line", "nfe"], sort=False).fd.mean()
        behind = self.behind(model, n, sampler)
        whole = behind.dropna(axis=1)
        order = (behind if whole.empty else whole).mean(axis=1).sort_values(kind="stable")
        return means.unstack().sort_index(axis=1).loc[order.index]

    def only(self, lines: Collection[str]) -> "Results":
        """The same with these schedule lines only. Converged and tuning runs stay."""
        rows = [row for row in self.plan["rows"] if row["role"] != "score" or row["line"] in lines]
        return Results({**self.plan, "rows": rows}, self.records, self.published)

    def few(self, model: str, n: int) -> "Results":
        """The same with at most `FEW_LINES` schedule lines, for curves that can be told apart.

        Of a group with more lines it keeps the first line of the plan and, by mean place over all
        samplers in `ranked`, the three best baselines and the two best other lines.
        """
        lines = list(dict.fromkeys(self.scored(model, n).line))
        if len(lines) <= FEW_LINES:
            return self
        if "fd" not in self.metrics:
            return self.only(lines[:FEW_LINES])
        order = self.places(model, n)
        first, rivals = lines[0], list(filter(self.baseline, order))
        best = [*[line for line in rivals if line != first][:3],
                *[line for line in order if line not in rivals and line != first][:2]]  # fmt: skip
        rest = [line for line in order if line != first and line not in best]
        return self.only([first, *best, *rest[: FEW_LINES - 1 - len(best)]])

    def places(self, model: str, n: int) -> list[str]:
        """All lines of a group by mean place in `ranked` over its samplers, the best first."""
        samplers = dict.fromkeys(self.scored(model, n).sampler)
        found = pd.concat([pd.Series(range(len(table)), table.index) for table in
                           (self.ranked(model, n, one) for one in samplers)])  # fmt: skip
        return [
            str(line) for line in found.groupby(level=0).mean().sort_values(kind="stable").index
        ]

    def behind(self, model: str, n: int, sampler: str) -> pd.DataFrame:
        """Log of the ratio of FD to that of the best line, on the seed blocks that all lines have.

        Returns:
            [lines, NFEs]. NaN: the line has no such block.
        """
        rows = self.scored(model, n)
        rows = rows[rows.sampler == sampler]
        columns = {}
        for nfe in sorted(set(rows.nfe)):
            fd = self.values(model, n, sampler, nfe).dropna(how="all")
            if len(fd):
                part = fair(fd)
                columns[nfe] = np.log(part / part.loc[best(part)]).mean(axis=1)
        return pd.DataFrame(columns, index=list(dict.fromkeys(rows.line)))

    def fewer(self, model: str, n: int, sampler: str) -> pd.DataFrame:
        """Whether a line has fewer blocks than another line at the same NFE: [lines, NFEs]."""
        rows = self.scored(model, n)
        count = rows[rows.sampler == sampler].groupby(["line", "nfe"], sort=False).fd.count()
        return (table := count.unstack()) < table.max()

    def lines(self, model: str, n: int, sampler: str) -> list[str]:
        """The schedule lines of a table, in plan order. Many lines are in the order of `ranked`."""
        if self.sweeps(model, n):
            return list(self.ranked(model, n, sampler).index)
        rows = self.scored(model, n)
        return list(dict.fromkeys(rows[rows.sampler == sampler].line))

    @cached_property
    def _columns(self) -> dict[tuple[str, int, str, int], pd.DataFrame]:
        return dict(iter(self.begun.groupby(["model", "n", "sampler", "nfe"], sort=False)))

    def columns(self, model: str, n: int) -> list[tuple[str, int]]:
        """(sampler, NFE) of all columns of a group that are begun, in plan order."""
        return [one[2:] for one in self._columns if one[:2] == (model, n)]

    def cells(self, model: str, n: int, sampler: str, nfe: int) -> pd.DataFrame:
        """The rows of `scored` in one column."""
        none = self.frame.iloc[:0]
        return self._columns.get((model, n, sampler, nfe), none)

    def whole(self, model: str, n: int, sampler: str, nfe: int) -> bool:
        """Whether all cells of the begun blocks of a column were run: another could become the
        best."""
        return bool(self.cells(model, n, sampler, nfe).counted.notna().all())

    def values(
        self, model: str, n: int, sampler: str, nfe: int, metric: str = "fd"
    ) -> pd.DataFrame:
        """The scores behind a column of a table.

        Returns:
            [lines, seed blocks], in plan order. NaN: not run, or not planned.
        """
        here = self.cells(model, n, sampler, nfe).drop_duplicates(["line", "block"])
        found = here.pivot(index="line", columns="block", values=metric)
        return found.reindex(index=here.line.unique(), columns=here.block.unique())

    def column(
        self, model: str, n: int, sampler: str, nfe: int, metric: str
    ) -> dict[str, Score | None]:
        """One column of a table: schedule line -> score. None: no block was run."""
        table = self.values(model, n, sampler, nfe, metric)
        ran = table.dropna(how="all")
        scores: dict[str, Score | None] = dict.fromkeys(table.index)
        if ran.empty:
            return scores
        first = ran.loc[best(ran, -1 if self.higher_is_better(metric) else 1)]
        shared = fair(ran).mean(axis=1).to_dict()
        whole = self.whole(model, n, sampler, nfe)
        ahead = self._ahead(model, n, sampler, nfe, metric) if metric in self.spaces else {}
        for line, row in ran.iterrows():
            values, behind = row.dropna().to_numpy(), (row - first).dropna().to_numpy()
            leads = whole and (line == first.name or ties(behind))
            scores[str(line)] = Score(
                float(values.mean()), half_width(values), len(values), leads,
                ahead.get(str(line), False), shared.get(line),
            )  # fmt: skip
        return scores

    def _ahead(self, model: str, n: int, sampler: str, nfe: int, metric: str) -> dict[str, bool]:
        """Schedule line -> whether its FD is below that of its converged runs, on average."""
        rows, found = self.cells(model, n, sampler, nfe), dict[str, list[float]]()
        for _, row in rows.dropna(subset=[metric]).iterrows():
            fine = self.converged_fd(row, metric)
            if fine is not None:
                found.setdefault(row.line, []).append(row[metric] - fine)
        return {line: float(np.mean(gaps)) < 0 for line, gaps in found.items()}

    def converged_fd(self, row: pd.Series, metric: str = "fd") -> float | None:
        """FD of the converged run of the same model and seeds. None: other number of images."""
        anchor = self._rows.get(row.get("anchor"))
        fd = self.scores(anchor).get(metric) if anchor and anchor["n"] == row.n else None
        return None if fd is None else float(fd["value"])

    @property
    def spaces(self) -> list[str]:
        """The metrics that are a Frechet distance of the whole image: one for a feature space."""
        return [name for name in self.metrics if name in ("fd", "fd2")]

    def level(
        self, model: str, n: int, blocks: Collection[str], metric: str = "fd"
    ) -> float | None:
        """Mean FD of the converged runs of a model on these seed blocks.

        model: whose images they are; a line can have its own model.
        metric: one of `spaces`.
        None: a block has no such run, or one of another number of images than n.
        """
        found = {
            row["block"]: self.scores(row)[metric]["value"]
            for row in self.converged
            if self.records[row["key"]]["cell"]["model"] == model and row["n"] == n
            and metric in self.scores(row)
        }  # fmt: skip
        return float(np.mean([found[block] for block in blocks])) if {*blocks} <= {*found} else None

    def baseline(self, line: str) -> bool:
        """Whether a line is one that others are compared with."""
        return is_baseline(self.plan["lines"][line])

    @cached_property
    def _rows(self) -> dict[str, dict[str, Any]]:
        return {row["key"]: row for row in self.plan["rows"]}

    @cached_property
    def converged(self) -> list[dict[str, Any]]:
        """Rows of the converged runs that have a record, in plan order, without repetition."""
        rows = {key: row for key, row in self._rows.items() if row["role"] == "converged"}
        return [row for key, row in rows.items() if key in self.records]


def fair(table: pd.DataFrame) -> pd.DataFrame:
    """The part of a table in which lines can be compared: the seed blocks that all lines have.

    Without such a block it is the lines that have all blocks of the first line with the most. A
    mean over other blocks can be better because their seeds are easy.

    table: scores [lines, seed blocks]. NaN: not run.
    """
    shared = table.dropna(axis=1)
    if not shared.empty:
        return shared
    return table[table.loc[table.count(axis=1).idxmax()].dropna().index].dropna()


def best(table: pd.DataFrame, sign: int = 1) -> str:
    """The line with the best mean in the `fair` part of a table of at least one line.

    Of lines that tie it is the first of those with the most blocks.
    sign: 1: lower is better. -1: higher is better.
    """
    means = sign * fair(table).mean(axis=1)
    return str(table.loc[means.index[means == means.min()]].count(axis=1).idxmax())
