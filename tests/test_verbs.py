"""Verbs that read results: one table, paired differences, records; what a run says; completion."""

import csv
import io
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import tiny
from console import crs
from test_report import T2, blocks, cell, save

from bench import run, store, talk
from bench.cli import experiments
from bench.progress import Progress

LINES = {
    "native": (30.0, 31.0, 32.0),
    "trained, Karras(rho=7)": (20.0, 21.0, 25.0),
    "CRS(v_x, xi=1)": (19.0, 18.0, 20.0),  # less than Karras by 1, 3, 5
}
SEEDS = {"1": [0, 500], "2": [500, 1000], "3": [1000, 1500]}


def seeded(cells: list) -> list:
    for row, record in cells:
        if record:
            record["cell"]["seeds"] = SEEDS[row["block"]]
    return cells


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """The experiment `toy`, and `other`, whose native is lower by 1, 2 and 3."""
    cells = [*blocks(LINES), *blocks(LINES, 10, n=500), cell("native", 5, "1", 9.0, n=900)]
    save(tmp_path / "toy", seeded(cells))
    save(tmp_path / "other", seeded(blocks({"native": (29.0, 29.0, 29.0)})))
    plan = store.load_plan(tmp_path / "other")
    store.save_plan(tmp_path / "other", plan | {"experiment": "other"})
    return tmp_path


def said(patch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: object) -> str:
    assert crs(patch, *words) == 0
    return re.sub(" +", " ", capsys.readouterr().out)


def test_one_table_has_what_is_chosen_in_that_order(
    results: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(results.rglob("*"))
    how = ("--results", results, "--nfe", "10,5", "--metrics", "precision,fd")
    lines = ("--lines", "CRS(v_x, xi=1),trained, Karras(rho=7)")
    text = said(monkeypatch, capsys, "report", "toy", *how, *lines)
    heads, _, crs_row, karras = text.splitlines()[:4]
    assert heads == "| NFE | Precision, 10 | Precision, 5 | FD-EffNet, 10 | FD-EffNet, 5 |"
    assert crs_row.startswith("| DDIM, CRS(v_x, xi=1) | **0.810** ± 0.025 |")
    assert karras.endswith("| **22.00** ± 6.57 | **22.00** ± 6.57 |")
    assert "The best is that of all 3 lines" in text and "500 images a cell" in text
    assert before == sorted(results.rglob("*"))
    text = said(monkeypatch, capsys, "report", "toy", *how[:2], "--images", 900)
    assert "| DDIM, native | **9.00** |" in text and "900 images a cell" in text


def test_one_table_as_csv_in_a_file(
    results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    out = tmp_path / "x" / "one.csv"
    how = ("--results", results, "--format", "csv", "--nfe", 5, "--out", out)
    assert said(monkeypatch, capsys, "report", "toy", *how) == f"{out}\n"
    rows = list(csv.DictReader(io.StringIO(out.read_text())))
    assert [row["line"] for row in rows] == list(LINES)
    assert {row["metric"] for row in rows} == {"fd"}
    assert [float(row["value"]) for row in rows] == [31.0, 22.0, 19.0]
    assert float(rows[0]["half"]) == pytest.approx(T2 / 3**0.5) and rows[0]["blocks"] == "3"
    assert [row["bold"] for row in rows] == ["False", "True", "True"]  # -3 with 4.97


def test_differences_to_a_line_are_paired_by_hand(
    results: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    how = ("compare", "toy", "toy:trained, Karras(rho=7)", "--results", results)
    text = said(monkeypatch, capsys, *how, "--nfe", 5)
    assert "| DDIM, CRS(v_x, xi=1) | -3.00 ± 4.97 |" in text
    assert "| DDIM, native | **+9.00** ± 4.30 |" in text and "Karras(rho=7) |" not in text
    rows = csv.DictReader(
        io.StringIO(said(monkeypatch, capsys, *how, "--format", "csv", "--nfe", 5))
    )
    found = {row["line"]: row for row in rows}
    assert list(found) == ["native", "CRS(v_x, xi=1)"]
    t = 3 / (2 / 3**0.5)
    assert float(found["CRS(v_x, xi=1)"]["p"]) == pytest.approx(1 - t / (2 + t**2) ** 0.5)
    p = sorted(float(row["p"]) for row in found.values())
    assert float(found["native"]["p_holm"]) == pytest.approx(2 * p[0])


def test_two_lines_are_compared(
    results: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    how = ("--results", results, "--nfe", 5)
    text = said(monkeypatch, capsys, "compare", "CRS(v_x, xi=1)", "native", "--in", "toy", *how)
    assert "| DDIM, CRS(v_x, xi=1) | **-12.00** ± 2.48 |" in text and text.count("| DDIM") == 1
    assert "Differences: CRS(v_x, xi=1) less native. FD-EffNet" in text
    same = said(monkeypatch, capsys, "compare", "toy:CRS(v_x, xi=1)", "toy:native", *how)
    assert same == text
    text = said(monkeypatch, capsys, "compare", "toy:native", "other:native", *how)
    assert "| DDIM, native | +2.00 ± 2.48 |" in text
    assert text == said(monkeypatch, capsys, "compare", "native", "other", "--in", "toy", *how)
    assert "Differences: native of toy less native of other." in text


def test_differences_between_experiments_are_paired_by_seeds(
    results: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    how = ("--results", results)
    text = said(monkeypatch, capsys, "compare", "toy", "other", *how)
    assert "| DDIM, native | +2.00 ± 2.48 |" in text and text.count("| DDIM") == 1
    text = said(monkeypatch, capsys, "compare", "toy:CRS(v_x, xi=1)", "other:native", *how)
    assert "| DDIM, CRS(v_x, xi=1) | **-10.00** ± 2.48 |" in text
    other = store.load_plan(results / "other")
    other["metrics"] = [one | {"identity": "another reference"} for one in other["metrics"]]
    for row in other["rows"]:
        record = store.load_record(results / "other", row["key"])
        fd = next(one for one in record["scores"].values() if one["name"] == "fd")
        key = store.score_key(row["key"], "another reference")
        store.save_record(results / "other", record | {"scores": {key: fd}}, None)
    store.save_plan(results / "other", other)
    assert crs(monkeypatch, "compare", "toy", "other", *how) == 2
    assert "lines of toy less lines of other: no two scores are a pair" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("toy", "othr"), "'othr' is no experiment in --results"),
        (("toy", "othr"), "did you mean other? (known: other, toy)"),
        (("nativ", "toy", "--in", "toy"), "'nativ' is neither a line of toy nor an experiment"),
        (("nativ", "toy", "--in", "toy"), "did you mean native?"),
        (("toy", "other:nativ"), "other has no line 'nativ'; did you mean native?"),
        (("native", "toy"), "is a line of other, toy: write --in other, or 'other:native'"),
        (("native", "toy", "--in", "othr"), "did you mean other?"),
        (("toy", "toy"), "A and B are both of toy, and the same"),
        (("native", "toy:native", "--in", "toy"), "A and B are both of toy, and the same"),
        (("native", "other", "--in", "toy", "--lines", "native"), "leave --lines out"),
        (("toy", "other", "--lines", "CRS(v_x, xi=1)"), "no two scores are a pair"),
        (("toy", "renamed"), "no line of toy has the name of a line of renamed"),
    ],
)
def test_sides_that_are_not_there_are_one_line(
    words: tuple[str, ...], says: str, results: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    if "renamed" in words:
        save(results / "renamed", seeded(blocks({"another": (29.0, 29.0, 29.0)})))
        plan = store.load_plan(results / "renamed")
        store.save_plan(results / "renamed", plan | {"experiment": "renamed"})
    assert crs(monkeypatch, "compare", *words, "--results", results) == 2
    err = capsys.readouterr().err
    assert says in err and err.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--lines", "nativ"), "no line 'nativ' (known: native,"),
        (("--nfe", "7"), "no NFE 7 (known: 5, 10)"),
        (("--metrics", "kid"), "no metric 'kid' (known: fd, precision, recall)"),
        (("--samplers", "Heun"), "no sampler 'Heun' (known: DDIM)"),
        (("--images", "7"), "no number of images 7 (known: 500, 900)"),
        (("--format", "pdf"), "no format 'pdf'; use md, csv, tex"),
    ],
)
def test_a_choice_that_is_not_there_is_one_line(
    words: tuple[str, ...], says: str, results: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    assert crs(monkeypatch, "report", "toy", "--results", results, *words) == 2
    err = capsys.readouterr().err
    assert says in err and err.count("\n") == 1


def test_latex_is_one_float_that_fits(
    results: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = said(monkeypatch, capsys, "report", "toy", "--results", results, "--format", "tex")
    assert text.count(r"\begin{table}") == 1 and r"\label{tab:toy}" in text
    assert r"CRS(v\_x, $\xi=1$) & " in text and r"\toprule" in text
    assert r"\resizebox{\ifdim\width>\linewidth" in text and r"\end{tabular}}" in text


LATEX = shutil.which("pdflatex")


@pytest.mark.skipif(not LATEX, reason="pdflatex is not installed")
def test_latex_compiles_and_is_not_too_wide(
    results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """One table, differences, and all of `table.tex`."""
    how = ("report", "toy", "--results", results)
    wide = ("--metrics", "fd,precision,recall", "--format", "tex")
    parts = [
        said(monkeypatch, capsys, *how, *wide),
        said(monkeypatch, capsys, "compare", "toy", "toy:native", *how[2:], *wide),
    ]
    said(monkeypatch, capsys, *how)
    parts.append((results / "toy" / "table.tex").read_text())
    head = "\\documentclass[twocolumn]{article}\\usepackage{booktabs,graphicx}\\begin{document}\n"
    (tmp_path / "a.tex").write_text(head + "\n".join(parts) + "\\end{document}\n")
    words = [str(LATEX), "-interaction=nonstopmode", "-halt-on-error", "a.tex"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert r"Overfull \hbox" not in (tmp_path / "a.log").read_text()


# ---------------------------------------------------------------- records


def test_records_are_listed_shown_and_deleted(
    results: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = results / "toy"
    first, second = [row["key"] for row in store.load_plan(folder)["rows"][:2]]
    how = ("records", "toy", "--results", results)
    lines = said(monkeypatch, capsys, *how).splitlines()
    assert len(lines) == 19
    assert (
        lines[0] == f"{first} score, native, DDIM, NFE 5, block 1: fd 30, precision 0.7, recall 0.5"
    )
    shown = json.loads(said(monkeypatch, capsys, *how, "--show", first[:9]))
    assert shown == store.load_record(folder, first)
    store.pack_records(folder)  # as one that is shipped
    for name in ("shards", "converged"):
        (folder / name / first).mkdir(parents=True)
    text = said(monkeypatch, capsys, *how, "--delete", first[:9], "--delete", second)
    again = "the command that ran toy makes it again"
    assert text.splitlines() == [
        f"deleted {key}: score, native, DDIM, NFE 5, block {block}; {again}"
        for key, block in ((first, 1), (second, 2))
    ]
    left = store.load_records(folder)
    assert len(left) == 17 and not {first, second} & left.keys()
    assert not [path for path in folder.rglob("*") if first in path.name]
    assert len(said(monkeypatch, capsys, *how).splitlines()) == 17


def test_a_record_that_no_plan_asks_for_is_listed_too(
    results: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _, record = seeded([cell("native", 50, "1", 8.0)])[0]
    store.save_record(results / "toy", record, None)
    last = said(monkeypatch, capsys, "records", "toy", "--results", results).splitlines()[-1]
    assert (
        last
        == f"{record['key']} not planned, native, DDIM, NFE 50: fd 8, precision 0.92, recall 0.5"
    )


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--show", "zz"), "no key of a record starts with 'zz'"),
        (("--delete", ""), "no key of a record starts with ''"),
        (("--show", "a", "--delete", "b"), "either --show or --delete"),
    ],
)
def test_a_key_that_is_not_there_deletes_nothing(
    words: tuple[str, ...], says: str, results: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    before = store.load_records(results / "toy")
    assert crs(monkeypatch, "records", "toy", "--results", results, *words) == 2
    assert says in capsys.readouterr().err
    assert store.load_records(results / "toy") == before


# ---------------------------------------------------------------- a run that talks


def test_a_run_tells_of_each_cell_and_ends_with_the_table(
    tiny_models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr("bench.report.figures.write", lambda *_: [])
    experiments._run(tiny.pooled(tiny_models), tmp_path, tiny_models)
    out, err = capsys.readouterr()
    cells = [line for line in err.splitlines() if "cells left:" in line]
    keys = {row["key"] for row in store.load_plan(tmp_path / "tiny")["rows"]}
    assert len(cells) == len(keys)
    assert (
        sum(line.startswith("a try of CRS, DDIM, NFE 3, block tuning: FD") for line in cells) == 2
    )
    assert re.search(r"^Karras, DDIM, NFE 3, block 2: FD \(pooled\) [\d.]+, Precision", err, re.M)
    assert cells[-1].endswith("cells left: 0)")
    heads = [line.split("|")[1].strip() for line in out.splitlines() if ", NFE" in line]
    assert heads == ["FD (pooled), NFE", "Precision, NFE", "Recall, NFE"]
    assert "No cell is missing." in out and re.search(r"^Time: \d\d:\d\d\.$", out, re.M)
    assert f"Tables: {tmp_path / 'tiny' / 'table.md'}" in out and "crs-bench page" in out
    assert run.run(tiny.pooled(tiny_models), tmp_path, tiny_models)
    assert "cells left" not in capsys.readouterr().err  # nothing was made


def test_beside_a_bar_no_cell_is_told_of(capsys: pytest.CaptureFixture[str]) -> None:
    row, record = cell("native", 5, "1", 3.0)
    talk.cell(row, record, Progress(disable=False, file=io.StringIO()))
    assert capsys.readouterr() == ("", "")


def test_the_end_of_a_run_names_what_is_missing(tmp_path: Path) -> None:
    cells = seeded([*blocks({"native": (3.0, 4.0, 5.0)}), cell("native", 10, "1", None)])
    said = talk.end(save(tmp_path / "toy", cells), 3723.0)
    assert "Missing: 1 cell: native, DDIM, NFE 10, block 1." in said
    assert "Time: 1:02:03." in said and "page.html" not in said
    (tmp_path / "page.html").touch()
    assert f"{tmp_path / 'page.html'} (crs-bench page" in talk.end(tmp_path / "toy", 1.0)


# ---------------------------------------------------------------- the shell


def test_the_shell_completes_verbs() -> None:
    words = {
        "_CRS_BENCH_COMPLETE": "complete_bash",
        "COMP_WORDS": "crs-bench rec",
        "COMP_CWORD": "1",
    }
    code = "import sys; sys.argv[0] = 'crs-bench'; from bench import cli; cli.main()"
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | words, capture_output=True, text=True,
        cwd=Path(__file__).parents[1],
    )  # fmt: skip
    assert done.stdout.split() == ["records", "reconstruct"]


def test_figures_of_chosen_lines_go_into_a_folder_of_ones_own(
    results: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(results.rglob("*"))
    out, how = results.parent / f"{results.name}-mine", ("--results", results, "--columns", 1)
    lines = ("--lines", "trained, Karras(rho=7),native")
    text = said(monkeypatch, capsys, "figures", "toy", out, *how, *lines)
    paths = [Path(line) for line in text.split()]
    assert sorted(out.iterdir()) == sorted(paths) and sorted(results.rglob("*")) == before
    assert {"score-vs-nfe.png", "score-vs-nfe.pdf", "grids.png"} <= {path.name for path in paths}
    assert crs(monkeypatch, "figures", "toy", out, *how, "--lines", "nativ") == 2
    assert "no cell of line 'nativ' was run yet" in capsys.readouterr().err
