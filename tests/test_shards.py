"""Shards: the same bytes however a run is cut, and nothing that is whole is made again."""

import random
import shutil
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from console import crs

from bench import checkpoints, plan, records, run, shards, store
from bench.checkpoints import Output
from bench.filling import Gaps
from bench.plan import Bench, Planned
from bench.report import figures
from bench.samplers import DPMpp2M
from bench.schedules import Karras
from bench.shards import Shelf, Task, ranges
from bench.types import Block, Experiment

TABLES = ("table.md", "table.csv", "table.tex")


@pytest.fixture(autouse=True)
def no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """They take longer than all else and are tested elsewhere."""
    monkeypatch.setattr(figures, "write", lambda *_: [])


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[Task]:
    """The shards that are sampled from now on."""
    found, make = list[Task](), shards.make

    def noted(task: Task, *rest: Any) -> shards.Shard:
        found.append(task)
        return make(task, *rest)

    monkeypatch.setattr(shards, "make", noted)
    return found


@pytest.fixture
def again(undisturbed: Path, tiny_models: Path, tmp_path: Path) -> Iterator[Callable[..., Path]]:
    """Runs `tiny.pooled` with another protocol, on a copy of the undisturbed results."""
    shutil.copytree(undisturbed, tmp_path / "tiny")

    def go_on(**scoring: Any) -> Path:
        run.run(tiny.pooled(tiny_models, **scoring), tmp_path, tiny_models)
        return tmp_path / "tiny"

    yield go_on


def tables(folder: Path) -> dict[str, bytes]:
    """The tables of a results folder."""
    return {name: (folder / name).read_bytes() for name in TABLES}


def scores(folder: Path) -> dict[str, dict[str, Any]]:
    """All scores of a results folder, by key."""
    every = store.load_records(folder).values()
    return {key: score for record in every for key, score in record["scores"].items()}


def same(folder: Path, other: Path) -> None:
    """Fails unless two results folders have the same scores and tables to the byte."""
    assert scores(folder) == scores(other)
    assert tables(folder) == tables(other)


def planned(
    experiment: Experiment, folder: Path, models: Path
) -> tuple[Bench, dict[str, list[Planned]]]:
    """What a run opens, and its cells by role."""
    bench = plan.open_bench(experiment, folder, models)
    anchors, tuning = plan.converged(bench), plan.tuning(bench)
    cells = {"converged": list(anchors.values()), "tune": tuning}
    done = all(store.has_record(folder, one.key) for one in tuning)
    chosen = plan.choose(bench, tuning) if done else {}
    return bench, cells | {"score": plan.scored(bench, chosen, anchors)}


def cell_of(folder: Path, role: str = "score", **what: Any) -> str:
    """The key of the first row of a role that has these entries."""
    rows = store.load_plan(folder)["rows"]
    return next(row["key"] for row in rows if row["role"] == role and what.items() <= row.items())


# ---------------------------------------------------------------- the same bytes


@pytest.mark.parametrize("batch", [1, 5, 7, 64])
def test_the_batch_size_changes_no_byte(
    batch: int, undisturbed: Path, tiny_models: Path, tmp_path: Path
) -> None:
    run.run(tiny.pooled(tiny_models, batch=batch), tmp_path, tiny_models)
    same(tmp_path / "tiny", undisturbed)


def test_the_order_of_shards_changes_no_byte(
    undisturbed: Path, tiny_models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gaps, seen = Gaps.of, list[range]()

    def reverse(*what: Any) -> Gaps:
        found = gaps(*what)
        found.missing = {key: tasks[::-1] for key, tasks in found.missing.items()}
        seen.extend(task.seeds for task in next(iter(found.missing.values()), ()))
        return found

    monkeypatch.setattr(Gaps, "of", reverse)
    run.run(tiny.pooled(tiny_models), tmp_path, tiny_models)
    assert seen[0].start > seen[1].start
    same(tmp_path / "tiny", undisturbed)


def test_the_number_of_threads_changes_no_score(
    undisturbed: Path, tiny_models: Path, tmp_path: Path
) -> None:
    """The tables name the threads, so they are the same but for that number."""
    before = torch.get_num_threads()
    other = 1 if before > 1 else 2
    torch.set_num_threads(other)
    try:
        run.run(tiny.pooled(tiny_models), tmp_path, tiny_models)
    finally:
        torch.set_num_threads(before)
    assert scores(tmp_path / "tiny") == scores(undisturbed)
    for name, text in tables(tmp_path / "tiny").items():
        told = text.replace(f"{other} threads".encode(), f"{before} threads".encode())
        assert told == (undisturbed / name).read_bytes()


def test_the_size_of_shards_changes_no_image(
    undisturbed: Path, tiny_models: Path, tmp_path: Path
) -> None:
    """Sums are added shard by shard, so that scores may differ in their last digits."""
    run.run(tiny.pooled(tiny_models, shard=5), tmp_path, tiny_models)
    key = cell_of(undisturbed)
    found, want = store.load_records(tmp_path / "tiny"), store.load_records(undisturbed)
    assert found.keys() == want.keys() and found[key]["shard"] == 5
    for one, record in want.items():
        features = [rows(tmp_path / "tiny", one, record, 5), rows(undisturbed, one, record, 4)]
        assert all(torch.equal(*pair) for pair in zip(*features, strict=True))
        for score, value in record["scores"].items():
            again = found[one]["scores"][score]["value"]
            assert again == pytest.approx(value["value"], rel=1e-6)


def rows(folder: Path, key: str, record: dict[str, Any], size: int) -> list[torch.Tensor]:
    """Features of single images of a cell, and the images themselves if they are kept."""
    shelf = Shelf.of(folder, tiny.Pooled())
    seeds = ranges(range(*record["cell"]["seeds"]), size)
    if not shelf.home(key).is_dir():  # of tuning: dropped
        return []
    parts = [shelf.load(key, one, ["features"]) for one in seeds]
    found = [torch.cat([part.rows["features"] for part in parts if part])]
    if shelf.pictures(key, seeds[0]).is_file():
        found.append(torch.cat([shelf.images(key, one) for one in seeds]))
    return found


# ---------------------------------------------------------------- what is made again


def test_a_whole_run_makes_nothing_again(again: Callable[..., Path], made: list[Task]) -> None:
    again()
    assert not made


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-30])


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def changed(path: Path) -> None:
    """One bit of the features."""
    data = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as file:
        at = file.getinfo("rows_features.npy").header_offset + 300
    data[at] ^= 1
    path.write_bytes(bytes(data))


def test_a_shard_is_written_before_the_next_is_made(
    tiny_models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kill would lose both otherwise, where the disk is slow."""
    said, make, save = list[str](), shards.make, Shelf.save

    def making(task: Task, *rest: Any) -> shards.Shard:
        said.append("made")
        return make(task, *rest)

    def saving(shelf: Shelf, *given: Any) -> Path:
        time.sleep(0.02)
        path = save(shelf, *given)
        said.append("written")
        return path

    monkeypatch.setattr(shards, "make", making)
    monkeypatch.setattr(Shelf, "save", saving)
    run.run(tiny.pooled(tiny_models), tmp_path, tiny_models)
    assert said == ["made", "written"] * (len(said) // 2) != []


@pytest.mark.parametrize("harm", [cut, emptied, changed, Path.unlink])
def test_a_damaged_shard_is_made_again(
    harm: Callable[[Path], Any], again: Callable[..., Path], undisturbed: Path,
    made: list[Task], tmp_path: Path,
) -> None:  # fmt: skip
    key = cell_of(undisturbed)
    (tmp_path / "tiny" / "records" / f"{key}.json").unlink()
    path = sorted(Shelf.of(tmp_path / "tiny", tiny.Pooled()).home(key).iterdir())[1]
    harm(path)
    again()
    (task,) = made
    assert path.name == f"{task.seeds[0]}-{task.seeds[-1]}.npz"
    same(tmp_path / "tiny", undisturbed)


def test_no_damage_of_a_shard_goes_unseen(undisturbed: Path, tmp_path: Path) -> None:
    """Any one byte of its file may change: it is as it was, or it is not there."""
    record = store.load_records(undisturbed)[key := cell_of(undisturbed)]
    shelf = Shelf(tmp_path, Shelf.of(undisturbed, tiny.Pooled()).extractor)
    seeds = ranges(range(*record["cell"]["seeds"]), 4)[0]
    data = Shelf.of(undisturbed, tiny.Pooled()).path(key, seeds).read_bytes()
    path = store.write_bytes(shelf.path(key, seeds), data)
    whole = shelf.load(key, seeds, ["features"])
    assert whole
    draw = random.Random(0)
    for at in draw.sample(range(len(data)), 300):
        broken = bytearray(data)
        broken[at] ^= 1 << draw.randrange(8)
        path.write_bytes(broken)
        found = shelf.load(key, seeds, ["features"])
        if found is not None:
            assert torch.equal(found.rows["features"], whole.rows["features"])
            assert torch.equal(found.first, whole.first)
            numbers = ("nfe", "seconds", "square", "against")
            assert all(vars(found)[name] == vars(whole)[name] for name in numbers)


def test_a_shard_without_a_layer_that_a_metric_needs_is_made_again(
    again: Callable[..., Path], undisturbed: Path, tiny_models: Path, made: list[Task],
    tmp_path: Path,
) -> None:  # fmt: skip
    metrics = ("fd", "precision", "recall", "sfid")
    folder = again(metrics=metrics)
    kept = [row for row in store.load_plan(folder)["rows"]]
    assert {task.layers for task in made} == {("features", "spatial")}
    assert len(made) == 3 * len({row["key"] for row in kept})  # 12 seeds, or 9, in shards of 4
    made.clear()
    run.run(tiny.pooled(tiny_models, metrics=metrics), tmp_path / "fresh", tiny_models)
    same(folder, tmp_path / "fresh" / "tiny")
    assert all(f"{score['value']}" for score in scores(undisturbed).values())


def test_a_metric_of_the_same_layer_needs_no_sampling(
    again: Callable[..., Path], undisturbed: Path, made: list[Task]
) -> None:
    before = scores(undisturbed)
    folder = again(metrics=("fd", "precision", "recall", "density"))
    after = scores(folder)
    assert before.items() <= after.items() and "Density" in (folder / "table.md").read_text()
    tuning = {row["key"] for row in store.load_plan(folder)["rows"] if row["role"] == "tune"}
    assert {store.digest(str(task.cell)) for task in made} == {
        store.digest(str(task.cell)) for task in made if task.cell.seeds == range(12)
    }  # of tuning alone, whose features are dropped
    assert len(made) == 3 * len(tuning)


def test_a_score_does_not_depend_on_the_other_metrics(tiny_models: Path, tmp_path: Path) -> None:
    """`precision_adm` reads every image, `precision` the bank, whoever is asked beside it."""
    found = []
    for name, metrics in (("alone", ("fd", "precision")), ("both", ("fd", "precision_adm",
                                                                    "precision"))):  # fmt: skip
        plan = tiny.pooled(tiny_models, metrics=metrics, bank=5, converged=None)
        plan = replace(plan, lines={"Karras": Karras()}, tuning=None)
        run.run(plan, tmp_path / name, tiny_models)
        found.append({k: v for k, v in scores(tmp_path / name / "tiny").items()
                      if v["name"] != "precision_adm"})  # fmt: skip
    assert found[0] == found[1] and len(found[0]) == 8


# ---------------------------------------------------------------- what stays on disk


@pytest.mark.parametrize(
    ("keep", "roles"),
    [
        ("all", {"tune", "converged", "score"}),
        ("scored", {"converged", "score"}),
        ("none", {"converged"}),
    ],
)
def test_keep_leaves_what_it_says(
    keep: str, roles: set[str], undisturbed: Path, tiny_models: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.syspath_prepend(Path(tiny.__file__).parent)
    how = ("--models", tiny_models, "--results", tmp_path, "--device", "cpu", "--keep", keep)
    assert crs(monkeypatch, "run", "tiny:pooled", *how) == 0
    folder = tmp_path / "tiny"
    rows = store.load_plan(folder)["rows"]
    kept = {path.parent.parent.name for path in folder.glob("shards/*/*/*.npz")}
    assert kept == {row["key"] for row in rows if row["role"] in roles}
    assert {path.name for path in folder.glob("converged/*")} == {
        row["key"] for row in rows if row["role"] == "converged"
    }
    same(folder, undisturbed)


def test_another_keep_drops_later_what_it_does_not_keep(
    again: Callable[..., Path], undisturbed: Path, made: list[Task]
) -> None:
    folder = again(keep="none")
    kept = {path.parent.parent.name for path in folder.glob("shards/*/*/*.npz")}
    rows = store.load_plan(folder)["rows"]
    assert kept == {row["key"] for row in rows if row["role"] == "converged"}
    assert not made
    same(folder, undisturbed)


def test_a_keep_that_is_none_of_the_three_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert crs(monkeypatch, "run", "quick", "--keep", "some") == 2
    assert "all, scored or none" in capsys.readouterr().err


def test_what_the_features_take_is_told_before_sampling(
    tiny_models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    def stop(*_: Any) -> None:
        raise ValueError("sampling starts")

    experiment = replace(tiny.pooled(tiny_models), lines={"Karras": Karras()}, tuning=None)
    monkeypatch.setattr(shards, "make", stop)
    with pytest.raises(ValueError, match="sampling starts"):
        run.run(experiment, tmp_path, tiny_models)
    count = 2 * 9 + 4 * 12  # images of the converged runs and of the cells
    said = capsys.readouterr().err
    assert f"features of {count} images stay" in said
    assert f"{4 * 16 * count / 1e6:.3g} MB" in said and "--keep none" in said


# ---------------------------------------------------------------- converged runs


def test_converged_images_that_are_gone_are_made_again_only_when_needed(
    again: Callable[..., Path], undisturbed: Path, made: list[Task], tmp_path: Path
) -> None:
    folder = tmp_path / "tiny"
    shutil.rmtree(folder / "converged")
    again()
    assert not made  # all is recorded
    key = cell_of(folder, block="2", nfe=3)
    (folder / "records" / f"{key}.json").unlink()
    again()
    assert not made  # the shards know their distance to the converged images
    (folder / "records" / f"{key}.json").unlink()
    shutil.rmtree(folder / "shards" / key)
    again()
    fine = [task for task in made if task.keeps_images]
    assert [task.seeds for task in fine] == [range(24, 28), range(28, 32), range(32, 33)]
    assert len(made) == 3 + 3
    same(folder, undisturbed)


def test_damaged_converged_images_are_made_again(
    again: Callable[..., Path], undisturbed: Path, made: list[Task], tmp_path: Path
) -> None:
    folder = tmp_path / "tiny"
    key = cell_of(folder, block="1", nfe=3)
    (folder / "records" / f"{key}.json").unlink()
    shutil.rmtree(folder / "shards" / key)
    first = next((folder / "converged" / cell_of(folder, "converged", block="1")).iterdir())
    middle = bytearray(first.read_bytes())
    middle[len(middle) // 2] ^= 255
    first.write_bytes(middle)
    again()
    assert len([task for task in made if task.keeps_images]) == 1 and len(made) == 1 + 3
    same(folder, undisturbed)


@pytest.mark.parametrize("keep", ["scored", "none"])
def test_a_cell_may_be_its_own_converged_run(keep: Any, tiny_models: Path, tmp_path: Path) -> None:
    plan = tiny.pooled(tiny_models, keep=keep, bank=12)
    fine = plan.scoring.converged
    assert fine
    scoring = replace(plan.scoring, converged=replace(fine, images=12))
    plan = replace(
        plan, lines={"Karras": Karras()}, samplers=(DPMpp2M(),), tuning=None,
        blocks=(Block("1", range(12), (3, 6, 8)),), scoring=scoring,
    )  # fmt: skip
    run.run(plan, tmp_path, tiny_models)
    found = store.load_records(tmp_path / "tiny")
    rows = [row for row in store.load_plan(tmp_path / "tiny")["rows"] if row["role"] == "score"]
    for row in rows:
        errors = {name: found[row["key"]]["scores"][key] for name, key in row["errors"].items()}
        assert errors.keys() == {"rms_error", "fd_error"}
        if row["nfe"] == 6:
            assert errors["rms_error"]["value"] == 0
            assert errors["fd_error"]["value"] == pytest.approx(0, abs=1e-6)
        else:
            assert errors["rms_error"]["value"] > 1
    run.run(plan, tmp_path, tiny_models)
    assert store.load_records(tmp_path / "tiny") == found


def test_a_shard_says_which_converged_run_it_was_compared_with(
    again: Callable[..., Path], tiny_models: Path, made: list[Task], tmp_path: Path
) -> None:
    """Another converged run: the images of all cells are made again, since they are not kept."""
    fine = tiny.pooled(tiny_models).scoring.converged
    assert fine
    folder = again(converged=replace(fine, nfe=5))
    against = {task.against for task in made if not task.keeps_images}
    rows = store.load_plan(folder)["rows"]
    assert against == {row["key"] for row in rows if row["role"] == "converged"}
    made.clear()
    run.run(
        tiny.pooled(tiny_models, converged=replace(fine, nfe=5)), tmp_path / "fresh", tiny_models
    )
    assert tables(folder) == tables(tmp_path / "fresh" / "tiny")


# ---------------------------------------------------------------- by hand


def test_ranges_cover_the_seeds() -> None:
    assert ranges(range(3, 13), 4) == [range(3, 7), range(7, 11), range(11, 13)]
    assert ranges(range(3, 5), 1_000) == [range(3, 5)]


def test_cells_and_their_scores_have_keys_of_their_own(
    undisturbed: Path, tiny_models: Path, tmp_path: Path
) -> None:
    """Images do not depend on what they are scored with, nor scores on how images are cut."""
    bench, cells = planned(tiny.pooled(tiny_models), undisturbed, tiny_models)
    metrics = ("fd", "kid(subset_size=9)")
    other = tiny.pooled(tiny_models, batch=3, shard=7, metrics=metrics, bank=15, keep="all")
    again, same_cells = planned(other, undisturbed, tiny_models)
    assert [one.key for one in cells["score"]] == [one.key for one in same_cells["score"]]
    key, column = cells["score"][0].key, bench.judge.columns["fd"]
    identity = bench.judge.identity(column)
    assert again.judge.identity(again.judge.columns["fd"]) == identity  # reads no bank
    record = store.load_records(undisturbed)[key]
    score = record["scores"][store.score_key(key, identity)]
    assert score["name"] == "fd" and score["n"] == 12 and score["features"] == "pooled"
    assert records.wanted(bench, cells["score"][0]) == record["scores"].keys()


def test_a_model_that_makes_nan_leaves_no_shard(tiny_models: Path, tmp_path: Path) -> None:
    def broken(model: checkpoints.Checkpoint) -> checkpoints.Checkpoint:
        return replace(model, net=lambda x, *_: Output(torch.full_like(x, torch.nan)))

    experiment = replace(tiny.pooled(tiny_models), lines={"Karras": Karras()}, tuning=None)
    with pytest.raises(FloatingPointError, match="small made NaN"):
        run.run(experiment, tmp_path, tiny_models, prepare=broken)
    assert not list(tmp_path.rglob("*.npz"))
