"""The history of a law that was estimated in training: a model folder's `law.json` as a figure."""

import textwrap
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
from bench.report.drawing import log_axis, save

_CURVES = 12  # updates drawn at most
_SHARES = {  # share of the rate below -> colour, line style: pairs around the median
    0.9: ("#56B4E9", ":"), 0.75: ("#0072B2", "--"), 0.5: ("#333333", "-"),
    0.25: ("#E69F00", "--"), 0.1: ("#D55E00", ":"),
}  # fmt: skip


@dataclass(frozen=True)
class History:
    """What `law.json` holds: the rate in each bin of sigma, after every update of the law."""

    law: str
    sigma: np.ndarray  # edges of the bins, increasing [bins + 1]
    steps: np.ndarray  # training steps, increasing [updates]
    v: np.ndarray  # mean rate per unit sigma [updates, bins]

    def __post_init__(self) -> None:
        if self.sigma.ndim != 1 or self.steps.ndim != 1:
            raise ValueError("sigma and steps must be lists of numbers")
        if self.v.shape != (len(self.steps), len(self.sigma) - 1) or not self.v.size:
            raise ValueError("v needs a row for every step and a number for every bin of sigma")
        if not all(np.isfinite(one).all() for one in (self.sigma, self.steps, self.v)):
            raise ValueError("not every number is finite")
        if min(self.sigma) < 0 or (np.diff(self.sigma) <= 0).any():
            raise ValueError("sigma must be at least 0 and increase")
        if (np.diff(self.steps) <= 0).any():
            raise ValueError("steps must increase")
        if (self.v < 0).any() or (self.v.sum(axis=1) == 0).any():
            raise ValueError("v must be at least 0, and not 0 in a whole row")

    @property
    def angle(self) -> np.ndarray:
        """atan sigma of the edges, degrees [bins + 1]."""
        return np.degrees(np.arctan(self.sigma))

    def share(self) -> np.ndarray:
        """Each bin's share of the rate [updates, bins]."""
        inside = self.v * np.diff(self.sigma)
        return inside / inside.sum(axis=1, keepdims=True)

    def per_degree(self) -> np.ndarray:
        """The rate per degree, of unit area [updates, bins].

        A bin's mean of v dsigma/dangle = v (1 + sigma^2): its share over its width in degrees.
        """
        return self.share() / np.diff(self.angle)

    def quantile(self, share: float) -> np.ndarray:
        """The angle below which that share of the rate lies [updates]; within a bin, linear."""
        below = np.cumsum(self.share(), axis=1)
        return np.array([np.interp(share, [0.0, *row], self.angle) for row in below])


def read_history(folder: Path) -> History:
    """`law.json` of a model folder; ValueError naming the file where it is missing or broken."""
    path = Path(folder) / "law.json"
    if not path.is_file():
        raise ValueError(f"{path} is missing: only training under an online law writes it")
    found = store.read_json(path)
    try:
        sigma, steps, v = (np.asarray(found[key], float) for key in ("sigma", "steps", "v"))
        return History(str(found["law"]), sigma, steps, v)
    except KeyError as error:
        raise ValueError(f"{path} has no {error}; train again") from error
    except (TypeError, ValueError) as error:  # not an object, ragged lists, or not numbers
        raise ValueError(f"{path} is not the history of a law ({error}); train again") from error


def draw_law(folder: Path) -> list[Path]:
    """Draw a model folder's `law.json` as `law.png` and `law.pdf` beside it; returns their paths.

    The same to the byte each time. ValueError naming `law.json` where it is missing or broken.
    """
    return save(_figure(read_history(folder)), Path(folder) / "law")


def _figure(history: History) -> Figure:
    """Left the rate after each update, right how it settles."""
    figure = Figure(figsize=(11, 4.6), layout=ConstrainedLayoutEngine(wspace=0.08))
    left, right = figure.subplots(1, 2)
    _rates(figure, left, history)
    _quantiles(right, history)
    for axes in (left, right):
        axes.grid(alpha=0.3, lw=0.5)
    figure.suptitle(textwrap.fill(history.law, 150), fontsize=8, parse_math=False)
    return figure


def _rates(figure: Figure, axes: Axes, history: History) -> None:
    """The rate per degree, a curve an update, early ones light; a colour bar tells the step."""
    steps = history.steps
    colors = ListedColormap(matplotlib.colormaps["viridis_r"](np.linspace(0.08, 1, 256)))
    norm = Normalize(steps[0] if len(steps) > 1 else 0, steps[-1])  # the last is the darkest
    middle, rates = (history.angle[1:] + history.angle[:-1]) / 2, history.per_degree()
    for i in _spaced(len(steps)):
        axes.plot(middle, rates[i], color=colors(norm(steps[i])), lw=1.2)
    axes.set(title="The rate after updates of the law", xlabel="angle = atan σ, degrees",
             ylabel="rate per degree, unit area", xticks=range(0, 91, 15))  # fmt: skip
    log_axis(axes)
    bar = figure.colorbar(ScalarMappable(norm, colors), ax=axes, label="training step")
    bar.locator = MaxNLocator(6, integer=True)
    bar.update_ticks()


def _spaced(n: int) -> list[int]:
    """At most `_CURVES` of n places, evenly spaced, the first and the last among them."""
    return sorted({round(i) for i in np.linspace(0, n - 1, min(n, _CURVES))})


def _quantiles(axes: Axes, history: History) -> None:
    """The angles below which fixed shares of the rate lie, against the training step."""
    mark = "o" if len(history.steps) <= 2 * _CURVES else ""
    for share, (color, style) in _SHARES.items():
        axes.plot(
            history.steps, history.quantile(share), style, color=color, marker=mark, ms=3, lw=1.4,
            label=f"{share:.0%}",
        )  # fmt: skip
    axes.set(title="How the law settles, at ξ = 1", xlabel="training step",
             ylabel="angle, degrees", ylim=(0, 90), yticks=range(0, 91, 15))  # fmt: skip
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.legend(title="share of the\nrate below", loc="upper left", bbox_to_anchor=(1.01, 1),
                fontsize=8, title_fontsize=8, frameon=False)  # fmt: skip
