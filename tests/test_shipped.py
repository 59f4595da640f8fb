"""The shipped results: every record is found again, so that keys keep their meaning."""

from pathlib import Path
from typing import Any

import pytest
import torch

from bench import experiments, plan, records, store
from bench.checkpoints import Models
from bench.features import EffNetLite0
from bench.report.frame import Results

ROOT = Path(__file__).resolve().parents[1]
EXPERIMENTS = {
    "fmnist": experiments.fmnist,
    "training": experiments.training,
    "samplers": experiments.samplers,
}
NOT_RUN = {"fmnist": 9, "samplers": 688}  # scored cells; `run` makes them
EARLIER = ("fmnist-latent", "ablation")  # their plans have changed since; they were not run again


@pytest.fixture
def quick_features(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No features of 10,000 real images are taken: keys need their number alone."""
    monkeypatch.setenv("CRS_BENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(EffNetLite0, "__call__", lambda _, images: torch.zeros(len(images), 1280))


@pytest.mark.usefixtures("quick_features")
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_cell_of_a_shipped_experiment_has_its_record(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, found = ROOT / "results" / name, store.load_records(ROOT / "results" / name)
    monkeypatch.setattr(store, "check_writable", lambda _: None)  # nothing is written
    bench = plan.open_bench(EXPERIMENTS[name](Models(ROOT / "models")), folder, ROOT / "models")
    tuning, anchors = plan.tuning(bench), plan.converged(bench)
    assert not [one.row for one in tuning if records.lacking(bench, one)]
    chosen = plan.choose(bench, tuning)
    cells = [*tuning, *anchors.values(), *plan.scored(bench, chosen, anchors)]
    lacking = {one.key: one.row for one in cells if records.lacking(bench, one)}
    assert len(lacking) == NOT_RUN.get(name, 0), f"{len(lacking)} cells would be sampled again"
    assert not found.keys() - {one.key for one in cells}, "there are records of no cell"
    shipped = store.load_plan(folder)
    names = ("line", "role", "block", "nfe", "n", "model", "key", "anchor")
    rows = [{name: one.row.get(name) for name in names} for one in cells]
    assert rows == [{name: row.get(name) for name in names} for row in shipped["rows"]]
    errors = [records.error_keys(bench, one) for one in cells]
    assert errors == [row.get("errors", {}) for row in shipped["rows"]]
    outline: dict[str, Any] = plan.outline(bench, cells, chosen)
    assert outline["protocol"] == shipped["protocol"]
    for content in (outline, shipped):
        content["lines"] = {name: line["identity"] for name, line in content["lines"].items()}
        content["metrics"] = [metric["identity"] for metric in content["metrics"]]
        content["chosen"] = [(one["line"], one["block"], one["tries"]) for one in content["chosen"]]
    for what in ("lines", "metrics", "chosen"):
        assert outline[what] == shipped[what], what
    scores = Results(store.load_plan(folder), found)
    assert all(scores.scores(row).keys() >= set(scores.metrics) - {"rms_error", "fd_error"}
               for row in scores.plan["rows"] if row["key"] in found)  # fmt: skip


@pytest.mark.parametrize("name", EARLIER)
def test_an_earlier_plan_has_its_records(name: str) -> None:
    folder = ROOT / "results" / name
    keys = {row["key"] for row in store.load_plan(folder)["rows"]}
    assert keys == store.load_records(folder).keys()
