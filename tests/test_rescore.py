"""`crs-bench rescore`: further metrics of a finished run, from features on disk alone."""

import shutil
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import tiny
from console import crs
from test_shards import no_figures, scores, tables  # noqa: F401 - the first is a fixture

from bench import generate, run, store

ADDED = "fd,kid(subsets=2, subset_size=5),precision(k=5)"
FRESH = ("fd", "precision", "recall", "kid(subsets=2, subset_size=5)", "precision(k=5)")


@pytest.fixture
def results(undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the undisturbed results, for which nothing may be sampled."""
    shutil.copytree(undisturbed, tmp_path / "results" / "tiny")
    monkeypatch.setattr(generate, "images", lambda *_: pytest.fail("something was sampled"))
    return tmp_path / "results"


def rescore(patch: pytest.MonkeyPatch, results: Path, metrics: str, *more: object) -> int:
    how = ("--results", results, "--device", "cpu", *more)
    return crs(patch, "rescore", "tiny", "--metrics", metrics, *how)


CELL = ["role", "model", "sampler", "line", "nfe", "block", "key"]


def columns(results: Path) -> pd.DataFrame:
    """A row for each cell of `table.csv` that is in tables, and a column for each metric."""
    found = pd.read_csv(results / "tiny" / "table.csv")
    found = found[found.role != "tune"]
    wide = found.pivot(index=CELL, columns="metric", values=["value", "error", "low", "high"])
    wide = wide.dropna(axis=1, how="all")
    wide.columns = [metric if what == "value" else f"{metric}_{what}"
                    for what, metric in wide.columns]  # fmt: skip
    return wide.reset_index()


def test_metrics_are_added_without_sampling(
    results: Path, tiny_models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, old = scores(results / "tiny"), columns(results)
    assert rescore(monkeypatch, results, ADDED) == 0
    after = scores(results / "tiny")
    assert before.items() < after.items()  # none was taken again
    new = columns(results)
    assert list(new.columns)[: len(old.columns)] != list(old.columns)
    assert {*new.columns} - {*old.columns} == {"kid", "precision(k=5)", "kid_error"}
    assert new[old.columns].equals(old) and new[["kid", "precision(k=5)"]].notna().all(axis=None)
    text = (results / "tiny" / "table.md").read_text()
    assert "## KID, small" in text and "## Precision(k=5), small" in text
    monkeypatch.undo()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bench.report.figures.write", lambda *_: [])
        run.run(tiny.pooled(tiny_models, metrics=FRESH), tmp_path / "fresh", tiny_models)
        fresh = columns(tmp_path / "fresh")
        assert fresh.equals(new[fresh.columns])
        assert text == (tmp_path / "fresh" / "tiny" / "table.md").read_text()
        again = tables(results / "tiny")
        run.run(tiny.pooled(tiny_models), results, tiny_models)  # it knows nothing of the two
        assert tables(results / "tiny") == again


def test_what_a_cell_has_is_not_taken_again(
    results: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert rescore(monkeypatch, results, ADDED) == 0
    said = capsys.readouterr().err
    cells = len(set(columns(results).index[columns(results).role == "converged"]))
    keys = {r["key"] for r in store.load_plan(results / "tiny")["rows"] if r["role"] != "tune"}
    assert cells == 2 and f"{len(keys)} cells scored; 0 cells already had these scores" in said
    before = {path: path.stat().st_mtime_ns for path in (results / "tiny").glob("records/*.json")}
    assert rescore(monkeypatch, results, ADDED) == 0
    assert f"0 cells scored; {len(keys)} cells already had these scores" in capsys.readouterr().err
    assert before == {path: path.stat().st_mtime_ns for path in before}


def test_intervals_are_added_and_stay(
    results: Path, tiny_models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert rescore(monkeypatch, results, "fd", "--bootstrap", 5) == 0
    found = columns(results)
    assert {"fd_low", "fd_high"} <= {*found.columns}
    assert (found.fd_low <= found.fd_high).all() and found.fd_low.notna().all()
    # neither a metric more nor another run takes them away
    assert rescore(monkeypatch, results, "fd,density") == 0
    assert columns(results)[["fd_low", "fd_high"]].equals(found[["fd_low", "fd_high"]])
    key = store.load_plan(results / "tiny")["rows"][-1]["key"]
    record = store.load_record(results / "tiny", key)
    assert record
    lost = next(one for one, score in record["scores"].items() if score["name"] == "recall")
    kept = {one: score for one, score in record["scores"].items() if one != lost}
    store.save_record(results / "tiny", record | {"scores": kept}, None)
    run.run(tiny.pooled(tiny_models), results, tiny_models)
    assert store.load_record(results / "tiny", key)["scores"] == record["scores"]  # type: ignore[index]
    assert columns(results)[["fd_low", "fd_high"]].equals(found[["fd_low", "fd_high"]])


def test_cells_whose_features_were_dropped_are_named(
    results: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = store.load_plan(results / "tiny")["rows"]
    row = next(one for one in rows if (one["line"], one["nfe"], one["block"]) == ("CRS", 3, "2"))
    shutil.rmtree(results / "tiny" / "shards" / row["key"])
    assert rescore(monkeypatch, results, "density") == 0
    said = capsys.readouterr().err
    assert "1 cells have no features on disk" in said and "CRS, DDIM, NFE 3, block 2" in said
    found = columns(results)
    assert (found.density.isna() == (found.line == "CRS") & (found.nfe == 3)
            & (found.block.astype(str) == "2")).all()  # fmt: skip


def test_without_any_features_it_says_what_to_do(
    results: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(results / "tiny" / "shards")
    before = tables(results / "tiny")
    assert rescore(monkeypatch, results, "density") == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert "has its features on disk" in said and "of tiny, and run it again" in said
    assert "Scoring(metrics=...)" in said and tables(results / "tiny") == before
    assert rescore(monkeypatch, results, "fd") == 0  # which all cells have


MINE = """
from dataclasses import dataclass

from bench import Metric, Score


@dataclass(frozen=True)
class Mine(Metric):
    power: int = 1
    name = "mine"
    higher_is_better = True

    def __call__(self, *, fake, real):
        return Score(float((fake.mean - real.mean).abs().mean()) ** self.power, 0.5)
"""


def test_a_users_own_metric_is_seen_in_an_old_experiment(
    results: Path, tiny_models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mylab_rescored.py").write_text(MINE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    store.pack_records(results / "tiny")  # as one that is shipped
    asked = "mylab_rescored:Mine,mylab_rescored:Mine(power=2)"
    assert rescore(monkeypatch, results, asked) == 0
    found = columns(results)
    assert found["mine(power=2)"].to_list() == pytest.approx((found.mine**2).to_list())
    assert set(found.mine_error) == {0.5}
    text = (results / "tiny" / "table.md").read_text()
    assert "## mine, small, 12 images a cell (higher is better)" in text


def test_two_protocols_of_one_metric_have_columns_of_their_own(
    results: Path, tiny_models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A metric that was added, and then the experiment itself takes one of the same name."""
    assert rescore(monkeypatch, results, "density(k=2)") == 0
    old = columns(results)
    with pytest.MonkeyPatch.context() as patch:
        patch.undo()
        monkeypatch.undo()
        monkeypatch.setattr("bench.report.figures.write", lambda *_: [])
        metrics = ("fd", "precision", "recall", "density")
        run.run(tiny.pooled(tiny_models, metrics=metrics), results, tiny_models)
    new = columns(results)
    assert {"density", "density(k=2)"} <= {*new.columns}
    assert new["density(k=2)"].to_list() == old["density"].to_list()


@pytest.mark.parametrize(
    ("experiment", "metrics", "says"),
    [("tinny", "fd", "did you mean tiny"), ("tiny", "kod", "did you mean"),
     ("tiny", "is", "reads the layer"), ("tiny", "fd,fd", "asked for twice")],
)  # fmt: skip
def test_usage_errors_are_one_line(
    experiment: str, metrics: str, says: str, results: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    before = {path: path.read_bytes() for path in results.rglob("*") if path.is_file()}
    how: tuple[Any, ...] = ("--metrics", metrics, "--results", results, "--device", "cpu")
    assert crs(monkeypatch, "rescore", experiment, *how) == 2
    said = capsys.readouterr().err
    assert says in said and said.count("\n") == 1
    assert before == {path: path.read_bytes() for path in before}
