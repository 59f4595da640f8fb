"""Figure of a training: the loss and the learning rate of `loss.csv`."""

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from bench.report.drawing import TWO, log_axis, save, style


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
    with style():
        return next(one for one in save(_figure(step, loss, rate, path.resolve().parent.name),
                                        path.with_suffix("")) if one.suffix == ".png")  # fmt: skip


def _figure(step: np.ndarray, loss: np.ndarray, rate: np.ndarray, title: str) -> Figure:
    figure = Figure(figsize=(TWO / 2, 2.4), layout="constrained")
    axes = figure.subplots()
    axes.plot(step, loss, color="#9CC9E8", lw=0.6, label="mean of 20 steps")
    axes.plot(step, _smooth(loss), color="#0072B2", label="smoothed")
    axes.set(xlabel="training step", ylabel="loss", title=title)
    axes.grid()
    log_axis(axes)
    right = axes.twinx()
    right.plot(step, rate, color="#D55E00", lw=1, ls="--")
    right.set_ylabel("learning rate", color="#D55E00")
    right.set_ylim(bottom=0)
    axes.legend()
    return figure


def _smooth(loss: np.ndarray) -> np.ndarray:
    """Means over a window of a twentieth of the rows."""
    window = max(1, len(loss) // 20)
    return pd.Series(loss).rolling(window, min_periods=1, center=True).mean().to_numpy()
