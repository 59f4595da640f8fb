"""The verbs that read results and write tables and figures. They sample and score nothing."""

from pathlib import Path
from typing import Annotated, Any

import typer

from bench.cli.experiments import experiments_in, folder_of
from bench.cli.options import Results, app, check_output, forms_of, numbers, say_paths

LinesOf = Annotated[
    str, typer.Option("--lines", help="lines by their names in tables, with commas")
]
SamplersOf = Annotated[str, typer.Option("--samplers", help="samplers of one table, with commas")]
NFEsOf = Annotated[str, typer.Option("--nfe", help="NFEs of one table, such as 5,10")]
MetricsOf = Annotated[
    str, typer.Option("--metrics", help="metrics of one table, such as fd,recall")
]
ImagesOf = Annotated[
    int,
    typer.Option("--images", min=0, help="images a cell of one table; 0: the first of the plan"),
]
FormatOf = Annotated[
    str, typer.Option("--format", help="of one table: md, csv or tex; default: md")
]
OutOf = Annotated[Path | None, typer.Option("--out", help="file of one table; default: print it")]


@app.command("report")
def report_(
    experiment: Annotated[str, typer.Argument(help="an experiment or a study that was run")],
    results: Results = Path("results"),
    lines: LinesOf = "",
    samplers: SamplersOf = "",
    nfe: NFEsOf = "",
    metrics: MetricsOf = "",
    images: ImagesOf = 0,
    format: FormatOf = "",
    out: OutOf = None,
) -> None:
    """Write tables and figures from the records. This samples and scores nothing.

    With --lines, --samplers, --nfe, --metrics, --images, --format or --out, print one table
    instead, and write nothing else. `crs-bench compare` prints differences.
    """
    from bench.report import report, report_study, table

    one = any((lines, samplers, nfe, metrics, images, format, out))
    if (results / experiment / "study.json").is_file() and not one:
        say_paths(report_study(results / experiment))
        return
    folder = folder_of(experiment, results)
    if not one:
        say_paths(report(folder))
        return
    choice = _choice(_lines_of(lines, folder), samplers, nfe, metrics, images)
    _print(table(folder, choice), format, out)


@app.command()
def figures(
    experiment: Annotated[str, typer.Argument(help="an experiment that was run")],
    out: Annotated[Path, typer.Argument(help="folder for PNG (300 dpi) and PDF files")],
    lines: LinesOf = "",
    columns: Annotated[
        int, typer.Option(min=1, max=2, help="width in columns of a paper: 3.35 or 6.9 inches")
    ] = 2,
    results: Results = Path("results"),
) -> None:
    """Draw figures into a folder of your own: of chosen lines, or one column wide."""
    from bench.report import draw

    folder = folder_of(experiment, results)
    say_paths(draw(folder, check_output(out / "x.png").parent, _lines_of(lines, folder), columns))


@app.command()
def compare(
    a: Annotated[
        str, typer.Argument(metavar="A", help="EXPERIMENT, EXPERIMENT:LINE, or a line of --in")
    ],
    b: Annotated[str, typer.Argument(metavar="B", help="what is subtracted, written as A is")],
    within: Annotated[
        str, typer.Option("--in", help="the experiment whose lines A and B are")
    ] = "",
    results: Results = Path("results"),
    lines: LinesOf = "",
    samplers: SamplersOf = "",
    nfe: NFEsOf = "",
    metrics: MetricsOf = "",
    images: ImagesOf = 0,
    format: FormatOf = "",
    out: OutOf = None,
) -> None:
    """Print A minus B: the differences of two lines or experiments, paired by seeds.

    Of two experiments, lines of the same name are compared. Of an experiment and a line, each line
    is compared with that one.
    """
    from bench.report import table

    (mine, line), (other, minus) = (_side(text, within, results) for text in (a, b))
    if mine == other and minus in ("", line):
        raise ValueError(f"A and B are both of {mine.name}, and the same: name two lines with "
                         f"--in {mine.name}, or two experiments")  # fmt: skip
    if line and lines:
        raise ValueError(f"--lines chooses lines of an experiment, and A is the line {line!r}: "
                         "leave --lines out")  # fmt: skip
    chosen = [line] if line else _lines_of(lines, mine)
    _print(table(mine, _choice(chosen, samplers, nfe, metrics, images), other, minus), format, out)


def _choice(lines: list[str], samplers: str, nfe: str, metrics: str, images: int) -> Any:
    """What one table shows."""
    from bench.report import Choice

    loops, names = (tuple(forms_of(text)) if text else () for text in (samplers, metrics))
    return Choice(tuple(lines), loops, numbers(nfe, "--nfe") if nfe else (), names, images)


def _print(table: Any, format: str, out: Path | None) -> None:
    """Print one table, or write it to a file and print the file's name."""
    from bench import store

    text = table.write(format or "md")
    if out:
        typer.echo(store.write_text(check_output(out), text))
    else:
        typer.echo(text, nl=False)


def _lines_of(text: str, folder: Path) -> list[str]:
    """The lines of a text with commas. A line whose name has a comma is found whole."""
    known, parts, found = _line_names(folder), forms_of(text) if text else [], []
    while parts:
        size = next((n for n in range(len(parts), 1, -1) if ", ".join(parts[:n]) in known), 1)
        found.append(", ".join(parts[:size]))
        parts = parts[size:]
    return found


def _side(text: str, within: str, results: Path) -> tuple[Path, str]:
    """The folder and the line that a text of `compare` names. The line is "" for all lines.

    Raises:
        ValueError: neither a line nor an experiment.
    """
    from bench import names

    known = experiments_in(results)
    lines = _line_names(folder_of(within, results)) if within else []
    name, _, line = text.partition(":")
    if text in lines:
        return results / within, text
    if text in known:
        return results / text, ""
    if name in known:
        if line not in (its := _line_names(results / name)):
            raise ValueError(f"{name} has no line {line!r}{names.nearest(line, its)}")
        return results / name, line
    whose = [one for one in known if text in _line_names(results / one)]
    if whose:
        raise ValueError(f"{text!r} is a line of {', '.join(whose)}: write --in {whose[0]}, or "
                         f"'{whose[0]}:{text}'")  # fmt: skip
    lined = f"neither a line of {within} nor an" if within else "no"
    raise ValueError(f"{text!r} is {lined} experiment in --results {results}"
                     f"{names.nearest(text, [*lines, *known])}")  # fmt: skip


def _line_names(folder: Path) -> list[str]:
    from bench import store

    return list(store.load_plan(folder)["lines"])
