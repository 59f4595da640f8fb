"""The main path end to end: a tiny random network, real features, real files."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from console import crs
from PIL import Image
from test_layers import Layered, adm_file

from bench import checkpoints, generate, measures, plan, records, run, store
from bench.metrics import InceptionScore
from bench.metrics.banks import Rows
from bench.plan import Bench, cells, outline
from bench.report.frame import Results
from bench.samplers import DDIM
from bench.schedules import AlignYourSteps, Beta, ConstantRate, Karras, Native, Snapped
from bench.types import Block, Cell, Converged, Experiment, On, Rate, Schedule, Scoring, Tuned


@pytest.fixture(scope="session")
def models(tiny_models: Path) -> Path:
    """A models folder with one random checkpoint and its measured rate."""
    return tiny_models


def experiment(models: Path) -> Experiment:
    return tiny.tiny(models)


def same(model):
    return model


@pytest.fixture(scope="session")
def whole(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of `tiny.tiny`, with figures. They must not be changed."""
    results = tmp_path_factory.mktemp("results")
    run.run(experiment(models), results, models, "cpu", same)
    return results / "tiny"


@pytest.fixture
def no_sampling(monkeypatch: pytest.MonkeyPatch) -> None:
    """A finished cell must not be run again."""
    monkeypatch.setattr(generate, "images", lambda *_: pytest.fail("a finished cell was run again"))


def scores_of(folder: Path) -> Results:
    return Results(store.load_plan(folder), store.load_records(folder))


def test_every_cell_has_a_record_and_the_counted_nfe(whole: Path) -> None:
    results = scores_of(whole)
    rows, found = results.plan["rows"], results.records
    assert {row["key"] for row in rows} == set(found)
    scored = [row for row in rows if row["role"] == "score"]
    assert len(scored) == 2 * 2 * 2 * 2
    for row in rows:
        record = found[row["key"]]
        assert record["nfe"] == row["nfe"] == len(record["grid"]) - 1
        assert results.scores(row)["fd"]["value"] > 0
        strip = whole / "records" / f"{row['key']}.png"
        assert strip.is_file() == (row["block"] == "1" and row["role"] == "score")  # both NFEs


def test_tuned_line_takes_the_lowest_fd_on_the_tuning_seeds(whole: Path) -> None:
    results = scores_of(whole)
    rows = results.plan["rows"]
    for choice in results.plan["chosen"]:
        tries = {
            results.records[row["key"]]["cell"]["label"]: results.scores(row)["fd"]["value"]
            for row in rows
            if row["role"] == "tune" and row["sampler"] == choice["sampler"]
        }
        assert len(tries) == choice["tries"] == 2
        assert choice["schedule"] == min(tries, key=tries.__getitem__)
    tuned = {row["key"] for row in rows if row["role"] == "tune"}
    assert not tuned & {row["key"] for row in rows if row["role"] == "score"}


def ranged(**changes: Any) -> Experiment:
    """Karras of three rho, tuned for NFE 2 to 3 and for NFE 4 to 9 apart."""
    lines = {"rho": Tuned((Karras(1.0), Karras(3.0), Karras(7.0))), "native": Native()}
    given: dict[str, Any] = {
        "tuning": Block("tuning", range(4), (2, 4)), "ranges": ((2, 3), (4, 9)),
        "blocks": (Block("1", range(4, 8), (3, 9)), Block("1", range(4, 8), (5,), ("rho",))),
    } | changes  # fmt: skip
    return Experiment("ranged", "x", "tiny", lines, (DDIM(),), **given)


def test_a_line_is_tuned_for_each_range_of_nfe() -> None:
    found = ranged()
    assert [found.range_of(nfe) for nfe in (2, 3, 4, 9)] == [(2, 3), (2, 3), (4, 9), (4, 9)]
    assert ranged(ranges=()).range_of(9) == (3, 9)
    with pytest.raises(ValueError, match="NFE 9 must be in one of the ranges"):
        ranged(ranges=((2, 3), (4, 8)))
    with pytest.raises(ValueError, match="no tuning NFE is in 4 to 9"):
        ranged(tuning=Block("tuning", range(4), (2,)))


def test_each_range_has_its_own_winner(models: Path, tmp_path: Path) -> None:
    """The FD is invented: rho = 1 is best at NFE 2, rho = 7 at NFE 4."""
    reference = str(models / "small" / "reference.npz")
    how = Scoring(features="tiny:Pooled", reference=reference, bank=4, metrics=("fd",))
    plan = ranged(scoring=how)
    bench = cells.open_bench(plan, tmp_path, models)
    tries = cells.tuning(bench)
    identity = bench.judge.identity(bench.judge.columns["fd"])
    best = {2: 1.0, 4: 7.0}
    for one in tries:
        fd = 1.0 if one.cell.schedule == Karras(best[one.cell.nfe]) else 2.0
        scores = {store.score_key(one.key, identity): {"value": fd}}
        store.save_record(tmp_path, {"key": one.key, "scores": scores}, None)
    chosen = cells.choose(bench, tries)
    made = cells.scored(bench, chosen, {})
    found = [(one.row["line"], one.cell.nfe, one.cell.schedule) for one in made]
    assert found == [
        ("rho", 3, Karras(1.0)), ("rho", 9, Karras(7.0)), ("rho", 5, Karras(7.0)),
        ("native", 3, Native()), ("native", 9, Native()),
    ]  # fmt: skip
    said = outline(bench, [], chosen)["chosen"]
    assert [(one["nfe"], one["schedule"], one["edge"]) for one in said] == [
        ("2 to 3", "Karras(rho=1)", True), ("4 to 9", "Karras(rho=7)", True),
    ]  # fmt: skip


def test_a_plan_has_real_images_only_if_a_metric_reads_them(models: Path, tmp_path: Path) -> None:
    """A reference that no metric reads need not exist."""
    how = Scoring(features="tiny:Pooled", reference="nowhere", metrics=("tiny:Spread",))
    real = np.zeros((9, 8, 8, 3), np.uint8)
    np.savez(tmp_path / "real.npz", mu=np.zeros(16), sigma=np.eye(16), arr_0=real)
    shown = replace(how, reference=str(tmp_path / "real.npz"), metrics=("fd",), strip=3)
    pooled = Experiment("x", "x", "small", {"native": Native()}, (DDIM(),),
                        blocks=(Block("1", range(4), (2,)),))  # fmt: skip
    for scoring, there in ((how, False), (replace(shown, strip=0), False), (shown, True)):
        plan = replace(pooled, scoring=scoring)
        bench = cells.open_bench(plan, tmp_path / "x", models)
        records.save_plan(bench, [], {})
        assert (tmp_path / "x" / "real.png").is_file() is there
    with Image.open(tmp_path / "x" / "real.png") as picture:
        assert picture.size == (24, 8)


@pytest.mark.parametrize(
    ("tries", "winner", "edge"),
    [
        ((Karras(1.0), Karras(3.0), Karras(7.0)), Karras(3.0), False),
        ((Karras(1.0), Karras(3.0), Karras(7.0)), Karras(1.0), True),
        ((Beta(0.4, 0.4), Beta(0.6, 0.6), Beta(1.0, 1.0)), Beta(1.0, 1.0), True),
        ((AlignYourSteps("sd15"), AlignYourSteps("sdxl")), AlignYourSteps("sd15"), False),
        ((Native(), Karras(3.0)), Native(), False),
    ],
)
def test_edge_of_the_tries(tries: tuple[Schedule, ...], winner: Schedule, edge: bool) -> None:
    assert Tuned(tries).at_edge(winner) is edge


@pytest.mark.usefixtures("no_sampling")
def test_second_run_samples_nothing_and_changes_nothing(whole: Path, models: Path) -> None:
    before = {path: path.read_bytes() for path in whole.rglob("*") if path.is_file()}
    run.run(experiment(models), whole.parent, models, "cpu", same)
    after = {path: path.read_bytes() for path in whole.rglob("*") if path.is_file()}
    assert before == after


@pytest.mark.usefixtures("no_sampling")
def test_a_packed_run_goes_on_and_reports_the_same(
    whole: Path, models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(whole, tmp_path / "res" / "tiny")
    assert crs(monkeypatch, "pack", "tiny", "--results", str(tmp_path / "res")) == 0
    assert not list((tmp_path / "res" / "tiny" / "records").glob("*.json"))
    run.run(experiment(models), tmp_path / "res", models, "cpu", same)
    for name in ("table.md", "table.csv", "plan.json"):
        assert (tmp_path / "res" / "tiny" / name).read_bytes() == (whole / name).read_bytes()


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
        (["measure", "tiny", "--measure", "v_eps", "--data", "no"], 2, "dataset-fashion-mnist"),
        (["train", "OUT", "--channels", "8,16", "--steps", "1", "--data", "no"], 2, "IDX"),
        (["train", "OUT", "--channels", "8,16"], 2, "steps or minutes"),
        (["score", "nowhere"], 2, "there is no file or folder"),
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
    def broken(self: checkpoints.Checkpoint, x: torch.Tensor, *_: torch.Tensor) -> torch.Tensor:
        return torch.full_like(x, torch.nan)

    monkeypatch.setattr(checkpoints.Checkpoint, "_output", broken)
    where = ["--models", str(models), "--device", "cpu"]
    assert crs(monkeypatch, "sample", "tiny", str(tmp_path / "o"), "--seeds", "0-3", *where) == 1
    assert "tiny made NaN" in capsys.readouterr().err
    assert not (tmp_path / "o").exists()


def opened(models: Path, folder: Path) -> Bench:
    return plan.open_bench(experiment(models), folder, models, "cpu", same)


def test_a_rate_of_other_weights_is_refused(models: Path, tmp_path: Path) -> None:
    bench = opened(models, tmp_path)
    stale = Rate(
        "v_x", torch.tensor([0.01, 0.1, 1, 80]), torch.ones(4),
        {"model": "tiny", "model_digest": "another", "measure": "DataPrediction()"},
    )  # fmt: skip
    with pytest.raises(ValueError, match="other weights of tiny.*crs-bench measure MODEL"):
        cells.planned(bench, Cell("tiny", ConstantRate(stale), DDIM(), 3, range(4)), {})


def test_overlapping_blocks_are_refused(models: Path) -> None:
    lines = {"a": Tuned((Native(), Karras()))}
    with pytest.raises(ValueError, match="overlap"):
        Experiment(
            "x", "x", "tiny", lines, (DDIM(),), (Block("1", range(5, 15), (2,)),),
            tuning=Block("tuning", range(10), (2,)),
        )  # fmt: skip
    with pytest.raises(ValueError, match="tuning block"):
        Experiment("x", "x", "tiny", lines, (DDIM(),), (Block("1", range(9), (2,)),))
    blocks = (Block("1", range(4), (2,)), Block("1", range(4, 8), (2,)))
    with pytest.raises(ValueError, match="share a name"):
        Experiment("x", "x", "tiny", {"a": Native()}, (DDIM(),), blocks)


def test_baselines_are_named_or_follow_from_the_schedules() -> None:
    rate = ConstantRate(Rate("v", torch.arange(1, 6), torch.ones(5)))
    plan = Experiment(
        "x", "x", "tiny",
        {"a": Native(), "b": rate, "c": Tuned((Karras(), Karras(3.0))), "d": Tuned((rate,)),
         "e": On("twin", Native()), "f": Snapped(rate)},
        (DDIM(),), (Block("1", range(4), (2,)),), tuning=Block("t", range(4, 8), (2,)),
    )  # fmt: skip
    assert [line for line in plan.lines if plan.baseline(line)] == ["a", "c"]
    named = replace(plan, baselines=("b", "e"))
    assert [line for line in plan.lines if named.baseline(line)] == ["b", "e"]
    with pytest.raises(ValueError, match=r"baselines name no lines: \['g'\]"):
        replace(plan, baselines=("a", "g"))


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
    assert "--name NAME" in capsys.readouterr().err
    assert crs(monkeypatch, *measure, "--name", "../evil") == 2
    assert "is no name for a rate" in capsys.readouterr().err
    assert (folder / "v_x.json").read_bytes() == kept
    assert crs(monkeypatch, *measure, "--name", "v_x_8") == 0
    assert crs(monkeypatch, *measure, "--name", "v_x_8") == 0  # the same again may be
    assert measures.load_rate(folder / "v_x_8.json").name == "v_x_8"
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
    layered = replace(
        experiment(models), lines={"Karras": Karras()}, samplers=(DDIM(),), tuning=None,
        blocks=(Block("1", range(24), (2,)),), scoring=scoring,
    )  # fmt: skip
    run.run(layered, tmp_path, models, "cpu", same)
    results = scores_of(tmp_path / "tiny")
    (row,) = (one for one in results.plan["rows"] if one["role"] == "score")
    record, found = results.records[row["key"]], results.scores(row)
    grid = torch.tensor(record["grid"], dtype=torch.float64)
    assert len(grid) == 3
    model = checkpoints.load("tiny", models=models)
    ((made, _),) = generate.images(model, DDIM(), grid, range(24), 24)
    rows = extractor.of_layers(made, extractor.layers)
    logits = Rows(rows["logits_unbiased"])
    expected = InceptionScore(splits=2)(fake=logits, real=logits).value
    assert found["is"]["value"] == pytest.approx(expected, rel=1e-6)  # of all 24, bank or not
    assert found["sfid"]["value"] > 0 and found["fd_error"]["value"] > 0
    assert "InceptionScore(splits=2" in found["is"]["text"]
    assert "IS" in (tmp_path / "tiny" / "table.md").read_text()
    lacking = replace(layered, scoring=replace(scoring, features="flatten"))
    with pytest.raises(ValueError, match="extractors that do"):
        plan.open_bench(
            lacking, tmp_path, models, "cpu", lambda _: pytest.fail("a model was opened")
        )


def test_key_depends_on_what_decides_the_images(models: Path, tmp_path: Path) -> None:
    bench = opened(models, tmp_path)
    keys = set()
    for schedule in (Karras(), Karras(5.0), ConstantRate(tiny.rate_of(models), 0.5)):
        for seeds in (range(4), range(4, 8)):
            cell = Cell("tiny", schedule, DDIM(), 3, seeds)
            keys.add(cells.planned(bench, cell, {}).key)
    assert len(keys) == 6
    assert Scoring(batch=7) != Scoring(batch=9)  # not identity: neither is in a key
    grid = cells.grid_of(cell, bench.models["tiny"].process)
    known = cells.image_identity(cell, grid, bench.models["tiny"], "float32")
    assert not {"batch", "shard", "metrics", "features", "reference"} & known.keys()


def test_grids_that_end_above_0_have_keys_of_their_own(models: Path, tmp_path: Path) -> None:
    """Samplers lower their order there since `lower_order_final`; their grids to 0 did not change,
    so that records of these keep their keys."""
    bench = opened(models, tmp_path)
    cell = Cell("tiny", Karras(), DDIM(), 5, range(4))
    grid = cells.grid_of(cell, bench.models["tiny"].process)
    keys = [cells.image_identity(cell, one, bench.models["tiny"], "float32")["keys"]
            for one in (grid, grid[:-1])]  # fmt: skip
    assert keys == [2, 3]


def test_key_does_not_depend_on_the_last_bits_of_a_grid(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = opened(models, tmp_path)
    cell = Cell("tiny", Karras(), DDIM(), 5, range(4))
    key = cells.planned(bench, cell, {}).key
    grid = cells.grid_of(cell, bench.models["tiny"].process)
    for factor, kept in ((1 + 4e-16, True), (1 + 1e-6, False)):
        monkeypatch.setattr(cells, "grid_of", lambda *_, f=factor: grid * f)
        assert (cells.planned(bench, cell, {}).key == key) is kept


@pytest.mark.parametrize("name", ["", "_hidden", " _"])
def test_a_line_has_a_name_that_figures_show(name: str) -> None:
    with pytest.raises(ValueError, match="begin the name with a letter or a digit"):
        Experiment("x", "X", "m", {name: Native()}, (DDIM(),), (Block("1", range(2), (5,)),))
