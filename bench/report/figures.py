"""Figures as PNG and PDF, the same to the byte on each run; one colour a schedule line throughout.

Baselines are dashed and cool, constant-rate lines solid and warm (Okabe and Ito's palette).
"""

import io
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

from bench import store
from bench.report.frame import HIGHER_IS_BETTER, Results, label

_COOL = ("#333333", "#56B4E9", "#0072B2", "#999999", "#333399", "#7F9DB9")
_WARM = ("#D55E00", "#E69F00", "#CC79A7", "#A50F15", "#8C6D00", "#F0027F")
_MARKS = "osD^vP*X"


@dataclass(frozen=True)
class Look:
    """How a schedule line is drawn."""

    color: str
    marker: str
    linestyle: str


def _looks(results: Results) -> dict[str, Look]:
    """Schedule line -> look, by its place in the scored rows: the same in every figure."""
    looks: dict[str, Look] = {}
    cool, warm = cycle(_COOL), cycle(_WARM)
    rows = results.frame[results.frame.role == "score"]
    for mark, line in zip(cycle(_MARKS), dict.fromkeys(rows.line), strict=False):
        if line.startswith(("CRS", "ConstantRate")):
            looks[line] = Look(next(warm), mark, "-")
        else:
            looks[line] = Look(next(cool), mark, "--")
    return looks


def write(results: Results, folder: Path) -> list[Path]:
    """`figures/<name>.png` and `.pdf`; returns their paths."""
    paths = []
    for name, figure in _figures(results, folder):
        for suffix, metadata in (("png", {"Software": None}), ("pdf", {"CreationDate": None})):
            file = io.BytesIO()
            figure.savefig(file, format=suffix, dpi=150, metadata=metadata)
            path = folder / "figures" / f"{name}.{suffix}"
            paths.append(store.write_bytes(path, file.getvalue()))
    return paths


def _figures(results: Results, folder: Path) -> Iterator[tuple[str, Figure]]:
    """Every figure with its file name; models, and numbers of images beyond the first, a suffix."""
    models = dict.fromkeys(model for model, _ in results.groups())
    groups = [(model, n) for model, n in results.groups() if len(results.ran(model, n))]
    first = {model: n for model, n in reversed(groups)}
    for model, n in groups:
        tail = "" if len(models) == 1 else f"-{model}"
        tail += "" if n == first[model] else f"-{n}"
        yield f"score-vs-nfe{tail}", _against_nfe(results, model, n)
        if {"precision", "recall"} <= set(results.metrics):
            yield f"precision-recall{tail}", _precision_recall(results, model, n)
        yield f"grids{tail}", _grids(results, model, n)
        yield f"samples{tail}", _samples(results, model, n, folder)
        if n == first[model] and any(rate["model"] == model for rate in results.plan["rates"]):
            yield f"rates{tail}", _rates(results, model)


def _panels(results: Results, model: str, n: int) -> tuple[Figure, list[tuple[str, Axes]]]:
    samplers = list(dict.fromkeys(results.ran(model, n).sampler))
    figure = Figure(figsize=(max(4.6 * len(samplers), 6), 4.6), layout="constrained")
    axes = figure.subplots(1, len(samplers), sharey=True, squeeze=False)[0]
    return figure, list(zip(samplers, axes, strict=True))


def _legend(figure: Figure, looks: dict[str, Look]) -> None:
    """One legend under all panels: the lines that any of them draws, in plan order."""
    found: dict[str, Artist] = {}
    for axes in figure.axes:
        for handle, text in zip(*axes.get_legend_handles_labels(), strict=True):
            found.setdefault(text, handle)
    labels = [line for line in looks if line in found] + [t for t in found if t not in looks]
    figure.legend(
        [found[line] for line in labels], labels, loc="outside lower center", fontsize=8,
        ncols=min(4, len(labels)), frameon=False,
    )  # fmt: skip


def _paths(
    results: Results, model: str, n: int, sampler: str, metric: str
) -> dict[str, np.ndarray]:
    """Schedule line -> [points, 3]: NFE, mean, spread, for the cells that were run."""
    rows = results.scored(model, n)
    found: dict[str, list[tuple[float, float, float]]] = {}
    for nfe in sorted(set(rows[rows.sampler == sampler].nfe)):
        column = results.column(model, n, sampler, nfe, metric)
        for line, score in column.items():
            if score is not None:
                found.setdefault(line, []).append((nfe, score.mean, score.spread))
    return {line: np.array(points) for line, points in found.items()}


def _against_nfe(results: Results, model: str, n: int) -> Figure:
    """Scores against NFE: a row a metric, a panel a sampler; bands are the spread over blocks."""
    samplers = list(dict.fromkeys(results.ran(model, n).sampler))
    size = (max(4.6 * len(samplers), 6), 3.2 * len(results.metrics) + 0.9)
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(
        len(results.metrics), len(samplers), sharex=True, sharey="row", squeeze=False
    )
    for metric, row in zip(results.metrics, grid, strict=True):
        for sampler, axes in zip(samplers, row, strict=True):
            _curves(axes, results, _paths(results, model, n, sampler, metric))
            _nfe_axis(axes, sorted(set(results.scored(model, n).nfe)))
        if metric not in HIGHER_IS_BETTER:
            _plain_log(row[0])
        if metric == "fd":
            _converged_levels(row, results, model, n)
        row[0].set_ylabel(label(metric, results.features))
    for sampler, top, bottom in zip(samplers, grid[0], grid[-1], strict=True):
        top.set_title(sampler)
        bottom.set_xlabel("NFE")
    _legend(figure, _looks(results))
    figure.suptitle(f"{model}, {n:,} images a cell", fontsize=10)
    return figure


def _curves(axes: Axes, results: Results, paths: dict[str, np.ndarray]) -> None:
    """Lines with their bands; a band stays above 0, so that a log axis can show it."""
    looks = _looks(results)
    for line, points in paths.items():
        nfe, mean, spread = points.T
        look = looks[line]
        axes.plot(
            nfe, mean, look.linestyle, color=look.color, marker=look.marker, ms=4, lw=1.4,
            label=line,
        )  # fmt: skip
        low = np.maximum(mean - spread, mean / 100)
        axes.fill_between(nfe, low, mean + spread, color=look.color, alpha=0.2, lw=0)
    axes.grid(alpha=0.3, which="both", lw=0.5)


def _converged_levels(panels: Iterable[Axes], results: Results, model: str, n: int) -> None:
    """The FD of converged runs over as many images, dotted: gains below it are none of accuracy."""
    levels: dict[str, list[float]] = {}
    for _, row in results.ran(model, n).iterrows():
        fine = results.converged_fd(row)
        if fine is not None:
            levels.setdefault(results.records[row.anchor]["cell"]["model"], []).append(fine)
    for axes in panels:
        for name, values in levels.items():
            axes.axhline(
                float(np.mean(values)), color="#009E73", lw=1, ls=":", label=f"converged {name}"
            )


def _plain_log(axes: Axes) -> None:
    """Logarithmic, labelled at 1, 2, 5 times the powers of ten, in plain numbers."""
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def _nfe_axis(axes: Axes, ticks: list[int]) -> None:
    axes.set_xscale("log")
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.xaxis.set_tick_params(which="minor", bottom=False)


def _precision_recall(results: Results, model: str, n: int) -> Figure:
    """Precision against recall, a path over NFE a schedule; marks grow with NFE."""
    figure, panels = _panels(results, model, n)
    looks, nfes = _looks(results), results.ran(model, n).nfe
    for sampler, axes in panels:
        precision = _paths(results, model, n, sampler, "precision")
        recall = _paths(results, model, n, sampler, "recall")
        for line, points in precision.items():
            look, x, y = looks[line], recall[line][:, 1], points[:, 1]
            axes.plot(x, y, look.linestyle, color=look.color, lw=1, alpha=0.7)
            sizes = 10 + 60 * np.log(points[:, 0] / min(nfes)) / max(
                np.log(max(nfes) / min(nfes)), 1
            )
            axes.scatter(x, y, sizes, color=look.color, marker=look.marker, label=line, lw=0)
        axes.set(title=sampler, xlabel="Recall (coverage)")
        axes.grid(alpha=0.3, lw=0.5)
    panels[0][1].set_ylabel("Precision (fidelity)")
    _legend(figure, looks)
    figure.suptitle(f"{model}: marks grow with NFE", fontsize=10)
    return figure


def _pick(results: Results, model: str, n: int) -> int:
    """The NFE nearest to 10 that the experiment has."""
    return min(set(results.ran(model, n).nfe), key=lambda nfe: (abs(nfe - 10), nfe))


def _first_records(results: Results, model: str, n: int, sampler: str, nfe: int) -> dict:
    """Schedule line -> its record in the first block that was run: the same seeds for all."""
    rows = results.ran(model, n)
    rows = rows[(rows.sampler == sampler) & (rows.nfe == nfe)]
    rows = rows[rows.block == rows.block.iloc[0]] if len(rows) else rows
    return {line: results.records[key] for line, key in zip(rows.line, rows.key, strict=True)}


def _grids(results: Results, model: str, n: int) -> Figure:
    """The grids as run: sigma against the step, one NFE, a panel a sampler."""
    figure, panels = _panels(results, model, n)
    looks, nfe = _looks(results), _pick(results, model, n)
    for sampler, axes in panels:
        for line, record in _first_records(results, model, n, sampler, nfe).items():
            grid = np.array([sigma for sigma in record["grid"] if sigma > 0])
            look = looks[line]
            axes.plot(
                grid, look.linestyle, color=look.color, marker=look.marker, ms=4, lw=1.2,
                label=line,
            )  # fmt: skip
        axes.set_yscale("log")
        axes.set(title=f"{sampler}, NFE {nfe}", xlabel="step")
        axes.grid(alpha=0.3, lw=0.5)
    panels[0][1].set_ylabel(r"$\sigma$ (noise over signal); the last step goes to 0")
    _legend(figure, looks)
    return figure


def _rates(results: Results, model: str) -> Figure:
    """Measured rates per unit angle, normalised, and the share of the whole below each angle."""
    figure = Figure(figsize=(9.2, 4.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    right.plot([0, 90], [0, 1], ":", color="#999999", lw=1, label="uniform in angle")
    for rate in (one for one in results.plan["rates"] if one["model"] == model):
        sigma, v = np.array(sorted(zip(rate["sigma"], rate["v"], strict=True))).T
        angle = np.degrees(np.arctan(sigma))
        per_angle = v * (1 + sigma**2)  # v dsigma/dangle
        pieces = (per_angle[1:] + per_angle[:-1]) / 2 * np.diff(angle)
        share = np.concatenate([[0], np.cumsum(pieces)]) / pieces.sum()
        look = _rate_look(results, rate["name"])
        left.plot(angle, per_angle / pieces.sum(), look.linestyle, color=look.color)
        right.plot(angle, share, look.linestyle, color=look.color, label=_rate_label(rate))
    left.set(xlabel="angle = atan σ, degrees", ylabel="rate per degree, unit area")
    _plain_log(left)
    right.set(xlabel="angle = atan σ, degrees", ylabel="share of the whole below")
    for axes in (left, right):
        axes.set_xticks(range(0, 91, 15))
        axes.grid(alpha=0.3, lw=0.5)
    handles, labels = right.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, fontsize=8, frameon=False)
    figure.suptitle(f"Measured rates of {model}", fontsize=10)
    return figure


def _rate_look(results: Results, name: str) -> Look:
    """The look of the first schedule line that names the rate, so that colours agree."""
    named = [
        look for line, look in _looks(results).items() if re.search(rf"\b{re.escape(name)}\b", line)
    ]
    return named[0] if named else Look("#333333", "", "-.")


def _rate_label(rate: dict[str, Any]) -> str:
    known = [f"{rate[what]} {what}" for what in ("images", "levels") if rate.get(what)]
    return f"{rate['name']} ({', '.join(known)})" if known else str(rate["name"])


def _samples(results: Results, model: str, n: int, folder: Path) -> Figure:
    """The same seeds under each schedule: lowest and highest NFE, a column of strips each."""
    ran = results.ran(model, n)
    low, high = min(ran.nfe), max(ran.nfe)
    columns = [(one, nfe) for one in dict.fromkeys(ran.sampler) for nfe in sorted({low, high})]
    lines = list(dict.fromkeys(ran.line))
    size = (2.9 * len(columns) + 1.9, 0.42 * len(lines) + 0.6)
    tight = ConstrainedLayoutEngine(w_pad=0.02, h_pad=0.01, wspace=0.01, hspace=0.0)
    figure = Figure(figsize=size, layout=tight)
    axes = figure.subplots(len(lines), len(columns), squeeze=False)
    for j, (sampler, nfe) in enumerate(columns):
        found = _first_records(results, model, n, sampler, nfe)
        axes[0][j].set_title(f"{sampler}, NFE {nfe}", fontsize=9)
        for i, line in enumerate(lines):
            _bare(axes[i][j])
            strip = folder / "records" / f"{found[line]['key']}.png" if line in found else None
            if strip and strip.is_file():
                axes[i][j].imshow(matplotlib.image.imread(strip), cmap="gray", vmin=0, vmax=1)
    for i, line in enumerate(lines):
        axes[i][0].set_ylabel(line, rotation=0, ha="right", va="center", fontsize=8)
    figure.suptitle(f"{model}: the same seeds in every row", fontsize=10)
    return figure


def _bare(axes: Axes) -> None:
    """No ticks and no frame, but a label."""
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
