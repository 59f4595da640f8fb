"""Figure for many samplers: FD of every sampler with every schedule, one panel for each NFE."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.report.frame import Results, label
from bench.report.layout import Grid, grids
from bench.report.sweep import color_bar, color_range, heat

_COLUMNS = 3  # panels side by side


def crossing(results: Results, model: str, n: int) -> Figure:
    """Mean FD. A row is a sampler, a column is a schedule, a panel is an NFE.

    The colour is the logarithm of the ratio to the best FD of the row. The best value of a row and
    its ties are bold.
    """
    every = [grid for grid in grids(results, model, n, "fd") if grid.scores]
    tables = [_means(grid) for grid in every]
    behind = [np.log(table.div(table.min(axis=1), axis=0)) for table in tables]
    most = max(float(np.nanmax(one.to_numpy())) for one in behind)
    top = color_range(most)
    figure, panels = _subplots(tables)
    for i, axes in enumerate(panels):
        if i < len(every):
            _panel(axes, every[i], tables[i], behind[i], top)
            if i % _COLUMNS:
                axes.set_yticklabels([])
        else:
            axes.set_visible(False)
    color_bar(figure, panels[: len(every)], top, most, "times the best of the row")
    name = label("fd", results.features)
    title = f"{name} of {results.subject(model, n)}; bold: the best of a row, and its ties"
    figure.suptitle(title, fontsize=10)
    return figure


def _subplots(tables: list[pd.DataFrame]) -> tuple[Figure, list[Axes]]:
    """A figure with a panel for every table, and perhaps a few more."""
    down = -(-len(tables) // _COLUMNS)
    lines, samplers = len(tables[0].columns), max(len(table) for table in tables)
    letters = max(len(line) for line in tables[0].columns)
    size = (_COLUMNS * (0.42 * lines + 0.3) + 1.9, down * (0.19 * samplers + 0.06 * letters) + 1.2)
    figure = Figure(figsize=size, layout="constrained")
    return figure, list(figure.subplots(down, _COLUMNS, squeeze=False).flat)


def _means(grid: Grid) -> pd.DataFrame:
    """Mean scores [samplers, schedules]; NaN: the cell was not run."""
    rows = {name: [score.mean if score else np.nan for score in row] for name, row in
            grid.rows.items()}  # fmt: skip
    return pd.DataFrame.from_dict(rows, orient="index", columns=grid.heads)


def _panel(axes: Axes, grid: Grid, table: pd.DataFrame, ratio: pd.DataFrame, top: float) -> None:
    leads = np.array([[bool(s and s.leads) for s in row] for row in grid.rows.values()])
    heat(axes, table, ratio, top, leads)
    axes.set_xticks(
        range(table.shape[1]), list(table.columns), fontsize=7, rotation=60, ha="left",
        rotation_mode="anchor", parse_math=False,
    )  # fmt: skip
    axes.set_yticks(range(len(table)), [_short(name) for name in table.index], fontsize=7)
    axes.set_title(grid.subject, fontsize=9)


def _short(name: str) -> str:
    """Name of a sampler, without the number of evaluations in brackets."""
    return name.split(" (")[0]
