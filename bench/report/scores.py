"""Figures with scores as curves: scores against NFE, and precision against recall."""

from collections.abc import Iterable
from itertools import cycle

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.report import published
from bench.report.drawing import legend, log_axis, looks, nfe_axis, panels
from bench.report.frame import Results, label

_ERRORS = ("fd_error", "rms_error")
_LEVELS = (("#009E73", ":"), ("#117733", "-."), ("#44AA99", (0, (5, 1.5))))


def quality(results: Results, model: str, n: int) -> Figure:
    """Scores of the images against the data, such as FD, precision and recall."""
    metrics = [name for name in results.metrics if name not in _ERRORS]
    return _against_nfe(results, model, n, metrics, results.subject(model, n))


def errors(results: Results, model: str, n: int) -> Figure | None:
    """FD to the data, above the distances to the model's own converged samples.

    FD is not monotone in the sampling error. It can be lower than the FD of the converged samples.

    Returns:
        The figure. None: no cell has a distance to converged samples.
    """
    known = results.ran(model, n)
    found = [name for name in _ERRORS if name in results.metrics and known[name].notna().any()]
    if not found:
        return None
    metrics = [*(["fd"] if "fd" in results.metrics else []), *found]
    title = f"{results.subject(model, n)}: distance to the data and to the converged samples"
    return _against_nfe(results, model, n, metrics, title)


def _against_nfe(results: Results, model: str, n: int, metrics: list[str], title: str) -> Figure:
    """A row is a metric, a column is a sampler. Bands are t intervals over seed blocks."""
    samplers = list(dict.fromkeys(results.ran(model, n).sampler))
    size = (max(4.6 * len(samplers), 6), 3.1 * len(metrics) + 1.1)
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(len(metrics), len(samplers), sharex=True, sharey="row", squeeze=False)
    for metric, row in zip(metrics, grid, strict=True):
        for sampler, axes in zip(samplers, row, strict=True):
            _curves(axes, results, _paths(results, model, n, sampler, metric))
            nfe_axis(axes, sorted(set(results.ran(model, n).nfe)))
        if metric == "fd":
            _converged_levels(row, results, model, n)
            _published(row, results)
        if not results.higher_is_better(metric):
            log_axis(row[0])
        row[0].set_ylabel(label(metric, results.features))
    for sampler, top, bottom in zip(samplers, grid[0], grid[-1], strict=True):
        top.set_title(sampler)
        bottom.set_xlabel("NFE")
    legend(figure, looks(results))
    figure.suptitle(title, fontsize=10)
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


def _curves(axes: Axes, results: Results, paths: dict[str, np.ndarray]) -> None:
    """Curves with bands. A single point has a bar. Bands stay above 0 for the log axis."""
    known = looks(results)
    for line, points in paths.items():
        nfe, mean, half = points.T
        look = known[line]
        axes.plot(
            nfe, mean, look.linestyle, color=look.color, marker=look.marker, ms=4, lw=1.4,
            label=line,
        )  # fmt: skip
        low, high = np.maximum(mean - half, mean / 100), mean + half
        if len(nfe) > 1:
            axes.fill_between(nfe, low, high, color=look.color, alpha=0.2, lw=0)
        elif half[0]:
            axes.vlines(nfe, low, high, color=look.color, lw=1)
    axes.grid(alpha=0.3, which="both", lw=0.5)


def _converged_levels(row: Iterable[Axes], results: Results, model: str, n: int) -> None:
    """Horizontal lines at the FD of the converged runs of as many images.

    An FD below such a line is no gain in accuracy.
    """
    levels: dict[str, list[float]] = {}
    for _, cell in results.ran(model, n).iterrows():
        fine = results.converged_fd(cell)
        if fine is not None:
            levels.setdefault(results.records[cell.anchor]["cell"]["model"], []).append(fine)
    for axes in row:
        for (color, style), (name, values) in zip(cycle(_LEVELS), levels.items(), strict=False):
            level = float(np.mean(values))
            axes.axhline(level, color=color, lw=1.2, ls=style, label=f"converged {name}")


def _published(row: Iterable[Axes], results: Results) -> None:
    """Published FIDs, if our FD is an FID. A cross has an NFE; a horizontal line has none."""
    if label("fd", results.features) != "FID":
        return
    points = np.array(published.points(results.published)).reshape(-1, 2)
    for axes in row:
        if len(points):
            axes.plot(*points.T, "x", color="#777777", ms=5, label="published")
        for name, level in published.levels(results.published):
            axes.axhline(level, color="#777777", lw=0.8, ls=":", label=f"published: {name}")


def precision_recall(results: Results, model: str, n: int) -> Figure:
    """Precision against recall. A path is a schedule line over NFE; marks grow with NFE."""
    figure, each = panels(results, model, n)
    known, nfes = looks(results), results.ran(model, n).nfe
    for sampler, axes in each:
        precision = _paths(results, model, n, sampler, "precision")
        recall = _paths(results, model, n, sampler, "recall")
        for line, points in precision.items():
            look, x, y = known[line], recall[line][:, 1], points[:, 1]
            axes.plot(x, y, look.linestyle, color=look.color, lw=1, alpha=0.7)
            widest = max(np.log(max(nfes) / min(nfes)), 1)
            sizes = 10 + 60 * np.log(points[:, 0] / min(nfes)) / widest
            axes.scatter(x, y, sizes, color=look.color, marker=look.marker, label=line, lw=0)
        axes.set(title=sampler, xlabel="Recall (coverage)")
        axes.grid(alpha=0.3, lw=0.5)
    each[0][1].set_ylabel("Precision (fidelity)")
    legend(figure, known)
    figure.suptitle(f"{results.subject(model, n)}: marks grow with NFE", fontsize=10)
    return figure
