"""What the figures draw, read back from their artists; sweeps, bands, LaTeX."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.collections import PolyCollection
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from PIL import Image
from test_report import METRICS, RATE, cell, entry, save, schedule_of, table, text_of, toy

from bench import store
from bench.report import draw, figures, levels, published, report, scores, twins
from bench.report.drawing import ONE, TWO, looks
from bench.report.frame import FEW_LINES, MANY_LINES, Results
from bench.report.lines import COOL, WARM, is_baseline, uses_rate
from bench.report.samples import samples
from bench.report.sweep import MOST, crossing, sweep
from bench.schedules import ConstantRate, Karras, Native, Snapped
from bench.types import Rate, Tuned

Cells = list[tuple[dict, dict | None]]
RATE_OF = Rate("v_x", torch.arange(1, 6), torch.ones(5))
BAND = {"v_low": [0.5, 0.4, 0.0], "v_high": [2.0, 0.75, 0.04]}


def results(folder: Path, cells: Cells, **plan: Any) -> Results:
    """A results folder of those cells, whose plan has those entries."""
    save(folder, cells)
    store.save_plan(folder, store.load_plan(folder) | plan)
    return Results(store.load_plan(folder), store.load_records(folder))


def with_errors(cells: Cells, fd: float = 15.0) -> Cells:
    """The cells compared with one converged run, of that FD."""
    row, fine = cell("converged", 200, "1", fd, role="converged")
    assert fine
    fine["cell"]["seeds"] = [0, 500]
    for one, record in cells:
        one["anchor"] = row["key"]
        if record:
            gap = next(iter(record["scores"].values()))["value"] - 10
            errors = {"rms_error": gap / 2, "fd_error": gap}
            made = [entry(one, name, value, converged=row["key"]) for name, value in errors.items()]
            one["errors"] = {name: next(iter(of)) for name, of in zip(errors, made, strict=True)}
            record["scores"] |= made[0] | made[1]
    return [*cells, (row, fine)]


def many(count: int = MANY_LINES + 1, **changes: Any) -> Cells:
    """Lines 0, 1, ... of a sweep; line i has FD 100 - i at NFE 5 and 50 - i at NFE 10."""
    top = {5: 100.0, 10: 50.0}
    pairs = [(line, nfe) for line in range(count) for nfe in top]
    return [cell(f"CRS(v_x, {i})", nfe, "1", top[nfe] - i, **changes) for i, nfe in pairs]


def two_checkpoints() -> Cells:
    """Two lines of one table, each of its own checkpoint and its own rate v_x."""
    made = []
    for line, model in (("trained a, CRS(v_x)", "a"), ("trained b, CRS(v_x)", "b")):
        row, record = cell(line, 5, "1", 3.0)
        assert record
        record["cell"] |= {"model": model}
        made.append((row, record))
    return made


def fills(axes: Any) -> list[PolyCollection]:
    return [one for one in axes.collections if isinstance(one, PolyCollection)]


def edges(fill: PolyCollection, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The lower and upper edge of a fill at x."""
    corners = fill.get_paths()[0].vertices
    at = [corners[np.isclose(corners[:, 0], one), 1] for one in x]
    return np.array([one.min() for one in at]), np.array([one.max() for one in at])


def legend(figure: Figure) -> dict[str, Any]:
    """Label -> colour of the legend under a figure."""
    handles = figure.legends[0].legend_handles
    texts = [one.get_text() for one in figure.legends[0].get_texts()]
    colors = [one.get_color() for one in handles]  # type: ignore[union-attr]
    return dict(zip(texts, colors, strict=True))


def ylabels(figure: Figure) -> list[str]:
    return [axes.get_ylabel() for axes in figure.axes if axes.get_ylabel()]


def test_a_rate_band_is_transformed_as_its_rate(tmp_path: Path) -> None:
    rate = {"model": "m", "name": "v_x", **RATE, **BAND}
    figure = levels.rates(results(tmp_path / "x", toy(), rates=[rate]), "m")
    left, right = figure.axes[:2]
    sigma, v = np.array(RATE["sigma"]), np.array(RATE["v"])
    angle = np.degrees(np.arctan(sigma))
    whole = np.trapezoid(v * (1 + sigma**2), angle)
    line = left.lines[0].get_ydata()
    assert line == pytest.approx(v * (1 + sigma**2) / whole)
    low, high = edges(fills(left)[0], angle)
    assert high / line == pytest.approx(np.array(BAND["v_high"]) / v)
    assert low / line == pytest.approx([0.5, 0.8, 0.01])  # 0 is drawn as a hundredth of the rate
    assert to_hex(fills(left)[0].get_facecolor()[0]) == left.lines[0].get_color().lower()
    assert not fills(right) and "90 %" in figure.get_suptitle()


def test_rates_without_a_band_or_with_missing_levels_are_drawn(tmp_path: Path) -> None:
    rate = {"model": "m", "name": "v_x", **RATE} | {"sigma": [0.1, 1, 2, 10], "v": [1, 1, None, 1]}
    figure = levels.rates(results(tmp_path / "x", toy(), rates=[rate]), "m")
    assert not fills(figure.axes[0]) and "90 %" not in figure.get_suptitle()
    assert len(figure.axes[0].lines[0].get_xdata()) == 3


@pytest.mark.parametrize("names", [("m", "m"), ("a", "b")], ids=["one name", "own names"])
def test_rates_of_one_name_are_told_apart_by_checkpoint(
    tmp_path: Path, names: tuple[str, str]
) -> None:
    rates = [{"model": one, "name": "v_x", **RATE} for one in (*names, "stranger")]
    rates[1]["v"] = [0.1, 0.5, 0.1]
    found = results(tmp_path / "x", two_checkpoints(), rates=rates)
    assert [curve.model for curve in levels.curves(found, "m")] == ["a", "b"]
    figure = levels.rates(found, "m")
    known = looks(found)
    shown = {text: color for text, color in legend(figure).items() if text.startswith("v_x")}
    assert shown == {
        "v_x of a (8 images, 3 levels)": known["trained a, CRS(v_x)"].color,
        "v_x of b (8 images, 3 levels)": known["trained b, CRS(v_x)"].color,
    }
    assert report(tmp_path / "x")


def test_no_two_rates_have_one_colour(tmp_path: Path) -> None:
    cells, names = [], ("v_x", "v_eps", "0.5 v_x + 0.5 v_eps")
    for i in range(14):  # the warm colours come round after six lines
        row, record = cell(f"CRS({i})", 5, "1", 3.0)
        assert record
        record["cell"]["schedule"] = schedule_of("CRS()", names[i // 6])
        cells.append((row, record))
    rates = [{"model": "m", "name": name, **RATE} for name in names]
    colors = legend(levels.rates(results(tmp_path / "x", cells, rates=rates), "m"))
    assert len(colors) == 4 == len(set(colors.values()))


def test_grid_bands_stand_around_the_grid_of_their_record(tmp_path: Path) -> None:
    cells = toy()
    row, record = next((r, c) for r, c in cells if r["line"] == "CRS(v_x)" and r["nfe"] == 10)
    assert record
    grid = np.array(record["grid"])
    found = results(
        tmp_path / "x", cells, grid_bands={row["key"]: [list(grid * 0.9), list(grid * 1.2)]}
    )
    figure = levels.grids(found, "m", 500)
    (axes,) = figure.axes
    (band,) = axes.collections
    at = np.array(band.get_segments())  # [steps, both ends, sigma and row]
    row = [one.get_text() for one in axes.get_yticklabels()].index("CRS(v_x)")
    assert (at[:, :, 1] == row).all()
    assert at[:, 0, 0] == pytest.approx(grid[:-1] * 0.9)
    assert at[:, 1, 0] == pytest.approx(grid[:-1] * 1.2)
    assert to_hex(band.get_color()[0]) == looks(found)["CRS(v_x)"].color.lower()
    assert "90 %" in figure.get_suptitle()


def test_lines_with_the_same_grid_do_not_hide_each_other(tmp_path: Path) -> None:
    """Each has a row of its own; the levels go from the left to the right."""
    cells = [cell(name, 10, "1", 3.0) for name in ("native", "Karras(rho=7)", "CRS(v_x)")]
    axes = levels.grids(results(tmp_path / "x", cells), "m", 500).axes[0]
    rows = [line.get_ydata() for line in axes.lines]
    assert [set(row) for row in rows] == [{0}, {1}, {2}]
    assert axes.get_xlim()[0] > axes.get_xlim()[1] and axes.get_xscale() == "log"
    assert axes.lines[0].get_xdata() == pytest.approx(np.geomspace(10, 0.1, 10))


def test_errors_have_a_figure_of_their_own(tmp_path: Path) -> None:
    found = results(tmp_path / "x", with_errors(toy()))
    figure = scores.quality(found, "m", 500)
    assert ylabels(figure) == ["FD-EffNet\u00a0↓", "Precision\u00a0↑", "Recall\u00a0↑"]
    levels_drawn = [line for line in figure.axes[0].lines if line.get_label() == "converged m"]
    assert [line.get_ydata()[0] for line in levels_drawn] == [15.0]
    assert "converged m" in legend(figure)
    errors = scores.errors(found, "m", 500)
    assert errors
    assert [re.sub(r"\s", " ", one) for one in ylabels(errors)] == [
        "FD to converged ↓", "RMS to converged (grey levels) ↓",
    ]  # fmt: skip
    names = {path.name for path in report(tmp_path / "x")}
    assert {"score-vs-nfe.png", "error-vs-nfe.png", "error-vs-nfe.pdf"} <= names
    assert "cells differ" not in text_of(tmp_path / "x")


def test_no_converged_run_no_error_figure(tmp_path: Path) -> None:
    found = results(tmp_path / "x", toy())
    assert scores.errors(found, "m", 500) is None
    assert "error-vs-nfe.png" not in {path.name for path in report(tmp_path / "x")}


def test_one_nfe_is_intervals_on_a_line(tmp_path: Path) -> None:
    """The mean is 720; 20 / sqrt(3) times the t of two degrees of freedom is 49.7."""
    cells = [cell("a", 5, name, fd) for name, fd in (("1", 700.0), ("2", 720.0), ("3", 740.0))]
    figure = scores.quality(results(tmp_path / "x", [*cells, cell("b", 5, "1", 3.0)]), "m", 500)
    axes = figure.axes[0]
    assert [one.get_text() for one in axes.get_yticklabels()] == ["a", "b"]
    assert axes.get_xlabel() == "FD-EffNet\u00a0↓" and "NFE 5" in figure.get_suptitle()
    (bar,) = axes.collections
    assert bar.get_segments()[0][:, 0] == pytest.approx([670.3, 769.7], abs=0.1)
    assert [tuple(line.get_xydata()[0]) for line in axes.lines] == [(720.0, 0), (3.0, 1)]


def test_more_than_six_lines_have_a_coloured_table_too(tmp_path: Path) -> None:
    few = {path.name for path in report(save(tmp_path / "few", many(FEW_LINES)))}
    assert "score-vs-nfe.png" in few and "sweep.png" not in few
    made = report(save(tmp_path / "many", [*many(), *many(3, n=900)]))
    names = {path.name for path in made if path.suffix == ".png"}
    rest = {f"{one}{tail}.png" for one in ("score-vs-nfe", "precision-recall", "grids")
            for tail in ("", "-900")}  # fmt: skip
    assert names == {"sweep.png", "sweep-rest.png", "rates.png", "samples.png"} | rest


def test_schedules_on_two_models_are_drawn_over_the_first_line(tmp_path: Path) -> None:
    fds = {"native": (10.0, 8.0), "CRS(v_x)": (5.0, 6.0), "Karras": (2.0, 2.0),
           "T, native": (9.0, 4.0), "T, CRS(v_x)": (4.0, 2.0)}  # fmt: skip
    cells = [cell(line, nfe, "1", fd) for line, pair in fds.items()
             for nfe, fd in zip((5, 10), pair, strict=True)]  # fmt: skip
    found = results(tmp_path / "x", cells)
    assert twins.figure(found, "m", 500) is None
    lines = found.plan["lines"]
    for name in ("native", "CRS(v_x)"):
        lines[f"T, {name}"] |= {"schedule": lines[name]["schedule"], "model": "trained"}
    store.save_plan(tmp_path / "x", found.plan)
    pairs = {name: {"m": name, "trained": f"T, {name}"} for name in ("native", "CRS(v_x)")}
    assert twins.twins(found, "m", 500) == pairs  # Karras is of one model
    figure = twins.figure(found, "m", 500)
    assert figure
    first, recall = figure.axes
    drawn = [list(line.get_ydata()) for line in first.lines if len(line.get_ydata())]
    assert drawn == [[1, 1], [0.9, 0.5], [0.5, 0.75], [0.4, 0.25]]
    assert {tuple(line.get_ydata()) for line in recall.lines} == {(0.5, 0.5)}
    assert [*legend(figure)] == ["native", "CRS(v_x)", "m", "trained"]
    assert {"models.png", "models.pdf"} <= {path.name for path in report(tmp_path / "x")}
    lone = cell("native", 50, "1", 1.0, sampler="Heun")  # no twin was run under it
    kept = {"lines": found.plan["lines"]}
    figure = twins.figure(results(tmp_path / "y", [*cells, lone], **kept), "m", 500)
    assert figure and len(figure.axes) == 2
    one = [made for made in cells if made[0]["nfe"] == 5]
    assert twins.figure(results(tmp_path / "w", one, **kept), "m", 500) is None
    for _, record in cells:
        assert record
        record["scores"] = {key: one for key, one in record["scores"].items()
                            if one["name"] != "fd"}  # fmt: skip
    assert twins.figure(results(tmp_path / "z", cells, **kept), "m", 500) is None


def test_names_of_figures_do_not_change_while_a_run_goes_on(tmp_path: Path) -> None:
    """No file of an earlier report is left over."""
    lines = ("native", "CRS(v_x)")

    def cells(fd: float | None) -> Cells:
        first = [cell(line, nfe, "1", 9.0, sampler=one)
                 for line in lines for nfe in (5, 10) for one in ("DDIM", "Heun")]  # fmt: skip
        return [*first, *(cell(line, nfe, "1", fd, model="other", sampler=one)
                          for line in lines for nfe in (5, 10)
                          for one in ("DDIM", "a", "b", "c", "d"))]  # fmt: skip

    early = {path.name for path in report(save(tmp_path / "x", cells(None)))}
    late = {path.name for path in report(save(tmp_path / "x", cells(8.0)))}
    assert "score-vs-nfe-m.png" in early and early < late


@pytest.mark.parametrize("width", [ONE, TWO])
def test_figures_have_the_width_of_a_column_or_of_a_text(
    tmp_path: Path, width: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bench.report.drawing.DPI", 300)
    found = results(
        tmp_path / "x", with_errors(toy()), rates=[{"model": "m", "name": "v_x", **RATE}]
    )
    made = figures.write(found, tmp_path / "x", tmp_path / "out", width=width)
    pngs = [path for path in made if path.suffix == ".png"]
    assert {path.stem for path in pngs} == {
        "score-vs-nfe", "error-vs-nfe", "precision-recall", "samples", "grids", "rates",
    }  # fmt: skip
    for path in pngs:
        with Image.open(path) as picture:
            assert picture.width == round(300 * width)
            assert picture.info["dpi"] == pytest.approx((300, 300), abs=0.1)


def test_curves_show_the_lines_that_are_chosen(tmp_path: Path) -> None:
    found = results(tmp_path / "x", many(9))
    assert set(found.few("m", 500).scored("m", 500).line) != set(found.scored("m", 500).line)
    chosen = ["CRS(v_x, 0)", "CRS(v_x, 1)"]
    made = figures.write(found, tmp_path / "x", tmp_path / "out", chosen)
    assert not any(path.stem.startswith("sweep") for path in made)
    axes = scores.quality(found.only(chosen), "m", 500).axes[0]
    assert [line.get_label() for line in axes.lines] == chosen


def test_samples_show_real_images_above_and_no_column_of_few(tmp_path: Path) -> None:
    found = results(tmp_path / "x", toy())
    drawn = samples(found, "m", 500, tmp_path / "x")
    assert drawn
    rows = [axes.get_ylabel() for axes in drawn.axes if axes.get_ylabel()]
    assert rows == ["DDIM\nnative", "DDIM\nKarras(rho=7)", "DDIM\nCRS(v_x)"]
    assert [axes.get_title() for axes in drawn.axes[:2]] == ["NFE 5", "NFE 10"]
    assert len(drawn.axes[3].images) == 0  # Karras was not run at NFE 10
    assert "An empty place" in drawn.get_suptitle()
    Image.new("L", (8 * 28, 28), 200).save(tmp_path / "x" / "real.png")
    drawn = samples(found, "m", 500, tmp_path / "x")
    assert drawn and drawn.axes[0].get_ylabel() == "real images"
    assert set(np.asarray(drawn.axes[0].images[0].get_array()).ravel()) == {200}
    shown = drawn.axes[0].get_window_extent().width / drawn.dpi  # inches of a strip
    pixels = np.asarray(drawn.axes[0].images[0].get_array()).shape[1]
    assert 300 * shown >= 2 * pixels * 0.9
    for path in (tmp_path / "x" / "records").glob("*.png"):
        path.unlink()
    assert samples(found, "m", 500, tmp_path / "x") is None


def test_the_smoothed_rate_lies_over_the_measured_one(tmp_path: Path) -> None:
    """A power law stays as it is; a jump at one level is flattened."""
    sigma = np.geomspace(0.1, 10, 41)
    v = 1 / sigma
    v[20] *= 4
    rate = {"model": "m", "name": "v_x", "sigma": sigma.tolist(), "v": v.tolist()}
    lines = {name: {"schedule": schedule_of(name)} for name in ("native", "CRS(v_x)")}
    lines["CRS(v_x)"]["schedule"]["fields"]["smooth"] = 0.3
    found = results(tmp_path / "x", toy(), rates=[rate])
    for name, line in lines.items():
        found.plan["lines"][name] |= line
    measured, smooth = (line.get_ydata() for line in levels.rates(found, "m").axes[0].lines)
    assert measured[20] / smooth[20] > 2
    assert smooth[0] == pytest.approx(measured[0], rel=1e-3)


def test_the_curves_of_many_lines_are_those_of_the_best(tmp_path: Path) -> None:
    """Line i of 30 is the better, the larger i. Lines 28 and 29 are no baselines."""
    found = results(tmp_path / "x", many(30))
    names = [f"CRS(v_x, {i})" for i in range(30)]
    for i, name in enumerate(names):
        found.plan["lines"][name]["baseline"] = i < 28
    few = found.few("m", 500)
    assert set(few.scored("m", 500).line) == {names[0], *names[25:]}
    assert len(found.scored("m", 500).line.unique()) == 30


def test_the_plan_says_which_of_a_users_metrics_want_to_be_high(
    tmp_path: Path, tables_alone: None
) -> None:
    cells = [cell("a", 5, "1", 30.0), cell("b", 5, "1", 20.0)]
    for row, record in cells:
        assert record
        record["scores"] |= entry(row, "mine", next(iter(record["scores"].values()))["value"])
    mine = {"identity": "mine and its set", "name": "mine", "text": "Mine()", "metric": {},
            "higher_is_better": True}  # fmt: skip
    found = results(tmp_path / "x", cells, metrics=[*METRICS, mine])
    report(tmp_path / "x")
    text = text_of(tmp_path / "x")
    assert "(higher is better)" in text.split("## mine")[1].splitlines()[0]
    assert "| a | **30.00** |" in text.split("## mine")[1]
    assert "| b | **20.00** |" in text.split("## mine")[0]
    assert found.higher_is_better("precision") and not found.higher_is_better("fd")


def test_a_sweep_is_sorted_and_coloured_by_ratio(tmp_path: Path, tables_alone: None) -> None:
    found = results(tmp_path / "x", many())
    first, rest = sweep(found, "m", 500)
    axes = first.axes[0]
    shown, left = ([one.get_text() for one in figure.axes[0].get_yticklabels()]
                   for figure in (first, rest))  # fmt: skip
    names = [f"CRS(v_x, {i})" for i in range(MANY_LINES, -1, -1)]
    assert shown == names[:MOST] and left == names[MOST:]
    assert [one.get_text() for one in axes.get_xticklabels()] == ["5", "10"]
    ratios = np.asarray(axes.images[0].get_array())
    assert ratios[0] == pytest.approx([0, 0])
    last = np.asarray(rest.axes[0].images[0].get_array())[-1]
    assert last == pytest.approx(np.log([100 / 84, 50 / 34]))
    texts = {one.get_position(): one for one in axes.texts}
    assert texts[0, 0].get_text() == "84.0" and texts[1, 14].get_text() == "48.0"
    assert texts[0, 14].get_text() == "98.0" and texts[0, 0].get_fontweight() == "bold"
    report(tmp_path / "x")
    assert list(table(tmp_path / "x"))[1:] == names == list(table(tmp_path / "x", 2))[1:]
    assert "sorted by their geometric mean" in text_of(tmp_path / "x")


def test_what_was_not_run_puts_no_line_ahead(tmp_path: Path) -> None:
    cells = many()
    for i, (row, _) in enumerate(cells):
        if row["line"] == "CRS(v_x, 0)" and row["nfe"] == 5:  # it lacks the NFE of high FD
            cells[i] = (row, None)
        if row["line"] == "CRS(v_x, 1)":
            cells[i] = (row, None)
    found = results(tmp_path / "x", cells)
    ranked = found.ranked("m", 500, "DDIM")
    assert list(ranked.index[-3:]) == ["CRS(v_x, 2)", "CRS(v_x, 0)", "CRS(v_x, 1)"]
    drawn = [figure.axes[0] for figure in sweep(found, "m", 500)]
    assert sum(len(axes.get_yticklabels()) for axes in drawn) == MANY_LINES
    assert sum(len(axes.texts) for axes in drawn) == 2 * MANY_LINES - 1


def test_an_easy_block_alone_puts_no_line_ahead(tmp_path: Path) -> None:
    """Block 2 is harder by 30; line 3, of the easy block alone, is compared there."""
    hard = [
        cell(f"CRS(v_x, {i})", nfe, "2", top + 30 - i)
        for nfe, top in ((5, 100.0), (10, 50.0))
        for i in range(MANY_LINES + 1)
        if i != 3
    ]
    found = results(tmp_path / "x", [*many(), *hard])
    best = f"CRS(v_x, {MANY_LINES})"
    column = found.column("m", 500, "DDIM", 5, "fd")
    assert column[best].leads and not column["CRS(v_x, 3)"].leads
    behind = found.behind("m", 500, "DDIM")[5]
    top = 100 - MANY_LINES
    assert behind["CRS(v_x, 3)"] == pytest.approx(np.log(97 / top))  # on block 1 alone
    assert behind["CRS(v_x, 2)"] == pytest.approx(np.log(98 / top))  # all are compared on it
    lines = list(found.ranked("m", 500, "DDIM").index)
    assert lines[0] == best and lines.index("CRS(v_x, 3)") > lines.index("CRS(v_x, 4)")
    drawn = sweep(found, "m", 500)
    slanted = [one.get_text() for figure in drawn for one in figure.axes[0].texts
               if one.get_fontstyle() == "italic"]  # fmt: skip
    assert slanted == ["97.0", "47.0"]
    assert all("Italic: fewer" in figure.get_suptitle().replace("\n", " ") for figure in drawn)


def test_sweeps_and_bands_are_the_same_to_the_byte(tmp_path: Path) -> None:
    cells = with_errors([*many(), *toy(n=900)])
    rate = {"model": "m", "name": "v_x", **RATE, **BAND}
    bands = {r["key"]: [c["grid"], c["grid"]] for r, c in cells if c and r["nfe"] == 10}
    results(tmp_path / "x", cells, rates=[rate], grid_bands=bands)
    first = {path: path.read_bytes() for path in report(tmp_path / "x")}
    names = {path.name for path in first}
    assert {"sweep.pdf", "rates.pdf", "grids-900.pdf", "error-vs-nfe-900.pdf"} <= names
    assert {path: path.read_bytes() for path in report(tmp_path / "x")} == first


@pytest.mark.parametrize(
    ("schedule", "is_one"),
    [(ConstantRate(RATE_OF), True), (Snapped(ConstantRate(RATE_OF, 0.5)), True),
     (Tuned((ConstantRate(RATE_OF), ConstantRate(RATE_OF, 0.5))), True), (Native(), False),
     (Karras(7.0), False), (Tuned((Karras(3.0), Karras(5.0))), False)],
    ids=repr,
)  # fmt: skip
def test_lines_with_a_constant_rate_are_no_baselines(schedule: Any, is_one: bool) -> None:
    assert is_baseline({"schedule": schedule.spec()}) is not is_one
    assert uses_rate(schedule.spec(), "v_x") is is_one
    assert not uses_rate(schedule.spec(), "v")


def test_a_line_has_one_look_in_every_experiment(tmp_path: Path) -> None:
    """It follows from the identity of the line, not from its place; a colour that is taken gives
    way, and every line of a plan has a look of its own."""
    alone = looks(results(tmp_path / "a", [cell("CRS(v_x)", 5, "1", 3.0)]))["CRS(v_x)"]
    cells = [cell(name, 5, "1", 3.0) for name in ("native", "Karras(rho=7)", "CRS(v_x)")]
    among = looks(results(tmp_path / "b", cells))
    assert among["CRS(v_x)"].color == alone.color and alone.color in WARM
    assert among["native"].color == COOL[0] and among["Karras(rho=7)"].color == COOL[2]
    assert [among[line].linestyle for line in among] == ["--", "--", "-"]
    crowd = [cell(f"CRS({i})", 5, "1", 3.0) for i in range(len(WARM))]
    crowd += [cell(f"other({i})", 5, "1", 3.0) for i in range(len(COOL))]
    every = looks(results(tmp_path / "c", crowd))
    assert len({look.color for look in every.values()}) == len(WARM) + len(COOL)
    some = results(tmp_path / "d", crowd).only(["CRS(3)", "other(2)"])
    assert looks(some)["CRS(3)"] == every["CRS(3)"]
    drawn = scores.quality(some, "m", 500).axes[0].lines
    known = [every[one].color for one in ("CRS(3)", "other(2)")]
    assert [line.get_color() for line in drawn] == known


def test_latex_is_balanced_and_tells_of_the_dagger(tmp_path: Path, tables_alone: None) -> None:
    save(tmp_path / "x", with_errors([*toy(), *many(n=900), cell("50% of a_b^2 ~", 5, "1", 40.0)]))
    report(tmp_path / "x")
    text = (tmp_path / "x" / "table.tex").read_text()
    open_ones: list[str] = []
    for what, name in re.findall(r"\\(begin|end)\{(\w+)\}", text):
        if what == "begin":
            open_ones.append(name)
        else:
            assert open_ones.pop() == name
    assert not open_ones and text.isascii()
    bare = re.sub(r"\\[{}$]", "", text)
    assert bare.count("{") == bare.count("}") and bare.count("$") % 2 == 0
    for columns, body in re.findall(r"\\begin\{tabular\}\{(l+r+)\}(.*?)\\end", text, re.DOTALL):
        rows = [row for row in body.splitlines() if row.endswith(r"\\")]
        assert rows and all(len(re.findall(r"(?<!\\)&", row)) == len(columns) - 1 for row in rows)
    assert r"50\% of a\_b\textasciicircum 2 \textasciitilde  & 40.00" in text
    assert r"& 12.50$^\dagger$ \\" in text
    captions = re.findall(r"\\caption\{(.*)\}", text)
    assert [r"$^\dagger$ below" in one for one in captions if "FD-EffNet of m, DDIM, 500" in one]
    daggers = [r"$^\dagger$" in one for one in captions]
    assert daggers.count(True) == 1 and not any("±" in one for one in captions)


def five_samplers() -> Cells:
    """Two lines under five samplers at NFE 5 and 8; sampler i has FD 10 i and 10 i + 1, the last
    the other way round; Heun counts 7 evaluations of 8."""
    made = []
    for i, sampler in enumerate(("DDIM", "DDPM", "DEIS", "Heun", "UniPC"), 1):
        for line, fd in zip(("native", "CRS(v_x)"), (10 * i, 10 * i + 1), strict=True):
            fd = {51: 50, 50: 51}.get(fd, fd)
            for nfe in (5, 8):
                counted = 7 if (sampler, nfe) == ("Heun", 8) else nfe
                made.append(cell(line, nfe, "1", float(fd), sampler=sampler, counted=counted))
    return made


def test_many_samplers_are_crossed_with_the_schedules(tmp_path: Path) -> None:
    paths = report(save(tmp_path / "x", five_samplers()))
    text = text_of(tmp_path / "x")
    rows = [part for part in text.split("\n\n") if part.startswith("| NFE 8 |")][0].splitlines()
    assert rows[0] == "| NFE 8 | native | CRS(v_x) |"
    assert rows[2:5:2] == ["| DDIM | **10.00** | 11.00 |", "| DEIS | **30.00** | 31.00 |"]
    assert rows[5] == "| Heun (7) | **40.00** | 41.00 |"
    assert rows[6] == "| UniPC | 51.00 | **50.00** |"
    assert {path.name for path in paths} >= {"crossing.png", "grids.png"}
    assert not any(path.name.startswith("score-vs-nfe") for path in paths)
    latex = (tmp_path / "x" / "table.tex").read_text()
    assert r"NFE 8 & native & CRS(v\_x) \\" in latex


def test_crossing_draws_each_score_and_bolds_the_best_of_a_column(tmp_path: Path) -> None:
    (figure,) = crossing(results(tmp_path / "x", five_samplers()), "m", 500)
    left, right = figure.axes[:2]
    assert [axes.get_title() for axes in (left, right)] == ["NFE 5", "NFE 8"]
    assert [label.get_text() for label in left.get_yticklabels()] == ["native", "CRS(v_x)"]
    assert [label.get_text() for label in left.get_xticklabels()] == [
        "DDIM", "DDPM", "DEIS", "Heun", "UniPC",
    ]  # fmt: skip
    assert [text.get_text() for text in left.texts] == [
        "10.0", "20.0", "30.0", "40.0", "51.0", "11.0", "21.0", "31.0", "41.0", "50.0",
    ]  # fmt: skip
    bold = [text.get_text() for text in left.texts if text.get_fontweight() == "bold"]
    assert bold == ["10.0", "20.0", "30.0", "40.0", "50.0"]


PUBLISHED = """model,dataset,space,sampler,schedule,nfe,fid,precision,recall,note,source
Theirs,Horses,pixel,ddim,native,5,30.5,,,,a paper
Headline,Horses,pixel,,,,2.03,0.7,0.5,an abstract,b | c
Theirs,Cats,pixel,ddim,native,5,99,,,,a paper
"""


def test_published_numbers_stand_beside_ours(tmp_path: Path, tables_alone: None) -> None:
    (tmp_path / "published.csv").write_text(PUBLISHED)
    folder = save(tmp_path / "x", toy(features="inception-v3-compat"))
    assert "Published" not in (report(folder) and (folder / "table.md").read_text())
    store.save_plan(folder, store.load_plan(folder) | {"published": "Horses"})
    report(folder)
    text = (folder / "table.md").read_text()
    assert "## Published for Horses" in text and "| 99 |" not in text
    assert "| Theirs | ddim | native | 5 | 30.5 |  |  |  | a paper |" in text
    assert "| Headline |  |  |  | 2.03 | 0.7 | 0.5 | an abstract | b / c |" in text
    rows = published.read(folder, "Horses")
    axes = scores.quality(
        Results(store.load_plan(folder), store.load_records(folder), rows), "m", 500
    ).axes[0]
    (cross,) = (line for line in axes.lines if line.get_label() == "published")
    assert cross.get_xydata().tolist() == [[5.0, 30.5]]
    (level,) = (line for line in axes.lines if line.get_label() == "published: Headline")
    assert set(level.get_ydata()) == {2.03}


def test_published_fids_are_not_drawn_over_other_features(tmp_path: Path) -> None:
    folder = save(tmp_path / "x", toy())
    (tmp_path / "published.csv").write_text(PUBLISHED)
    rows = published.read(folder, "Horses")
    found = Results(store.load_plan(folder), store.load_records(folder), rows)
    labels = [str(line.get_label()) for line in scores.quality(found, "m", 500).axes[0].lines]
    assert not any(label.startswith("published") for label in labels)


def test_a_published_file_without_a_column_is_refused(tmp_path: Path) -> None:
    (tmp_path / "published.csv").write_text("model,dataset\na,b\n")
    with pytest.raises(ValueError, match="published.csv has no column sampler"):
        published.read(tmp_path / "x", "b")


def test_the_shipped_published_rows_have_numbers_and_sources() -> None:
    root = Path(__file__).resolve().parents[1]
    rows = published.read(root / "results" / "x", "LSUN Horse 256")
    assert {row["fid"] for row in rows} >= {"2.57", "2.03"}
    assert all(row["source"] for row in rows)


def without(cells: Cells, *names: str) -> Cells:
    """The cells without the scores of these names."""
    for _, record in cells:
        if record:
            kept = {k: one for k, one in record["scores"].items() if one["name"] not in names}
            record["scores"] = kept
    return cells


def test_cells_without_some_scores_are_left_out_of_figures(tmp_path: Path) -> None:
    """`rescore` cannot add a metric to cells whose features are gone."""
    cells = toy()
    without(cells[:2], "recall")  # native at NFE 5
    found = results(tmp_path / "x", cells)
    (native, *_) = scores.precision_recall(found, "m", 500).axes[0].lines
    assert native.get_label() == "native" and native.get_ydata() == pytest.approx([0.79])
    names = {path.stem for path in report(tmp_path / "x")}
    assert "precision-recall" in names
    half = [*many(7), *without(many(7, n=900), "fd")]
    names = {path.stem for path in report(save(tmp_path / "y", half))}
    assert "sweep" in names and "sweep-900" not in names


def test_scores_below_0_are_drawn(tmp_path: Path) -> None:
    cells = toy()
    for i, (row, record) in enumerate(cells):
        if record:
            record["scores"] |= entry(row, "kid", (-1) ** (i // 2) * 1e-4)
    kid = {"identity": "kid and its set", "name": "kid", "text": "KID()", "metric": {},
           "higher_is_better": False}  # fmt: skip
    found = results(tmp_path / "x", cells, metrics=[*METRICS, kid])
    axes = {
        one.get_ylabel().split("\u00a0")[0]: one for one in scores.quality(found, "m", 500).axes
    }
    assert axes["KID"].get_yscale() == "linear" and axes["FD-EffNet"].get_yscale() == "log"
    assert axes["KID"].get_ylim()[0] < -1e-4


def test_names_of_lines_are_no_mathematics(tmp_path: Path) -> None:
    cells = [cell(name, nfe, "1", 9.0) for name in ("$%$", "x" * 300) for nfe in (5, 10)]
    made = figures.write(results(tmp_path / "x", cells), tmp_path / "x", tmp_path / "out", (), ONE)
    assert {"score-vs-nfe", "grids", "samples"} <= {path.stem for path in made}


def test_samples_of_large_images_fit_on_a_page(tmp_path: Path) -> None:
    found = results(tmp_path / "x", [cell(f"K({i})", 5, "1", 3.0) for i in range(6)])
    for path in (tmp_path / "x" / "records").glob("*.png"):
        Image.new("RGB", (8 * 256, 256)).save(path)
    drawn = samples(found, "m", 500, tmp_path / "x")
    assert drawn and drawn.get_figheight() < 9.5


def test_a_chosen_line_without_a_record_is_refused(tmp_path: Path) -> None:
    folder = save(tmp_path / "x", [*toy(), cell("later", 5, "1", None)])
    with pytest.raises(ValueError, match="line 'later' was run yet"):
        draw(folder, tmp_path / "out", ["later"])


def test_a_long_name_is_cut_and_leaves_room_for_its_row(tmp_path: Path) -> None:
    name = "a line of " + "very " * 20 + "many letters"
    drawn = levels.grids(results(tmp_path / "x", [cell(name, 10, "1", 3.0)]), "m", 500, ONE)
    (text,) = [one.get_text() for one in drawn.axes[0].get_yticklabels()]
    start, end = text.split("…")
    assert name.startswith(start) and name.endswith(end) and len(text) == 35
    drawn.draw_without_rendering()
    assert drawn.axes[0].get_window_extent().width / drawn.dpi > ONE / 7


def test_no_number_is_bold_while_cells_of_its_column_are_missing(tmp_path: Path) -> None:
    cells = many(9)
    cells[0] = (cells[0][0], None)  # NFE 5 of line 0
    found = results(tmp_path / "x", cells)
    axes = sweep(found, "m", 500)[0].axes[0]
    bold = [one.get_position()[0] for one in axes.texts if one.get_fontweight() == "bold"]
    assert bold == [1]
