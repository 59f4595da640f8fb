"""The shipped results: every record is found again, so that keys keep their meaning."""

import json
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch

from bench import experiments, plan, records, store, studies
from bench.checkpoints import Models, read_card
from bench.features import EffNetLite0
from bench.report.frame import Results

ROOT = Path(__file__).resolve().parents[1]
EXPERIMENTS = {
    "fmnist": experiments.fmnist,
    "fmnist-latent": experiments.fmnist_latent,
    "ablation": experiments.ablation,
    "samplers": experiments.samplers,
}
STUDIES = {
    "cifar10-training": (studies.cifar10_training, 30),
    "fmnist-training": (studies.fmnist_training, 12),
    "cifar10-long": (studies.cifar10_long, 2),
    "cifar10-latent-training": (studies.cifar10_latent_training, 4),
}  # number of records


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
    assert not lacking, f"{len(lacking)} cells would be sampled again"
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


@pytest.mark.parametrize("name", ["cifar10", "cifar10-latent"])
def test_a_colour_experiment_has_every_cell(name: str) -> None:
    """Its reference is not shipped, so that the plan cannot be made again here."""
    folder = ROOT / "results" / name
    shipped, found = store.load_plan(folder), store.load_records(folder)
    today = getattr(experiments, name.replace("-", "_"))(Models(ROOT / "models"))
    assert found.keys() == {row["key"] for row in shipped["rows"]}
    assert set(shipped["lines"]) == set(today.lines)
    cells = {(row["block"], row["n"], row["line"], row["sampler"], row["nfe"])
             for row in shipped["rows"] if row["role"] == "score"}  # fmt: skip
    assert cells == {
        (block.name, len(block.seeds), *cell)
        for block in today.blocks
        for cell in product(
            block.lines or today.lines, ("DDIM", "DPMpp2M", "UniPC", "Heun"), block.nfes
        )
    }
    for model in {record["cell"]["model"] for record in found.values()}:
        card = read_card(ROOT / "models" / model)
        assert card.data and card.data.name == "cifar10-q75-train"


@pytest.mark.parametrize("name", STUDIES)
def test_a_shipped_study_has_its_plan_and_its_records(name: str) -> None:
    make, count = STUDIES[name]
    folder, study = ROOT / "results" / name, make()
    plan, found = store.read_json(folder / "study.json"), store.load_records(folder)
    content = json.loads(json.dumps(study.content()))
    assert {key: plan[key] for key in content} == content
    arms = {f"{arm.name}-{seed}".replace(" ", "_") for arm in study.arms
            for seed in range(study.seeds)}  # fmt: skip
    assert found.keys() <= arms and len(found) == count
    assert all(record["steps"] == study.steps for record in found.values())


@pytest.mark.parametrize(
    ("model", "record"),
    [
        ("cifar-pixel", "cifar10-long/cosine-0"),
        ("cifar-pixel-crs", "cifar10-long/v_fid-half-0"),
        ("cifar-latent", "cifar10-latent-training/cosine-0"),
        ("cifar-latent-crs", "cifar10-latent-training/v_fid-half-0"),
    ],
)
def test_the_colour_models_are_those_of_the_studies(model: str, record: str) -> None:
    study, _, key = record.partition("/")
    found = store.load_record(ROOT / "results" / study, key)
    card = read_card(ROOT / "models" / model)
    assert found and found["weights_sha256"] == card.weights_sha256
    assert found["law_spec"] == card.training["law_spec"]
