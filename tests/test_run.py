"""The main path end to end: a tiny random network, real features, real files."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from console import crs
from test_layers import Layered, adm_file

from bench import checkpoints, generate, measures, run, store, training
from bench import lab as lab_room
from bench.checkpoints.card import Card, Data, VPCard
from bench.metrics import InceptionScore
from bench.metrics.banks import Rows
from bench.samplers import DDIM
from bench.schedules import ConstantRate, Karras, Native
from bench.types import Block, Cell, Converged, Experiment, Rate, Scoring, Tuned

ROOT = Path(__file__).resolve().parents[1]
MODULE = """
from pathlib import Path
from bench import measures
from bench.samplers import DDIM, DPMpp2M
from bench.schedules import ConstantRate, Karras
from bench.types import Block, Converged, Experiment, On, Scoring, Tuned

def tiny(models: Path) -> Experiment:
    v_x = measures.load_rate(models / "tiny" / "measures" / "v_x.json")
    return Experiment(
        name="tiny", title="tiny", model="tiny", samplers=(DDIM(), DPMpp2M()),
        lines={"Karras": Karras(), "CRS": Tuned((ConstantRate(v_x, 0.5), ConstantRate(v_x, 1.0)))},
        tuning=Block("tuning", range(12), (3,)),
        blocks=(Block("1", range(12, 24), (2, 3)), Block("2", range(24, 36), (2, 3))),
        scoring=Scoring(bank=20, batch=5, converged=Converged(DPMpp2M(), Karras(), 6, 9)),
    )
"""


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A models folder with one random checkpoint and its measured rate."""
    folder = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    net = checkpoints.network(training.unet((8, 16), 1))
    card = Card(
        name="tiny",
        network=training.unet((8, 16), 1),
        process=VPCard(kind="vp", betas="cosine", timesteps=1000, sigma_min=0.01, sigma_max=80),
        prediction="v",
        data=Data(name="none", digest="", licence="none"),
        training={},
        weights_sha256="",
    )
    checkpoints.save(folder / "tiny", card, net.state_dict())
    model = checkpoints.load("tiny", models=folder)
    images = torch.randint(0, 256, (4, 1, 28, 28), dtype=torch.uint8)
    rate = measures.measure(model, measures.DataPrediction(), images, levels=6)
    measures.save(folder / "tiny" / "measures" / "v_x.json", rate)
    return folder


def experiment(models: Path) -> Experiment:
    space: dict = {}
    exec(MODULE, space)
    return space["tiny"](models)


def same(model):
    return model


@pytest.fixture(scope="session")
def undisturbed(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    results = tmp_path_factory.mktemp("results")
    run.run(experiment(models), results, models, "cpu", same)
    return results / "tiny"


def test_every_cell_has_a_record_and_the_counted_nfe(undisturbed: Path) -> None:
    plan, records = store.load_plan(undisturbed), store.load_records(undisturbed)
    assert {row["key"] for row in plan["rows"]} == set(records)
    scored = [row for row in plan["rows"] if row["role"] == "score"]
    assert len(scored) == 2 * 2 * 2 * 2
    for row in plan["rows"]:
        record = records[row["key"]]
        assert record["nfe"] == row["nfe"] == len(record["grid"]) - 1
        assert record["metrics"]["fd"] > 0
        strip = undisturbed / "records" / f"{row['key']}.png"
        assert strip.is_file() == (row["block"] == "1" and row["role"] == "score")  # both NFEs


def test_tuned_line_takes_the_lowest_fd_on_the_tuning_seeds(undisturbed: Path) -> None:
    plan, records = store.load_plan(undisturbed), store.load_records(undisturbed)
    for choice in plan["chosen"]:
        tries = {
            records[row["key"]]["cell"]["schedule"]: records[row["key"]]["metrics"]["fd"]
            for row in plan["rows"]
            if row["role"] == "tune" and row["sampler"] == choice["sampler"]
        }
        assert len(tries) == choice["tries"] == 2
        assert choice["schedule"] == min(tries, key=tries.__getitem__)
    tuned = {row["key"] for row in plan["rows"] if row["role"] == "tune"}
    assert not tuned & {row["key"] for row in plan["rows"] if row["role"] == "score"}


def test_second_run_samples_nothing_and_changes_nothing(
    undisturbed: Path, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {path: path.read_bytes() for path in undisturbed.rglob("*") if path.is_file()}
    monkeypatch.setattr(run, "draw", lambda *_: pytest.fail("a finished cell was run again"))
    run.run(experiment(models), undisturbed.parent, models, "cpu", same)
    after = {path: path.read_bytes() for path in undisturbed.rglob("*") if path.is_file()}
    assert before == after


def test_a_packed_run_goes_on_and_reports_the_same(
    undisturbed: Path, models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(undisturbed, tmp_path / "res" / "tiny")
    assert crs(monkeypatch, "pack", "tiny", "--results", str(tmp_path / "res")) == 0
    assert not list((tmp_path / "res" / "tiny" / "records").glob("*.json"))
    monkeypatch.setattr(run, "draw", lambda *_: pytest.fail("a finished cell was run again"))
    run.run(experiment(models), tmp_path / "res", models, "cpu", same)
    for name in ("table.md", "table.csv", "plan.json"):
        assert (tmp_path / "res" / "tiny" / name).read_bytes() == (undisturbed / name).read_bytes()


def test_a_killed_run_goes_on_to_the_same_table(
    undisturbed: Path, models: Path, tmp_path: Path
) -> None:
    (tmp_path / "mine.py").write_text(MODULE)
    command = [sys.executable, "-m", "bench", "run", "mine:tiny", "--results", "res"]
    command += ["--models", str(models), "--device", "cpu"]
    env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": str(torch.get_num_threads())}
    process = subprocess.Popen(command, cwd=tmp_path, env=env, stderr=subprocess.DEVNULL)
    records = tmp_path / "res" / "tiny" / "records"
    while process.poll() is None and len(list(records.glob("*.json"))) < 3:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = {path.name: path.stat().st_mtime_ns for path in records.glob("*.json")}
    assert kept
    subprocess.run(command, cwd=tmp_path, env=env, check=True, capture_output=True)
    assert all(kept[n] == (records / n).stat().st_mtime_ns for n in kept), "a cell was run again"
    for name in ("table.md", "table.csv", "table.tex"):
        assert (records.parent / name).read_bytes() == (undisturbed / name).read_bytes()


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["run", "quik"], 2, "did you mean quick"),
        (["sample", "tony", "OUT"], 2, "did you mean tiny"),
        (["sample", "tiny", "OUT", "--nfe", "0"], 2, "nfe must be at least 1"),
        (["sample", "tiny", "OUT", "--schedule", "Karas(7)"], 2, "did you mean Karras"),
        (["sample", "tiny", "OUT", "--schedule", "Karras(rh=7)"], 2, "rho"),
        (["sample", "tiny", "OUT", "--schedule", "ConstantRate(v_y)"], 2, "v_x"),
        (["sample", "tiny", "OUT", "--sampler", "DDIN"], 2, "did you mean DDIM"),
        (["sample", "tiny", "OUT", "--seeds", "a-b"], 2, "--seeds"),
        (["measure", "tiny", "--measure", "v_x", "--data", "nowhere"], 2, "dataset-fashion-mnist"),
        (["train", "OUT", "--channels", "8,16", "--steps", "1", "--data", "no"], 2, "IDX"),
        (["train", "OUT", "--channels", "8,16"], 2, "steps or minutes"),
        (["score", "nowhere"], 2, "no images"),
        (["report", "nothing"], 2, "no results"),
        (["list", "modles"], 2, "did you mean models"),
    ],
)
def test_usage_errors_are_one_line_and_write_nothing(
    arguments: list[str],
    code: int,
    says: str,
    models: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = [str(tmp_path / "out") if a == "OUT" else a for a in arguments]
    if arguments[0] in ("sample", "measure", "list"):
        arguments += ["--models", str(models)]
    monkeypatch.chdir(tmp_path)
    assert crs(monkeypatch, *arguments) == code
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_unwritable_results_stop_the_run_first(models: Path, tmp_path: Path) -> None:
    (tmp_path / "tiny").write_text("a file where the folder should be")
    with pytest.raises(ValueError, match="--results"):
        run.run(experiment(models), tmp_path, models, "cpu", same)


def test_nan_network_stops_with_its_name_and_exit_code_1(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    card = checkpoints.read_card(models / "tiny").model_copy(update={"name": "broken"})
    net = checkpoints.network(card.network)
    weights = {key: torch.full_like(value, torch.nan) for key, value in net.state_dict().items()}
    checkpoints.save(tmp_path / "m" / "broken", card, weights)
    where = ["--models", str(tmp_path / "m")]
    assert crs(monkeypatch, "sample", "broken", str(tmp_path / "o"), "--seeds", "0-3", *where) == 1
    assert "broken made NaN" in capsys.readouterr().err
    assert not (tmp_path / "o").exists()


def test_a_rate_of_other_weights_is_refused(models: Path, tmp_path: Path) -> None:
    lab = run.open_lab(experiment(models), tmp_path, models, "cpu", same)
    stale = Rate(
        "v_x", torch.tensor([0.01, 0.1, 1, 80]), torch.ones(4),
        {"model": "tiny", "model_digest": "another", "measure": "DataPrediction()"},
    )  # fmt: skip
    with pytest.raises(ValueError, match="crs-bench measure tiny --measure DataPrediction"):
        lab_room._job(lab, Cell("tiny", ConstantRate(stale), DDIM(), 3, range(4)), {})


def test_overlapping_blocks_are_refused(models: Path) -> None:
    lines = {"a": Tuned((Native(), Karras()))}
    with pytest.raises(ValueError, match="overlap"):
        Experiment(
            "x", "x", "tiny", lines, (DDIM(),), (Block("1", range(5, 15), (2,)),),
            tuning=Block("tuning", range(10), (2,)),
        )  # fmt: skip
    with pytest.raises(ValueError, match="tuning block"):
        Experiment("x", "x", "tiny", lines, (DDIM(),), (Block("1", range(9), (2,)),))


def test_sample_score_schedule_from_the_command_line(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    where = ["--models", str(models), "--device", "cpu"]
    text = "ConstantRate(v_x, xi=0.5, coordinate='angle')"
    out = str(tmp_path / "images")
    how = ["--schedule", text, "--nfe", "2", "--seeds", "3-9", *where]
    crs(monkeypatch, "sample", "tiny", out, *how)
    assert len(list((tmp_path / "images").glob("*.png"))) == 7
    npz = str(tmp_path / "x.npz")
    crs(monkeypatch, "sample", "tiny", npz, *how)
    scores = []
    for source in (out, npz):
        capsys.readouterr()
        crs(monkeypatch, "score", source, "--json", "--metrics", "fd", "--device", "cpu")
        scores.append(capsys.readouterr().out)
    assert scores[0] == scores[1] and '"fd"' in scores[0]
    crs(monkeypatch, "schedule", "tiny", "--schedule", text, "--nfe", "4", "--models", str(models))
    assert len(capsys.readouterr().out.strip().splitlines()) == 6


def test_rates_are_mixed_on_the_command_line(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    shutil.copytree(models, tmp_path / "models")
    home = tmp_path / "models" / "tiny"
    opened, blank = checkpoints.load("tiny", models=models), torch.zeros(1, 1, 28, 28).byte()
    angle = measures.measure(opened, measures.Uniform(), blank, 20)
    measures.save(home / "measures" / "uniform_angle.json", angle)
    written = "ConstantRate(mix({v_x: 0.25, uniform_angle: 0.75}), xi=1)"
    how = ("--nfe", "6", "--models", str(tmp_path / "models"), "--json")
    assert crs(monkeypatch, "schedule", "tiny", "--schedule", written, *how) == 0
    found = json.loads(capsys.readouterr().out)["sigma"]
    v_x = measures.load_rate(home / "measures" / "v_x.json")
    process = checkpoints.load("tiny", models=models).process
    want = ConstantRate(measures.mix({v_x: 0.25, angle: 0.75}), 1.0)
    assert found == pytest.approx(want(6, process).tolist(), rel=1e-12)
    wrong = written.replace("0.25", "-1")
    assert crs(monkeypatch, "schedule", "tiny", "--schedule", wrong, *how) == 2
    assert "weights above 0" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("written", "says"),
    [
        ("v_x", r"write ConstantRate\(v_x\)"),
        ("mix", "is no schedule"),
        ("mix({v_x: 1})", r"write ConstantRate\(mix"),
    ],
)
def test_a_rate_is_no_schedule(
    written: str, says: str, models: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:  # fmt: skip
    how = ("--schedule", written, "--models", str(models))
    assert crs(monkeypatch, "schedule", "tiny", *how) == 2
    assert re.search(says, capsys.readouterr().err)


def test_a_rate_is_not_overwritten_by_another(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    shutil.copytree(models, tmp_path / "models")
    folder = tmp_path / "models" / "tiny" / "measures"
    kept = (folder / "v_x.json").read_bytes()
    np.savez(tmp_path / "real", arr_0=np.zeros((8, 28, 28, 1), np.uint8))
    how = ("--images", "8", "--levels", "5", "--data", str(tmp_path / "real.npz"))
    how += ("--models", str(tmp_path / "models"), "--device", "cpu")
    measure = ("measure", "tiny", "--measure", "DataPrediction", *how)
    assert crs(monkeypatch, *measure) == 2
    assert "give --name" in capsys.readouterr().err
    assert crs(monkeypatch, *measure, "--name", "../evil") == 2
    assert "is no name for a rate" in capsys.readouterr().err
    assert (folder / "v_x.json").read_bytes() == kept
    assert crs(monkeypatch, *measure, "--name", "v_x-8") == 0
    assert crs(monkeypatch, *measure, "--name", "v_x-8") == 0  # the same again may be
    assert measures.load_rate(folder / "v_x-8.json").name == "v_x-8"
    assert (folder / "v_x.json").read_bytes() == kept


def test_score_takes_any_metrics(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    draw = np.random.default_rng(0)
    for name, brightest in (("real", 256), ("fake", 200)):
        np.savez(tmp_path / name, arr_0=draw.integers(0, brightest, (1000, 4, 4, 3), np.uint8))
    fake, real, saved = (str(tmp_path / f"{name}.npz") for name in ("fake", "real", "reference"))
    how = ["--features", "flatten", "--device", "cpu"]
    crs(monkeypatch, "reference", saved, "--images", real, "--bank", "1000", *how)
    scores = []
    for metrics in ("fd,kid,density,coverage,fd_infinity", "fd, KID(3, 900), Density(k=3)"):
        capsys.readouterr()
        crs(monkeypatch, "score", fake, saved, "--json", "--metrics", metrics, *how)
        scores.append(json.loads(capsys.readouterr().out))
    assert {"fd", "kid", "density", "coverage", "fd_infinity"} < scores[0].keys()
    assert scores[0]["kid"] == pytest.approx(scores[1]["kid"], rel=0.2)
    assert 0 < scores[0]["fd_infinity"] < scores[0]["fd"] == scores[1]["fd"]
    few = str(tmp_path / "few.npz")
    np.savez(few, arr_0=draw.integers(0, 256, (9, 4, 4, 3), np.uint8))
    assert crs(monkeypatch, "score", few, saved, "--metrics", "kid", *how) == 2
    assert "subsets of 1000 features, but fake has 9" in capsys.readouterr().err


def test_an_experiment_scores_several_layers(models: Path, tmp_path: Path) -> None:
    extractor = Layered()
    images = torch.randint(0, 256, (60, 3, 28, 28), dtype=torch.uint8)
    real = adm_file(tmp_path / "real.npz", images, extractor)
    scored = ("fd", "is(splits=2)", "sfid", "recall")
    scoring = Scoring(
        f"{Layered.__module__}:Layered", real, scored, bank=10, batch=5,
        converged=Converged(DDIM(), Karras(), 4, 9),
    )  # fmt: skip
    plan = replace(
        experiment(models), lines={"Karras": Karras()}, samplers=(DDIM(),), tuning=None,
        blocks=(Block("1", range(24), (2,)),), scoring=scoring,
    )  # fmt: skip
    run.run(plan, tmp_path, models, "cpu", same)
    records = store.load_records(tmp_path / "tiny")
    (record,) = (one for one in records.values() if len(one["grid"]) == 3)
    grid = torch.tensor(record["grid"], dtype=torch.float64)
    model = checkpoints.load("tiny", models=models)
    ((made, _),) = generate.images(model, DDIM(), grid, range(24), 24)
    rows = extractor.of_layers(made, extractor.layers)
    expected = InceptionScore(splits=2).estimate(fake=Rows(rows["logits_unbiased"]))[0]
    assert record["metrics"]["is"] == pytest.approx(expected, rel=1e-6)  # of all 24, bank or not
    assert record["metrics"]["sfid"] > 0 and record["metrics"]["fd_error"] > 0
    assert "InceptionScore(splits=2" in record["protocol"]["metrics"][1]
    assert "IS" in (tmp_path / "tiny" / "table.md").read_text()
    lacking = replace(plan, scoring=replace(scoring, features="flatten"))
    with pytest.raises(ValueError, match="extractors that do"):
        run.open_lab(lacking, tmp_path, models, "cpu", lambda _: pytest.fail("a model was opened"))


def test_key_depends_on_what_decides_the_images(models: Path, tmp_path: Path) -> None:
    lab = run.open_lab(experiment(models), tmp_path, models, "cpu", same)
    keys = set()
    for schedule in (Karras(), Karras(5.0), ConstantRate(experiment_rate(models), 0.5)):
        for seeds in (range(4), range(4, 8)):
            cell = Cell("tiny", schedule, DDIM(), 3, seeds)
            keys.add(lab_room._job(lab, cell, {}).key)
    assert len(keys) == 6
    assert Scoring(batch=7) != Scoring(batch=9)  # not identity: batch is in no key
    assert "batch" not in lab_room.protocol_of(lab, cell, None)


def test_key_does_not_depend_on_the_last_bits_of_a_grid(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab = run.open_lab(experiment(models), tmp_path, models, "cpu", same)
    cell = Cell("tiny", Karras(), DDIM(), 5, range(4))
    key = lab_room._job(lab, cell, {}).key
    grid = lab_room.grid_of(cell, lab.models["tiny"].process)
    for factor, kept in ((1 + 4e-16, True), (1 + 1e-6, False)):
        monkeypatch.setattr(lab_room, "grid_of", lambda *_, f=factor: grid * f)
        assert (lab_room._job(lab, cell, {}).key == key) is kept


def experiment_rate(models: Path):
    return measures.load_rate(models / "tiny" / "measures" / "v_x.json")
