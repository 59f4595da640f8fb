"""Tables: Markdown and LaTeX for readers, CSV for programs. A cell that was not run is empty."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bench import store
from bench.report import published
from bench.report.frame import MANY_LINES, Results, Score, label, spread
from bench.report.layout import Grid, crossed, grids

_WHOLE = "Nothing is bold before all cells that are compared with each other were run."
_BOLD = (
    "Bold: the best value, and ties with it. The best is taken among the lines with the most seed "
    "blocks. A line is a tie if its mean distance to the best, paired by seed block, is at most "
    f"the spread of these distances. {_WHOLE}"
)
_BEST = f"Bold: the best value. {_WHOLE}"  # one block has no spread, so there are no ties
_CELL = ["model", "sampler", "line", "nfe", "counted", "block", "role", "n"]


def write(results: Results, folder: Path) -> list[Path]:
    """Write `table.md`, `table.csv`, `table.tex` and `seconds.csv`. Returns: their paths."""
    return [
        store.write_text(folder / "table.md", markdown(results)),
        store.write_text(folder / "table.csv", long_form(results).to_csv(index=False)),
        store.write_text(folder / "table.tex", latex(results)),
        store.write_text(folder / "seconds.csv", seconds(results).to_csv(index=False)),
    ]


def long_form(results: Results) -> pd.DataFrame:
    """One row for each planned cell, with tuning cells. A second run gives the same table."""
    frame, rows = results.frame, results.plan["rows"]
    devices = {key: record["device"] for key, record in results.records.items()}

    def first(name: str) -> list[Any]:
        """An entry of the protocol, from the first score that has it. None: no score has it."""
        scores = [results.scores(row).values() for row in rows]
        return [next((one[name] for one in cell if name in one), None) for cell in scores]

    out = frame[[*_CELL, "schedule", *results.metrics]].assign(
        counted=frame.counted.astype("Int64"), features=first("features"),
        reference=first("reference"), device=frame.key.map(devices),
        **{f"{name}_{what}": values for name in results.metrics
           for what, values in _sureness(results, name).items()},
    )  # fmt: skip
    return out.rename(columns={"counted": "nfe_counted"})


def _sureness(results: Results, metric: str) -> dict[str, list[float | None]]:
    """Columns of the standard error and of the 95 % confidence interval, if a score has them."""
    scores = [results.scores(row).get(metric, {}) for row in results.plan["rows"]]
    ends = [score.get("interval_95", (None, None)) for score in scores]
    found = {"error": [score.get("error") for score in scores],
             "low": [low for low, _ in ends], "high": [high for _, high in ends]}  # fmt: skip
    return {name: values for name, values in found.items() if any(v is not None for v in values)}


def seconds(results: Results) -> pd.DataFrame:
    """Seconds of every cell. They differ from run to run, so `table.csv` does not have them."""
    records = [results.records.get(key) for key in results.frame.key]
    took = {f"{part}_s": [record["seconds"][part] if record else None for record in records]
            for part in ("sample", "score")}  # fmt: skip
    return results.frame[[*_CELL, "key"]].drop(columns="counted").assign(**took)


def _each(values: list[str]) -> str:
    return ", ".join(dict.fromkeys(values))


def protocol(results: Results) -> list[str]:
    """The protocol of the numbers, in sentences, from the records. It lists differences."""
    cells = [record["cell"] for record in results.done]
    scores = [one for row in results.plan["rows"] for one in results.scores(row).values()]

    def each(parts: list[dict[str, Any]], name: str) -> str:
        return _each([f"{part[name]}" for part in parts if name in part])

    counts = _each([f"{row['n']}" for row in results.plan["rows"] if row["key"] in results.records])
    texts = [f"{metric['text']}" for metric in results.plan["metrics"]]
    rows = each([one for one in scores if "reference" in one], "bank")
    devices = _each([record["device"] for record in results.done])
    versions = _each([f"{k} {v}" for one in results.done for k, v in one["versions"].items()])
    single = f" Some of them read features of single images, at most {rows} a set." if rows else ""
    lines = [
        f"Features: {each(scores, 'features')}. Reference: {each(scores, 'reference')} "
        f"(N = {each(scores, 'reference_n')}). Metrics: {', '.join(texts)}.{single} "
        f"{counts} images a cell. Quantiser: {each(cells, 'quantiser')}. The network ran in "
        f"{each(cells, 'dtype')} on {devices}, with {versions}.",
        _directions(results),
    ]
    mixed = [name for name in ("quantiser", "dtype") if len({c[name] for c in cells}) > 1]
    mixed += [name for name in ("features", "reference", "reference_digest")
              if len({one[name] for one in scores if name in one}) > 1]  # fmt: skip
    if mixed:
        lines.append(
            f"Warning: the cells differ in {', '.join(mixed)}. Do not compare cells that differ."
        )
    few = min(row["n"] for row in results.plan["rows"] if row["key"] in results.records)
    if few < 50_000:
        lines.append(
            f"The smallest cells have {few:,} images. Scores with N < 50,000 are not comparable "
            "with published numbers. Compare them within a table only."
        )
    return lines


def _directions(results: Results) -> str:
    """For which metrics lower is better, and for which higher."""
    ways: dict[str, list[str]] = {"lower": [], "higher": []}
    for name in results.metrics:
        way = "higher" if results.higher_is_better(name) else "lower"
        ways[way].append(label(name, results.features))
    return " ".join(f"{', '.join(names)}: {way} is better." for way, names in ways.items() if names)


def markdown(results: Results) -> str:
    """The page `table.md`: protocol, tables and tuned choices."""
    plan = results.plan
    text = [f"# {plan['title']}", *protocol(results)]
    if plan.get("note"):
        text.append(plan["note"])
    text.append(_legend(results.blocks))
    if any(results.sweeps(model, n) for model, n in results.groups()):
        text.append(_SORTED)
    if results.converged:
        text.append(_converged(results))
    for model, n in results.groups():
        for metric in results.metrics:
            arrow = "higher" if results.higher_is_better(metric) else "lower"
            name = label(metric, results.features)
            text.append(f"## {name}, {results.subject(model, n)} ({arrow} is better)")
            text += [_markdown_table(grid, metric) for grid in grids(results, model, n, metric)]
        text += _differences(results, model, n)
    text += _not_run(results)
    text += published.markdown(results.published, plan.get("published", ""))
    if plan["chosen"]:
        text += ["## What was tuned", _choices(results)]
    return "\n\n".join(text) + "\n"


_SORTED = (
    f"Tables with more than {MANY_LINES} schedule lines are sorted by their geometric mean of FD "
    "over the NFEs, the lowest first. All tables of a sampler have this order."
)
_BEYOND = (
    "† below the FD of the model's own converged samples of the same seeds. Such a gain does not "
    "mean that the samples are closer to the model's distribution."
)


def _not_run(results: Results, most: int = 12) -> list[str]:
    """A section that names the planned cells without a record: none if all were run."""
    rows = [row for row in results.plan["rows"] if row["key"] not in results.records]
    if not rows:
        return []
    names = list(dict.fromkeys(
        f"{row['line']}, {row['sampler']}, NFE {row['nfe']}, block {row['block']}" for row in rows
    ))  # fmt: skip
    more = [f"and {len(names) - most} more"] if len(names) > most else []
    return [f"## Not run: {len(names)} planned cells", "; ".join([*names[:most], *more]) + "."]


def _converged(results: Results) -> str:
    """The converged runs that cells are compared with, and their scores."""
    rows = results.converged
    record = results.records[rows[0]["key"]]
    names = [name for name in results.metrics if name in results.scores(rows[0])]
    table = {}
    for row in rows:
        cell, scores = results.records[row["key"]]["cell"], results.scores(row)
        low, high = cell["seeds"]
        values = [_value(scores[name]["value"], name) for name in names if name in scores]
        table[f"{cell['model']}, seeds {low} to {high - 1}"] = values
    heads = [label(name, results.features) for name in names]
    return (
        "RMS and FD to converged compare the images of a cell with converged images of the same "
        f"seeds. These come from {rows[0]['sampler']} with {record['nfe']} function evaluations "
        f"and the schedule `{record['cell']['label']}`. Quantisation alone gives an RMS of 0.4 "
        f"grey levels. {_BEYOND}\n\n" + _table("converged run", heads, table)
    )


def _legend(blocks: int) -> str:
    """What the marks in a table mean. blocks: the most seed blocks of a cell."""
    if blocks < 2:
        return _BEST
    more = "" if blocks == 2 else ", or the standard deviation over three or more"
    return f"± is half the range over two seed blocks{more}. {_BOLD}"


def _choices(results: Results) -> str:
    columns = {"line": "line", "sampler": "sampler", "nfe": "NFE", "schedule": "chosen",
               "tries": "tries", "block": "on block"}  # fmt: skip
    rows = pd.DataFrame(results.plan["chosen"])
    edge = rows.get("edge", pd.Series(False, rows.index)).astype(bool)
    rows = rows.reindex(columns=list(columns)).dropna(axis=1, how="all").rename(columns=columns)
    rows["chosen"] = "`" + rows["chosen"] + "`" + edge.map({True: " (edge)", False: ""})
    table = rows.to_markdown(index=False, disable_numparse=True)
    return f"{table}\n\n{_EDGE}" if edge.any() else table


_EDGE = "(edge): the first or last value that was tried. A value beyond it might be better."


def _number(
    score: Score | None, metric: str, bold: Callable[[str], str], sign: str, dagger: str = "†"
) -> str:
    if score is None:
        return ""
    mean, digits = _value(score.mean, metric), _digits(score.mean, metric)
    tail = f" {sign} {score.spread:.{digits}f}" if score.blocks > 1 else ""
    return (bold(mean) if score.leads else mean) + (dagger if score.beyond else "") + tail


_SHARES = {"precision", "recall", "precision_adm", "recall_adm", "density", "coverage", "is"}


def _digits(value: float, metric: str) -> int:
    """Number of digits after the decimal point."""
    name = metric.partition("(")[0]
    if name == "kid":
        return 5
    return 3 if name in _SHARES else (1 if value >= 100 else 2)


def _value(value: float, metric: str) -> str:
    return f"{value:.{_digits(value, metric)}f}"


def _markdown_table(grid: Grid, metric: str) -> str:
    rows = {
        name: [_number(score, metric, "**{}**".format, "±") for score in row]
        for name, row in grid.rows.items()
    }
    return _table(grid.corner, grid.heads, rows)


def _table(corner: str, heads: list[str], rows: dict[str, list[str]]) -> str:
    """A Markdown table. The first column is aligned to the left, all others to the right."""
    frame = pd.DataFrame.from_dict(rows, orient="index", columns=heads).rename_axis(corner)
    align = ("left", *["right"] * len(heads))
    return frame.reset_index().to_markdown(index=False, disable_numparse=True, colalign=align)


def _differences(results: Results, model: str, n: int) -> list[str]:
    """Tables of the differences in FD to the best of a column, in pairs of seed blocks.

    Columns in which fewer than two lines have two blocks are left out.
    """
    if "fd" not in results.metrics or crossed(results, model, n):
        return []
    tables = []
    for grid in grids(results, model, n, "fd"):
        paired = {name: [score if score and len(score.behind) > 1 else None for score in row]
                  for name, row in grid.rows.items()}  # fmt: skip
        columns = [
            j for j in range(len(grid.heads)) if sum(bool(r[j]) for r in paired.values()) > 1
        ]
        rows = {name: [_behind(row[j]) for j in columns] for name, row in paired.items()}
        rows = {name: cells for name, cells in rows.items() if any(cells)}
        if rows:
            heads = [grid.heads[j] for j in columns]
            tables.append(_table(grid.corner, heads, rows))
    name = label("fd", results.features)
    what = "behind the best of the column, paired by seed block"
    return [f"## {name} {what}, {results.subject(model, n)}", *tables] if tables else []


def _behind(score: Score | None) -> str:
    """Mean and spread of the paired differences. The best itself has 0."""
    if score is None:
        return ""
    values = np.asarray(score.behind)
    if not values.any():
        return "0"
    digits = _digits(float(values.mean()), "fd")
    return f"{values.mean():.{digits}f} ± {spread(values):.{digits}f}"


def latex(results: Results) -> str:
    """The page `table.tex`, for booktabs: a table for each group, metric and sampler (or NFE)."""
    text = ["% needs \\usepackage{booktabs}"]
    for model, n in results.groups():
        for metric in results.metrics:
            name = f"{label(metric, results.features)} of {results.models(model, n)}"
            for grid in grids(results, model, n, metric):
                caption = f"{name}, {grid.subject}, {n:,} images a cell."
                text.append(_latex_table(grid, metric, caption))
    return "\n\n".join(text) + "\n"


def _latex_table(grid: Grid, metric: str, caption: str) -> str:
    marks = [_legend(max((score.blocks for score in grid.scores), default=0))]
    marks += [_BEYOND] * any(score.beyond for score in grid.scores)
    rows = {
        name: [_number(s, metric, r"\textbf{{{}}}".format, r"$\pm$", r"$^\dagger$") for s in row]
        for name, row in grid.rows.items()
    }
    corner = "NFE" if grid.corner.endswith("NFE") else grid.corner
    frame = pd.DataFrame.from_dict(rows, orient="index", columns=grid.heads)
    style = frame.rename_axis(columns=corner).style
    style = style.format_index(escape="latex").format_index(escape="latex", axis=1)
    whole = _escape(f"{caption} {' '.join(marks)}")
    return style.to_latex(
        hrules=True, column_format=f"l{'r' * len(grid.heads)}", caption=whole,
        position_float="centering",
    ).rstrip()  # fmt: skip


def _escape(text: str) -> str:
    """Escaped text for LaTeX. The marks ± and † become commands."""
    for sign in "_%&#$":
        text = text.replace(sign, f"\\{sign}")
    return text.replace("±", r"$\pm$").replace("†", r"$^\dagger$")
