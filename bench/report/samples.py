"""Figure of sample images: the same seeds for every schedule line, and real images above them."""

import math
import textwrap
from collections import Counter
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from PIL import Image

from bench.report.drawing import DPI, TWO, caption
from bench.report.frame import Results
from bench.report.levels import first_records
from bench.report.lines import paper_name

_LETTER = 0.038  # inches of a letter of the names at the left
_LEAST = 2  # dots of the figure for each pixel of an image, at least
_TALLEST = 8.5  # inches of all rows, which a page has; pixels are smaller instead


def samples(
    results: Results, model: str, n: int, folder: Path, width: float = TWO
) -> Figure | None:
    """Images of the first seed block. A row is a line under a sampler, a column is an NFE.

    NFEs at which most lines have no images are left out.

    Arguments:
        folder: of the results, with the strips of images `records/KEY.png`, and `real.png`.

    Returns:
        The figure. None: no cell has a strip.
    """
    strips = _strips(results, model, n, folder)
    if not strips:
        return None
    rows = list(dict.fromkeys((sampler, line) for sampler, _, line in strips))
    shown = Counter(nfe for _, nfe, _ in strips)
    nfes = sorted(nfe for nfe in shown if 2 * shown[nfe] >= max(shown.values()))
    real, names = folder / "real.png", _names(rows, width)
    names = ["real images"] * real.is_file() + names
    count, size = _sizes(names, len(nfes), next(iter(strips.values())), width)
    tight = ConstrainedLayoutEngine(w_pad=0.02, h_pad=0.01, wspace=0, hspace=0)
    figure = Figure(figsize=size, layout=tight)
    grid = figure.subplots(len(names), len(nfes), squeeze=False)
    for j, nfe in enumerate(nfes):
        grid[0][j].set_title(f"NFE {nfe}")
        if real.is_file():
            _show(grid[0][j], real, count, skip=j * count)
        for (sampler, line), row in zip(rows, grid[real.is_file() :], strict=True):
            _show(row[j], strips.get((sampler, nfe, line)), count)
    for name, row in zip(names, grid, strict=True):
        row[0].set_ylabel(name, rotation=0, ha="right", va="center", fontsize=5, parse_math=False)
    every = "Every row has the same seeds" + (", below real images." if real.is_file() else ".")
    gaps = sum(shown[nfe] for nfe in nfes) < len(rows) * len(nfes)
    empty = " An empty place: no images were kept." if gaps else ""
    caption(figure, f"Samples of {results.models(model, n)}. {every}{empty}")
    # images that do not fill their axes yet hide how much room the names need: lay it out twice
    figure.draw_without_rendering()
    return figure


def _strips(results: Results, model: str, n: int, folder: Path) -> dict[tuple[str, int, str], Path]:
    """(sampler, NFE, line) -> the strip of its first seed block."""
    ran = results.ran(model, n)
    return {
        (sampler, nfe, line): path
        for sampler in dict.fromkeys(ran.sampler) for nfe in sorted(set(ran.nfe))
        for line, record in first_records(results, model, n, sampler, nfe).items()
        if (path := folder / "records" / f"{record['key']}.png").is_file()
    }  # fmt: skip


def _names(rows: list[tuple[str, str]], width: float) -> list[str]:
    """Sampler and line of each row, folded so that they take a third of the width at most."""
    fold = int(width / 3 / _LETTER)
    return ["\n".join(textwrap.fill(part, fold) for part in (paper_name(sampler), line))
            for sampler, line in rows]  # fmt: skip


def _sizes(
    names: list[str], columns: int, strip: Path, width: float
) -> tuple[int, tuple[float, float]]:
    """How many images of a strip are shown, and the size of the figure in inches."""
    high, wide = _picture(strip).shape[:2]
    room = width - 0.15 - _LETTER * max(len(part) for name in names for part in name.split("\n"))
    fit = int(room * DPI / columns / (_LEAST * high))
    tall = math.ceil(room * len(names) / columns / _TALLEST)
    count = max(1, min(wide // high, max(fit, tall)))
    return count, (width, room / columns / count * len(names) + 0.6)


def _show(axes: Axes, path: Path | None, count: int, skip: int = 0) -> None:
    """The images of a strip from `skip` on, without ticks and frame. Labels stay."""
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
    axes.set_anchor("E")  # room that is left over is for the names
    if path is None:
        return
    picture = _picture(path)
    high = len(picture)
    first = min(skip, max(0, picture.shape[1] // high - count))
    shown = picture[:, first * high : (first + count) * high]
    axes.imshow(shown, cmap="gray", vmin=0, vmax=255, interpolation="nearest", aspect="equal")


def _picture(strip: Path) -> np.ndarray:
    """The pixels of a strip, uint8 [h, n w] or [h, n w, 3]. ValueError: the file is damaged."""
    try:
        with Image.open(strip) as image:
            return np.asarray(
                image.convert("L" if image.mode in ("L", "1", "I", "I;16") else "RGB")
            )
    except Exception as error:  # of a damaged file Pillow raises nearly anything
        raise ValueError(f"{strip} is no image; delete it") from error
