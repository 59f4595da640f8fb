"""Which figures a results folder has, as PNG and PDF.

The same records always give the same bytes.
"""

from collections.abc import Collection, Iterator
from pathlib import Path

from matplotlib.figure import Figure

from bench.report import levels, scores, twins
from bench.report.drawing import TWO, save, style
from bench.report.frame import FEW_LINES, Results
from bench.report.layout import crossed
from bench.report.samples import samples
from bench.report.sweep import crossing, sweep


def write(
    results: Results, folder: Path, out: Path, lines: Collection[str] = (), width: float = TWO
) -> list[Path]:
    """Write the figures as `<name>.png` and `<name>.pdf`.

    Arguments:
        folder: of the results, with the images of samples.
        out: folder of the figures.
        lines: those that curves show. Empty: at most six, which `Results.few` chooses.
        width: inches, `ONE` or `TWO`.

    Returns:
        Paths of the files.
    """
    made: list[Path] = []
    with style():
        for name, figure in _figures(results, folder, lines, width):
            made += save(figure, out / name, pictures=name.startswith("samples"))
    return made


def _figures(
    results: Results, folder: Path, lines: Collection[str], width: float
) -> Iterator[tuple[str, Figure]]:
    """Every figure, with its file name.

    The name ends in the model if there are several models. It ends in the number of images for all
    numbers of a model but its first.
    """
    models = set(results.planned.model)  # names of files do not change when a model is begun
    groups = [(model, n) for model, n in results.groups() if len(results.ran(model, n))]
    first = {model: n for model, n in reversed(groups)}
    for model, n in groups:
        tail = "" if len(models) == 1 else f"-{model}"
        tail += "" if n == first[model] else f"-{n}"
        some = results.only(lines) if lines else results.few(model, n)
        if len(some.ran(model, n)):
            yield from _of_few_lines(some, model, n, tail, width)
            pictures = samples(some, model, n, folder, width) if n == first[model] else None
            if pictures is not None and not crossed(results, model, n):
                yield f"samples{tail}", pictures
        if not lines:
            yield from _of_all_lines(results, model, n, tail, width)
            pairs = None if crossed(results, model, n) else twins.figure(results, model, n, width)
            if pairs is not None:
                yield f"models{tail}", pairs
        if n == first[model] and levels.curves(results, model):
            yield f"rates{tail}", levels.rates(results, model, width)


def _of_few_lines(
    results: Results, model: str, n: int, tail: str, width: float
) -> Iterator[tuple[str, Figure]]:
    """The curves and grids of some lines of a group."""
    if not crossed(results, model, n):
        yield f"score-vs-nfe{tail}", scores.quality(results, model, n, width)
        errors = scores.errors(results, model, n, width)
        if errors is not None:
            yield f"error-vs-nfe{tail}", errors
        if {"precision", "recall"} <= set(results.metrics):
            yield f"precision-recall{tail}", scores.precision_recall(results, model, n, width)
    yield f"grids{tail}", levels.grids(results, model, n, width)


def _of_all_lines(
    results: Results, model: str, n: int, tail: str, width: float
) -> Iterator[tuple[str, Figure]]:
    """The coloured tables of a group that has too many lines or samplers for curves."""
    if "fd" not in results.metrics or results.ran(model, n).fd.isna().all():
        return
    if crossed(results, model, n):
        name, figures = "crossing", crossing(results, model, n, width)
    elif results.ran(model, n).line.nunique() > FEW_LINES:
        name, figures = "sweep", sweep(results, model, n, width)
    else:
        return
    for part, figure in zip(("", "-rest"), figures, strict=False):
        yield name + part + tail, figure
