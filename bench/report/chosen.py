"""One table of chosen lines, samplers, NFEs and metrics: scores, or differences to others.

A difference is paired: both scores have the same sampler, NFE, seeds, number of images and
protocol. Its interval is Student's, over seed blocks (`bench.report.intervals`).
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from bench import store
from bench.report.frame import Results, Score, label
from bench.report.intervals import LEAST, LEVEL, half_width, holm, p_value
from bench.report.layout import markdown_table, samplers
from bench.report.lines import paper_name
from bench.report.tables import LATEX_MARKS, LATEX_NEEDS, latex_float, legend, number
from bench.report.tidy import tidy

_PAIRS = ["sampler", "nfe", "metric", "n", "seed_first", "seed_last", "protocol"]


@dataclass(frozen=True)
class Choice:
    """What a table shows. Empty: all lines, samplers or NFEs; the first metric; the first n.

    n: images a cell.
    """

    lines: tuple[str, ...] = ()
    samplers: tuple[str, ...] = ()
    nfes: tuple[int, ...] = ()
    metrics: tuple[str, ...] = ()
    n: int = 0

    def among(self, results: Results) -> "Choice":
        """The same without anything that is empty.

        Raises:
            ValueError: the experiment has no such line, sampler, NFE, metric or number of images,
                or none of its scored cells is done yet.
        """
        numbers = [n for _, n in results.groups()]
        if not numbers:
            name = store.in_a_line(results.plan["experiment"])
            raise ValueError(f"no scored cell of {name} is done yet; run the experiment first")
        n = _known("number of images", [self.n] if self.n else numbers[:1], numbers)[0]
        model = _model(results, n)
        rows, metrics = results.scored(model, n), results.metrics
        lines, nfes = [*dict.fromkeys(rows.line)], sorted(set(rows.nfe))
        loops = samplers(results, model, n)
        return Choice(
            _known("line", self.lines or lines, lines),
            _known("sampler", self.samplers or loops, loops),
            _known("NFE", self.nfes or nfes, nfes),
            _known("metric", self.metrics or metrics[:1], metrics), n,
        )  # fmt: skip


def _known(what: str, chosen: Any, known: list[Any]) -> tuple[Any, ...]:
    for one in chosen:
        if one not in known:
            raise ValueError(f"the tables have no {what} {one!r} "
                             f"(known: {', '.join(map(str, known))})")  # fmt: skip
    return tuple(chosen)


def _model(results: Results, n: int) -> str:
    return next(model for model, images in results.groups() if images == n)


@dataclass(frozen=True)
class Table:
    """A table that can be written as Markdown, CSV or LaTeX.

    frame: a row for each cell: sampler, line, metric, nfe, value, half (of the t interval), blocks
        and bold; of scores also beyond, of differences also p and p_holm.
    features: name of the extractor.
    signed: whether values are differences.
    """

    name: str
    caption: str
    frame: pd.DataFrame
    features: str
    signed: bool = False

    def write(self, form: str) -> str:
        """The table as `md`, `csv` or `tex`. ValueError: another form."""
        forms = {"md": self._markdown, "csv": self._csv, "tex": self._latex}
        if form not in forms:
            raise ValueError(f"no format {form!r}; use {', '.join(forms)}")
        return forms[form]().rstrip("\n") + "\n"

    def _csv(self) -> str:
        return self.frame.to_csv(index=False)

    def _markdown(self) -> str:
        return f"{self.grid()}\n\n{self.caption}"

    def grid(self) -> str:
        """The Markdown table without its caption."""
        cells = self._texts("**{}**".format, "±", "†")
        names = {metric: label(metric, self.features) for metric, _ in cells.columns}
        several = len(names) > 1
        heads = [
            f"{names[metric]}, {nfe}" if several else str(nfe) for metric, nfe in cells.columns
        ]
        corner = "NFE" if several else f"{next(iter(names.values()))}, NFE"
        rows = {
            ", ".join((paper_name(row[0]), *row[1:])): [*texts]
            for row, texts in zip(cells.index, cells.values, strict=True)
        }
        return markdown_table(corner, heads, rows)

    def _latex(self) -> str:
        cells = self._texts(*LATEX_MARKS)
        loops = [(paper_name(sampler), line) for sampler, line in cells.index]
        heads = [(label(metric, self.features), str(nfe)) for metric, nfe in cells.columns]
        cells.index = pd.MultiIndex.from_tuples(loops)
        cells.columns = pd.MultiIndex.from_tuples(heads, names=["", "NFE"])
        return f"{LATEX_NEEDS}\n{latex_float(cells, self.caption, self.name)}"

    def _texts(self, bold: Callable[[str], str], sign: str, dagger: str) -> pd.DataFrame:
        """The texts of the cells: [(sampler, line), (metric, NFE)]. Empty: it was not run."""
        texts = [self._text(one, bold, sign, dagger) for one in self.frame.to_dict("records")]
        frame = self.frame.assign(text=texts)
        where = (["sampler", "line"], ["metric", "nfe"])
        rows, columns = (frame[names].drop_duplicates() for names in where)
        cells = frame.set_index([*where[0], *where[1]]).text.unstack([2, 3])
        rows, columns = (pd.MultiIndex.from_frame(one) for one in (rows, columns))
        return cells.reindex(index=rows, columns=columns).fillna("")

    def _text(self, one: dict[str, Any], bold: Any, sign: str, dagger: str) -> str:
        if np.isnan(one["value"]):
            return ""
        half = None if np.isnan(one["half"]) else one["half"]
        score = Score(one["value"], half, one["blocks"], one["bold"], one.get("beyond", False))
        if not self.signed:
            return number(score, one["metric"], bold, sign, dagger)
        minus = "$-$" if "$" in sign else "-"
        size, first = replace(score, mean=abs(score.mean)), "+" if score.mean >= 0 else minus
        text = number(size, one["metric"], lambda mean: bold(first + mean), sign)
        return text if score.leads else first + text


def scores(results: Results, choice: Choice) -> Table:
    """Means over seed blocks. Bold compares with all lines of the experiment, chosen or not."""
    found = choice.among(results)
    model = _model(results, found.n)
    rows = []
    for sampler in found.samplers:
        for metric in found.metrics:
            for nfe in found.nfes:
                column = results.column(model, found.n, sampler, nfe, metric)
                for line in [one for one in found.lines if one in column]:
                    rows.append((sampler, line, metric, nfe, *_parts(column[line])))
    columns = ["sampler", "line", "metric", "nfe", "value", "half", "blocks", "bold", "beyond"]
    frame = _sorted(pd.DataFrame(rows, columns=columns), found)
    about = f"{_subject(results, found)} {legend(int(frame.blocks.max() or 0))}"
    every = results.scored(model, found.n).line.nunique()
    if len(found.lines) < every:
        about += f" The best is that of all {every} lines, also of those that are not shown."
    if frame.beyond.any():
        about += " † below the FD of the model's own converged samples."
    return Table(_name(results), about, frame, results.features)


def _parts(score: Score | None) -> tuple[float, float, int, bool, bool]:
    if score is None:
        return np.nan, np.nan, 0, False, False
    half = np.nan if score.half is None else score.half
    return score.mean, half, score.blocks, score.leads, score.beyond


def _name(results: Results) -> str:
    return str(results.plan["experiment"])


def _sorted(frame: pd.DataFrame, found: Choice) -> pd.DataFrame:
    """The rows in the order of the choice."""
    order = {"sampler": found.samplers, "line": found.lines, "metric": found.metrics,
             "nfe": found.nfes}  # fmt: skip
    return frame.sort_values([*order], key=lambda one: one.map([*order[one.name]].index))


def _subject(results: Results, found: Choice) -> str:
    names = ", ".join(label(metric, results.features) for metric in found.metrics)
    references = dict.fromkeys(
        score["reference"] for row in results.plan["rows"]
        for score in results.scores(row).values() if "reference" in score
    )  # fmt: skip
    against = f", reference {', '.join(references)}" if references else ""
    return (f"{names} of {results.subject(_model(results, found.n), found.n)}; features "
            f"{results.features}{against}.")  # fmt: skip


def differences(results: Results, choice: Choice, other: Results, line: str = "") -> Table:
    """Scores minus those of another line, or minus those of the same lines elsewhere.

    Arguments:
        other: the experiment that has the others; it may be the same.
        line: "": each line is compared with the line of its name.

    Raises:
        ValueError: nothing can be paired.
    """
    found, same = choice.among(results), other is results
    one = found.lines[0] if len(found.lines) == 1 else ""
    line = line or one
    mine, theirs = (_values(each, found) for each in (results, other))
    mine = mine[mine.line.isin(found.lines)]
    if same:
        mine = mine[mine.line != line]
    if line:
        theirs = theirs[theirs.line == line].drop(columns="line")
    elif not set(mine.line) & set(theirs.line):
        raise ValueError(f"no line of {_name(results)} has the name of a line of {_name(other)}: "
                         "choose one line of each")  # fmt: skip
    pairs = mine.merge(theirs, on=[*_PAIRS, *(() if line else ("line",))], suffixes=("", "_other"))
    sides = f"{_side(results, one, same)} less {_side(other, line, same)}"
    if pairs.empty:
        raise ValueError(
            f"{sides}: no two scores are a pair, which needs the same sampler, NFE, metric, seeds, "
            "number of images, features and reference"
        )
    pairs = pairs.assign(difference=pairs.value - pairs.value_other)
    rows = [(*where, *_paired(each.to_numpy())) for where, each in
            pairs.groupby(["sampler", "line", "metric", "nfe"], sort=False).difference]  # fmt: skip
    columns = ["sampler", "line", "metric", "nfe", "value", "half", "blocks", "bold", "p"]
    frame = _sorted(pd.DataFrame(rows, columns=columns), found)
    known = frame.p.notna()
    frame.loc[known, "p_holm"] = holm(frame.p[known].to_list())
    about = f"Differences: {sides}. {_subject(results, found)} {_PAIRED}"
    name = f"{one or _name(results)}-less-{line or _name(other)}"
    return Table(name, about, frame, results.features, signed=True)


def _side(results: Results, line: str, same: bool) -> str:
    """What a caption calls a line, or all lines of an experiment."""
    if not line:
        return f"lines of {_name(results)}"
    return line if same else f"{line} of {_name(results)}"


_PAIRED = (
    "Each number is the mean difference, paired by seed block. ± is half the width of its "
    f"{100 * LEVEL:g} % t interval, which needs {LEAST} blocks. Bold: the interval does not hold "
    "0. This is not corrected for the number of differences."
)


def _values(results: Results, found: Choice) -> pd.DataFrame:
    """Scores of cells that are in tables and are chosen, one for each line and seeds."""
    frame = tidy(results)
    frame = frame[(frame.role == "score") & (frame.n == found.n) & frame.value.notna()]
    chosen = {"sampler": found.samplers, "nfe": found.nfes, "metric": found.metrics}
    for name, some in chosen.items():
        frame = frame[frame[name].isin(some)]
    return frame[["line", *_PAIRS, "value"]].drop_duplicates(["line", *_PAIRS])


def _paired(values: np.ndarray) -> tuple[float, float, int, bool, float]:
    """Mean, half width, blocks, whether 0 is outside the interval, and p, of differences."""
    half, p, mean = half_width(values), p_value(values), float(values.mean())
    outside = half is not None and abs(mean) > half
    return (mean, np.nan if half is None else half, len(values), outside,
            np.nan if p is None else p)  # fmt: skip
