"""Which figures a results folder has, as PNG and PDF, and the figure of samples.

The same records always give the same bytes.
"""

from collections.abc import Iterator
from pathlib import Path

import matplotlib.image
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from bench.report import levels, scores
from bench.report.crossing import crossing
from bench.report.drawing import save
from bench.report.frame import Results
from bench.report.layout import crossed
from bench.report.sweep import sweep


def write(results: Results, folder: Path) -> list[Path]:
    """Write `figures/<name>.png` and `figures/<name>.pdf`. Returns: their paths."""
    return [
        path
        for name, figure in _figures(results, folder)
        for path in save(figure, folder / "figures" / name, 80 if name.startswith(_LARGE) else 120)
    ]


_LARGE = ("samples", "sweep")  # large figures have fewer dots per inch


def _figures(results: Results, folder: Path) -> Iterator[tuple[str, Figure]]:
    """Every figure, with its file name.

    The name ends in the model if there are several models. It ends in the number of images for all
    numbers of a model but its first.
    """
    models = dict.fromkeys(model for model, _ in results.groups())
    groups = [(model, n) for model, n in results.groups() if len(results.ran(model, n))]
    first = {model: n for model, n in reversed(groups)}
    shown: set[tuple[str, str]] = set()
    for model, n in groups:
        tail = "" if len(models) == 1 else f"-{model}"
        tail += "" if n == first[model] else f"-{n}"
        lines = {(model, line) for line in results.ran(model, n).line}
        if crossed(results, model, n) and "fd" in results.metrics:
            yield f"crossing{tail}", crossing(results, model, n)
            yield f"grids{tail}", levels.grids(results, model, n)
        elif results.sweeps(model, n):
            yield f"sweep{tail}", sweep(results, model, n)
            for name, figure in _of_few_lines(results.few(model, n), model, n):
                yield name + tail, figure
        else:
            for name, figure in _of_few_lines(results, model, n):
                yield name + tail, figure
            if not lines <= shown:
                yield f"samples{tail}", _samples(results, model, n, folder)
        shown |= lines
        if n == first[model] and levels.curves(results, model):
            yield f"rates{tail}", levels.rates(results, model)


def _of_few_lines(results: Results, model: str, n: int) -> Iterator[tuple[str, Figure]]:
    """The figures of a group whose schedule lines are few, or those of some of its lines."""
    yield "score-vs-nfe", scores.quality(results, model, n)
    errors = scores.errors(results, model, n)
    if errors is not None:
        yield "error-vs-nfe", errors
    if {"precision", "recall"} <= set(results.metrics):
        yield "precision-recall", scores.precision_recall(results, model, n)
    yield "grids", levels.grids(results, model, n)


def _samples(results: Results, model: str, n: int, folder: Path) -> Figure:
    """Images of the same seeds for every schedule line.

    A row is a line. A column is a sampler at the lowest or highest NFE of the first seed block.
    """
    ran = results.ran(model, n)
    ran = ran[ran.block == ran.block.iloc[0]]
    low, high = min(ran.nfe), max(ran.nfe)
    columns = [(one, nfe) for one in dict.fromkeys(ran.sampler) for nfe in sorted({low, high})]
    lines = list(dict.fromkeys(ran.line))
    size = (2.9 * len(columns) + 1.9, 0.42 * len(lines) + 0.6)
    tight = ConstrainedLayoutEngine(w_pad=0.02, h_pad=0.01, wspace=0.01, hspace=0.0)
    figure = Figure(figsize=size, layout=tight)
    axes = figure.subplots(len(lines), len(columns), squeeze=False)
    for j, (sampler, nfe) in enumerate(columns):
        found = levels.first_records(results, model, n, sampler, nfe)
        axes[0][j].set_title(f"{sampler}, NFE {nfe}", fontsize=9)
        for i, line in enumerate(lines):
            _bare(axes[i][j])
            strip = folder / "records" / f"{found[line]['key']}.png" if line in found else None
            if strip and strip.is_file():
                axes[i][j].imshow(_picture(strip), cmap="gray", vmin=0, vmax=1)
    for i, line in enumerate(lines):
        axes[i][0].set_ylabel(line, rotation=0, ha="right", va="center", fontsize=8)
    figure.suptitle(f"{results.models(model, n)}: every row has the same seeds", fontsize=10)
    return figure


def _picture(strip: Path) -> np.ndarray:
    """The pixels of a strip of images. ValueError: the file is damaged."""
    try:
        return matplotlib.image.imread(strip)
    except Exception as error:  # of a damaged file Pillow raises nearly anything
        raise ValueError(f"{strip} is no image; delete it") from error


def _bare(axes: Axes) -> None:
    """Remove the ticks and the frame. Labels stay."""
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
