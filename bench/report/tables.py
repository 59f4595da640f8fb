"""Tables: Markdown and LaTeX for people, CSV for programs. An unrun cell is empty."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bench import store
from bench.report import published
from bench.report.frame import MANY_LINES, Results, Score, label, spread
from bench.report.layout import Grid, crossed, grids

_BOLD = (
    "Bold: best, of lines with the most seed blocks, and those within the spread of it (paired by "
    "block), once all it is compared with was run."
)
_BEST = "Bold: best, once all it is compared with was run."  # one block has no spread, so no ties
_CELL = ["model", "sampler", "line", "nfe", "counted", "block", "role", "n"]


def write(results: Results, folder: Path) -> list[Path]:
    """`table.md`, `table.csv`, `table.tex`, `seconds.csv`; returns their paths."""
    return [
        store.write_text(folder / "table.md", markdown(results)),
        store.write_text(folder / "table.csv", long_form(results).to_csv(index=False)),
        store.write_text(folder / "table.tex", latex(results)),
        store.write_text(folder / "seconds.csv", seconds(results).to_csv(index=False)),
    ]


def long_form(results: Results) -> pd.DataFrame:
    """One row a planned cell, tuning cells included; nothing that differs from run to run."""
    frame, rows = results.frame, results.plan["rows"]
    devices = {key: record["device"] for key, record in results.records.items()}

    def said(name: str) -> list[Any]:
        """The first score's word on its protocol, None where nothing was scored."""
        scores = [results.scores(row).values() for row in rows]
        return [next((one[name] for one in cell if name in one), None) for cell in scores]

    out = frame[[*_CELL, "schedule", *results.metrics]].assign(
        counted=frame.counted.astype("Int64"), features=said("features"),
        reference=said("reference"), device=frame.key.map(devices),
        **{f"{name}_{what}": values for name in results.metrics
           for what, values in _sureness(results, name).items()},
    )  # fmt: skip
    return out.rename(columns={"counted": "nfe_counted"})


def _sureness(results: Results, metric: str) -> dict[str, list[float | None]]:
    """Columns of the error and of the ends of the interval of a metric; only those that exist."""
    scores = [results.scores(row).get(metric, {}) for row in results.plan["rows"]]
    ends = [score.get("interval_95", (None, None)) for score in scores]
    found = {"error": [score.get("error") for score in scores],
             "low": [low for low, _ in ends], "high": [high for _, high in ends]}  # fmt: skip
    return {name: values for name, values in found.items() if any(v is not None for v in values)}


def seconds(results: Results) -> pd.DataFrame:
    """What each cell took, seconds: apart from the table, which a second run must reproduce."""
    records = [results.records.get(key) for key in results.frame.key]
    took = {f"{part}_s": [record["seconds"][part] if record else None for record in records]
            for part in ("sample", "score")}  # fmt: skip
    return results.frame[[*_CELL, "key"]].drop(columns="counted").assign(**took)


def _each(values: list[str]) -> str:
    return ", ".join(dict.fromkeys(values))


def protocol(results: Results) -> list[str]:
    """What the numbers are, in sentences: taken from the records, differences listed."""
    cells = [record["cell"] for record in results.done]
    scores = [one for row in results.plan["rows"] for one in results.scores(row).values()]

    def each(parts: list[dict[str, Any]], name: str) -> str:
        return _each([f"{part[name]}" for part in parts if name in part])

    counts = _each([f"{row['n']}" for row in results.plan["rows"] if row["key"] in results.records])
    texts = [f"{metric['text']}" for metric in results.plan["metrics"]]
    rows = each([one for one in scores if "reference" in one], "bank")
    devices = _each([record["device"] for record in results.done])
    versions = _each([f"{k} {v}" for one in results.done for k, v in one["versions"].items()])
    lines = [
        f"Features {each(scores, 'features')}; reference {each(scores, 'reference')} "
        f"(N = {each(scores, 'reference_n')}); metrics {', '.join(texts)}"
        + f", on at most {rows} single features"
        * bool(rows)
        + f"; {counts} images a cell; quantiser {each(cells, 'quantiser')}; network in "
        f"{each(cells, 'dtype')}; {devices}; {versions}.",
        _directions(results),
    ]
    mixed = [name for name in ("quantiser", "dtype") if len({c[name] for c in cells}) > 1]
    mixed += [name for name in ("features", "reference", "reference_digest")
              if len({one[name] for one in scores if name in one}) > 1]  # fmt: skip
    if mixed:
        lines.append(f"Warning: the records differ in {', '.join(mixed)}; do not compare them.")
    few = min(row["n"] for row in results.plan["rows"] if row["key"] in results.records)
    if few < 50_000:
        lines.append(
            f"Cells have as few as {few:,} images: N < 50,000 is not comparable with published "
            "numbers; compare within a table only."
        )
    return lines


def _directions(results: Results) -> str:
    """Which metrics want to be low, and which high."""
    ways: dict[str, list[str]] = {"lower": [], "higher": []}
    for name in results.metrics:
        way = "higher" if results.higher_is_better(name) else "lower"
        ways[way].append(label(name, results.features))
    return " ".join(f"{', '.join(names)}: {way} is better." for way, names in ways.items() if names)


def markdown(results: Results) -> str:
    """The whole page: protocol, tables, what was tuned."""
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
    text += published.markdown(results.published, plan.get("published", ""))
    if plan["chosen"]:
        text += ["## What was tuned", _choices(results)]
    return "\n\n".join(text) + "\n"


_SORTED = (
    f"More than {MANY_LINES} schedule lines are sorted by their geometric mean of FD over the "
    "NFEs, the lowest first, in all tables of a sampler."
)
_BEYOND = (
    "† below the FD of the model's own converged samples of the same seeds: what is gained there "
    "is not closeness to the model's distribution."
)


def _converged(results: Results) -> str:
    """The fine runs that cells are compared with, and their own scores."""
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
        f"RMS and FD to converged compare a cell with the images that {rows[0]['sampler']} makes "
        f"of the same seeds with {record['nfe']} evaluations under `{record['cell']['label']}`; "
        f"quantising alone is worth 0.4 grey levels of RMS. {_BEYOND}\n\n"
        + _table("converged run", heads, table)
    )


def _legend(blocks: int) -> str:
    """What the marks in a table mean, for as many blocks as were run."""
    if blocks < 2:
        return _BEST
    more = "" if blocks == 2 else " (standard deviation over more)"
    return f"± is half the range over two seed blocks{more}. {_BOLD}"


def _choices(results: Results) -> str:
    columns = {"line": "line", "sampler": "sampler", "schedule": "chosen", "tries": "tries",
               "block": "on block"}  # fmt: skip
    rows = pd.DataFrame(results.plan["chosen"])[list(columns)].rename(columns=columns)
    rows["chosen"] = "`" + rows["chosen"] + "`"
    return rows.to_markdown(index=False, disable_numparse=True)


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
    """Digits after the point."""
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
    """A Markdown table: texts to the left, cells to the right."""
    frame = pd.DataFrame.from_dict(rows, orient="index", columns=heads).rename_axis(corner)
    align = ("left", *["right"] * len(heads))
    return frame.reset_index().to_markdown(index=False, disable_numparse=True, colalign=align)


def _differences(results: Results, model: str, n: int) -> list[str]:
    """FD behind the best of each column, in pairs of the same seeds: none of a single block."""
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
    """Mean and spread of the paired differences; 0 for the best itself."""
    if score is None:
        return ""
    values = np.asarray(score.behind)
    if not values.any():
        return "0"
    digits = _digits(float(values.mean()), "fd")
    return f"{values.mean():.{digits}f} ± {spread(values):.{digits}f}"


def latex(results: Results) -> str:
    """booktabs tables, one a model, number of images, metric and sampler."""
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
    """Text for LaTeX, with the two marks of our captions."""
    for sign in "_%&#$":
        text = text.replace(sign, f"\\{sign}")
    return text.replace("±", r"$\pm$").replace("†", r"$^\dagger$")
