"""Figures as PNG and PDF, the same to the byte on each run; one colour a schedule line throughout.

Baselines are dashed and cool, constant-rate lines solid and warm (Okabe and Ito's palette).
"""

import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import matplotlib.image
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, ScalarFormatter

from bench import store
from bench.report.frame import Results, label

_COOL = ("#555555", "#56B4E9", "#0072B2", "#009E73", "#999999", "#333399")
_WARM = ("#D55E00", "#E69F00", "#CC79A7", "#A50F15", "#8C6D00", "#F0027F")
_MARKS = "osD^vP*X"


@dataclass(frozen=True)
class Look:
    """How a schedule line is drawn."""

    color: str
    marker: str
    linestyle: str


def _looks(results: Results) -> dict[str, Look]:
    looks, seen = {}, {True: 0, False: 0}
    for i, line in enumerate(dict.fromkeys(row["line"] for row in results.plan["rows"])):
        ours = line.startswith(("CRS", "ConstantRate"))
        palette = _WARM if ours else _COOL
        color = palette[seen[ours] % len(palette)]
        looks[line] = Look(color, _MARKS[i % len(_MARKS)], "-" if ours else "--")
        seen[ours] += 1
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
    groups = list(results.groups())
    main: dict[str, int] = {}
    for model, n in groups:
        main.setdefault(model, n)
    for model, n in main.items():
        tail = "" if len(main) == 1 else f"-{model}"
        for metric in results.metrics:
            yield f"{metric}-vs-nfe{tail}", _against_nfe(results, model, n, metric)
        if {"precision", "recall"} <= set(results.metrics):
            yield f"precision-recall{tail}", _precision_recall(results, model, n)
        yield f"grids{tail}", _grids(results, model, n)
        yield f"samples{tail}", _samples(results, model, n, folder)
        if any(rate["model"] == model for rate in results.plan["rates"]):
            yield f"rates{tail}", _rates(results, model)


def _panels(results: Results, model: str, n: int) -> tuple[Figure, list[tuple[str, Axes]]]:
    samplers = list(dict.fromkeys(results.scored(model, n).sampler))
    figure = Figure(figsize=(4.6 * len(samplers), 4.6), layout="constrained")
    axes = figure.subplots(1, len(samplers), sharey=True, squeeze=False)[0]
    return figure, list(zip(samplers, axes, strict=True))


def _legend(figure: Figure, axes: Axes) -> None:
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=8, frameon=False)


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


def _against_nfe(results: Results, model: str, n: int, metric: str) -> Figure:
    """A metric against NFE, a panel a sampler; bands are the spread over seed blocks."""
    figure, panels = _panels(results, model, n)
    looks = _looks(results)
    for sampler, axes in panels:
        for line, points in _paths(results, model, n, sampler, metric).items():
            nfe, mean, spread = points.T
            look = looks[line]
            axes.plot(
                nfe, mean, look.linestyle, color=look.color, marker=look.marker, ms=4, lw=1.4,
                label=line,
            )  # fmt: skip
            axes.fill_between(nfe, mean - spread, mean + spread, color=look.color, alpha=0.2, lw=0)
        _nfe_axis(axes, sorted(set(results.scored(model, n).nfe)))
        if metric == "fd":
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter(ScalarFormatter())
            axes.yaxis.set_minor_formatter(ScalarFormatter())
        axes.tick_params(axis="both", which="both", labelsize=8)
        axes.set_title(sampler)
        axes.grid(alpha=0.3, which="both", lw=0.5)
    panels[0][1].set_ylabel(label(metric, results.features))
    _legend(figure, panels[0][1])
    figure.suptitle(f"{model}, {n:,} images a cell", fontsize=10)
    return figure


def _nfe_axis(axes: Axes, ticks: list[int]) -> None:
    axes.set_xscale("log")
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.xaxis.set_tick_params(which="minor", bottom=False)
    axes.set_xlabel("NFE")


def _precision_recall(results: Results, model: str, n: int) -> Figure:
    """Precision against recall, a path over NFE a schedule; marks grow with NFE."""
    figure, panels = _panels(results, model, n)
    looks = _looks(results)
    for sampler, axes in panels:
        precision = _paths(results, model, n, sampler, "precision")
        recall = _paths(results, model, n, sampler, "recall")
        for line, points in precision.items():
            look, x, y = looks[line], recall[line][:, 1], points[:, 1]
            axes.plot(x, y, look.linestyle, color=look.color, lw=1, alpha=0.7)
            sizes = np.linspace(10, 70, len(x))
            axes.scatter(x, y, sizes, color=look.color, marker=look.marker, label=line, lw=0)
        axes.set(title=sampler, xlabel="Recall (coverage)")
        axes.grid(alpha=0.3, lw=0.5)
    panels[0][1].set_ylabel("Precision (fidelity)")
    _legend(figure, panels[0][1])
    figure.suptitle(f"{model}: marks grow with NFE", fontsize=10)
    return figure


def _pick(results: Results, model: str, n: int) -> int:
    """The NFE nearest to 10 that the experiment has."""
    return min(set(results.scored(model, n).nfe), key=lambda nfe: (abs(nfe - 10), nfe))


def _first_records(results: Results, model: str, n: int, sampler: str, nfe: int) -> dict:
    """Schedule line -> its record in the first block that was run."""
    rows = results.scored(model, n)
    found: dict[str, dict] = {}
    for row in rows[(rows.sampler == sampler) & (rows.nfe == nfe)].to_dict("records"):
        if row["key"] in results.records:
            found.setdefault(row["line"], results.records[row["key"]])
    return found


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
    _legend(figure, panels[0][1])
    return figure


def _rates(results: Results, model: str) -> Figure:
    """Measured rates per unit angle, normalised, and the share of the whole below each angle."""
    figure = Figure(figsize=(9.2, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    for i, rate in enumerate(r for r in results.plan["rates"] if r["model"] == model):
        sigma, v = np.array(rate["sigma"]), np.array(rate["v"])
        angle = np.degrees(np.arctan(sigma))
        per_angle = v * (1 + sigma**2)  # v dsigma/dangle
        pieces = (per_angle[1:] + per_angle[:-1]) / 2 * np.diff(angle)
        share = np.concatenate([[0], np.cumsum(pieces)]) / pieces.sum()
        text = f"{rate['name']} ({rate['images']} images, {rate['levels']} levels)"
        color = _WARM[i % len(_WARM)]
        left.plot(angle, per_angle / pieces.sum(), color=color, label=text)
        right.plot(angle, share, color=color, label=text)
    left.set(xlabel="angle = atan σ, degrees", ylabel="rate per degree, unit area", yscale="log")
    right.set(xlabel="angle = atan σ, degrees", ylabel="share of the whole below")
    for axes in (left, right):
        axes.set_xticks(range(0, 91, 15))
        axes.grid(alpha=0.3, lw=0.5)
    right.plot([0, 90], [0, 1], ":", color="#999999", lw=1, label="uniform in angle")
    right.legend(fontsize=8, frameon=False)
    figure.suptitle(f"Measured rates of {model}", fontsize=10)
    return figure


def _samples(results: Results, model: str, n: int, folder: Path) -> Figure:
    """The same seeds under each schedule: lowest and highest NFE, a column of strips each."""
    rows = results.scored(model, n)
    ran = rows[rows.key.isin(list(results.records))]
    samplers = list(dict.fromkeys(rows.sampler))
    low, high = min(ran.nfe), max(ran.nfe)
    columns = [(s, nfe) for s in samplers for nfe in dict.fromkeys((low, high))]
    lines = list(dict.fromkeys(rows.line))
    figure = Figure(figsize=(2.9 * len(columns) + 1.6, 0.5 * len(lines) + 0.7))
    axes = figure.subplots(len(lines), len(columns), squeeze=False)
    figure.subplots_adjust(0.15, 0.01, 0.995, 0.88, 0.03, 0.06)
    for j, (sampler, nfe) in enumerate(columns):
        found = _first_records(results, model, n, sampler, nfe)
        axes[0][j].set_title(f"{sampler}, NFE {nfe}", fontsize=9)
        for i, line in enumerate(lines):
            axes[i][j].axis("off")
            strip = folder / "records" / f"{found[line]['key']}.png" if line in found else None
            if strip and strip.is_file():
                axes[i][j].imshow(matplotlib.image.imread(strip), cmap="gray", vmin=0, vmax=1)
    for i, line in enumerate(lines):
        axes[i][0].text(
            -0.02, 0.5, line, transform=axes[i][0].transAxes, ha="right", va="center", fontsize=8
        )
    return figure
