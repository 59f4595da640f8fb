"""What a group of tables says as a whole: ranks and wins of lines, and differences to baselines.

A row is a sampler at one NFE. Everything here is about FD, where lower is better, in each feature
space of the results: `metric` is one of `Results.spaces`.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from bench.report.frame import Results, best, label
from bench.report.intervals import LEAST, LEVEL, half_width, holm, p_value
from bench.report.layout import digits, markdown_table, shown

NEAR = 2.0  # times the FD of converged samples
_NAMES = {"rank": "mean rank", "lowest": "lowest", "wins": "wins", "sure": "wins (Holm)"}
_NEAR_NAMES = {f"near_{name}": f"near: {text}" for name, text in _NAMES.items()}


@dataclass(frozen=True)
class Row:
    """A sampler at one NFE at which every line of the group was run.

    metric: which FD. fd: on the seed blocks that all lines have [lines, blocks].
    p: of the difference between the best line and the best line of the other group; the groups are
        the baselines and all other lines. None: too few blocks, or there is one group only.
    level: FD of converged samples of the best line's model and of the same seeds, if known.
    """

    sampler: str
    nfe: int
    metric: str
    fd: pd.DataFrame
    p: float | None
    level: float | None

    @property
    def means(self) -> pd.Series:
        """Mean FD of each line."""
        return self.fd.mean(axis=1)

    @property
    def near(self) -> bool:
        """Whether the lowest FD is at most `NEAR` times that of converged samples."""
        return self.level is not None and float(self.means.min()) <= NEAR * self.level


def rows(results: Results, model: str, n: int, metric: str = "fd") -> list[Row]:
    """The rows of a group in which all lines were run, without those in which all lines tie."""
    found, lines = [], {*results.scored(model, n).line}
    for sampler, nfe in results.columns(model, n) if metric in results.metrics else ():
        fd = results.values(model, n, sampler, nfe, metric)
        whole = results.whole(model, n, sampler, nfe) and {*fd.index} == lines
        fd = fd.dropna(axis=1)
        if not whole or fd.empty or len(fd.drop_duplicates()) == 1:
            continue
        cells = results.cells(model, n, sampler, nfe)
        own = results.records[cells.key[cells.line == best(fd)].iloc[0]]["cell"]["model"]
        level = results.level(own, n, [str(block) for block in fd.columns], metric)
        found.append(Row(sampler, nfe, metric, fd, _p(results, fd), level))
    return found


def _p(results: Results, fd: pd.DataFrame) -> float | None:
    """p of the best line against the best line of the other group."""
    first = best(fd)
    other = [line for line in fd.index if results.baseline(line) != results.baseline(first)]
    if not other:
        return None
    return p_value((fd.loc[first] - fd.loc[best(fd.loc[other])]).to_numpy())


def _ranks(found: list[Row]) -> pd.DataFrame:
    """Line -> mean rank, rows with the lowest FD, wins, and wins after Holm's correction."""
    means = pd.DataFrame([row.means for row in found])  # [rows, lines]
    lowest = means.eq(means.min(axis=1), axis=0)
    out = pd.DataFrame({"rank": means.rank(axis=1).mean(), "lowest": lowest.sum()})
    tested = [(best(row.fd), row.p) for row in found if row.p is not None]
    p = [value for _, value in tested]
    for name, values in (("wins", p), ("sure", holm(p))):
        won = [line for (line, _), one in zip(tested, values, strict=True) if one < 1 - LEVEL]
        out[name] = [won.count(line) for line in out.index] if tested else None
    return out


def table(results: Results, model: str, n: int, every: list[Row]) -> pd.DataFrame:
    """The summary of a group, the lowest mean rank first. Empty: there is nothing to compare.

    Arguments:
        every: `rows` of the group, in one metric.

    Returns:
        Columns model, n, metric, line, baseline; over all rows: rows, rank, lowest, wins and sure
        (wins after Holm's correction); over the rows near the converged level: the same as
        near_rows, ....
    """
    if not every:
        return pd.DataFrame()
    near = [row for row in every if row.near]
    out = _ranks(every).assign(rows=len(every), near_rows=len(near))
    if near:
        out = out.join(_ranks(near).add_prefix("near_"))
    out = out.sort_values("near_rank" if near else "rank", kind="stable").reset_index(names="line")
    baselines = [results.baseline(line) for line in out.line]
    out = out.assign(model=model, n=n, metric=every[0].metric, baseline=baselines)
    order = ["model", "n", "metric", "line", "baseline", "rows", *_NAMES, "near_rows", *_NEAR_NAMES]
    return out.reindex(columns=order)


def whole_table(results: Results) -> pd.DataFrame:
    """The summaries of all groups, one below the other."""
    found = [table(results, *group, rows(results, *group, metric))
             for group in results.groups() for metric in results.spaces]  # fmt: skip
    found = [one.astype(object) for one in found if len(one)]
    return pd.concat(found) if found else pd.DataFrame({"line": []})


def markdown(results: Results, model: str, n: int, metric: str) -> list[str]:
    """The section of the page with the summary of a group. Empty: there is nothing to compare."""
    every = rows(results, model, n, metric)
    found = table(results, model, n, every)
    if found.empty:
        return []
    tested, near = found.wins.notna().any(), int(found.near_rows.iloc[0])
    names = {**_NAMES, **(_NEAR_NAMES if near else {})}
    names = {k: v for k, v in names.items() if found[k].notna().any()}
    cells = {
        one["line"] + " (baseline)" * one["baseline"]: [_cell(name, one[name]) for name in names]
        for one in found.to_dict("records")
    }
    name = label(metric, results.features)
    text = (
        f"All {int(found.rows.iloc[0])} pairs of sampler and NFE in which every line was run and "
        "not all lines tie. Mean rank: 1 is the lowest mean. Lowest: the number of pairs in which "
        f"the line has the lowest mean. Only seed blocks that all lines have are used. "
        f"{_WINS if tested else _NO_WINS} {_near(every)}"
    )
    heads = list(names.values())
    return [f"## Summary of {name}, {results.subject(model, n)}", text,
            markdown_table("line", heads, cells)]  # fmt: skip


_WINS = (
    "Wins: the line has the lowest mean, and it is told apart from the best line of the other "
    f"group in a paired t test at {100 * (1 - LEVEL):.0f} %. The groups are the baselines and all "
    "other lines. Holm: the same, corrected for the number of pairs. With few blocks this needs a "
    "very even lead. The two lines are chosen by the same blocks that test them."
)
_NO_WINS = (
    f"Wins are not counted: that needs {LEAST} seed blocks that all lines have, and at least one "
    "baseline and one other line."
)


def _near(every: list[Row]) -> str:
    """What counts as near the converged level, and how many rows are."""
    if not any(row.level is not None for row in every):
        return (
            "No pair is known to be near the converged level: no converged run has as many images."
        )
    return (
        f"Near: the {sum(row.near for row in every)} pairs in which the lowest FD is at most "
        f"{NEAR:g} times the FD of converged samples of the same model and seeds. There the steps "
        "of the sampler cost no more than the model's own error."
    )


def _cell(name: str, value: float) -> str:
    return f"{value:.2f}" if name.endswith("rank") else f"{value:.0f}"


# ---------------------------------------------------------------- differences


def differences(results: Results) -> pd.DataFrame:
    """FD of each line less that of the best baseline of its column, paired by seed block.

    Returns:
        One row for each feature space, sampler, NFE and line that is no baseline: model, n, metric,
        sampler, nfe, line, baseline (the best one), fd (of that baseline), blocks, difference and
        half (of its t interval; NaN with too few blocks).
    """
    columns = ["model", "n", "metric", "sampler", "nfe", "line", "baseline", "fd", "blocks",
               "difference", "half"]  # fmt: skip
    found = [row for model, n in results.groups() for metric in results.spaces
             for sampler, nfe in results.columns(model, n)
             for row in _differences(results, model, n, metric, sampler, nfe)]  # fmt: skip
    return pd.DataFrame(found, columns=columns)


def _differences(
    results: Results, model: str, n: int, metric: str, sampler: str, nfe: int
) -> Iterator[tuple[Any, ...]]:
    """Rows of `differences` of one column."""
    fd = results.values(model, n, sampler, nfe, metric).dropna(how="all")
    baselines = fd[[results.baseline(line) for line in fd.index]]
    if baselines.empty:
        return
    first = best(baselines)
    for line, values in fd.drop(index=baselines.index).iterrows():
        pairs = (values - fd.loc[first]).dropna().to_numpy()
        if len(pairs):
            half = half_width(pairs)
            yield (model, n, metric, sampler, nfe, line, first, fd.loc[first].mean(), len(pairs),
                   pairs.mean(), np.nan if half is None else half)  # fmt: skip


def differences_markdown(
    results: Results, model: str, n: int, metric: str, found: pd.DataFrame
) -> list[str]:
    """The section of the page with the differences of a group. Empty: there are none.

    Arguments:
        found: `differences` of all groups.
    """
    found = found[(found.model == model) & (found.n == n) & (found.metric == metric)]
    if found.empty:
        return []
    nfes, cells = sorted(set(found.nfe)), dict[str, list[str]]()
    for sampler, under in found.groupby("sampler", sort=False):
        first = under.drop_duplicates("nfe").set_index("nfe")
        cells[f"{sampler}: best baseline"] = [
            f"{shown(first.fd[nfe], 'fd')}, {first.baseline[nfe]}" if nfe in first.index else ""
            for nfe in nfes
        ]
        for line in results.lines(model, n, str(sampler)):
            of_line = under[under.line == line].set_index("nfe")
            if len(of_line):
                cells[f"{sampler}: {line}"] = [
                    _difference(of_line.loc[nfe]) if nfe in of_line.index else "" for nfe in nfes
                ]
    text = (
        f"Each number is the mean difference to the best baseline, paired by seed block. Below 0 "
        f"the line is better. ± as above; with fewer than {LEAST} blocks there is none. The best "
        "baseline is chosen by the same blocks."
    )
    name = label(metric, results.features)
    return [f"## {name} less that of the best baseline, {results.subject(model, n)}", text,
            markdown_table("NFE", [str(nfe) for nfe in nfes], cells)]  # fmt: skip


def _difference(one: pd.Series) -> str:
    places = digits(abs(one.difference), "fd")
    tail = "" if np.isnan(one.half) else f" ± {one.half:.{places}f}"
    return f"{one.difference:+.{places}f}{tail}"
