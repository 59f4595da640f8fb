"""The shipped results: every record is found again, so that keys keep their meaning."""

from pathlib import Path
from typing import Any

import pytest

from bench import experiments, plan, records, store
from bench.checkpoints import Models
from bench.report.frame import Results

ROOT = Path(__file__).resolve().parents[1]
# fmnist-224 is not here: the reference of its extractor is not shipped
EXPERIMENTS = {
    "fmnist": experiments.fmnist,
    "training": experiments.training,
    "fmnist-latent": experiments.fmnist_latent,
    "samplers": experiments.samplers,
    "ablation": experiments.ablation,
}


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
    lacking = [one.row for one in cells if records.lacking(bench, one)]
    assert not lacking, f"{len(lacking)} of {len(cells)} cells would be sampled again"
    assert {one.key for one in cells} == found.keys(), "there are records of no cell"
    shipped = store.load_plan(folder)
    rows = [one.row | {"errors": records.error_keys(bench, one)} for one in cells]
    assert rows == [row | {"errors": row.get("errors", {})} for row in shipped["rows"]]
    outline: dict[str, Any] = plan.outline(bench, cells, chosen)
    for what in ("lines", "metrics", "chosen", "protocol"):
        assert outline[what] == shipped[what], what
    scores = Results(shipped, found)
    assert all(scores.scores(row).keys() >= set(scores.metrics) - {"rms_error", "fd_error"}
               for row in shipped["rows"])  # fmt: skip
