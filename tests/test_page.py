"""What the page holds, without a browser."""

import json
import shutil
from pathlib import Path

import pytest
from console import crs
from pages import EVIL, ROOT, results_in

from bench import checkpoints, page, schedules, store
from bench.cli.experiments import _about
from bench.cli.options import schedule_of
from bench.page.collect import Content, form_of
from bench.report.frame import Results


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return results_in(tmp_path_factory.mktemp("results"))


@pytest.fixture(scope="module")
def content(folder: Path) -> Content:
    return page.collect(folder, _about(checkpoints.models_of(None)))


def test_rows_have_the_numbers_of_the_tables(folder: Path, content: Content) -> None:
    results = Results(store.load_plan(folder / "fmnist-224"),
                      store.load_records(folder / "fmnist-224"))  # fmt: skip
    fd = next(key for key, one in content.metrics.items() if one["name"] == "fd")
    rows = [row for row in content.rows if row["experiments"] == ["fmnist-224"]]
    assert len(rows) == 30
    for row in rows:
        sampler = row["sampler"].rpartition(" = ")[2]
        score = results.column(row["model"], row["n"], sampler, row["nfe"], "fd")[row["line"]]
        assert score is not None
        assert row["scores"][fd][0] == score.mean and row["scores"][fd][3] == score.blocks == 3
        assert row["scores"][fd][6] == score.mean  # all lines have the same blocks
        low, high = row["scores"][fd][1:3]
        assert low < score.mean < high


def test_protocols_are_apart(content: Content) -> None:
    """Features at 224 px, features at 128 px and each published source have their own."""
    of = {name: {row["protocol"] for row in content.rows if name in row["experiments"]}
          for name in ("fmnist-224", "fmnist")}  # fmt: skip
    assert of["fmnist-224"] and of["fmnist"] and not of["fmnist-224"] & of["fmnist"]
    cited = [row for row in content.rows if not row["keys"]]
    assert len(cited) == 2 and len({row["protocol"] for row in cited}) == 2
    assert all("published" in content.protocols[row["protocol"]] for row in cited)


def test_space_and_law_come_from_the_same_model(content: Content) -> None:
    laws = {row["model"]: (row["space"], row["law"].partition("(")[0]) for row in content.rows}
    assert laws["fmnist-pixel"] == ("pixel", "Native")
    assert laws["cifar-pixel-crs"] == ("pixel", "ConstantRate")
    about = _about(checkpoints.models_of(None))
    assert about("fmnist-pixel", "of another one") == page.UNKNOWN == about("nobody", "x")


def test_shared_cells_are_one_row(folder: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).symlink_to(folder / "fmnist-224")
    (tmp_path / "published.csv").write_text("dataset\n")
    rows = page.collect(tmp_path).rows
    assert len(rows) == 30 and all(row["experiments"] == ["one", "two"] for row in rows)


def test_a_form_gives_the_grid_of_the_record(content: Content) -> None:
    """The command that the page shows makes the levels that were run."""
    process = checkpoints.read_card(ROOT / "models" / "fmnist-pixel").process.build()
    records = content.records["fmnist-224"]
    seen = set()
    for row in content.rows:
        if row["experiments"] == ["fmnist-224"] and row["nfe"] == 10:
            schedule = schedule_of(row["form"], [ROOT / "models" / "fmnist-pixel"])
            grid = records[row["keys"][0]]["grid"]
            assert schedule(row["steps"], process).tolist() == pytest.approx(grid, rel=1e-9)
            seen.add(row["line"])
    assert len(seen) == 5


def test_forms() -> None:
    inside = schedules.Between(schedules.Karras(rho=3), 20)
    assert form_of(inside.spec()) == "Between(schedule=Karras(rho=3), sigma_max=20)"
    assert form_of({"class": "Levels", "fields": {"sigmas": [2.0, 1.0, 0.0]}}) == (
        "Levels(sigmas=(2.0, 1.0, 0.0,))"
    )
    mixed = {"class": "Rate", "fields": {"name": "0.5 v_x + 0.5 v_eps", "digest": "0"}}
    assert form_of({"class": "ConstantRate", "fields": {"rate": mixed}}) == ""


def test_text_of_files_is_in_no_markup(content: Content) -> None:
    text = page.html(content, {})
    assert EVIL not in text and "window.evil" not in text
    assert any(row["line"] == EVIL for row in content.rows)


def test_strips_stop_at_their_limit(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, left_out = page.write(folder, tmp_path / "all.html")
    assert left_out == 0 and out.stat().st_size > 1_000_000
    monkeypatch.setattr(page, "MOST_STRIPS", 20_000)
    _, left_out = page.write(folder, tmp_path / "few.html")
    assert 0 < left_out < 40


def test_command(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "sub" / "p.html"
    assert crs(monkeypatch, "page", "--results", folder, "--out", out) == 0
    assert str(out) in capsys.readouterr().out and out.read_text().startswith("<!DOCTYPE html>")
    assert crs(monkeypatch, "page", "--results", tmp_path / "none", "--out", out) == 2
    assert "has a record yet" in capsys.readouterr().err
    assert crs(monkeypatch, "page", "--results", folder, "--out", tmp_path) == 2
    assert "it is a folder" in capsys.readouterr().err


@pytest.mark.parametrize("damage", ["rows", "lines"])
def test_damage_is_one_line(folder: Path, tmp_path: Path, damage: str) -> None:
    plan = store.load_plan(folder / "fmnist-224")
    shutil.copytree(folder / "fmnist-224" / "records", tmp_path / "x" / "records")
    (tmp_path / "x" / "plan.json").write_text(json.dumps(plan | {damage: {"a": 1}}))
    with pytest.raises(ValueError, match="x: the plan or a record is damaged"):
        page.collect(tmp_path)


def test_a_published_number_is_checked(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "fmnist-224").symlink_to(folder / "fmnist-224")
    text = (folder / "published.csv").read_text()
    (tmp_path / "published.csv").write_text(text.replace("1.97", "two"))
    with pytest.raises(ValueError, match="fid of EDM is 'two', which is no number"):
        page.collect(tmp_path)
