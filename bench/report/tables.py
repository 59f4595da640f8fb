"""Tables: Markdown and LaTeX for readers, CSV for programs. A cell that was not run is empty."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

from bench import store
from bench.report import published, summary
from bench.report.frame import MANY_LINES, Results, Score, label
from bench.report.intervals import LEAST, LEVEL
from bench.report.layout import Grid, digits, grids, markdown_table, shown
from bench.report.lines import paper_name
from bench.report.tidy import tidy

_WHOLE = "Nothing is bold before all cells that are compared with each other were run."
_LEVEL = f"{100 * LEVEL:g} %"
_INTERVAL = (
    f"± is half the width of the {_LEVEL} Student t interval of the mean over seed blocks. It "
    "holds the chance of the seeds, not that of another training. A cell of fewer than "
    f"{LEAST} blocks has none."
)
_BOLD = (
    "Bold: not told apart from the best. That is the best value, and each value whose difference "
    f"to the best, paired by seed block, has a {_LEVEL} t interval that holds 0. With fewer "
    f"than {LEAST} blocks, only an exact tie with the best is bold too. The best is taken on "
    "the seed blocks that all lines of a column have. If the best line has fewer blocks, no other "
    f"line is tested against it, and it alone is bold. {_WHOLE}"
)
_NO_INTERVAL = (
    f"An interval needs {LEAST} seed blocks, so there is none here. Bold: the best value, and "
    f"exact ties with it. {_WHOLE}"
)
_CELL = ["model", "sampler", "line", "nfe", "block", "role", "n"]
_MANY_SECTIONS = 4  # a page with more has a table of contents


def write(results: Results, folder: Path) -> list[Path]:
    """Write `table.{md,csv,tex}` and `{summary,differences,seconds}.csv`. Returns: their paths."""
    return [
        store.write_text(folder / "table.md", markdown(results)),
        store.write_text(folder / "table.csv", tidy(results).to_csv(index=False)),
        store.write_text(folder / "table.tex", latex(results)),
        store.write_text(folder / "summary.csv", summary.whole_table(results).to_csv(index=False)),
        store.write_text(
            folder / "differences.csv", summary.differences(results).to_csv(index=False)
        ),
        store.write_text(folder / "seconds.csv", seconds(results).to_csv(index=False)),
    ]


def seconds(results: Results) -> pd.DataFrame:
    """Seconds of every cell. They differ from run to run, so `table.csv` does not have them."""
    records = [results.records.get(key) for key in results.frame.key]
    took = {f"{part}_s": [record["seconds"][part] if record else None for record in records]
            for part in ("sample", "score")}  # fmt: skip
    return results.frame[[*_CELL, "key"]].assign(**took)


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
    text.append(legend(results.blocks))
    if any(results.sweeps(model, n) for model, n in results.groups()):
        text.append(_SORTED)
    if results.converged:
        text.append(_converged(results))
    behind = summary.differences(results)
    for model, n in results.groups():
        for space in results.spaces:
            text += summary.markdown(results, model, n, space)
        for metric in results.metrics:
            arrow = "higher" if results.higher_is_better(metric) else "lower"
            name = label(metric, results.features)
            text.append(f"## {name}, {results.subject(model, n)} ({arrow} is better)")
            text += [_grid_table(grid, metric) for grid in grids(results, model, n, metric)]
        for space in results.spaces:
            text += summary.differences_markdown(results, model, n, space, behind)
    text += _not_run(results)
    text += published.markdown(results.published, plan.get("published", ""))
    if plan["chosen"]:
        text += ["## What was tuned", _choices(results)]
    return "\n\n".join([text[0], *_contents(text), *text[1:]]) + "\n"


def _contents(parts: list[str]) -> list[str]:
    """Links to the sections of a long page, as GitHub names them. Empty: the page is short."""
    heads = [part.removeprefix("## ") for part in parts if part.startswith("## ")]
    if len(heads) <= _MANY_SECTIONS:
        return []
    anchors = [re.sub(r"[^\w -]", "", head.lower()).replace(" ", "-") for head in heads]
    return [
        "\n".join(f"* [{head}](#{anchor})" for head, anchor in zip(heads, anchors, strict=True))
    ]


_SORTED = (
    f"Tables with more than {MANY_LINES} schedule lines are sorted by their geometric mean of FD "
    "over the NFEs at which every line was run, on the seed blocks that all lines have, the lowest "
    "first. All tables of a sampler have this order."
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
        values = [shown(scores[name]["value"], name) for name in names if name in scores]
        table[f"{cell['model']}, seeds {low} to {high - 1}"] = values
    heads = [label(name, results.features) for name in names]
    return (
        "RMS and FD to converged compare the images of a cell with converged images of the same "
        f"seeds. These come from {rows[0]['sampler']} with {record['nfe']} function evaluations "
        f"and the schedule `{record['cell']['label']}`. Quantisation alone gives an RMS of 0.4 "
        f"grey levels. {_BEYOND}\n\n" + markdown_table("converged run", heads, table)
    )


def legend(blocks: int) -> str:
    """What the marks in a table mean. blocks: the most seed blocks of a cell."""
    return _NO_INTERVAL if blocks < LEAST else f"{_INTERVAL} {_BOLD}"


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


def number(
    score: Score | None, metric: str, bold: Callable[[str], str], sign: str, dagger: str = "†"
) -> str:
    """A cell of a table: the mean, its marks and its interval. Empty: it was not run."""
    if score is None:
        return ""
    mean, places = shown(score.mean, metric), digits(score.mean, metric)
    tail = "" if score.half is None else f" {sign} {score.half:.{places}f}"
    return (bold(mean) if score.leads else mean) + (dagger if score.beyond else "") + tail


def _grid_table(grid: Grid, metric: str) -> str:
    rows = {
        name: [number(score, metric, "**{}**".format, "±") for score in row]
        for name, row in grid.rows.items()
    }
    return markdown_table(grid.corner, grid.heads, rows)


def latex(results: Results) -> str:
    """The page `table.tex`: a float for each group, metric and sampler (or NFE)."""
    text, experiment = [LATEX_NEEDS], results.plan["experiment"]
    for model, n in results.groups():
        for metric in results.metrics:
            name = f"{label(metric, results.features)} of {results.models(model, n)}"
            for grid in grids(results, model, n, metric):
                caption = f"{name}, {paper_name(grid.subject)}, {n:,} images a cell."
                text.append(_latex_table(grid, metric, caption, f"{experiment}-{len(text)}"))
    return "\n\n".join(text) + "\n"


def _latex_table(grid: Grid, metric: str, caption: str, name: str) -> str:
    marks = [legend(max((score.blocks for score in grid.scores), default=0))]
    marks += [_BEYOND] * any(score.beyond for score in grid.scores)
    rows = {name: [number(s, metric, *LATEX_MARKS) for s in row] for name, row in grid.rows.items()}
    corner = "NFE" if grid.corner.endswith("NFE") else grid.corner
    frame = pd.DataFrame.from_dict(rows, orient="index", columns=grid.heads)
    return latex_float(frame.rename_axis(columns=corner), f"{caption} {' '.join(marks)}", name)


LATEX_NEEDS = "% needs \\usepackage{booktabs,graphicx}"
LATEX_MARKS: tuple[Callable[[str], str], str, str] = (
    r"\textbf{{{}}}".format, r"$\pm$", r"$^\dagger$",
)  # fmt: skip
_FIT = r"\smallskip\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%"


def latex_float(frame: pd.DataFrame, caption: str, name: str) -> str:
    """A table of LaTeX texts as one float, which is at most as wide as the text or the column."""
    style = frame.style.format_index(_symbols, escape="latex")
    style = style.format_index(_symbols, escape="latex", axis=1)
    text = style.to_latex(
        hrules=True, column_format="l" * frame.index.nlevels + "r" * len(frame.columns),
        caption=escape(caption), label="tab:" + re.sub(r"[^\w.:-]", "-", name),
        position_float="centering", multirow_align="naive", multicol_align="c",
    )  # fmt: skip
    start, end = r"\begin{tabular}", r"\end{tabular}"
    return text.replace(start, f"{_FIT}\n{start}").replace(end, end + "}").rstrip()


def _symbols(head: Any) -> str:
    """The text of a head, with the letter xi as a symbol."""
    return re.sub(r"\bxi(=\d+(?:\.\d+)?)?", r"$\\xi\1$", str(head))


def escape(text: str) -> str:
    """Escaped text for LaTeX. The marks ± and † become commands."""
    for sign in "_%&#$":
        text = text.replace(sign, f"\\{sign}")
    return _symbols(text).replace("±", r"$\pm$").replace("†", r"$^\dagger$")
