"""Figures for many schedule lines: FD as coloured tables. So many curves would be unreadable."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from bench.report.drawing import ONE, TWO, caption, short
from bench.report.frame import Results, label
from bench.report.layout import grids
from bench.report.lines import folded_name, paper_name

MOST = 15  # rows of a coloured table; the other lines are in a second figure
_COLORS = colormaps["YlOrRd"]
_RATIOS = (1, 1.02, 1.05, 1.1, 1.2, 1.5, 2, 3)  # ticks of the colour bar


@dataclass(frozen=True)
class Heat:
    """A coloured table.

    means: mean FD [rows, columns]; NaN: not run.
    behind: log of the ratio to the best of a column, as `means`.
    bold: whether a number leads its column [rows, columns].
    italic: whether a number has fewer seed blocks than others of its column [rows, columns].
    """

    title: str
    means: pd.DataFrame
    behind: pd.DataFrame
    bold: np.ndarray
    italic: np.ndarray

    def part(self, rows: slice | np.ndarray) -> "Heat":
        """Some rows of the table, by their places."""
        return Heat(self.title, self.means.iloc[rows], self.behind.iloc[rows], self.bold[rows],
                    self.italic[rows])  # fmt: skip


def sweep(results: Results, model: str, n: int, width: float = TWO) -> list[Figure]:
    """Mean FD. A row is a schedule line, a column is an NFE, a panel is a sampler.

    Rows are sorted by geometric mean, the lowest first, in each panel.

    Returns:
        A figure of the first `MOST` lines, and one of the other lines if there are more.
    """
    found = []
    for sampler in dict.fromkeys(results.ran(model, n).sampler):
        means = results.ranked(model, n, sampler).dropna(how="all")
        if means.empty:
            continue
        behind = results.behind(model, n, sampler).reindex_like(means)
        fewer = results.fewer(model, n, sampler).reindex_like(means).to_numpy()
        found.append(
            Heat(
                paper_name(sampler), means, behind, _leads(results, model, n, sampler, means), fewer
            )
        )
    about = (f"{label('fd', results.features)} ↓ by NFE: {results.subject(model, n)}. Sorted by "
             f"geometric mean, the lowest first. Bold: the best of a column, and its "
             f"ties.{_italic(found)}")  # fmt: skip
    return _figures(found, results, width, about, shared=False)


def _italic(found: list[Heat]) -> str:
    """What italic numbers are, if there are any."""
    if not any(one.italic.any() for one in found):
        return ""
    return " Italic: fewer seed blocks. Order and colours are by the blocks that all lines have."


def _leads(results: Results, model: str, n: int, sampler: str, means: pd.DataFrame) -> np.ndarray:
    """Whether a cell is the best of its column or a tie, in a column that is whole: as `means`."""
    columns = [results.column(model, n, sampler, nfe, "fd") for nfe in means.columns]
    return np.array([[bool((score := column.get(line)) and score.leads) for column in columns]
                     for line in means.index])  # fmt: skip


def crossing(results: Results, model: str, n: int, width: float = TWO) -> list[Figure]:
    """Mean FD. A row is a schedule line, a column is a sampler, a panel is an NFE.

    Rows are sorted by the mean log ratio to the best of a column, the lowest first, over all
    panels. The best of a column and its ties are bold.

    Returns:
        A figure of the first `MOST` lines, and one of the other lines if there are more.
    """
    found = []
    for grid in grids(results, model, n, "fd"):
        if not grid.scores:
            continue
        names = [folded_name(name.split(" (")[0]) for name in grid.rows]

        def numbers(what: str, grid: Any = grid, names: list[str] = names) -> pd.DataFrame:
            cells = [[getattr(score, what) if score else None for score in row]
                     for row in grid.rows.values()]  # fmt: skip
            return pd.DataFrame(cells, names, grid.heads, float).T

        means, blocks = numbers("mean"), numbers("blocks")
        shared = numbers("shared").fillna(means)
        leads = np.array([[bool(s and s.leads) for s in row] for row in grid.rows.values()]).T
        fewer = (blocks < blocks.max()).to_numpy()
        found.append(Heat(grid.subject, means, np.log(shared / shared.min()), leads, fewer))
    order = pd.concat([one.behind for one in found], axis=1).mean(axis=1)
    rows = np.argsort(order.fillna(np.inf).to_numpy(), kind="stable")
    rows = rows[: int(order.notna().sum())]
    found = [one.part(rows) for one in found]
    name = label("fd", results.features)
    about = (f"{name} ↓ by sampler: {results.subject(model, n)}. Sorted by the geometric "
             "mean of the ratio to the best of a column, over cells that were run. Bold: the "
             f"best of a column, and its ties.{_italic(found)}")  # fmt: skip
    return _figures(found, results, width, about, shared=True)


def _figures(
    every: list[Heat], results: Results, width: float, about: str, shared: bool
) -> list[Figure]:
    """One figure for each `MOST` rows at most: the first ones, and all others.

    shared: whether the panels have the same rows, so that only the first names them.
    """
    most = max(float(np.nanmax(one.behind.to_numpy())) for one in every)
    top = float(np.clip(most, np.log(1.1), np.log(3)))
    longest = max(len(one.means) for one in every)
    made = []
    for rows in (slice(0, MOST), slice(MOST, None)):
        parts = [part for one in every if len((part := one.part(rows)).means)]
        if parts:
            where = "" if longest <= MOST else (
                f" The first {MOST} lines." if rows.start == 0 else f" Lines {MOST + 1} and later."
            )  # fmt: skip
            made.append(_figure(parts, results, width, (top, most), shared, about + where))
    return made


def _figure(
    parts: list[Heat], results: Results, width: float, ends: tuple[float, float], shared: bool,
    about: str,
) -> Figure:  # fmt: skip
    side = len(parts) if width == TWO and len(parts) <= (3 if shared else 2) else 1
    down, rows = -(-len(parts) // side), max(len(part.means) for part in parts)
    heads = 0.042 * max(len(row) for part in parts for name in part.means.columns
                        for row in str(name).split("\n"))  # fmt: skip
    size = (width, down * (0.125 * rows + 0.35) + 0.85 + (heads if shared else 0))
    figure = Figure(figsize=size, layout="constrained")
    panels = list(figure.subplots(down, side, squeeze=False).flat)
    for i, (part, axes) in enumerate(zip(parts, panels, strict=False)):
        _panel(axes, part, ends[0], upright=shared)
        if shared and i % side:
            axes.set_yticklabels([])
        if shared and i >= side:
            axes.set_xticklabels([])
        for text, line in zip(axes.get_yticklabels(), part.means.index, strict=False):
            text.set_fontstyle("normal" if results.baseline(line) else "oblique")
    for axes in panels[len(parts) :]:
        axes.set_visible(False)
    _color_bar(figure, panels[: len(parts)], *ends)
    caption(figure, f"{about} Slanted names: constant rate, and other lines that are no baselines.")
    return figure


def _panel(axes: Axes, part: Heat, top: float, upright: bool) -> None:
    """Numbers on colours. Cells that were not run are white. Dark cells have white numbers."""
    axes.imshow(part.behind.to_numpy(), cmap=_COLORS, vmin=0, vmax=top, aspect="auto",
                interpolation="nearest")  # fmt: skip
    for (i, j), behind in np.ndenumerate(part.behind.to_numpy()):
        if np.isfinite(behind):
            axes.text(
                j, i, _number(part.means.iloc[i, j]), ha="center", va="center", fontsize=5,
                color="white" if behind > 0.6 * top else "black",
                fontweight="bold" if part.bold[i, j] else "normal",
                fontstyle="italic" if part.italic[i, j] else "normal",
            )  # fmt: skip
    axes.tick_params(length=0, top=False, labeltop=True, labelbottom=False, pad=2, labelsize=5.5)
    names = [str(name) for name in part.means.columns]
    axes.set_xticks(range(len(names)), names, rotation=90 if upright else 0, parse_math=False)
    axes.set_yticks(range(len(part.means)), [short(name, ONE, 5.5) for name in part.means.index],
                    parse_math=False)  # fmt: skip
    axes.set_title(part.title, parse_math=False)
    axes.spines[:].set_visible(False)


def _number(value: float) -> str:
    """Three digits, which a cell has room for."""
    return f"{value:.{2 if value < 10 else 1 if value < 100 else 0}f}"


def _color_bar(figure: Figure, panels: list[Axes], top: float, most: float) -> None:
    """A colour bar below the panels, with ratios as ticks.

    Arguments:
        top: log ratio at the end of the bar.
        most: the largest log ratio of a cell; beyond `top` the bar ends in an arrow.
    """
    bar = figure.colorbar(
        ScalarMappable(Normalize(0, top), _COLORS), ax=panels, location="bottom", aspect=60,
        shrink=0.6, pad=0.01, extend="max" if most > top else "neither",
        label="times the best of the column",
    )  # fmt: skip
    room = 0.5 * top / figure.get_figwidth()  # a label is a quarter of an inch wide
    marks = [1.0]
    for x in _RATIOS:
        if np.log(x / marks[-1]) >= room and np.log(x) <= top + 1e-9:
            marks.append(x)
    bar.set_ticks([float(np.log(x)) for x in marks], labels=[f"{x:g}" for x in marks])
    bar.ax.tick_params(labelsize=5.5)
