"""Tables: Markdown and LaTeX for people, CSV for programs. An unrun cell is empty."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bench import store
from bench.report import published
from bench.report.frame import HIGHER_IS_BETTER, MANY_LINES, Results, Score, label, spread
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


def _from_records(results: Results, part: str, name: str) -> list[Any]:
    """One value a planned cell, None where it was not run."""
    records = [results.records.get(key) for key in results.frame.key]
    return [record[part].get(name) if record else None for record in records]


def long_form(results: Results) -> pd.DataFrame:
    """One row a planned cell, tuning cells included; nothing that differs from run to run."""
    frame = results.frame
    devices = {key: record["device"] for key, record in results.records.items()}
    out = frame[[*_CELL, "schedule", *results.metrics]].assign(
        counted=frame.counted.astype("Int64"),
        features=_from_records(results, "protocol", "features"),
        reference=_from_records(results, "protocol", "reference"),
        device=frame.key.map(devices),
    )
    return out.rename(columns={"counted": "nfe_counted"})


def seconds(results: Results) -> pd.DataFrame:
    """What each cell took, seconds: apart from the table, which a second run must reproduce."""
    took = {f"{part}_s": _from_records(results, "seconds", part) for part in ("sample", "score")}
    return results.frame[[*_CELL, "key"]].drop(columns="counted").assign(**took)


def _each(values: list[str]) -> str:
    return ", ".join(dict.fromkeys(values))


def protocol(results: Results) -> list[str]:
    """What the numbers are, in sentences: taken from the records, differences listed."""
    parts = [record["protocol"] for record in results.done]

    def each(name: str) -> str:
        return _each([f"{part.get(name)}" for part in parts])

    neighbours = (
        f", {each('bank')} features for precision and recall, k = {each('k')}"
        if HIGHER_IS_BETTER & set(results.metrics)
        else ""
    )
    devices = _each([record["device"] for record in results.done])
    versions = _each([f"{k} {v}" for one in results.done for k, v in one["versions"].items()])
    lines = [
        f"Features {each('features')}; reference {each('reference')} (N = {each('reference_n')}"
        f"{neighbours}); {each('n')} images a cell; quantiser {each('quantiser')}; network in "
        f"{each('dtype')}; {devices}; {versions}.",
        f"{label('fd', results.features)}: lower is better."
        + " Precision, recall: higher is better." * bool(neighbours),
    ]
    apart = ("n", "converged")  # these differ between groups, and between blocks
    names = dict.fromkeys(name for part in parts for name in part if name not in apart)
    mixed = [name for name in names if len({str(part.get(name)) for part in parts}) > 1]
    if mixed:
        lines.append(f"Warning: the records differ in {', '.join(mixed)}; do not compare them.")
    few = min(part["n"] for part in parts)
    if few < 50_000:
        lines.append(
            f"Cells have as few as {few:,} images: N < 50,000 is not comparable with published "
            "numbers; compare within a table only."
        )
    return lines


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
    first = results.converged[0]["cell"]
    rows = ["| converged run | seeds | " + " | ".join(_heads(results)) + " |",
            "|---|---|" + "---:|" * len(_heads(results))]  # fmt: skip
    for record in results.converged:
        scores = [_value(record["metrics"][name], name) for name in results.metrics
                  if name in record["metrics"]]  # fmt: skip
        low, high = record["cell"]["seeds"]
        rows.append(
            f"| {record['cell']['model']} | {low} to {high - 1} | " + " | ".join(scores) + " |"
        )
    sampler = first["sampler"].removesuffix("()")
    return (
        f"RMS and FD to converged compare a cell with the images that {sampler} makes of "
        f"the same seeds with {record['nfe']} evaluations under `{first['schedule']}`; quantising "
        f"alone is worth 0.4 grey levels of RMS. {_BEYOND}\n\n" + "\n".join(rows)
    )


def _heads(results: Results) -> list[str]:
    names = results.converged[0]["metrics"]
    return [label(name, results.features) for name in results.metrics if name in names]


def _legend(blocks: int) -> str:
    """What the marks in a table mean, for as many blocks as were run."""
    if blocks < 2:
        return _BEST
    more = "" if blocks == 2 else " (standard deviation over more)"
    return f"± is half the range over two seed blocks{more}. {_BOLD}"


def _choices(results: Results) -> str:
    tuned = results.frame[results.frame.role == "tune"]
    rows = ["| line | sampler | chosen | tries | on block |", "|---|---|---|---:|---|"]
    for one in results.plan["chosen"]:
        here = tuned[(tuned.line == one["line"]) & (tuned.sampler == one["sampler"])]
        block = one.get("block") or _each([str(name) for name in here.block])
        rows.append(
            f"| {one['line']} | {one['sampler']} | `{one['schedule']}` | {one['tries']} | {block} |"
        )
    return "\n".join(rows)


def _number(
    score: Score | None, metric: str, bold: Callable[[str], str], sign: str, dagger: str = "†"
) -> str:
    if score is None:
        return ""
    mean, digits = _value(score.mean, metric), _digits(score.mean, metric)
    tail = f" {sign} {score.spread:.{digits}f}" if score.blocks > 1 else ""
    return (bold(mean) if score.leads else mean) + (dagger if score.beyond else "") + tail


def _digits(value: float, metric: str) -> int:
    if metric.startswith("kid"):
        return 5
    return 3 if metric in HIGHER_IS_BETTER else (1 if value >= 100 else 2)


def _value(value: float, metric: str) -> str:
    return f"{value:.{_digits(value, metric)}f}"


def _markdown_table(grid: Grid, metric: str) -> str:
    rows = {
        name: [_number(score, metric, "**{}**".format, "±") for score in row]
        for name, row in grid.rows.items()
    }
    return _markdown_rows(grid.corner, grid.heads, rows)


def _markdown_rows(corner: str, heads: list[str], rows: dict[str, list[str]]) -> str:
    lines = [f"| {corner} | " + " | ".join(heads) + " |", "|---|" + "---:|" * len(heads)]
    lines += [f"| {name} | " + " | ".join(cells) + " |" for name, cells in rows.items()]
    return "\n".join(lines)


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
            tables.append(_markdown_rows(grid.corner, heads, rows))
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


def _escape(text: str) -> str:
    words = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    known = words | {sign: f"\\{sign}" for sign in "_%&#${}"} | {"±": r"$\pm$", "†": r"$^\dagger$"}
    return "".join(known.get(sign, sign) for sign in text)


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
    corner = "NFE" if grid.corner.endswith("NFE") else grid.corner
    body = [
        " & ".join([
            _escape(name),
            *(_number(s, metric, r"\textbf{{{}}}".format, r"$\pm$", r"$^\dagger$") for s in row),
        ])
        + r" \\"
        for name, row in grid.rows.items()
    ]  # fmt: skip
    return "\n".join(
        [
            r"\begin{table}\centering",
            rf"\caption{{{_escape(caption)} {_escape(' '.join(marks))}}}",
            rf"\begin{{tabular}}{{l{'r' * len(grid.heads)}}}",
            r"\toprule",
            " & ".join([corner, *map(_escape, grid.heads)]) + r" \\",
            r"\midrule",
            *body,
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
        ]
    )
