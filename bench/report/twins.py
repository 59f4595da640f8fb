"""A figure of schedules that were run on several models: what a model gives, what a schedule."""

import textwrap

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from bench.report.drawing import TWO, arrow, caption, legend, log_axis, looks, nfe_axis
from bench.report.frame import Results, fair, label
from bench.report.lines import kind, paper_name

_STYLES = ("-", "--", ":", "-.")  # of the models, in the order of the lines


def twins(results: Results, model: str, n: int) -> dict[str, dict[str, str]]:
    """Line -> model -> the line with the same schedule on that model. Lines without a twin are left
    out."""
    ran = {*results.ran(model, n).line}
    lines = {name: line for name, line in results.plan["lines"].items() if name in ran}
    found: dict[str, dict[str, str]] = {}
    for name, line in lines.items():
        first = next((one for one in found if kind(lines[one]) == kind(line)), name)
        found.setdefault(first, {}).setdefault(line.get("model", model), name)
    return {name: same for name, same in found.items() if len(same) > 1}


def figure(results: Results, model: str, n: int, width: float = TWO) -> Figure | None:
    """FD over that of the group's first line, and recall, at each NFE; a model has a style of line.

    It shows the first schedule that several models have, and of the others the best that is no
    baseline and the best baseline. None: no schedule was run on several models, or at one NFE
    only, where the figure of scores says the same.
    """
    every = twins(results, model, n)
    metrics = [one for one in (*results.spaces, "recall") if one in results.metrics]
    if not every or "fd" not in metrics:
        return None
    shown = _best(results, model, n, list(every))
    seconds = [name for line in shown for name in [*every[line].values()][1:]]
    ran = results.ran(model, n)
    ran = ran[ran.line.isin(seconds)]  # panels are of what several models have
    if ran.nfe.nunique() < 2:
        return None
    nfes, samplers = sorted(set(ran.nfe)), list(dict.fromkeys(ran.sampler))
    made = Figure(figsize=(width, 1.75 * len(metrics) + 1), layout="constrained")
    grid = made.subplots(len(metrics), len(samplers), sharex=True, squeeze=False)
    for metric, row in zip(metrics, grid, strict=True):
        for sampler, axes in zip(samplers, row, strict=True):
            same = {one: every[one] for one in shown}
            _draw(axes, results, (model, n, sampler), metric, same, nfes)
            nfe_axis(axes, nfes, (width - 0.5) / len(samplers))
            if metric in results.spaces and any(line.get_ydata().size for line in axes.lines):
                log_axis(axes)
        over = f" / that of {_first(results, model, n)}" if metric in results.spaces else ""
        way = arrow(results.higher_is_better(metric))
        name = f"{label(metric, results.features)}{over}\u00a0{way}"
        row[0].set_ylabel(textwrap.fill(name, 30))
    for sampler, top, bottom in zip(samplers, grid[0], grid[-1], strict=True):
        top.set_title(paper_name(sampler), parse_math=False)
        bottom.set_xlabel("NFE")
    _explain(made, results, shown, list(dict.fromkeys(m for one in shown for m in every[one])))
    caption(made, f"Training times sampling: {results.subject(model, n)}.")
    return made


def _first(results: Results, model: str, n: int) -> str:
    """The line that FD is divided by: the first one of the group."""
    return str(results.scored(model, n).line.iloc[0])


def _best(results: Results, model: str, n: int, lines: list[str]) -> list[str]:
    """The first of the lines; of the others the best that is no baseline, and the best baseline, by
    `Results.places`."""
    rest = [line for line in results.places(model, n) if line in lines[1:]]
    own = [line for line in rest if not results.baseline(line)]
    return [lines[0], *own[:1], *[line for line in rest if line not in own][:1]]


def _draw(
    axes: Axes, results: Results, group: tuple[str, int, str], metric: str,
    shown: dict[str, dict[str, str]], nfes: list[int],
) -> None:  # fmt: skip
    """The curves of a panel. FD is divided by that of the group's first line at the same NFE."""
    first = _first(results, *group[:2])
    names = {first: 0, **{name: 0 for same in shown.values() for name in same.values()}}
    found = {nfe: results.values(*group, nfe, metric).reindex([*names]).dropna(how="all")
             for nfe in nfes}  # fmt: skip
    means = {nfe: fair(one).mean(axis=1) for nfe, one in found.items() if len(one)}
    table = pd.DataFrame(means, index=[*names]).reindex(columns=nfes)
    if metric in results.spaces:
        table = table / table.loc[first]
    known, models = looks(results), list(dict.fromkeys(m for same in shown.values() for m in same))
    for line, same in shown.items():
        for where, name in same.items():
            values = table.loc[name].to_numpy(float)
            style = _STYLES[models.index(where) % len(_STYLES)]
            drawn = np.isfinite(values)
            axes.plot(np.array(nfes)[drawn], values[drawn], style, color=known[line].color,
                      marker=known[line].marker,
                      mfc=known[line].color if where == models[0] else "white")  # fmt: skip
    axes.grid(which="both")


def _explain(made: Figure, results: Results, shown: list[str], models: list[str]) -> None:
    """The legend: a colour is a schedule, a style is a model."""
    known, axes = looks(results), made.axes[0]
    for line in shown:
        axes.add_line(Line2D([], [], color=known[line].color, marker=known[line].marker, ls="",
                             label=line))  # fmt: skip
    for place, name in enumerate(models):
        axes.add_line(Line2D([], [], color="#333333", ls=_STYLES[place % len(_STYLES)], marker="o",
                             mfc="#333333" if place == 0 else "white", label=name))  # fmt: skip
    legend(made)
