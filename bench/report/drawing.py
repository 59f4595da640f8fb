"""Sizes, fonts, panels, legends, axes and files, which all figures share.

A figure is as wide as a column of a paper, or as its text of two columns. Print scales nothing.
"""

import io
import textwrap
from collections.abc import Iterable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.colors import is_color_like, to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import (
    FixedLocator,
    Locator,
    LogLocator,
    MaxNLocator,
    NullFormatter,
    NullLocator,
    StrMethodFormatter,
)
from PIL import Image

from bench import store
from bench.report import lines
from bench.report.frame import Results
from bench.report.lines import Look

ONE, TWO = 3.35, 6.9  # inches: the width of a column, and of a text of two columns
DPI = 300
_STYLE: Any = {
    "font.size": 7, "axes.titlesize": 7.5, "axes.labelsize": 7, "figure.titlesize": 6.5,
    "xtick.labelsize": 6.5, "ytick.labelsize": 6.5, "legend.fontsize": 6.5,
    "legend.frameon": False, "lines.linewidth": 1.1, "lines.markersize": 3.2,
    "axes.linewidth": 0.6, "xtick.major.width": 0.6, "ytick.major.width": 0.6,
    "xtick.major.size": 2.5, "ytick.major.size": 2.5, "xtick.minor.size": 1.5,
    "ytick.minor.size": 1.5, "grid.alpha": 0.3, "grid.linewidth": 0.4, "axes.titlepad": 4,
    "pdf.fonttype": 42,  # TrueType: publishers ask for it
}  # fmt: skip


def style() -> AbstractContextManager[None]:
    """The fonts and line widths of all figures, inside a `with` block."""
    return matplotlib.rc_context(_STYLE)


def looks(results: Results) -> dict[str, Look]:
    """Schedule line -> look, for every line of the plan."""
    return lines.looks(results.plan["lines"])


def panels(
    count: int, width: float, height: float, *, sharex: bool = False, sharey: bool = True
) -> tuple[Figure, list[Axes]]:
    """A figure of panels: up to three side by side in the wide form, else one below the other.

    Arguments:
        width: of the figure, `ONE` or `TWO`.
        height: of a row of panels, inches.
    """
    side = min(count, 3) if width == TWO else 1
    rows = -(-count // side)
    figure = Figure(figsize=(width, height * rows + 0.55), layout="constrained")
    every = list(figure.subplots(rows, side, sharex=sharex, sharey=sharey, squeeze=False).flat)
    for axes in every[count:]:
        axes.set_visible(False)
    return figure, every[:count]


def label_edges(each: list[Axes]) -> None:
    """Numbers and names of axes stand at the left, and below the lowest panel of each column."""
    spec = each[0].get_subplotspec()
    side = spec.get_gridspec().ncols if spec else 1
    for at, axes in enumerate(each):
        name = axes.get_xlabel()
        axes.label_outer()
        if at + side >= len(each):
            axes.xaxis.set_tick_params(labelbottom=True)
            axes.set_xlabel(name)


def short(name: str, width: float, points: float = 7) -> str:
    """The name of a line, cut in its middle if it would take more than half of a width in inches.

    points: the size of its letters.
    """
    most = int(width / 2 / (0.0067 * points))  # inches of a letter
    start = most * 2 // 3
    return name if len(name) <= most else f"{name[:start]}…{name[start + 1 - most :]}"


def caption(figure: Figure, text: str) -> None:
    """What a figure shows, in small letters above it."""
    fit = int(20.5 * figure.get_figwidth())  # letters of this size fit into an inch
    figure.suptitle(textwrap.fill(text, fit), x=0.01, ha="left", color="#333333", parse_math=False)


def legend(figure: Figure, first: Iterable[str] = ()) -> None:
    """One legend below all panels, with every label that a panel has.

    Arguments:
        first: labels that come first, in this order, if a panel has them.
    """
    found: dict[str, Artist] = {}
    for axes in figure.axes:
        for handle, text in zip(*axes.get_legend_handles_labels(), strict=True):
            found.setdefault(text, handle)
    labels = list(dict.fromkeys([*(line for line in first if line in found), *found]))
    if not labels:
        return
    names = [short(text, 1.6 * figure.get_figwidth()) for text in labels]
    fit = int(20.5 * figure.get_figwidth() / (max(map(len, names)) + 10))  # 10 for a handle
    made = figure.legend(
        [found[text] for text in labels], names, loc="outside lower center",
        ncols=max(1, min(4, len(labels), fit)),
    )  # fmt: skip
    for text in made.get_texts():
        text.set_parse_math(False)  # names of lines and models


def arrow(higher_is_better: bool) -> str:
    """The arrow after the name of a metric: which way is better."""
    return "↑" if higher_is_better else "↓"


def log_axis(axes: Axes, name: str = "y") -> None:
    """A logarithmic axis, y or x, with plain numbers. Call it after everything is drawn."""
    axes.set(**{f"{name}scale": "log"})
    axis = axes.yaxis if name == "y" else axes.xaxis
    low, high = axis.get_view_interval()
    ticks: Locator = LogLocator(subs=(1, 2, 5))
    if high < 4 * low:
        ticks = MaxNLocator(6, steps=[1, 2, 5, 10])
    elif high < 12 * low:
        ticks = LogLocator(subs=(1, 1.5, 2, 3, 5, 7))
    elif high > 1000 * low:
        ticks = LogLocator()
    if high < 12 * low:
        axis.set_minor_locator(NullLocator())
    axis.set_major_locator(ticks)
    axis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axis.set_minor_formatter(NullFormatter())


def nfe_axis(axes: Axes, ticks: list[int], width: float) -> None:
    """A logarithmic x axis with ticks at the given NFEs only. Call it after everything is drawn.

    Round NFEs come first. An NFE whose label has no room has a small tick without a label.

    Arguments:
        width: of the panel, inches.
    """
    axes.set_xscale("log")
    span = max(np.log(ticks[-1] / ticks[0]) + 2 * np.log(1.15), 1e-9)
    room = 0.2 * span / width  # a label is 0.2 inches wide
    round_first = sorted(ticks, key=lambda one: (one not in (ticks[0], ticks[-1]),
                                                 one not in (10, 20, 50, 100), one))  # fmt: skip
    shown: list[int] = []
    for one in round_first:
        if all(abs(np.log(one / other)) > room for other in shown):
            shown.append(one)
    axes.xaxis.set_minor_locator(FixedLocator([one for one in ticks if one not in shown]))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xticks(sorted(shown), [str(tick) for tick in sorted(shown)])
    axes.set_xlim(ticks[0] / 1.15, ticks[-1] * 1.15)


def save(figure: Figure, stem: Path, pictures: bool = False) -> list[Path]:
    """Write `stem.png` and `stem.pdf`.

    The PNG has a palette of 128 colours, in which lines and marks keep their own colours. Its file
    has a third of the bytes of full colour.

    Arguments:
        pictures: whether the figure shows images, which need all colours.

    Returns:
        Paths of both files.
    """
    figure.savefig(full := io.BytesIO(), format="png", dpi=DPI)
    figure.set_layout_engine("none")  # the PDF has the same layout
    picture = Image.open(full).convert("RGB")
    if not pictures:
        picture = _with_palette(picture, _exact_colors(figure))
    picture.save(png := io.BytesIO(), "png", optimize=True, dpi=(DPI, DPI))
    figure.savefig(pdf := io.BytesIO(), format="pdf", metadata={"CreationDate": None})
    return [
        store.write_bytes(stem.with_name(f"{stem.name}.{suffix}"), file.getvalue())
        for suffix, file in (("png", png), ("pdf", pdf))
    ]


def _exact_colors(figure: Figure) -> list[tuple[int, ...]]:
    """Colours of lines and marks, 0..255, which no two lines may share because of the palette."""
    found = [line.get_color() for line in figure.findobj(Line2D)]
    every = ["white", "black", *found]
    rgb = dict.fromkeys(to_rgb(color) for color in every if is_color_like(color))
    return [tuple(round(255 * part) for part in color) for color in rgb][:64]


def _with_palette(picture: Image.Image, exact: list[tuple[int, ...]]) -> Image.Image:
    """An RGB picture in 128 colours, `exact` among them. Pixels of these colours keep them."""
    octree = Image.Quantize.FASTOCTREE
    rest = picture.quantize(128 - len(exact), octree, dither=Image.Dither.NONE)
    pixels, places = np.asarray(picture, np.uint32), np.asarray(rest) + len(exact)
    packed = pixels @ np.array([65536, 256, 1], np.uint32)  # [h, w]
    for place, (red, green, blue) in enumerate(exact):
        places[packed == 65536 * red + 256 * green + blue] = place
    made = Image.fromarray(places.astype(np.uint8), "P")
    made.putpalette([part for color in exact for part in color] + (rest.getpalette() or []))
    return made
