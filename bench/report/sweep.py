"""Figure for many schedule lines: FD as a coloured table. So many curves would be unreadable."""

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from bench.report.frame import Results, label

_COLORS = colormaps["YlOrRd"]
_RATIOS = (1, 1.02, 1.05, 1.1, 1.2, 1.5, 2, 3)  # ticks of the colour bar
_ITALIC = ";\nitalic: of fewer seed blocks, compared on these blocks only"


def sweep(results: Results, model: str, n: int) -> Figure:
    """Mean FD. A row is a schedule line, a column is an NFE, a panel is a sampler.

    Rows are sorted by geometric mean, the lowest first. The colour is the logarithm of the ratio to
    the best FD of the column on the same seeds.
    """
    samplers = list(dict.fromkeys(results.ran(model, n).sampler))
    tables = [results.ranked(model, n, sampler).dropna(how="all") for sampler in samplers]
    pairs = list(zip(samplers, tables, strict=True))
    behind = [results.behind(model, n, sampler).reindex_like(table) for sampler, table in pairs]
    fewer = [results.fewer(model, n, sampler).reindex_like(table) for sampler, table in pairs]
    most = max(float(one.max().max()) for one in behind)
    top = color_range(most)
    figure, panels = _subplots(tables)
    for (sampler, table), axes, ratio, few in zip(pairs, panels, behind, fewer, strict=True):
        ours = [not results.baseline(line) for line in table.index]
        _panel(axes, table, ratio, top, few.to_numpy(), ours)
        axes.set_title(f"{sampler}, NFE", fontsize=9)
    color_bar(figure, panels, top, most, "times the best of the column")
    some = _ITALIC if any(bool(few.any(axis=None)) for few in fewer) else ""
    figure.suptitle(
        f"{label('fd', results.features)} of {results.subject(model, n)}, sorted by geometric "
        "mean, the lowest first;\nbold numbers: the best of a column; "
        f"bold names: baselines{some}",
        fontsize=10,
    )
    return figure


def _subplots(tables: list[pd.DataFrame]) -> tuple[Figure, list[Axes]]:
    """A figure with a panel for every table, side by side."""
    lines = max(len(table) for table in tables)
    letters = max(len(line) for table in tables for line in table.index)
    width = sum(0.5 * table.shape[1] + 0.075 * letters + 0.3 for table in tables)
    figure = Figure(figsize=(max(width, 6), 0.165 * lines + 1.8), layout="constrained")
    return figure, list(figure.subplots(1, len(tables), squeeze=False)[0])


def color_range(most: float) -> float:
    """Upper end of the colours, as a log ratio: `most`, but at least log 1.1 and at most log 3."""
    return float(np.clip(most, np.log(1.1), np.log(3)))


def _panel(
    axes: Axes, table: pd.DataFrame, ratio: pd.DataFrame, top: float, few: np.ndarray,
    ours: list[bool],
) -> None:  # fmt: skip
    """The lines of one sampler.

    Arguments:
        ratio: log of the ratio to the best FD of the column, as `table` [lines, NFEs].
        top: upper end of the colours.
        few: whether a cell has fewer seed blocks than others of its column [lines, NFEs].
        ours: whether a line is no baseline.
    """
    heat(axes, table, ratio, top, (ratio == 0).to_numpy(), few)
    axes.set_xticks(range(table.shape[1]), [str(nfe) for nfe in table.columns], fontsize=7)
    axes.set_yticks(range(len(table)), list(table.index), fontsize=7, parse_math=False)
    for text, own in zip(axes.get_yticklabels(), ours, strict=True):
        text.set_fontweight("normal" if own else "bold")


def heat(
    axes: Axes, table: pd.DataFrame, ratio: pd.DataFrame, top: float, bold: np.ndarray,
    italic: np.ndarray | None = None,
) -> None:  # fmt: skip
    """Numbers on colours. Cells that were not run are white. Dark cells have white numbers."""
    axes.imshow(
        ratio.to_numpy(), cmap=_COLORS, vmin=0, vmax=top, aspect="auto", interpolation="nearest"
    )
    for (i, j), behind in np.ndenumerate(ratio.to_numpy()):
        if np.isfinite(behind):
            axes.text(
                j, i, _number(table.iloc[i, j]), ha="center", va="center", fontsize=6.5,
                color="white" if behind > 0.6 * top else "black",
                fontweight="bold" if bold[i, j] else "normal",
                fontstyle="normal" if italic is None or not italic[i, j] else "italic",
            )  # fmt: skip
    axes.tick_params(length=0, top=False, labeltop=True, labelbottom=False)
    axes.spines[:].set_visible(False)


def _number(value: float) -> str:
    """Three digits, which a cell has room for."""
    return f"{value:.{2 if value < 10 else 1 if value < 100 else 0}f}"


def color_bar(figure: Figure, panels: list[Axes], top: float, most: float, what: str) -> None:
    """A colour bar below the panels, with ratios as ticks.

    Arguments:
        top: log ratio at the end of the bar.
        most: the largest log ratio of a cell; beyond `top` the bar ends in an arrow.
        what: label of the bar.
    """
    bar = figure.colorbar(
        ScalarMappable(Normalize(0, top), _COLORS), ax=panels, location="bottom", aspect=60,
        shrink=0.6, pad=0.01, extend="max" if most > top else "neither",
        label=what,
    )  # fmt: skip
    marks = [x for x in _RATIOS if x == 1 or 0.08 * top <= np.log(x) <= top + 1e-9]
    bar.set_ticks([float(np.log(x)) for x in marks], labels=[f"{x:g}" for x in marks])
    bar.ax.tick_params(labelsize=7)
