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
    ran = results.ran(model, n)
    strips = {
        (sampler, nfe, line): path
        for sampler in dict.fromkeys(ran.sampler) for nfe in sorted(set(ran.nfe))
        for line, record in first_records(results, model, n, sampler, nfe).items()
        if (path := folder / "records" / f"{record['key']}.png").is_file()
    }  # fmt: skip
    if not strips:
        return None
    rows = list(dict.fromkeys((sampler, line) for sampler, _, line in strips))
    shown = Counter(nfe for _, nfe, _ in strips)
    nfes = sorted(nfe for nfe in shown if 2 * shown[nfe] >= max(shown.values()))
    high, wide = _picture(next(iter(strips.values()))).shape[:2]
    fold = int(width / 3 / _LETTER)  # names take a third of the width at most
    names = ["\n".join(textwrap.fill(part, fold) for part in (paper_name(sampler), line))
             for sampler, line in rows]  # fmt: skip
    room = width - 0.15 - _LETTER * max(len(part) for name in names for part in name.split("\n"))
    fit = int(room * DPI / len(nfes) / (_LEAST * high))
    real = folder / "real.png"
    tall = math.ceil(room * (len(rows) + real.is_file()) / len(nfes) / _TALLEST)
    count = max(1, min(wide // high, max(fit, tall)))  # images of a strip that are shown
    side = room / len(nfes) / count  # inches of an image
    tight = ConstrainedLayoutEngine(w_pad=0.02, h_pad=0.005, wspace=0, hspace=0)
    size = (width, side * (len(rows) + real.is_file()) + 0.6)
    figure = Figure(figsize=size, layout=tight)
    grid = figure.subplots(len(rows) + real.is_file(), len(nfes), squeeze=False)
    for j, nfe in enumerate(nfes):
        grid[0][j].set_title(f"NFE {nfe}")
        if real.is_file():
            _show(grid[0][j], real, count, skip=j * count)
        for (sampler, line), row in zip(rows, grid[real.is_file() :], strict=True):
            _show(row[j], strips.get((sampler, nfe, line)), count)
    for name, row in zip(["real images"] * real.is_file() + names, grid, strict=True):
        row[0].set_ylabel(name, rotation=0, ha="right", va="center", fontsize=5, parse_math=False)
    every = "Every row has the same seeds" + (", below real images." if real.is_file() else ".")
    empty = (
        " An empty place: no images were kept."
        if sum(shown[nfe] for nfe in nfes) < len(rows) * len(nfes)
        else ""
    )
    caption(figure, f"Samples of {results.models(model, n)}. {every}{empty}")
    return figure


def _show(axes: Axes, path: Path | None, count: int, skip: int = 0) -> None:
    """The images of a strip from `skip` on, without ticks and frame. Labels stay."""
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
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
