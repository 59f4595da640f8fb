"""Panels, legends, axes and files, which all figures share."""

import io
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.colors import is_color_like, to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import (
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


def looks(results: Results) -> dict[str, Look]:
    """Schedule line -> look, for every line of the plan that is scored."""
    rows = results.frame[results.frame.role == "score"]
    return lines.looks(results.plan["lines"], dict.fromkeys(rows.line))


def panels(
    results: Results, model: str, n: int, samplers: list[str] | None = None
) -> tuple[Figure, list[tuple[str, Axes]]]:
    """A figure with one panel for each sampler. All panels share the y axis.

    Arguments:
        samplers: None: all samplers that were run.

    Returns:
        The figure, and (sampler, panel) pairs.
    """
    samplers = samplers or list(dict.fromkeys(results.ran(model, n).sampler))
    figure = Figure(figsize=(max(4.6 * len(samplers), 6), 4.6), layout="constrained")
    axes = figure.subplots(1, len(samplers), sharey=True, squeeze=False)[0]
    return figure, list(zip(samplers, axes, strict=True))


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
    longest = max(len(text) for text in labels)
    fit = int(17 * figure.get_figwidth() / (longest + 10))  # letters have 8 pt; 10 for a handle
    figure.legend(
        [found[text] for text in labels], labels, loc="outside lower center", fontsize=8,
        ncols=max(1, min(4, len(labels), fit)), frameon=False,
    )  # fmt: skip


def log_axis(axes: Axes) -> None:
    """A logarithmic y axis with plain numbers. Call it after everything is drawn."""
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    ticks: Locator = LogLocator(subs=(1, 2, 5))
    if high < 4 * low:
        ticks = MaxNLocator(6, steps=[1, 2, 5, 10])
    elif high < 12 * low:
        ticks = LogLocator(subs=(1, 1.5, 2, 3, 5, 7))
    if high < 12 * low:
        axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_locator(ticks)
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def nfe_axis(axes: Axes, ticks: list[int]) -> None:
    """A logarithmic x axis with ticks at the given NFEs only. Call it after everything is drawn."""
    axes.set_xscale("log")
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.set_xlim(ticks[0] / 1.15, ticks[-1] * 1.15)


def save(figure: Figure, stem: Path, dpi: int = 120) -> list[Path]:
    """Write `stem.png` and `stem.pdf`.

    The PNG has a palette of 128 colours, in which lines and marks keep their own colours. Its file
    has a third of the bytes of full colour.

    Arguments:
        dpi: dots per inch of the PNG.

    Returns:
        Paths of both files.
    """
    figure.savefig(full := io.BytesIO(), format="png", dpi=dpi)
    picture = _with_palette(Image.open(full).convert("RGB"), _exact_colors(figure))
    picture.save(png := io.BytesIO(), "png", optimize=True)
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
    rest = picture.quantize(128 - len(exact), dither=Image.Dither.NONE)
    pixels, places = np.asarray(picture), np.asarray(rest) + len(exact)
    for place, color in enumerate(exact):
        places[(pixels == np.array(color)).all(axis=2)] = place
    made = Image.fromarray(places.astype(np.uint8), "P")
    made.putpalette([part for color in exact for part in color] + (rest.getpalette() or []))
    return made
