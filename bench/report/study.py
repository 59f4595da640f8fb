"""Table, rows and figure of a training study, from its `study.json` and its `records/`.

Arms are compared in pairs: a difference is taken for each training seed. Its interval is Student's,
over training seeds. Holm's procedure corrects the p-values of the primary outcome for the number of
primary arms.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.stats import t as student

from bench import store
from bench.report import drawing
from bench.report.frame import label
from bench.report.intervals import holm
from bench.report.lines import COOL, WARM

_SIGNS = "osD^vP*X<>"


@dataclass(frozen=True)
class Difference:
    """A mean difference over training seeds, its 95 % t interval and two-sided p-value.

    NaN where there are too few pairs: none for a mean, one for an interval.
    """

    mean: float
    low: float
    high: float
    p: float
    pairs: int

    @classmethod
    def of(cls, values: Sequence[float]) -> "Difference":
        """Of the difference at each training seed."""
        n, nan = len(values), float("nan")
        if n < 2:
            return cls(values[0] if n else nan, nan, nan, nan, n)
        mean, error = float(np.mean(values)), float(np.std(values, ddof=1)) / n**0.5
        half = float(student.ppf(0.975, n - 1)) * error
        p = 2 * float(student.sf(abs(mean) / error, n - 1)) if error > 0 else nan
        return cls(mean, mean - half, mean + half, p, n)


@dataclass(frozen=True)
class Trainings:
    """A study's plan, and the records that exist.

    An outcome is (evaluation, features, metric). The primary one decides.
    """

    plan: dict[str, Any]
    records: dict[str, dict[str, Any]]

    @classmethod
    def read(cls, folder: Path) -> "Trainings":
        """Of a study's folder. ValueError: the plan or a record is damaged."""
        return cls(store.read_json(folder / "study.json"), store.load_records(folder))

    @cached_property
    def rows(self) -> pd.DataFrame:
        """arm, seed, evaluation, features, metric, value: one row for each score."""
        return pd.DataFrame([
            (one["arm"], one["seed"], evaluation, features, metric, value)
            for one in self.ordered for evaluation, spaces in one["scores"].items()
            for features, scores in spaces.items() for metric, value in scores.items()
        ], columns=["arm", "seed", "evaluation", "features", "metric", "value"])  # fmt: skip

    @property
    def ordered(self) -> list[dict[str, Any]]:
        """The records; arms in the plan's order."""
        place = {name: i for i, name in enumerate(self.arms)}
        return sorted(self.records.values(), key=lambda one: (place[one["arm"]], one["seed"]))

    @property
    def arms(self) -> list[str]:
        return [arm["name"] for arm in self.plan["arms"]]

    @property
    def others(self) -> list[str]:
        """The arms that are compared with the baseline."""
        return [name for name in self.arms if name != self.plan["baseline"]]

    @property
    def outcomes(self) -> list[tuple[str, str, str]]:
        """(evaluation, features, metric), the primary outcome first."""
        names = ["evaluation", "features", "metric"]
        found = self.rows[names].drop_duplicates().itertuples(index=False, name=None)
        return [self.primary, *(one for one in found if one != self.primary)]

    @property
    def primary(self) -> tuple[str, str, str]:
        """The outcome that decides."""
        return self.plan["evaluations"][0]["fields"]["name"], self.plan["features"][-1], "fd"

    def values(self, arm: str, outcome: tuple[str, str, str]) -> dict[int, float]:
        """Training seed -> score."""
        rows, names = self.rows, ("evaluation", "features", "metric")
        here = rows.arm == arm
        for name, value in zip(names, outcome, strict=True):
            here = here & (rows[name] == value)
        return dict(zip(rows[here].seed.astype(int), rows[here].value.astype(float), strict=True))

    def difference(self, arm: str, outcome: tuple[str, str, str]) -> Difference:
        """Of an arm to the baseline, paired by training seed."""
        mine, base = (self.values(one, outcome) for one in (arm, self.plan["baseline"]))
        return Difference.of([mine[seed] - base[seed] for seed in mine if seed in base])

    def told(self, arm: str, *outcome: str) -> str:
        """A difference to the baseline with its interval: `-12.43 [-17.18, -7.680]`."""
        return _interval(self.difference(arm, self._outcome(outcome)))

    def mean(self, arm: str, *outcome: str) -> float:
        """The mean of an outcome over training seeds; of the primary one by default."""
        return float(np.mean(list(self.values(arm, self._outcome(outcome)).values())))

    def brief(self) -> str:
        """The arms: the primary outcome, and FD and recall in the first feature space; Markdown."""
        evaluation, last, _ = self.primary
        first, decided, rows = self.plan["features"][0], self.decided(), []
        for arm in self.arms:
            told = ["", "", ""] if arm == self.plan["baseline"] else [
                self.told(arm, evaluation, *one)
                for one in ((last, "fd"), (first, "fd"), (first, "recall"))
            ]  # fmt: skip
            p = _number(decided[arm][1]) if arm in decided else ""
            rows.append([arm, _number(self.mean(arm)), told[0], p, *told[1:]])
        name, small = label("fd", last), label("fd", first)
        return _table(
            ["law", name, f"{name}: difference", "p (Holm)", f"{small}: difference",
             "recall: difference"], rows,
        )  # fmt: skip

    def _outcome(self, parts: Sequence[str]) -> tuple[str, str, str]:
        """(evaluation, features, metric): the given first parts, else those of the primary one."""
        evaluation, features, metric = (*parts, *self.primary[len(parts) :])
        return evaluation, features, metric

    def decided(self) -> dict[str, tuple[Difference, float]]:
        """Primary arm -> its difference in the primary outcome, and its p-value after Holm."""
        arms = [arm["name"] for arm in self.plan["arms"]
                if arm["primary"] and arm["name"] in self.others]  # fmt: skip
        found = [self.difference(arm, self.primary) for arm in arms]
        adjusted = holm([one.p for one in found])
        return dict(zip(arms, zip(found, adjusted, strict=True), strict=True))

    def curves(self, name: str, arm: str) -> tuple[np.ndarray, np.ndarray]:
        """Noise levels [k], and a curve of the records by training seed [seeds, k]."""
        mine = [one for one in self.ordered if one["arm"] == arm]
        return np.array(self.ordered[0]["sigma"]), np.array([one[name] for one in mine])

    def loss_ratio(self, arm: str) -> np.ndarray:
        """Mean over training seeds of the held-out loss over the baseline's, [k]; NaN: none."""
        loss = {(one["arm"], one["seed"]): np.array(one["v_loss"]) for one in self.ordered}
        found = [value / loss[self.plan["baseline"], seed] for (name, seed), value in loss.items()
                 if name == arm and (self.plan["baseline"], seed) in loss]  # fmt: skip
        return np.mean(found, axis=0) if found else np.full(self.plan["losses"], np.nan)


def report_study(folder: Path) -> list[Path]:
    """Write `table.md`, `table.csv` and `figures/study.{png,pdf}` of a study's folder.

    Returns:
        Paths of the files.

    Raises:
        ValueError: there is no record yet, or the plan or a record is damaged.
    """
    folder = Path(folder)
    study = Trainings.read(folder)
    if not study.records:
        raise ValueError(f"no training of {folder.name} is done yet; start the command that ran it "
                         "again")  # fmt: skip
    try:
        text, rows = _markdown(study), study.rows.to_csv(index=False)
        with drawing.style():
            drawn = drawing.save(_figure(study), folder / "figures" / "study")
    except (KeyError, TypeError, IndexError) as error:
        raise ValueError(f"{folder}: the plan or a record is damaged "
                         f"({store.in_a_line(error)})") from error  # fmt: skip
    return [
        store.write_text(folder / "table.md", text),
        store.write_text(folder / "table.csv", rows),
        *drawn,
    ]


# ---------------------------------------------------------------- the table


def _markdown(study: Trainings) -> str:
    plan, record = study.plan, study.ordered[0]
    devices = sorted({one["device"] for one in study.ordered})
    versions = ", ".join(f"{name} {value}" for name, value in record["versions"].items())
    seconds = [one["seconds"] for one in study.ordered]
    name = f"{label('fd', plan['features'][-1])}, {plan['evaluations'][0]['fields']['name']}"
    total = len(plan["arms"]) * plan["seeds"]
    return "\n\n".join([
        f"# {plan['title']}",
        f"{len(study.records)} of {total} trainings, {plan['steps']} steps of {plan['batch']} each "
        f"({min(seconds):.0f} to {max(seconds):.0f} s) on {', '.join(devices)}, with {versions}. "
        f"Data: {plan['data']['name']} ({plan['data']['images']} images, flips: {plan['flip']}). "
        f"Scores: {plan['images']} images a training, in {record['sampled']['dtype']}, against all "
        f"training images; precision and recall on {plan['bank']}.",
        f"Decided before the run: the outcome is {name}, lower is better. Each primary arm is "
        f"compared with {plan['baseline']}. Trainings of one seed are pairs. Intervals are 95 % t "
        "intervals over training seeds. Holm's procedure covers all primary arms. All other "
        "differences are not corrected.",
        _primary(study, name), "Means and standard deviations over training seeds:", _means(study),
        f"Differences to {plan['baseline']}, with 95 % t intervals:", _differences(study),
        "Loss of v on held-out images by sigma, over that of "
        f"{plan['baseline']}, mean over training seeds:", _losses(study),
        "Laws and weightings:", _laws(study),
    ]) + "\n"  # fmt: skip


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    rule = ["---", *["---:"] * (len(head) - 1)]
    return "\n".join("|" + "|".join(row) + "|" for row in [list(head), rule, *map(list, rows)])


def _number(value: float) -> str:
    return "" if np.isnan(value) else f"{value:#.4g}".rstrip(".")


def _interval(one: Difference) -> str:
    if np.isnan(one.low):
        return _number(one.mean)
    return f"{_number(one.mean)} [{_number(one.low)}, {_number(one.high)}]"


def _primary(study: Trainings, name: str) -> str:
    rows = [(arm, _interval(one), str(one.pairs), _number(one.p), _number(p))
            for arm, (one, p) in study.decided().items()]  # fmt: skip
    return _table(["primary arm", f"{name}: difference", "pairs", "p", "p (Holm)"], rows)


def _heads(study: Trainings) -> list[str]:
    """Columns; a name that two feature spaces share says which."""
    names = [f"{evaluation}: {label(metric, features)}"
             for evaluation, features, metric in study.outcomes]  # fmt: skip
    return [f"{name} ({one[1]})" if names.count(name) > 1 else name
            for name, one in zip(names, study.outcomes, strict=True)]  # fmt: skip


def _means(study: Trainings) -> str:
    rows = []
    for arm in study.arms:
        cells = [list(study.values(arm, outcome).values()) for outcome in study.outcomes]
        rows.append([arm, *(_spread(cell) for cell in cells)])
    return _table(["arm", *_heads(study)], rows)


def _spread(values: list[float]) -> str:
    if not values:
        return ""
    spread = f" ± {np.std(values, ddof=1):.2g}" if len(values) > 1 else ""
    return _number(float(np.mean(values))) + spread


def _differences(study: Trainings) -> str:
    rows = [[arm, *(_interval(study.difference(arm, one)) for one in study.outcomes)]
            for arm in study.others]  # fmt: skip
    return _table(["arm", *_heads(study)], rows)


def _losses(study: Trainings) -> str:
    sigma, _ = study.curves("v_loss", study.plan["baseline"])
    rows = [[arm, *("" if np.isnan(one) else f"{one:.3f}" for one in study.loss_ratio(arm))]
            for arm in study.others]  # fmt: skip
    return _table(["arm", *(f"{level:.2g}" for level in sigma)], rows)


def _laws(study: Trainings) -> str:
    rows = [(arm["name"], f"`{arm['law']}`", f"`{arm['weighting']}`") for arm in study.plan["arms"]]
    return _table(["arm", "law", "weighting"], rows)


# ---------------------------------------------------------------- the figure


def _figure(study: Trainings) -> Figure:
    """Left: differences in converged FD. Middle: held-out loss by sigma. Right: the laws."""
    figure = Figure(figsize=(drawing.TWO, 3.1), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    _forest(left, study)
    palette = [*COOL, *WARM]
    for i, arm in enumerate(study.arms):
        look: dict[str, Any] = {"color": palette[i % len(palette)], "lw": 0.9,
                                "marker": _SIGNS[i % len(_SIGNS)], "label": arm}  # fmt: skip
        sigma, density = study.curves("density", arm)
        middle.plot(sigma, study.loss_ratio(arm), **look)
        if len(density):
            right.plot(sigma, density.mean(axis=0), **look)
    middle.set(title="Held-out loss of v", xlabel="σ", ylabel="ratio to the baseline's ↓")
    right.set(title="Law of noise levels, at the end", xlabel="σ",
              ylabel="density per unit of log σ")  # fmt: skip
    for axes in (middle, right):
        axes.set_xscale("log")
        axes.grid()
    drawing.legend(figure, study.arms)
    drawing.caption(figure, study.plan["title"])
    return figure


def _forest(axes: Axes, study: Trainings) -> None:
    """A point and an interval for each arm, in each feature space."""
    evaluation = study.plan["evaluations"][0]["fields"]["name"]
    for k, features in enumerate(study.plan["features"]):
        found = [study.difference(arm, (evaluation, features, "fd")) for arm in study.others]
        at = np.arange(len(found)) + 0.24 * (k - (len(study.plan["features"]) - 1) / 2)
        name, color = label("fd", features), [*WARM, *COOL][k]
        for y, one in zip(at, found, strict=True):
            axes.plot([one.low, one.high], [y, y], color=color)
        axes.plot([one.mean for one in found], at, "o", color=color, label=name)
    axes.axvline(0, color="#333333", lw=0.8)
    axes.set_yticks(range(len(study.others)), study.others, parse_math=False)
    axes.set_ylim(len(study.others) - 0.5, -0.5)  # the first arm on top
    axes.set(title=f"FD, {evaluation}", xlabel=f"difference to {study.plan['baseline']} ↓")
    axes.grid(axis="x")
