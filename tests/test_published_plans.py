"""Experiments on published checkpoints: what is missing is said; two commands do the rest."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from console import crs

from bench import checkpoints, data, experiments, store
from bench.experiments import Plan
from bench.report import figures
from bench.zoo.add import add as add_file
from bench.zoo.adm import ADMFlags, ADMNet
from bench.zoo.presets import find_preset

PLANS = [one for name in experiments.__all__ if isinstance(one := getattr(experiments, name), Plan)]
FLAGS = {
    "image_size": 8, "num_channels": 32, "channel_mult": (1,), "num_res_blocks": 1,
    "attention_resolutions": (8,), "num_head_channels": 16,
}  # fmt: skip


@pytest.fixture
def horse(tmp_path: Path) -> Path:
    """ADM's checkpoint and reference batch, in their own formats, of a small network: a folder."""
    torch.manual_seed(0)
    flags = ADMFlags.model_validate(FLAGS)
    torch.save(ADMNet(flags).state_dict(), tmp_path / "lsun_horse.pt")
    (tmp_path / "small.json").write_text(json.dumps({"flags": FLAGS, "data": "lsun-horse"}))
    numbers = np.random.default_rng(0)
    features = numbers.standard_normal((40, 2048)).clip(0)
    np.savez(
        tmp_path / "batch.npz", mu=features.mean(0), sigma=np.cov(features, rowvar=False),
        arr_0=numbers.integers(0, 256, (8, 8, 8, 3), dtype=np.uint8),
    )  # fmt: skip
    return tmp_path


def test_two_commands_make_the_table(
    horse: Path, inception_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models, results = horse / "models", horse / "results"
    store.write_text(
        results / "published.csv",
        Path(__file__).parents[1].joinpath("results/published.csv").read_text(),
    )
    monkeypatch.setattr("bench.experiments.published.MEASURED_ON", 4)
    add = ("add", horse / "lsun_horse.pt", "--family", "adm", "--preset", horse / "small.json")
    assert crs(monkeypatch, *add, "--name", "lsun-horse", "--models", models) == 0
    run = ("run", "lsun-horse-256", "--reference", horse / "batch.npz", "--images", 4, "--nfe", 3)
    run += ("--lines", "native,CRS(v_x, xi=1)")
    run += ("--features", f"inception-v3-compat(weights='{inception_file}')", "--device", "cpu")
    run += ("--models", models, "--results", results)
    assert crs(monkeypatch, *run) == 0
    (folder,) = results.glob("lsun-horse-256-part-4-3*/")
    records = store.load_records(folder)
    assert len(records) == 2 * 4  # lines, samplers
    for record in records.values():
        scores = {score["name"]: score for score in record["scores"].values()}
        assert scores.keys() == {"fd", "precision", "recall"}
        assert scores["recall"]["n"] == 4 and scores["recall"]["bank"] == 8
    rate = json.loads((models / "lsun-horse" / "measures" / "v_x.json").read_text())
    assert rate["provenance"]["images"] == 4
    table = (folder / "table.md").read_text()
    assert "2.57" in table and "2.03" in table and "CRS(v_x, xi=1)" in table  # of others, of ours
    assert (folder / "figures" / "score-vs-nfe.png").is_file()
    monkeypatch.setattr(figures, "write", lambda *_: [])
    assert crs(monkeypatch, *run) == 0  # nothing is run again
    assert store.load_records(folder).keys() == records.keys()


@pytest.mark.parametrize("plan", PLANS, ids=lambda plan: plan.name)
def test_what_is_missing_is_said_on_one_screen(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setenv("CRS_BENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    asked = ("run", plan.name, "--models", tmp_path / "models", "--results", tmp_path / "results")
    assert crs(monkeypatch, *asked, "--device", "cpu") == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 4 and "cannot run yet" in said
    assert f"crs-bench fetch {plan.preset}" in said and f"--preset {plan.preset}" in said
    assert "download https://" in said and "--reference FILE.npz" in said
    assert not (tmp_path / "results").exists()
    _, chosen = find_preset(plan.preset)
    assert chosen.address and chosen.licence != "unknown"
    published = Path(__file__).parents[1] / "results" / "published.csv"
    assert plan.published in published.read_text()
    assert plan.images == 50_000 and plan.nfes[0] == 5 and plan.nfes[-1] == 250


def test_a_reference_without_images_wants_a_measured_rate(
    horse: Path, inception_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_file(horse / "lsun_horse.pt", str(horse / "small.json"), "lsun-horse", horse / "models")
    models = checkpoints.Models(horse / "models")
    bare = horse / "bare.npz"
    np.savez(bare, mu=np.zeros(2048), sigma=np.eye(2048))
    weights = f"inception-v3-compat(weights='{inception_file}')"
    plan = experiments.lsun_horse_256.altered(reference=str(bare), extractor=weights)
    assert plan.name == "lsun-horse-256"  # the whole experiment, from files at other places
    assert plan.missing(models).keys() == {"rate v_x"}
    with pytest.raises(ValueError, match="crs-bench measure lsun-horse --measure DataPrediction"):
        plan.prepare(models, "cpu")
    full = plan.altered(reference=str(horse / "batch.npz"))
    assert full.missing(models) == {}
    monkeypatch.setattr("bench.experiments.published.MEASURED_ON", 3)
    full.altered(trial=2).prepare(models, "cpu")
    rate = horse / "models" / "lsun-horse" / "measures" / "v_x.json"
    assert json.loads(rate.read_text())["provenance"]["images"] == 2
    with pytest.raises(ValueError, match="not measured yet"):
        full(models)


def test_only_published_plans_have_another_model(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    assert crs(monkeypatch, "run", "quick", "--model", "other") == 2
    assert "quick is not a published plan" in capsys.readouterr().err


def test_spaced_images_are_those_of_a_stride(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (10, 8, 8, 3), dtype=np.uint8)
    np.savez(tmp_path / "a.npz", arr_0=pixels)
    found = data.open_images(tmp_path / "a.npz").spaced(3)
    assert torch.equal(found, torch.from_numpy(pixels[[0, 3, 6]]).permute(0, 3, 1, 2))
    small = data.open_images(tmp_path / "a.npz").spaced(2, data.ADMLSUN(4))
    assert small.shape == (2, 3, 4, 4)
    with pytest.raises(ValueError, match="has 10 images, not 11"):
        data.open_images(tmp_path / "a.npz").spaced(11)


def test_a_rate_is_measured_on_images_of_a_folder(
    horse: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    models = horse / "models"
    add_file(horse / "lsun_horse.pt", str(horse / "small.json"), "mine", models)
    asked = ("measure", "mine", "--measure", "DataPrediction", "--levels", 5, "--images", 3)
    asked += ("--models", models, "--device", "cpu")
    assert crs(monkeypatch, *asked, "--data", horse / "batch.npz") == 0
    path = models / "mine" / "measures" / "v_x.json"
    assert json.loads(path.read_text())["provenance"]["images"] == 3
    wrong = ("--data", horse / "batch.npz", "--preprocess", "adm-lsun(size=4)")
    assert crs(monkeypatch, *asked, *wrong) == 2
    assert "takes uint8 images [3, 8, 8]" in capsys.readouterr().err
