"""Figures of noise levels: the grids of the cells, and the measured rates behind them.

A band contains 90 % of the bootstrap replicates of a rate, at each level or step separately.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench import curves as curves_of
from bench.report.drawing import TWO, caption, label_edges, legend, log_axis, looks, panels, short
from bench.report.frame import Results
from bench.report.lines import COOL, WARM, Look, folded_name, parts_of, uses_rate

_BANDS = "Bands: 90 % of the bootstrap replicates of the rate."
_PANELS = 6  # most panels of a figure of grids


def first_records(results: Results, model: str, n: int, sampler: str, nfe: int) -> dict:
    """Schedule line -> its record in the first block that was run. All have the same seeds."""
    rows = results.ran(model, n)
    rows = rows[(rows.sampler == sampler) & (rows.nfe == nfe)]
    rows = rows[rows.block == rows.block.iloc[0]] if len(rows) else rows
    return {line: results.records[key] for line, key in zip(rows.line, rows.key, strict=True)}


def grids(results: Results, model: str, n: int, width: float = TWO) -> Figure:
    """The noise levels of every line, at the NFE nearest to 10. A row of marks is a line.

    A panel is a sampler. Samplers whose cells have the same grids share a panel.
    """
    ran = results.ran(model, n)
    nfe = min(set(ran.nfe), key=lambda one: (abs(one - 10), one))
    alike: dict[str, list[str]] = {}
    for sampler in dict.fromkeys(ran[ran.nfe == nfe].sampler):
        found = first_records(results, model, n, sampler, nfe)
        walked = repr({line: record["grid"] for line, record in found.items()})
        alike.setdefault(walked, []).append(sampler)
    known, banded = looks(results), False
    lines = [line for line in known if line in set(ran[ran.nfe == nfe].line)]
    height = 0.14 * len(lines) + 0.55
    figure, each = panels(min(len(alike), _PANELS), width, height, sharex=True)
    for axes, group in zip(each, alike.values(), strict=False):
        for line, record in first_records(results, model, n, group[0], nfe).items():
            banded |= _grid(axes, results, record, lines.index(line), known[line])
        axes.set_xscale("log")
        axes.set_title(", ".join(map(folded_name, group)), wrap=True, parse_math=False)
        axes.set_yticks(range(len(lines)), [short(one, width) for one in lines], parse_math=False)
        axes.set(xlabel=r"$\sigma$ (noise over signal)", ylim=(len(lines) - 0.4, -0.6))
        axes.grid(axis="x")
    label_edges(each)
    each[0].invert_xaxis()
    more = "" if len(alike) <= _PANELS else f" The first {_PANELS} of {len(alike)} different walks."
    caption(figure, f"Noise levels of NFE {nfe}, from the left to the right; the last step goes to "
            f"0: {results.models(model, n)}.{' ' + _BANDS if banded else ''}{more}")  # fmt: skip
    return figure


def _grid(axes: Axes, results: Results, record: dict[str, Any], at: int, look: Look) -> bool:
    """Draw the grid of a cell and its band, in row `at`. Returns: whether it has a band."""
    grid = np.array(record["grid"])
    shown = grid > 0
    axes.plot(grid[shown], np.full(shown.sum(), at), look.linestyle, color=look.color,
              marker=look.marker, lw=0.6)  # fmt: skip
    band = results.plan.get("grid_bands", {}).get(record["key"])
    if band is None:
        return False
    low, high = (np.array(side)[shown] for side in band)
    axes.hlines(np.full(len(low), at), low, high, color=look.color, alpha=0.35, lw=5)
    return True


@dataclass(frozen=True)
class Curve:
    """A rate of the plan, and the name of the checkpoint whose rate it is."""

    rate: dict[str, Any]
    model: str

    @property
    def name(self) -> str:
        """v_x, say."""
        return str(self.rate["name"])

    @cached_property
    def _levels(self) -> np.ndarray:
        """Columns sigma and v, and the band if there is one [levels, 2 or 4].

        Sorted by sigma. Levels that are not finite are left out.
        """
        names = [name for name in ("sigma", "v", "v_low", "v_high") if name in self.rate]
        levels = np.array([self.rate[name] for name in names], float).T
        levels = levels[np.isfinite(levels).all(axis=1)]
        return levels[np.argsort(levels[:, 0])]

    @property
    def angle(self) -> np.ndarray:
        """atan sigma, degrees [levels]."""
        return np.degrees(np.arctan(self._levels[:, 0]))

    @cached_property
    def per_degree(self) -> np.ndarray:
        """v dsigma/dangle and its band, divided by the area under v [levels, 1 or 3]."""
        per_angle = self._levels[:, 1:] * (1 + self._levels[:, :1] ** 2)
        return per_angle / np.trapezoid(per_angle[:, 0], self.angle)

    def smoothed(self, width: float) -> np.ndarray:
        """`per_degree` as `ConstantRate` smooths it, without its floor [levels].

        width: in log sigma; 0: no smoothing.
        """
        sigma, v = self._levels[:, 0], self._levels[:, 1]
        kept = (sigma > 0) & (v > 0)
        log_sigma, found = np.log(sigma[kept]), self.per_degree[:, 0].copy()
        if width > 0 and kept.any():
            change = (
                curves_of.smoothed(log_sigma, log_v := np.log(v[kept]) + log_sigma, width) - log_v
            )
            found[kept] *= np.exp(change)
        return found

    @property
    def share(self) -> np.ndarray:
        """The share of the integrated rate below each level [levels]."""
        v = self.per_degree[:, 0]
        return np.concatenate([[0], np.cumsum((v[1:] + v[:-1]) / 2 * np.diff(self.angle))])

    def used_by(self, schedule: dict[str, Any], model: str) -> bool:
        """Whether a schedule on this model uses this rate."""
        return model == self.model and uses_rate(schedule, self.name)


def curves(results: Results, model: str) -> list[Curve]:
    """The rates of the plan that belong to a group, with those of other checkpoints of its lines.

    An older plan can name one model for the rates of several checkpoints. These rates are in the
    order in which the rows of the plan first use them. That order gives the checkpoint.
    """
    rows, rates = results.plan["rows"], results.plan["rates"]
    cells = [(row, results.records[row["key"]]["cell"]) for row in rows
             if row["key"] in results.records]  # fmt: skip
    ours = {model} | {cell["model"] for row, cell in cells if row["model"] == model}
    found = []
    for rate in rates:
        alike = [
            one for one in rates if (one["model"], one["name"]) == (rate["model"], rate["name"])
        ]
        users = list(
            dict.fromkeys(c["model"] for _, c in cells if uses_rate(c["schedule"], rate["name"]))
        )
        known = len(alike) > 1 and len(alike) == len(users)
        owner = users[[one is rate for one in alike].index(True)] if known else rate["model"]
        if rate["model"] in ours:
            found.append(Curve(rate, owner))
    return found


def rates(results: Results, model: str, width: float = TWO) -> Figure:
    """First panel: rates per degree. Second panel: the share of each below the angle.

    A thin line is a rate as measured, a thick one is smoothed as the schedules smooth it. A band is
    that of single levels. A share adds many levels, so it has no band.
    """
    figure, (left, right) = panels(2, width, 2.6, sharey=False)
    right.plot([0, 90], [0, 1], ":", color="#999999", label="uniform in angle")
    drawn = curves(results, model)
    owners, banded = list(dict.fromkeys(curve.model for curve in drawn)), False
    for curve, color in zip(drawn, _colors(results, drawn), strict=True):
        v, *band = curve.per_degree.T
        style: dict[str, Any] = {
            "color": color,
            "ls": ("-", "--", "-.", ":")[owners.index(curve.model) % 4],
        }
        left.plot(curve.angle, v, lw=0.5, **style)
        left.plot(curve.angle, curve.smoothed(_width(results, curve)), **style)
        if band:
            low, banded = np.maximum(band[0], v / 100), True
            left.fill_between(curve.angle, low, band[1], color=color, alpha=0.2, lw=0)
        text = _label(curve, several=len(owners) > 1)
        right.plot(curve.angle, curve.share, label=text, **style)
    left.set_ylabel("rate per degree, normalised")
    right.set_ylabel("share of the rate below the angle")
    log_axis(left)
    for axes in (left, right):
        axes.set(xlabel="angle = atan σ, degrees", xticks=range(0, 91, 15))
        axes.grid()
    legend(figure)
    tail = f" {_BANDS}" if banded else ""
    caption(figure, f"Rates of {' and '.join(owners)}. Thin: as measured. Thick: smoothed, as the "
            f"schedules use it.{tail}")  # fmt: skip
    return figure


def _width(results: Results, curve: Curve) -> float:
    """The width by which the first schedule that uses a rate smooths it, nats of sigma; or 0."""
    for line in results.plan["lines"].values():
        for part in parts_of(line["schedule"]):
            if part["class"] == "ConstantRate" and uses_rate(part, curve.name):
                return float(part["fields"].get("smooth", 0.0))
    return 0.0


def _colors(results: Results, drawn: Iterable[Curve]) -> list[str]:
    """For each rate the colour of the first schedule line that uses it.

    If another rate has that colour already, the rate gets a free colour. The plan says which line
    uses which rate. A record cannot say so: lines with the same grid share one record.
    """
    known, found = looks(results), list[str]()
    scored = results.frame[results.frame.role == "score"]
    cells = zip(scored.line, scored.key, strict=True)
    ran = {line: results.records[key]["cell"]["model"] for line, key in cells
           if key in results.records}  # fmt: skip
    schedules = {line: results.plan["lines"][line]["schedule"] for line in ran}
    for curve in drawn:
        lines = [line for line, model in ran.items() if curve.used_by(schedules[line], model)]
        wanted = [known[line].color for line in lines[:1]]
        free = [color for color in (*wanted, *WARM, *COOL) if color not in found]
        found.append((free or COOL)[0])
    return found


def _label(curve: Curve, several: bool) -> str:
    """Name of the rate, numbers of images and levels, and the checkpoint if there are several."""
    known = [f"{curve.rate[what]} {what}" for what in ("images", "levels") if curve.rate.get(what)]
    name = f"{curve.name} of {curve.model}" if several else curve.name
    return f"{name} ({', '.join(known)})" if known else name
