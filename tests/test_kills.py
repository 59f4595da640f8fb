"""Processes that are killed at any moment go on to the same bytes and lose one shard each."""

import os
import random
import signal
import time
from collections import Counter
from pathlib import Path

import pytest
from nursery import Nursery
from test_shards import tables

from bench import store


def files_in(results: Path) -> dict[Path, int]:
    """The shards and records of a results folder with their times."""
    found = {}
    for path in (*results.glob("*/shards/*/*/*.npz"), *results.glob("*/records/*.json")):
        try:
            found[path] = path.stat().st_mtime_ns
        except FileNotFoundError:  # dropped meanwhile
            continue
    return found


def starts_in(log: Path) -> list[str]:
    """The shards that were started, in order."""
    return log.read_text().splitlines() if log.is_file() else []


def kill_often(
    nursery: Nursery, kills: int, total: int, command: list[object], results: Path, log: Path
) -> None:
    """Run a command, kill it so many times at random moments, and let it finish.

    total: shards that the whole run makes. Each process starts at most a part of them.
    """
    draw, before = random.Random(kills), dict[Path, int]()
    for _ in range(kills):
        goal = len(starts_in(log)) + draw.randint(0, total // (kills + 1))
        pid = nursery.start(*command, STARTS=str(log))
        while nursery.running(pid) and len(starts_in(log)) < goal:
            time.sleep(0.002)
        time.sleep(draw.uniform(0, 0.1))
        assert nursery.running(pid), (nursery.folder / f"{pid}.log").read_text()
        os.kill(pid, signal.SIGKILL)
        assert nursery.wait(pid) == -signal.SIGKILL
        now = files_in(results)
        assert all(now.get(path, old) == old for path, old in before.items()), "made again"
        before = now
    nursery.run(*command, STARTS=str(log))
    now = files_in(results)
    assert all(now.get(path, old) == old for path, old in before.items()), "made again"
    starts = Counter(starts_in(log))
    assert starts.total() - len(starts) <= kills, "a kill lost more than one shard"


def run_of(models: Path, results: Path, experiment: str = "tiny:many") -> list[object]:
    return ["run", experiment, "--models", models, "--results", results, "--device", "cpu"]


@pytest.fixture(scope="session")
def whole(
    nursery: Nursery, tiny_models: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, set[str]]:
    """The results of `tiny.many` without a kill, and the shards that it started."""
    results = tmp_path_factory.mktemp("whole")
    nursery.run(*run_of(tiny_models, results), STARTS=str(results / "log"))
    starts = starts_in(results / "log")
    assert len(starts) == len(set(starts)) > 40
    return results / "tiny", set(starts)


def check_kills(
    kills: int, nursery: Nursery, models: Path, folder: Path,
    whole: tuple[Path, set[str]],
) -> None:  # fmt: skip
    results, log = folder / "results", folder / "log"
    kill_often(nursery, kills, len(whole[1]), run_of(models, results), results, log)
    assert set(starts_in(log)) == whole[1]
    assert tables(results / "tiny") == tables(whole[0])
    old, new = (store.load_records(one) for one in (whole[0], results / "tiny"))
    assert {k: r["scores"] for k, r in old.items()} == {k: r["scores"] for k, r in new.items()}
    left = {path.relative_to(results / "tiny") for path in files_in(results)}
    assert left == {path.relative_to(whole[0]) for path in files_in(whole[0].parent)}


def test_a_killed_run_goes_on_to_the_same_tables(
    nursery: Nursery, tiny_models: Path, tmp_path: Path, whole: tuple[Path, set[str]]
) -> None:
    check_kills(4, nursery, tiny_models, tmp_path, whole)


@pytest.mark.slow
def test_a_run_that_is_killed_20_times_goes_on_to_the_same_tables(
    nursery: Nursery, tiny_models: Path, tmp_path: Path, whole: tuple[Path, set[str]]
) -> None:
    check_kills(20, nursery, tiny_models, tmp_path, whole)


@pytest.mark.slow
def test_quick_that_is_killed_20_times_goes_on_to_the_same_tables(
    nursery: Nursery, tmp_path: Path
) -> None:
    """`quick`, with real networks and features, of 12 images a cell."""
    models = Path(__file__).resolve().parents[1] / "models"
    nursery.run(*run_of(models, tmp_path / "a", "tiny:quick"), STARTS=str(tmp_path / "a.log"))
    total = len(starts_in(tmp_path / "a.log"))
    command = run_of(models, tmp_path / "b", "tiny:quick")
    kill_often(nursery, 20, total, command, tmp_path / "b", tmp_path / "b.log")
    assert tables(tmp_path / "a" / "quick") == tables(tmp_path / "b" / "quick")
