"""Figure of a training: the loss and the learning rate of `loss.csv`."""

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from bench.report.drawing import log_axis, save


def draw_losses(path: Path) -> Path:
    """Draw a `loss.csv` as a .png and a .pdf of the same name beside it.

    Returns:
        The .png.

    Raises:
        ValueError: the file holds no losses.
    """
    try:
        rows = pd.read_csv(path)
        step, loss, rate = (rows[name].to_numpy(float) for name in
                            ("step", "loss", "learning_rate"))  # fmt: skip
    except (KeyError, ValueError, pd.errors.ParserError) as error:
        raise ValueError(f"{path} holds no losses of a training ({error}); delete it") from error
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    axes.plot(step, loss, color="#9CC9E8", lw=0.8, label="mean of 20 steps")
    axes.plot(step, _smooth(loss), color="#0072B2", lw=1.6, label="smoothed")
    axes.set(xlabel="training step", ylabel="loss", title=path.resolve().parent.name)
    axes.grid(alpha=0.3, lw=0.5)
    log_axis(axes)
    right = axes.twinx()
    right.plot(step, rate, color="#D55E00", lw=1, ls="--")
    right.set_ylabel("learning rate", color="#D55E00")
    right.set_ylim(bottom=0)
    axes.legend(frameon=False, fontsize=8)
    return next(one for one in save(figure, path.with_suffix("")) if one.suffix == ".png")


def _smooth(loss: np.ndarray) -> np.ndarray:
    """Means over a window of a twentieth of the rows."""
    window = max(1, len(loss) // 20)
    return pd.Series(loss).rolling(window, min_periods=1, center=True).mean().to_numpy()
