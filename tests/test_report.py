"""Tables and figures from synthetic plans and records; every number here is worked out by hand."""

import csv
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bench import store
from bench.report import report, summary
from bench.report import table as chosen_table
from bench.report.chosen import Choice
from bench.report.frame import MANY_LINES, Results, label
from bench.report.tidy import parameters

ROOT = Path(__file__).resolve().parents[1]
RATE = {"sigma": [0.1, 1.0, 10.0], "v": [1.0, 0.5, 0.01], "images": 8, "levels": 3}
FDS = {  # line -> NFE -> FD of block 1 and block 2; None: not run
    "native": {5: (30.0, 32.0), 10: (20.0, 22.0)},
    "Karras(rho=7)": {5: (20.5, 20.3), 10: (None, None)},  # 5: behind by 0.5, -0.7 -> a tie
    "CRS(v_x)": {5: (20.0, 21.0), 10: (12.0, 13.0)},
}


METRICS = [
    {"identity": f"{name} and its set", "name": name, "text": text, "metric": {},
     "higher_is_better": name != "fd"}
    for name, text in (("fd", "FrechetDistance()"), ("precision", "Precision(k=3)"),
                       ("recall", "Recall(k=3)"))
]  # fmt: skip


def schedule_of(line: str, rate: str = "v_x") -> dict[str, Any]:
    """The spec of a schedule that fits the name of a line."""
    if "CRS(" in line or "ConstantRate(" in line:
        measured = {"class": "Rate", "fields": {"name": rate, "digest": rate}}
        return {"class": "ConstantRate", "fields": {"rate": measured}}
    return {"class": line.partition("(")[0].capitalize() or "Native", "fields": {}}


def entry(row: dict, name: str, value: float, **protocol: Any) -> dict[str, Any]:
    """A score of a row by its key, as a record holds it."""
    known = {"features": "effnet-lite0", "reference": "fashion-mnist", "reference_n": 60000,
             "bank": 100, "name": name, "value": value, "n": row["n"]}  # fmt: skip
    return {store.score_key(row["key"], f"{name} and its set"): known | protocol}


def cell(line: str, nfe: int, block: str, fd: float | None, **changes) -> tuple[dict, dict | None]:
    """A plan row and its record; `changes` overwrite role, model, sampler, n, counted, dtype,
    and what scores say of their protocol."""
    what = {"role": "score", "model": "m", "sampler": "DDIM", "n": 500, "counted": nfe} | changes
    row = {"line": line, "block": block, "nfe": nfe}
    row |= {name: what[name] for name in ("role", "model", "sampler", "n")}
    row["key"] = store.digest([*row.values()])
    if fd is None:
        return row, None
    said = {name: what[name] for name in ("features", "reference") if name in what}
    scores: dict[str, Any] = {}
    for name, value in (("fd", fd), ("precision", 1 - fd / 100), ("recall", 0.5)):
        scores |= entry(row, name, value, **said)
    asked = {"model": row["model"], "schedule": schedule_of(line), "label": line,
             "sampler": {"class": row["sampler"], "fields": {}}, "nfe": nfe, "quantiser": "round",
             "dtype": what.get("dtype", "float32")}  # fmt: skip
    return row, {
        "key": row["key"], "cell": asked, "grid": [*np.geomspace(10, 0.1, nfe), 0.0],
        "nfe": what["counted"], "scores": scores,
        "seconds": {"sample": 2.0, "score": 1.0}, "device": "CPU", "versions": {"torch": "2"},
    }  # fmt: skip


def line_of(name: str) -> dict[str, Any]:
    """A line of a plan."""
    schedule = schedule_of(name)
    return {"identity": store.digest(name), "label": name, "schedule": schedule}


def save(folder: Path, cells: list[tuple[dict, dict | None]]) -> Path:
    """Write a results folder with those cells, a strip of 8 images each."""
    strip = folder / "strip.png"
    folder.mkdir(exist_ok=True)
    Image.fromarray(np.arange(28 * 224, dtype=np.uint32).reshape(28, 224).astype("uint8")).save(
        strip
    )
    for _, record in cells:
        if record:
            store.save_record(folder, record, strip.read_bytes())
    strip.unlink()
    models = dict.fromkeys(row["model"] for row, _ in cells)
    lines = {row["line"]: line_of(row["line"]) for row, _ in cells if row["role"] != "converged"}
    chosen = {"line": "CRS(v_x)", "sampler": "DDIM", "schedule": "ConstantRate(v_x, xi=0.5)"}
    store.save_plan(
        folder,
        {"experiment": "toy", "title": "A toy", "note": "", "rows": [row for row, _ in cells],
         "lines": lines, "metrics": METRICS,
         "chosen": [chosen | {"tries": 4, "block": "tuning"}],
         "rates": [{"model": model, "name": "v_x", **RATE} for model in models]},
    )  # fmt: skip
    return folder


def text_of(folder: Path) -> str:
    """`table.md`, its cells without the spaces that fill them."""
    return re.sub(" +", " ", (folder / "table.md").read_text())


def toy(**changes) -> list[tuple[dict, dict | None]]:
    return [
        cell(line, nfe, block, fd, **changes)
        for line, column in FDS.items()
        for nfe, pair in column.items()
        for block, fd in zip("12", pair, strict=True)
    ]


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """For the tests that look at figures: with as many dots as users get."""
    monkeypatch.setattr("bench.report.drawing.DPI", 300)


@pytest.fixture(autouse=True)
def tables_unless_drawn(request: pytest.FixtureRequest) -> None:
    """Tests that ask for `drawn` have figures."""
    if "drawn" not in request.fixturenames:
        request.getfixturevalue("tables_alone")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tuning = cell("CRS(v_x)", 5, "tuning", 0.125, role="tune")
    return save(tmp_path / "toy", [*toy(), tuning])


def table(folder: Path, number: int = 0) -> dict[str, list[str]]:
    """The cells of a Markdown table of scores, by line; its head too."""
    parts = text_of(folder).split("\n\n")
    rows = [part for part in parts if ", NFE |" in part][number].splitlines()
    rows = [row for row in rows if set(row) - {*"|:-"}]
    split = [[one.strip() for one in row.strip("|").split("|")] for row in rows]
    return {row[0]: row[1:] for row in split}


T2 = 4.302652729911275  # of two degrees of freedom, 97.5 %


def blocks(columns: dict[str, tuple[float | None, ...]], nfe: int = 5, **changes: Any) -> list:
    """Cells of lines at one NFE: line -> FD of block 1, 2, ..."""
    return [cell(line, nfe, str(i + 1), fd, **changes)
            for line, column in columns.items() for i, fd in enumerate(column)]  # fmt: skip


def found(folder: Path, cells: list) -> Results:
    """The results of those cells."""
    save(folder, cells)
    return Results(store.load_plan(folder), store.load_records(folder))


def test_two_blocks_have_no_interval_and_no_ties(folder: Path) -> None:
    report(folder)
    fd = table(folder)
    assert fd["DDIM, NFE"] == ["5", "10"]
    assert fd["native"] == ["31.00", "21.00"]
    assert fd["Karras(rho=7)"] == ["**20.40**", ""]
    assert fd["CRS(v_x)"] == ["20.50", "12.50"]  # Karras may yet be the best at NFE 10
    precision = table(folder, 1)
    assert precision["native"][0] == "0.690"
    assert precision["CRS(v_x)"] == ["0.795", "0.875"]
    text = text_of(folder)
    assert "An interval needs 3 seed blocks, so there is none here." in text
    assert "± is" not in text and "Wins are not counted" in text


def test_three_blocks_have_t_intervals_and_ties_by_hand(tmp_path: Path) -> None:
    lines = {
        "best": (10.0, 11.0, 12.0),
        "tie": (10.1, 11.6, 11.9),  # behind by 0.1, 0.6, -0.1: 0.2 on average, +- 0.9
        "even": (10.5, 11.5, 12.5),  # behind by 0.5 without any spread: told apart
        "same": (10.0, 11.0, 12.0),
        "few": (None, 11.0, 12.0),  # of fewer blocks, whose differences are exactly 0
    }
    cells = blocks(lines)
    del cells[12]  # not planned, so that nothing is missing
    report(save(tmp_path / "x", cells))
    half = T2 / 3**0.5
    assert f"{half:.2f}" == "2.48"
    fd = table(tmp_path / "x")
    assert fd["best"] == ["**11.00** ± 2.48"] == fd["same"]
    assert fd["even"] == ["11.50 ± 2.48"]
    assert fd["tie"][0].startswith("**11.20** ±")
    assert fd["few"] == ["**11.50**"]
    text = text_of(tmp_path / "x")
    assert "half the width of the 95 % Student t interval" in text and "holds 0" in text


def test_a_line_of_one_block_leads_if_it_is_the_best_there(tmp_path: Path) -> None:
    lines = {
        "native": (10.0, 12.0, 14.0),
        "CRS(v_x)": (9.0, 10.0, 11.0),  # its mean is the lowest
        "Karras": (None, None, 10.5),  # best on the block that all have
    }
    folder = save(tmp_path / "x", [one for i, one in enumerate(blocks(lines)) if i not in (6, 7)])
    report(folder)
    assert table(folder)["Karras"] == ["**10.50**"]
    assert table(folder)["CRS(v_x)"] == ["10.00 ± 2.48"]


def test_a_hole_leaves_a_column_without_bold_and_out_of_the_summary(tmp_path: Path) -> None:
    lines = {"native": (10.0, 11.0, 12.0), "CRS(v_x)": (9.0, 10.0, None)}
    cells = [*blocks(lines), *blocks({"native": (5.0, 6.0, 7.0), "CRS(v_x)": (4.0, 5.0, 6.1)}, 10)]
    results = found(tmp_path / "x", cells)
    assert [row.nfe for row in summary.rows(results, "m", 500)] == [10]
    report(tmp_path / "x")
    assert table(tmp_path / "x")["native"] == ["11.00 ± 2.48", "6.00 ± 2.48"]
    assert table(tmp_path / "x")["CRS(v_x)"] == ["9.50", "**5.03** ± 2.61"]


def test_differences_to_the_best_baseline_are_paired_by_hand(tmp_path: Path) -> None:
    lines = {
        "native": (30.0, 31.0, 32.0),
        "Karras(rho=7)": (20.0, 21.0, 25.0),
        "CRS(v_x)": (19.0, 18.0, 20.0),  # less by 1, 3, 5: 3 +- T2 * 2 / sqrt 3
        "CRS(v_y)": (21.0, 22.0, 26.0),  # more by 1, always
    }
    results = found(tmp_path / "x", [*blocks(lines), *blocks(dict.fromkeys(lines, (7.0,)), 10)])
    rows = summary.differences(results).set_index(["line", "nfe"])
    assert {*rows.index} == {("CRS(v_x)", 5), ("CRS(v_y)", 5), ("CRS(v_x)", 10), ("CRS(v_y)", 10)}
    ours, other = rows.loc["CRS(v_x)", 5], rows.loc["CRS(v_y)", 5]
    assert (ours.baseline, ours.fd, ours.blocks) == ("Karras(rho=7)", 22.0, 3)
    assert ours.difference == -3.0 and ours.half == pytest.approx(T2 * 2 / 3**0.5)
    assert other.difference == 1.0 and other.half == 0.0
    assert rows.loc["CRS(v_x)", 10].difference == 0 and np.isnan(rows.loc["CRS(v_x)", 10].half)
    report(tmp_path / "x")
    text = text_of(tmp_path / "x")
    assert "| DDIM: best baseline | 22.00, Karras(rho=7) | 7.00, native |" in text
    assert "| DDIM: CRS(v_x) | -3.00 ± 4.97 | +0.00 |" in text
    with open(tmp_path / "x" / "differences.csv", newline="") as file:
        assert [row["half"] for row in csv.DictReader(file)].count("") == 2


def test_without_a_baseline_there_are_no_differences_and_no_wins(tmp_path: Path) -> None:
    lines = {"CRS(v_x)": (9.0, 10.0, 11.0), "CRS(v_y)": (8.0, 9.0, 10.0)}
    report(save(tmp_path / "x", blocks(lines)))
    text = text_of(tmp_path / "x")
    assert "best baseline" not in text and "Wins are not counted" in text
    assert "| CRS(v_y) | 1.00 | 1 |" in text


def with_level(cells: list, fd: float, names: str = "123") -> list:
    """The cells, and converged runs of that FD on these blocks."""
    fine = [cell("converged", 200, name, fd, role="converged") for name in names]
    for _, record in fine:
        record["cell"]["seeds"] = [0, 500]
    return [*cells, *fine]


def test_ranks_and_wins_by_hand(tmp_path: Path) -> None:
    """CRS wins at NFE 5, far from the converged level, and is not told apart at 8. native wins at
    10, which is near."""
    cells = [
        *blocks({"native": (90.0, 91.0, 92.0), "log": (91.0, 92.0, 93.0),
                 "CRS(v_x)": (50.0, 51.0, 52.5)}, 5),
        *blocks({"native": (30.0, 31.0, 38.0), "log": (31.0, 32.0, 39.0),
                 "CRS(v_x)": (31.0, 31.5, 32.0)}, 8),
        *blocks({"native": (10.0, 11.0, 12.0), "log": (10.0, 11.0, 12.0),
                 "CRS(v_x)": (20.0, 21.0, 22.1)}, 10),
        *blocks(dict.fromkeys(("native", "log", "CRS(v_x)"), (7.0, 7.0, 7.0)), 12),  # all tie
    ]  # fmt: skip
    results = found(tmp_path / "x", with_level(cells, 9.0))
    every = summary.rows(results, "m", 500)
    assert [(row.nfe, row.near) for row in every] == [(5, False), (8, False), (10, True)]
    t = 1.5 / (np.std([1.0, 0.5, -6.0], ddof=1) / 3**0.5)
    assert every[1].p == pytest.approx(1 - t / (2 + t**2) ** 0.5)  # of two degrees of freedom
    made = summary.table(results, "m", 500, every).set_index("line")
    assert list(made.index) == ["native", "log", "CRS(v_x)"]  # by the rank near the level
    assert dict(made["rank"]) == pytest.approx(
        {"native": (2 + 2 + 1.5) / 3, "log": (3 + 3 + 1.5) / 3, "CRS(v_x)": (1 + 1 + 3) / 3}
    )
    assert dict(made.lowest) == {"native": 1, "log": 1, "CRS(v_x)": 2}
    assert dict(made.wins) == {"native": 1, "log": 0, "CRS(v_x)": 1}
    assert dict(made.sure) == {"native": 1, "log": 0, "CRS(v_x)": 1}
    assert dict(made.near_rank) == {"native": 1.5, "log": 1.5, "CRS(v_x)": 3.0}
    assert dict(made.near_wins) == {"native": 1, "log": 0, "CRS(v_x)": 0}
    report(tmp_path / "x")
    text = text_of(tmp_path / "x")
    assert "All 3 pairs" in text and "Near: the 1 pairs" in text
    assert "| native (baseline) | 1.83 | 1 | 1 | 1 | 1.50 | 1 | 1 | 1 |" in text
    with open(tmp_path / "x" / "summary.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(one["line"], one["baseline"], one["near_wins"]) for one in rows] == [
        ("native", "True", "1"), ("log", "True", "0"), ("CRS(v_x)", "False", "0"),
    ]  # fmt: skip


def test_a_second_feature_space_has_a_summary_of_its_own(tmp_path: Path) -> None:
    """The spaces rank the lines the other way round."""
    both = with_level(blocks({"native": (9.0, 9.5, 9.25), "CRS(v_x)": (8.0, 8.5, 8.25)}), 7.0)
    for row, record in both:
        fd = next(one["value"] for one in record["scores"].values() if one["name"] == "fd")
        record["scores"] |= entry(row, "fd2", 100 - fd, features="effnet-lite0-lite2")
    home = save(tmp_path / "x", both)
    plan = json.loads((home / "plan.json").read_text())
    plan["metrics"].append(METRICS[0] | {"identity": "fd2 and its set", "name": "fd2"})
    store.save_plan(home, plan)
    report(home)
    for name, value in (("differences", "difference"), ("summary", "rank")):
        with open(home / f"{name}.csv", newline="") as file:
            rows = {(one["metric"], one["line"]): float(one[value]) for one in csv.DictReader(file)}
        if name == "summary":
            assert (rows["fd", "CRS(v_x)"], rows["fd2", "CRS(v_x)"]) == (1.0, 2.0)
        else:
            assert rows == {("fd", "CRS(v_x)"): -1.0, ("fd2", "CRS(v_x)"): 1.0}
    text = text_of(home)
    assert text.count("## Summary of ") == text.count(" less that of the best baseline") / 2 == 2
    level = Results(store.load_plan(home), store.load_records(home)).level
    assert (level("m", 500, "123"), level("m", 500, "123", "fd2")) == (7.0, 93.0)


def test_the_plan_says_which_lines_are_baselines(tmp_path: Path) -> None:
    lines = {"CRS(v_score)": (9.0, 10.0, 11.0), "CRS(v_y)": (8.0, 9.0, 10.0)}
    results = found(tmp_path / "x", blocks(lines))
    assert not results.baseline("CRS(v_score)") and summary.differences(results).empty
    results.plan["lines"]["CRS(v_score)"]["baseline"] = True
    assert list(summary.differences(results).line) == ["CRS(v_y)"]


def test_one_block_has_one_best_and_no_interval(tmp_path: Path) -> None:
    report(save(tmp_path / "x", [cell("a", 5, "1", 10.0), cell("b", 5, "1", 10.001)]))
    assert table(tmp_path / "x") | {"DDIM, NFE": []} == {
        "DDIM, NFE": [], "a": ["**10.00**"], "b": ["10.00"],
    }  # fmt: skip
    assert "±" not in text_of(tmp_path / "x")


def test_models_of_one_table_have_their_own_converged_level(tmp_path: Path) -> None:
    """A line of a twin that leads is compared with converged samples of the twin."""
    cells = with_level(blocks({"native": (40.0, 41.0), "twin, native": (30.0, 31.0)}), 18.0, "12")
    cells += with_level([], 14.0, "34")
    for row, record in cells:
        if row["line"] == "twin, native":
            record["cell"]["model"] = "twin"
        elif row["block"] in "34":
            row["block"], record["cell"]["model"] = str(int(row["block"]) - 2), "twin"
    results = found(tmp_path / "x", cells)
    (row,) = summary.rows(results, "m", 500)
    assert row.level == 14.0 and not row.near  # 30.5 is more than 28, and less than 36


def test_tuning_cells_enter_no_table_and_no_figure(
    folder: Path, tmp_path: Path, drawn: None
) -> None:
    report(folder)
    report(save(tmp_path / "without", toy()))
    for path in [folder / "table.tex", *sorted((folder / "figures").iterdir())]:
        assert path.read_bytes() == (tmp_path / "without" / path.relative_to(folder)).read_bytes()
    assert "0.12" not in text_of(folder)
    assert "| CRS(v_x) | DDIM | `ConstantRate(v_x, xi=0.5)` | 4 | tuning |" in text_of(folder)


def test_csv_has_a_row_for_each_score_and_leaves_what_was_not_run_empty(folder: Path) -> None:
    report(folder)
    with open(folder / "table.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 13 * 3
    assert [row["role"] for row in rows].count("tune") == 3
    missing = [row for row in rows if row["line"] == "Karras(rho=7)" and row["nfe"] == "10"]
    ran = ("nfe_counted", "value", "features", "reference", "reference_n", "bank", "device",
           "dtype", "schedule", "schedule_class")  # fmt: skip
    assert [row["metric"] for row in missing] == ["fd", "precision", "recall"] * 2
    assert not any(row[name] for row in missing for name in ran) and all(r["key"] for r in missing)
    first = next(row for row in rows if row["role"] == "score")
    assert [first[name] for name in (*ran, "n", "block", "experiment", "baseline")] == [
        "5", "30.0", "effnet-lite0", "fashion-mnist", "60000", "100", "CPU", "float32", "native",
        "Native", "500", "1", "toy", "True",
    ]  # fmt: skip
    rate = next(row for row in rows if row["line"] == "CRS(v_x)" and row["role"] == "score")
    assert rate["schedule_rate"] == "v_x" and first["schedule_rate"] == ""
    karras = next(row for row in rows if row["line"] == "Karras(rho=7)" and row["nfe"] == "5")
    assert karras["schedule_rho"] == "7"  # a default, from the label
    with open(folder / "seconds.csv", newline="") as file:
        took = [row["sample_s"] for row in csv.DictReader(file)]
    assert took.count("2.0") == 11 and took.count("") == 2


def test_parameters_are_those_of_all_parts() -> None:
    rate = {"class": "Rate", "fields": {"name": "v_x", "digest": "0"}}
    inner = {"class": "ConstantRate", "fields": {"rate": rate, "xi": 0.25}}
    spec = {"class": "Between", "fields": {"schedule": inner, "sigma_max": 40.0}}
    label = "Between(ConstantRate(v_x, xi=0.25, coordinate=alpha), sigma_max=40)"
    assert parameters(spec, label) == {
        "xi": 0.25, "coordinate": "alpha", "sigma_max": 40.0, "rate": "v_x",
        "schedule": "ConstantRate",
    }  # fmt: skip
    levels = {"class": "Levels", "fields": {"sigmas": [2.0, 1.0, 0.0]}}
    assert parameters(levels, "Levels(sigmas=(2, 1, 0))") == {"sigmas": "2.0 1.0 0.0"}


def test_a_long_page_has_a_table_of_contents(folder: Path, tmp_path: Path) -> None:
    report(folder)
    text = (folder / "table.md").read_text()
    head = "FD-EffNet, m, 500 images a cell (lower is better)"
    assert f"* [{head}](#fd-effnet-m-500-images-a-cell-lower-is-better)\n" in text
    heads = re.findall(r"^## (.*)$", text, re.MULTILINE)
    assert re.findall(r"^\* \[(.*)\]\(#[\w-]+\)$", text, re.MULTILINE) == heads
    (short,) = [cell("a", 5, "1", 3.0)]
    del short[1]["scores"][store.score_key(short[0]["key"], "precision and its set")]
    del short[1]["scores"][store.score_key(short[0]["key"], "recall and its set")]
    report(save(tmp_path / "short", [short]))
    assert "](#" not in (tmp_path / "short" / "table.md").read_text()


def test_latex_is_escaped_and_bold(folder: Path) -> None:
    report(folder)
    text = (folder / "table.tex").read_text()
    assert r"CRS(v\_x) & 20.50 & 12.50 \\" in text
    assert r"Karras(rho=7) & \textbf{20.40} &  \\" in text
    assert r"\begin{table}" in text and r"\caption{FD-EffNet of m, DDIM, 500 images" in text
    assert text.count(r"\toprule") == text.count(r"\bottomrule") == 3


def test_counted_nfe_shows_where_it_differs(tmp_path: Path) -> None:
    cells = [cell("a", 10, "1", 3.0, counted=9), cell("a", 5, "1", 4.0)]
    report(save(tmp_path / "x", cells))
    assert table(tmp_path / "x")["DDIM, NFE"] == ["5", "10 (9)"]


def test_protocol_is_told_with_its_warnings(folder: Path, tmp_path: Path) -> None:
    report(folder)
    text = text_of(folder)
    told = ("effnet-lite0", "fashion-mnist", "60000", "Precision(k=3)", "CPU", "torch 2")
    for known in (*told, "< 50,000"):
        assert known in text
    assert "cells differ" not in text and "FID" not in text
    other = cell("b", 5, "1", 4.0, n=50_000, dtype="float16")
    report(save(tmp_path / "x", [cell("a", 5, "1", 3.0, n=50_000), other]))
    text = text_of(tmp_path / "x")
    assert "float32, float16" in text and "differ in dtype" in text and "< 50,000" not in text


@pytest.mark.parametrize(
    ("features", "name"),
    [("effnet-lite0", "FD-EffNet"), ("inception-v3-compat", "FID"), ("clean", "FID (clean)"),
     ("dino", "FD (dino)")],
)  # fmt: skip
def test_fid_is_said_of_inception_only(features: str, name: str) -> None:
    assert label("fd", features) == name


def test_the_second_feature_space_is_named() -> None:
    both = "effnet-lite0-lite2-64"
    assert (label("fd", both), label("fd2", both)) == ("FD-EffNet", "FD-EffNet2")
    assert label("precision2(k=5)", both) == "Precision (effnet-lite2)(k=5)"
    assert label("fd2", "mine") == "FD (mine, second space)"


def test_numbers_of_images_and_models_are_kept_apart(tmp_path: Path, drawn: None) -> None:
    cells = [*toy(), *toy(n=50_000), *toy(model="other"), cell("native", 5, "1", None, model="no")]
    made = report(save(tmp_path / "x", cells))
    text = text_of(tmp_path / "x")
    for head in ("m, 500 images", "m, 50,000 images", "other, 500 images"):
        assert f"## FD-EffNet, {head}" in text
    assert "## FD-EffNet, no, 500 images" not in text  # nothing of it was run
    names = {path.name for path in made if path.parent.name == "figures"}
    for tail in ("-m", "-m-50000", "-other"):
        for name in ("score-vs-nfe", "precision-recall", "grids"):
            assert {f"{name}{tail}.png", f"{name}{tail}.pdf"} <= names
    assert {"samples-m.png", "samples-other.png"} <= names and "samples-m-50000.png" not in names
    assert {"rates-m.png", "rates-other.png"} <= names
    assert not any("-no" in name for name in names)


def test_rerun_is_the_same_to_the_byte(folder: Path, drawn: None) -> None:
    first = {path: path.read_bytes() for path in report(folder)}
    names = {path.relative_to(folder).as_posix() for path in first}
    assert {"table.md", "summary.csv", "differences.csv", "figures/rates.pdf"} <= names
    assert {path: path.read_bytes() for path in report(folder)} == first
    script = f"from bench.report import report; report({str(folder)!r})"
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True)  # another process too
    assert {path: path.read_bytes() for path in first} == first


def test_nothing_run_yet_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no cell of toy is done yet"):
        report(save(tmp_path / "toy", [cell("a", 5, "1", None)]))
    assert not (tmp_path / "toy" / "table.md").exists()


def test_only_tuning_run_gives_no_table_of_scores_and_no_figure(
    tmp_path: Path, drawn: None
) -> None:
    cells = [cell("a", 5, "tuning", 3.0, role="tune"), cell("a", 5, "1", None)]
    made = report(save(tmp_path / "toy", cells))
    text = text_of(tmp_path / "toy")
    assert "## Not run: 1 planned cells" in text and ", NFE |" not in text
    assert not [path for path in made if path.parent.name == "figures"]


def test_blocks_and_evaluations_that_were_not_begun_are_no_part_of_tables(
    tmp_path: Path, drawn: None
) -> None:
    """A run that was stopped after its first block has whole tables of that block."""
    kept = [cell("a", 5, "1", 3.0), cell("b", 5, "1", 2.0)]
    more = [cell("a", 5, "2", None), cell("b", 5, "2", None), cell("a", 50, "1", None),
            cell("b", 50, "1", None), cell("a", 5, "50k", None, n=50_000)]  # fmt: skip
    report(save(tmp_path / "short", kept))
    report(save(tmp_path / "long", kept + more))
    short, long = text_of(tmp_path / "short"), text_of(tmp_path / "long")
    want = {"DDIM, NFE": ["5"], "a": ["3.00"], "b": ["**2.00**"]}
    assert table(tmp_path / "long") == table(tmp_path / "short") == want
    assert "## Not run: 5 planned cells" in long and "Not run" not in short
    for name in ("summary.csv", "differences.csv"):
        assert (tmp_path / "long" / name).read_text() == (tmp_path / "short" / name).read_text()
    report(save(tmp_path / "begun", [*kept, cell("a", 5, "2", 3.5), *more[1:]]))
    assert "**" not in "".join(table(tmp_path / "begun")["b"])  # another block may change it


def test_lines_are_sorted_by_evaluations_that_every_line_has(tmp_path: Path, drawn: None) -> None:
    """That one line was run at NFE 50 too does not move it."""
    cells = [
        cell(f"CRS({i})", nfe, "1", 100.0 - i) for i in range(MANY_LINES + 1) for nfe in (5, 10)
    ]
    lone = cell("CRS(0)", 50, "1", 1.0)  # the worst line
    report(save(tmp_path / "x", [*cells, lone]))
    rows = [*table(tmp_path / "x")]
    assert rows[1:] == [f"CRS({i})" for i in reversed(range(MANY_LINES + 1))]
    results = Results(store.load_plan(tmp_path / "x"), store.load_records(tmp_path / "x"))
    assert results.places("m", 500)[-1] == "CRS(0)"


def test_a_table_of_scores_that_are_not_there_is_refused(tmp_path: Path) -> None:
    cells = [cell("a", 5, "tuning", 3.0, role="tune"), cell("a", 5, "1", None)]
    with pytest.raises(ValueError, match="no scored cell of toy is done yet"):
        chosen_table(save(tmp_path / "toy", cells), Choice(nfes=(5,)))


def test_runs_without_torch() -> None:
    code = "import json, sys, bench.report; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True
    )
    modules = set(json.loads(done.stdout))
    assert "bench.report.figures" in modules
    assert not modules & {"torch", "torchvision", "timm", "diffusers", "matplotlib.pyplot"}
