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
from bench.report import report
from bench.report.frame import label, spread

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
             "sampler": row["sampler"], "nfe": nfe, "quantiser": "round",
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
def folder(tmp_path: Path) -> Path:
    tuning = cell("CRS(v_x)", 5, "tuning", 0.125, role="tune")
    return save(tmp_path / "toy", [tuning, *toy()])


def table(folder: Path, number: int = 0) -> dict[str, list[str]]:
    """The cells of a Markdown table of scores, by line; its head too."""
    parts = text_of(folder).split("\n\n")
    rows = [part for part in parts if ", NFE |" in part][number].splitlines()
    split = [
        [one.strip() for one in row.strip("|").split("|")] for row in rows if set(row) - {*"|:-"}
    ]
    return {row[0]: row[1:] for row in split}


def test_means_spreads_and_ties_by_hand(folder: Path) -> None:
    report(folder)
    fd = table(folder)
    assert fd["DDIM, NFE"] == ["5", "10"]
    assert fd["native"] == ["31.00 ± 1.00", "21.00 ± 1.00"]
    # best mean at NFE 5 is Karras, 20.40; CRS is behind by -0.5 and 0.7: 0.1 on average +- 0.6
    assert fd["Karras(rho=7)"] == ["**20.40** ± 0.10", ""]
    assert fd["CRS(v_x)"] == ["**20.50** ± 0.50", "12.50 ± 0.50"]  # Karras may yet be the best
    precision = table(folder, 1)
    assert precision["native"][0] == "0.690 ± 0.010"
    assert precision["CRS(v_x)"] == ["**0.795** ± 0.005", "0.875 ± 0.005"]


def test_differences_to_the_best_are_paired_by_hand(folder: Path, tmp_path: Path) -> None:
    report(folder)
    text = text_of(folder)
    assert "behind the best of the column, paired by seed block" in text
    behind = table(folder, text.split("behind the best")[0].count(", NFE |"))
    assert behind["Karras(rho=7)"][0] == "0"
    assert behind["CRS(v_x)"][0] == "0.10 ± 0.60"  # -0.5 and 0.7
    assert behind["CRS(v_x)"][1] == "0"
    report(save(tmp_path / "one", [cell("a", 5, "1", 10.0), cell("b", 5, "1", 11.0)]))
    assert "behind the best" not in text_of(tmp_path / "one")


def test_a_constant_gap_is_no_tie_however_wide_the_blocks(tmp_path: Path) -> None:
    pairs = {"a": (10.0, 20.0), "b": (11.0, 21.0)}  # spread 5, paired difference 1 +- 0
    cells = [cell(n, 5, b, fd) for n, p in pairs.items() for b, fd in zip("12", p, strict=True)]
    report(save(tmp_path / "x", cells))
    assert table(tmp_path / "x") == {
        "DDIM, NFE": ["5"], "a": ["**15.00** ± 5.00"], "b": ["16.00 ± 5.00"],
    }  # fmt: skip
    assert "| b | 1.00 ± 0.00 |" in text_of(tmp_path / "x")


def test_one_block_has_one_best_and_no_spread(tmp_path: Path) -> None:
    report(save(tmp_path / "x", [cell("a", 5, "1", 10.0), cell("b", 5, "1", 10.001)]))
    assert table(tmp_path / "x") | {"DDIM, NFE": []} == {
        "DDIM, NFE": [], "a": ["**10.00**"], "b": ["10.00"],
    }  # fmt: skip
    assert "±" not in text_of(tmp_path / "x")


@pytest.mark.parametrize(
    ("values", "expected"), [([3.0], 0.0), ([3.0, 5.0], 1.0), ([1.0, 2.0, 3.0], 1.0)]
)
def test_spread(values: list[float], expected: float) -> None:
    assert spread(np.array(values)) == pytest.approx(expected)


def test_tuning_cells_enter_no_table_and_no_figure(folder: Path, tmp_path: Path) -> None:
    report(folder)
    report(save(tmp_path / "without", toy()))
    for path in [folder / "table.tex", *sorted((folder / "figures").iterdir())]:
        assert path.read_bytes() == (tmp_path / "without" / path.relative_to(folder)).read_bytes()
    assert "0.12" not in text_of(folder)
    assert "| CRS(v_x) | DDIM | `ConstantRate(v_x, xi=0.5)` | 4 | tuning |" in text_of(folder)


def test_csv_is_long_and_leaves_what_was_not_run_empty(folder: Path) -> None:
    report(folder)
    with open(folder / "table.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 13
    assert [row["role"] for row in rows].count("tune") == 1
    missing = [row for row in rows if row["line"] == "Karras(rho=7)" and row["nfe"] == "10"]
    ran = ("nfe_counted", "fd", "precision", "recall", "features", "reference", "device")
    assert len(missing) == 2 and not any(row[name] for row in missing for name in ran)
    first = next(row for row in rows if row["role"] == "score")
    assert [first[name] for name in (*ran, "n", "block")] == [
        "5", "30.0", "0.7", "0.5", "effnet-lite0", "fashion-mnist", "CPU", "500", "1",
    ]  # fmt: skip
    with open(folder / "seconds.csv", newline="") as file:
        took = [row["sample_s"] for row in csv.DictReader(file)]
    assert took.count("2.0") == 11 and took.count("") == 2


def test_latex_is_escaped_and_bold(folder: Path) -> None:
    report(folder)
    text = (folder / "table.tex").read_text()
    assert r"CRS(v\_x) & \textbf{20.50} $\pm$ 0.50 & 12.50 $\pm$ 0.50 \\" in text
    assert r"Karras(rho=7) & \textbf{20.40} $\pm$ 0.10 &  \\" in text
    assert r"\begin{table}" in text and r"\caption{FD-EffNet of m, DDIM, 500 images" in text
    assert text.count(r"\toprule") == text.count(r"\bottomrule") == 3


def test_counted_nfe_shows_where_it_differs(tmp_path: Path) -> None:
    cells = [cell("a", 10, "1", 3.0, counted=9), cell("a", 5, "1", 4.0)]
    report(save(tmp_path / "x", cells))
    assert table(tmp_path / "x")["DDIM, NFE"] == ["5", "10 (9)"]


def test_protocol_is_told_with_its_warnings(folder: Path, tmp_path: Path) -> None:
    report(folder)
    text = text_of(folder)
    for known in (
        "effnet-lite0",
        "fashion-mnist",
        "60000",
        "Precision(k=3)",
        "CPU",
        "torch 2",
        "< 50,000",
    ):
        assert known in text
    assert "differ" not in text and "FID" not in text
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


def test_numbers_of_images_and_models_are_kept_apart(tmp_path: Path) -> None:
    cells = [*toy(), *toy(n=50_000), *toy(model="other"), cell("native", 5, "1", None, model="no")]
    made = report(save(tmp_path / "x", cells))
    text = text_of(tmp_path / "x")
    for head in ("m, 500 images", "m, 50,000 images", "other, 500 images", "no, 500 images"):
        assert f"## FD-EffNet, {head}" in text
    names = {path.name for path in made if path.parent.name == "figures"}
    for tail in ("-m", "-m-50000", "-other"):
        for name in ("score-vs-nfe", "precision-recall", "grids"):
            assert {f"{name}{tail}.png", f"{name}{tail}.pdf"} <= names
    assert {"samples-m.png", "samples-other.png"} <= names and "samples-m-50000.png" not in names
    assert {"rates-m.png", "rates-other.png"} <= names
    assert not any("-no" in name for name in names)


def test_rerun_is_the_same_to_the_byte(folder: Path) -> None:
    first = {path: path.read_bytes() for path in report(folder)}
    names = {path.relative_to(folder).as_posix() for path in first}
    assert {"table.md", "table.csv", "table.tex", "figures/rates.pdf"} <= names
    assert {path: path.read_bytes() for path in report(folder)} == first
    script = f"from bench.report import report; report({str(folder)!r})"
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True)  # another process too
    assert {path: path.read_bytes() for path in first} == first


def test_nothing_run_yet_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nothing of toy was run yet; first: crs-bench run toy"):
        report(save(tmp_path / "toy", [cell("a", 5, "1", None)]))
    assert not (tmp_path / "toy" / "table.md").exists()


def test_only_tuning_run_gives_empty_tables_and_no_figure(tmp_path: Path) -> None:
    cells = [cell("a", 5, "tuning", 3.0, role="tune"), cell("a", 5, "1", None)]
    made = report(save(tmp_path / "toy", cells))
    assert table(tmp_path / "toy")["a"] == [""]
    assert not [path for path in made if path.parent.name == "figures"]


def test_runs_without_torch() -> None:
    code = "import json, sys, bench.report; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True
    )
    modules = set(json.loads(done.stdout))
    assert "bench.report.figures" in modules
    assert not modules & {"torch", "torchvision", "timm", "diffusers", "matplotlib.pyplot"}
