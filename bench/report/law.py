"""Figure of a law of noise levels that training estimated: `law.json` of a model folder."""

from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator

from bench import store
from bench.report.drawing import TWO, caption, log_axis, save, style

_CURVES = 12  # most updates that are drawn
_SHARES = {  # share of the rate -> colour, line style; shares at equal distance share a style
    0.9: ("#56B4E9", ":"), 0.75: ("#0072B2", "--"), 0.5: ("#333333", "-"),
    0.25: ("#E69F00", "--"), 0.1: ("#D55E00", ":"),
}  # fmt: skip


@dataclass(frozen=True)
class History:
    """The content of `law.json`: the rate in every bin of sigma, after every update of the law.

    law: the law as text.
    sigma: edges of the bins, increasing [bins + 1].
    steps: training steps of the updates, increasing [updates].
    v: mean rate per unit of sigma [updates, bins].
    """

    law: str
    sigma: np.ndarray
    steps: np.ndarray
    v: np.ndarray

    def __post_init__(self) -> None:
        if self.sigma.ndim != 1 or self.steps.ndim != 1:
            raise ValueError("sigma and steps must be lists of numbers")
        if self.v.shape != (len(self.steps), len(self.sigma) - 1) or not self.v.size:
            raise ValueError("v must have a row for every step and a number for every bin of sigma")
        if not all(np.isfinite(one).all() for one in (self.sigma, self.steps, self.v)):
            raise ValueError("sigma, steps and v must be finite")
        if min(self.sigma) < 0 or (np.diff(self.sigma) <= 0).any():
            raise ValueError("sigma must be at least 0 and increase")
        if (np.diff(self.steps) <= 0).any():
            raise ValueError("steps must increase")
        if (self.v < 0).any() or (self.v.sum(axis=1) == 0).any():
            raise ValueError("v must be at least 0, and every row must have a number above 0")

    @property
    def angle(self) -> np.ndarray:
        """atan sigma at the edges of the bins, degrees [bins + 1]."""
        return np.degrees(np.arctan(self.sigma))

    def share(self) -> np.ndarray:
        """Share of the integrated rate in every bin [updates, bins]."""
        inside = self.v * np.diff(self.sigma)
        return inside / inside.sum(axis=1, keepdims=True)

    def per_degree(self) -> np.ndarray:
        """The rate per degree, normalised to unit area [updates, bins].

        It is the mean over the bin of v dsigma/dangle = v (1 + sigma^2). The share of the bin,
        divided by its width in degrees, gives it.
        """
        return self.share() / np.diff(self.angle)

    def quantile(self, share: float) -> np.ndarray:
        """The angle below which this share of the rate lies, degrees [updates].

        It is interpolated linearly within a bin.
        """
        below = np.cumsum(self.share(), axis=1)
        return np.array([np.interp(share, [0.0, *row], self.angle) for row in below])


def read_history(folder: Path) -> History:
    """The history in the `law.json` of a model folder.

    Raises:
        ValueError: the file is missing, or it holds no such history. The message names the file.
    """
    path = Path(folder) / "law.json"
    if not path.is_file():
        raise ValueError(
            f"{path} is missing; only training with an online law writes it: "
            "crs-bench train OUT --channels CHANNELS --law OnlineConstantRate"
        )
    found = store.read_json(path)
    try:
        sigma, steps, v = (np.asarray(found[key], float) for key in ("sigma", "steps", "v"))
        return History(str(found["law"]), sigma, steps, v)
    except KeyError as error:
        raise ValueError(f"{path} has no {error}; train the model again") from error
    except (TypeError, ValueError) as error:  # no object, lists of unequal lengths, or no numbers
        raise ValueError(
            f"{path} is not the history of a law ({error}); train the model again"
        ) from error


def draw_law(folder: Path) -> list[Path]:
    """Draw the `law.json` of a model folder as `law.png` and `law.pdf` in the same folder.

    The same file always gives the same bytes.

    Returns:
        Paths of both figures.

    Raises:
        ValueError: `law.json` is missing, or it holds no such history.
    """
    with style():
        return save(_figure(read_history(folder)), Path(folder) / "law")


def _figure(history: History) -> Figure:
    """Left panel: the rate after every update. Right panel: quantiles against the training step."""
    figure = Figure(figsize=(TWO, 2.7), layout=ConstrainedLayoutEngine(wspace=0.08))
    left, right = figure.subplots(1, 2)
    _rates(figure, left, history)
    _quantiles(right, history)
    for axes in (left, right):
        axes.grid()
    caption(figure, history.law)
    return figure


def _rates(figure: Figure, axes: Axes, history: History) -> None:
    """The rate per degree, a curve for each update. Early updates are light, late ones dark."""
    steps = history.steps
    colors = ListedColormap(matplotlib.colormaps["viridis_r"](np.linspace(0.08, 1, 256)))
    norm = Normalize(steps[0] if len(steps) > 1 else 0, steps[-1])  # the last update is darkest
    middle, rates = (history.angle[1:] + history.angle[:-1]) / 2, history.per_degree()
    for i in _spaced(len(steps)):
        axes.plot(middle, rates[i], color=colors(norm(steps[i])), lw=0.9)
    axes.set(title="Rate after each update of the law", xlabel="angle = atan σ, degrees",
             ylabel="rate per degree, normalised", xticks=range(0, 91, 15))  # fmt: skip
    log_axis(axes)
    bar = figure.colorbar(ScalarMappable(norm, colors), ax=axes, label="training step")
    bar.locator = MaxNLocator(6, integer=True)
    bar.update_ticks()


def _spaced(n: int) -> list[int]:
    """At most `_CURVES` indices below n, evenly spaced, with the first and the last."""
    return sorted({round(i) for i in np.linspace(0, n - 1, min(n, _CURVES))})


def _quantiles(axes: Axes, history: History) -> None:
    """Quantiles of the rate, in degrees, against the training step."""
    mark = "o" if len(history.steps) <= 2 * _CURVES else ""
    for share, (color, dashes) in _SHARES.items():
        axes.plot(
            history.steps, history.quantile(share), dashes, color=color, marker=mark,
            label=f"{share:.0%}",
        )  # fmt: skip
    axes.set(title="Quantiles of the law, with ξ = 1", xlabel="training step",
             ylabel="angle, degrees", ylim=(0, 90), yticks=range(0, 91, 15))  # fmt: skip
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.legend(title="share of the rate\nbelow the angle", loc="upper left",
                bbox_to_anchor=(1.01, 1), title_fontsize=6.5)  # fmt: skip
