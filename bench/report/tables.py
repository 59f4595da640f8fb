"""Tables: Markdown and LaTeX for people, CSV for programs. An unrun cell is empty."""

from collections.abc import Callable
from pathlib import Path

from bench import store
from bench.report.frame import HIGHER_IS_BETTER, Results, Score, label

_BOLD = "Bold: the best of a column, and what the paired seed blocks cannot tell from it."


def write(results: Results, folder: Path) -> list[Path]:
    """`table.md`, `table.csv`, `table.tex`."""
    frame = results.frame.drop(columns=["key"])
    return [
        store.write_text(folder / "table.md", markdown(results)),
        store.write_text(folder / "table.csv", frame.to_csv(index=False)),
        store.write_text(folder / "table.tex", latex(results)),
    ]


def protocol(results: Results) -> list[str]:
    """What the numbers are, in sentences: taken from the records, differences listed."""
    parts = [record["protocol"] for record in results.done]

    def each(name: str) -> str:
        return ", ".join(dict.fromkeys(f"{part.get(name)}" for part in parts))

    devices = ", ".join(dict.fromkeys(record["device"] for record in results.done))
    torch = ", ".join(dict.fromkeys(record["versions"]["torch"] for record in results.done))
    lines = [
        f"Features {each('features')}; reference {each('reference')} (N = {each('reference_n')}, "
        f"{each('bank')} features for precision and recall, k = {each('k')}); {each('n')} images "
        f"a cell; quantiser {each('quantiser')}; network in {each('dtype')}; "
        f"{devices}; torch {torch}.",
        f"{label('fd', results.features)}: lower is better. Precision, recall: higher is better.",
    ]
    few = min(part["n"] for part in parts)
    if few < 50_000:
        lines.append(
            f"Cells have as few as {few:,} images: compare within a table only, never with "
            "published numbers, which take 50,000."
        )
    return lines


def markdown(results: Results) -> str:
    """The whole page: protocol, tables, what was tuned."""
    plan = results.plan
    text = [f"# {plan['title']}", *protocol(results)]
    if plan.get("note"):
        text.append(plan["note"])
    text.append(f"± is half the range over two seed blocks. {_BOLD}")
    for model, n in results.groups():
        for metric in results.metrics:
            arrow = "higher" if metric in HIGHER_IS_BETTER else "lower"
            name = label(metric, results.features)
            text.append(f"## {name}, {model}, {n:,} images a cell ({arrow} is better)")
            for sampler in _samplers(results, model, n):
                text.append(_markdown_table(results, model, n, sampler, metric))
    if plan["chosen"]:
        text += ["## What was tuned", _choices(results)]
    return "\n\n".join(text) + "\n"


def _choices(results: Results) -> str:
    rows = ["| line | sampler | chosen | tries |", "|---|---|---|---|"]
    for one in results.plan["chosen"]:
        rows.append(f"| {one['line']} | {one['sampler']} | `{one['schedule']}` | {one['tries']} |")
    return "\n".join(rows)


def _samplers(results: Results, model: str, n: int) -> list[str]:
    return list(dict.fromkeys(results.scored(model, n).sampler))


def _columns(
    results: Results, model: str, n: int, sampler: str, metric: str
) -> tuple[list[str], list[str], dict[str, dict[str, Score | None]]]:
    """Schedule lines, column heads, and head -> line -> score."""
    rows = results.scored(model, n)
    rows = rows[rows.sampler == sampler]
    columns = {}
    for nfe in sorted(set(rows.nfe)):
        counted = sorted(set(rows[rows.nfe == nfe].counted.dropna().astype(int)))
        true = "" if counted in ([], [nfe]) else f" ({'/'.join(map(str, counted))})"
        columns[f"{nfe}{true}"] = results.column(model, n, sampler, nfe, metric)
    return list(dict.fromkeys(rows.line)), list(columns), columns


def _number(score: Score | None, metric: str, bold: Callable[[str], str], sign: str) -> str:
    if score is None:
        return ""
    digits = 3 if metric in HIGHER_IS_BETTER else (1 if score.mean >= 100 else 2)
    mean = f"{score.mean:.{digits}f}"
    tail = f" {sign} {score.spread:.{digits}f}" if score.blocks > 1 else ""
    return (bold(mean) if score.leads else mean) + tail


def _markdown_table(results: Results, model: str, n: int, sampler: str, metric: str) -> str:
    lines, heads, columns = _columns(results, model, n, sampler, metric)
    rows = [
        f"| {sampler}, NFE | " + " | ".join(heads) + " |",
        "|---|" + "---:|" * len(heads),
    ]
    for line in lines:
        cells = [_number(columns[h].get(line), metric, "**{}**".format, "±") for h in heads]
        rows.append(f"| {line} | " + " | ".join(cells) + " |")
    return "\n".join(rows)


def _escape(text: str) -> str:
    return text.replace("_", r"\_").replace("%", r"\%").replace("&", r"\&")


def latex(results: Results) -> str:
    """booktabs tables, one a model, number of images, metric and sampler."""
    text = ["% needs \\usepackage{booktabs}"]
    for model, n in results.groups():
        for metric in results.metrics:
            for sampler in _samplers(results, model, n):
                text.append(_latex_table(results, model, n, sampler, metric))
    return "\n\n".join(text) + "\n"


def _latex_table(results: Results, model: str, n: int, sampler: str, metric: str) -> str:
    lines, heads, columns = _columns(results, model, n, sampler, metric)
    name = _escape(f"{label(metric, results.features)} of {model}, {sampler}, {n:,} images a cell.")
    body = [
        _escape(line)
        + " & "
        + " & ".join(
            _number(columns[h].get(line), metric, r"\textbf{{{}}}".format, r"$\pm$") for h in heads
        )
        + r" \\"
        for line in lines
    ]
    return "\n".join(
        [
            r"\begin{table}\centering",
            rf"\caption{{{name} {_BOLD}}}",
            rf"\begin{{tabular}}{{l{'r' * len(heads)}}}",
            r"\toprule",
            "NFE & " + " & ".join(heads) + r" \\",
            r"\midrule",
            *body,
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
        ]
    )
