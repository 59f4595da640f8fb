"""Figures with scores as curves: scores against NFE, and precision against recall."""

import textwrap
from collections.abc import Iterable
from itertools import cycle

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from bench.report import published
from bench.report.drawing import (
    TWO,
    arrow,
    caption,
    label_edges,
    legend,
    log_axis,
    looks,
    nfe_axis,
    panels,
    short,
)
from bench.report.frame import Results, label
from bench.report.intervals import LEVEL
from bench.report.lines import folded_name, paper_name

_ERRORS = ("fd_error", "rms_error")
_HALO = withStroke(linewidth=1.5, foreground="white")  # around small numbers
_LEVELS = (("#009E73", ":"), ("#117733", "-."), ("#44AA99", (0, (5, 1.5))))


def quality(results: Results, model: str, n: int, width: float = TWO) -> Figure:
    """Scores of the images against the data, such as FD, precision and recall."""
    metrics = [name for name in results.metrics if name not in _ERRORS]
    if results.ran(model, n).nfe.nunique() == 1:
        return _at_one_nfe(results, model, n, metrics, width)
    return _against_nfe(results, model, n, metrics, width, "Scores against the data")


def errors(results: Results, model: str, n: int, width: float = TWO) -> Figure | None:
    """Distances to the model's own converged samples of the same seeds.

    Returns:
        The figure. None: no cell has a distance to converged samples.
    """
    known = results.ran(model, n)
    found = [name for name in _ERRORS if name in results.metrics and known[name].notna().any()]
    if not found:
        return None
    draw = _at_one_nfe if known.nfe.nunique() == 1 else _against_nfe
    return draw(results, model, n, found, width, "Distances to the model's own converged samples")


def _intervals(results: Results, marks: str, halves: set[bool]) -> str:
    """What bands or bars are. halves: whether points have one."""
    if True not in halves:
        return ""
    few = f" Points without a {marks[:-1].lower()} have fewer blocks." if False in halves else ""
    return (f" {marks}: {100 * LEVEL:g} % t intervals of the mean over {results.blocks} seed "
            f"blocks.{few}")  # fmt: skip


def _named(metric: str, results: Results) -> str:
    return f"{label(metric, results.features)}\u00a0{arrow(results.higher_is_better(metric))}"


def _against_nfe(
    results: Results, model: str, n: int, metrics: list[str], width: float, what: str
) -> Figure:
    """A row is a metric, a column is a sampler. Bands are t intervals over seed blocks."""
    samplers = list(dict.fromkeys(results.ran(model, n).sampler))
    side = (width - 0.5) / len(samplers)
    lines = results.ran(model, n).line.nunique()  # a narrow figure has a row of legend for each
    high = 1.75 * len(metrics) + 0.9 if width == TWO else 1.3 * len(metrics) + 0.8 + 0.13 * lines
    figure = Figure(figsize=(width, high),
                    layout="constrained")  # fmt: skip
    grid = figure.subplots(len(metrics), len(samplers), sharex=True, sharey="row", squeeze=False)
    halves: set[bool] = set()
    for metric, row in zip(metrics, grid, strict=True):
        log = not results.higher_is_better(metric) and _above_0(results, model, n, metric)
        for sampler, axes in zip(samplers, row, strict=True):
            halves |= _curves(axes, results, _paths(results, model, n, sampler, metric), log)
            nfe_axis(axes, sorted(set(results.ran(model, n).nfe)), side)
        if metric == "fd":
            _converged_levels(row, results, model, n)
            _published(row, results)
        if log:
            log_axis(row[0])
        row[0].set_ylabel(textwrap.fill(_named(metric, results), 30 if width == TWO else 20))
    for sampler, top, bottom in zip(samplers, grid[0], grid[-1], strict=True):
        fit = max(8, int(17 * side))  # letters of this size fit
        top.set_title(textwrap.fill(paper_name(sampler), fit), parse_math=False)
        bottom.set_xlabel("NFE")
    legend(figure, looks(results))
    bands = _intervals(results, "Bands", halves)
    caption(figure, f"{what}: {results.subject(model, n)}.{bands}")
    return figure


def _paths(
    results: Results, model: str, n: int, sampler: str, metric: str
) -> dict[str, np.ndarray]:
    """Schedule line -> [points, 3]: NFE, mean and `half` (or 0) of the cells that were run."""
    rows = results.scored(model, n)
    found: dict[str, list[tuple[float, float, float]]] = {}
    for nfe in sorted(set(rows[rows.sampler == sampler].nfe)):
        column = results.column(model, n, sampler, nfe, metric)
        for line, score in column.items():
            if score is not None:
                found.setdefault(line, []).append((nfe, score.mean, score.half or 0.0))
    return {line: np.array(points) for line, points in found.items()}


def _above_0(results: Results, model: str, n: int, metric: str) -> bool:
    """Whether all scores are above 0, as a log axis needs. KID, say, can be below."""
    return bool((results.ran(model, n)[metric].dropna() > 0).all())


def _curves(axes: Axes, results: Results, paths: dict[str, np.ndarray], log: bool) -> set[bool]:
    """Curves with bands, which stay above 0 on a log axis. A single point has a bar.

    Returns: whether points have a band or a bar.
    """
    known = looks(results)
    for line, points in paths.items():
        nfe, mean, half = points.T
        look = known[line]
        axes.plot(nfe, mean, look.linestyle, color=look.color, marker=look.marker, label=line)
        low, high = mean - half, mean + half
        low = np.maximum(low, mean / 100) if log else low
        if len(nfe) > 1:
            axes.fill_between(nfe, low, high, color=look.color, alpha=0.15, lw=0)
        elif half[0]:
            axes.vlines(nfe, low, high, color=look.color)
    axes.grid(which="both")
    return {bool(half) for points in paths.values() for half in points[:, 2]}


def _converged_levels(row: Iterable[Axes], results: Results, model: str, n: int) -> None:
    """Horizontal lines at the FD of the converged runs of as many images.

    An FD below such a line is no gain in accuracy.
    """
    for axes in row:
        for (color, style), (name, level) in zip(
            cycle(_LEVELS), _converged(results, model, n).items(), strict=False
        ):
            axes.axhline(level, color=color, ls=style, label=f"converged {name}")


def _converged(results: Results, model: str, n: int) -> dict[str, float]:
    """Model -> mean FD of its converged runs of as many images."""
    levels: dict[str, list[float]] = {}
    for _, cell in results.ran(model, n).iterrows():
        fine = results.converged_fd(cell)
        if fine is not None:
            levels.setdefault(results.records[cell.anchor]["cell"]["model"], []).append(fine)
    return {name: float(np.mean(values)) for name, values in levels.items()}


def _published(row: Iterable[Axes], results: Results) -> None:
    """Published FIDs, if our FD is an FID. A cross has an NFE; a horizontal line has none."""
    if label("fd", results.features) != "FID":
        return
    points = np.array(published.points(results.published)).reshape(-1, 2)
    for axes in row:
        if len(points):
            axes.plot(*points.T, "x", color="#777777", label="published")
        for name, level in published.levels(results.published):
            axes.axhline(level, color="#777777", lw=0.8, ls=":", label=f"published: {name}")


def _at_one_nfe(
    results: Results, model: str, n: int, metrics: list[str], width: float,
    what: str = "Scores against the data",
) -> Figure:  # fmt: skip
    """Means and intervals on a line. A row of panels is a sampler, a column is a metric."""
    samplers = list(dict.fromkeys(results.ran(model, n).sampler))
    lines = list(dict.fromkeys(results.ran(model, n).line))
    nfe, known = int(results.ran(model, n).nfe.iloc[0]), looks(results)
    size = (width, (0.13 * len(lines) + 0.5) * len(samplers) + 0.45)
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(len(samplers), len(metrics), sharex="col", sharey=True, squeeze=False)
    halves: set[bool] = set()
    for sampler, row in zip(samplers, grid, strict=True):
        for metric, axes in zip(metrics, row, strict=True):
            for line, ((_, mean, half),) in _paths(results, model, n, sampler, metric).items():
                at, look = lines.index(line), known[line]
                halves.add(bool(half))
                axes.errorbar(mean, at, xerr=half or None, fmt=look.marker, color=look.color)
            axes.grid(axis="x")
            if metric == "fd":
                for name, level in _converged(results, model, n).items():
                    axes.axvline(level, color=_LEVELS[0][0], ls=":", label=f"converged {name}")
        row[0].set_yticks(range(len(lines)), [short(one, width) for one in lines], parse_math=False)
        row[0].set_ylim(len(lines) - 0.4, -0.6)
        row[0].set_title(paper_name(sampler), loc="left", parse_math=False)
    for metric, axes in zip(metrics, grid[-1], strict=True):
        if not results.higher_is_better(metric) and _above_0(results, model, n, metric):
            log_axis(axes, "x")
        axes.set_xlabel(textwrap.fill(_named(metric, results), 20))
    legend(figure)
    bars = _intervals(results, "Bars", halves)
    caption(figure, f"{what} at NFE {nfe}: {results.subject(model, n)}.{bars}")
    return figure


def precision_recall(results: Results, model: str, n: int, width: float = TWO) -> Figure:
    """Precision against recall. A path is a schedule line over NFE. Panels share both axes."""
    samplers = list(dict.fromkeys(results.ran(model, n).sampler))
    figure, each = panels(len(samplers), width, 2.6, sharex=True)
    known, labelled = looks(results), _few_nfes(sorted(set(results.ran(model, n).nfe)))
    told = list(dict.fromkeys(results.ran(model, n).line))
    places = {told[0]: (4, -5), told[-1]: (-7, 4)}  # points, right and up
    for sampler, axes in zip(samplers, each, strict=True):
        for line, (nfes, y, x) in _both(results, model, n, sampler).items():
            look = known[line]
            axes.plot(x, y, look.linestyle, color=look.color, marker=look.marker, label=line)
            for nfe, right, up in zip(nfes, x, y, strict=True):
                if len(labelled) > 1 and nfe in labelled and line in places:
                    axes.annotate(f"{nfe:.0f}", (right, up), places[line], color=look.color,
                                  textcoords="offset points", fontsize=6,
                                  path_effects=[_HALO])  # fmt: skip
        axes.set_title(folded_name(sampler), parse_math=False)
        axes.set_xlabel("Recall (coverage) ↑")
        axes.set_ylabel("Precision (fidelity) ↑")
        axes.grid()
    label_edges(each)
    legend(figure, known)
    said = f" Numbers: NFE of {' and '.join(places)}." if len(labelled) > 1 else ""
    caption(figure, f"Precision against recall: {results.subject(model, n)}.{said}")
    return figure


def _both(results: Results, model: str, n: int, sampler: str) -> dict[str, np.ndarray]:
    """Schedule line -> NFEs, precision and recall [3, points], of cells that have both scores."""
    found = {}
    recall = _paths(results, model, n, sampler, "recall")
    for line, points in _paths(results, model, n, sampler, "precision").items():
        others = {nfe: mean for nfe, mean, _ in recall.get(line, ())}
        rows = [(nfe, mean, others[nfe]) for nfe, mean, _ in points if nfe in others]
        if rows:
            found[line] = np.array(rows).T
    return found


def _few_nfes(nfes: list[int]) -> set[int]:
    """The lowest NFE, the highest, and the one nearest to 10."""
    return {nfes[0], min(nfes, key=lambda one: (abs(one - 10), one)), nfes[-1]}
