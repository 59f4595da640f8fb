"""Engines: the same bytes as one process, whatever happens to workers."""

import os
import pickle
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any

import faulty
import pytest
import scale
import tiny
import torch
from console import crs
from test_shards import same

from bench import checkpoints, judge, run, store
from bench.engines import Crew, Engine, InProcess, Job, Kit, Order, Processes, Ray, Worker
from bench.engines.cluster import Parcel
from bench.engines.worker import Hello
from bench.noise import normal
from bench.report import figures
from bench.samplers import DDIM
from bench.schedules import Karras, Native
from bench.shards import Packed, Task
from bench.types import Cell

NO_TASK: Any = None


@pytest.fixture(autouse=True)
def no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figures, "write", lambda *_: [])


@pytest.fixture
def faults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that says how samplers fail."""
    (tmp_path / "faults").mkdir()
    monkeypatch.setenv("FAULTS", str(tmp_path / "faults"))
    return tmp_path / "faults"


# ---------------------------------------------------------------- the order of work, without Ray


class Stub(Crew):
    """Workers that do at once what `does` says: (worker, name of the job) -> a future's content."""

    def __init__(self, count: int, does: Callable[[int, str], Packed | str | Exception]):
        super().__init__()
        self.count, self.does, self.log = count, does, list[tuple[int, str]]()
        self.started = 0
        self.ended: list[int] = []

    def wanted(self) -> int:
        return self.count

    def start(self) -> tuple[int, "Future[Hello]"]:
        self.started += 1
        return self.started, ended(Hello(0))

    def submit(self, worker: int, order: Any) -> "Future[Any]":
        self.log.append((worker, order))
        return ended(self.does(worker, order))

    def drop(self, worker: int) -> None:
        self.ended.append(worker)


def ended(value: Any) -> "Future[Any]":
    future: Future[Any] = Future()
    if isinstance(value, Exception):
        future.set_exception(value)
    else:
        future.set_result(value)
    return future


def named(*names: str) -> list[Job]:
    return [Job(name, 1, lambda name=name: name) for name in names]  # type: ignore[misc]


def test_a_shard_that_raises_is_tried_by_every_worker_and_reported() -> None:
    crew = Stub(3, lambda worker, name: "it raised" if name == "b" else Packed(name.encode()))
    found = list(crew.make(named(*"abcde")))
    (bad,) = (one for one in found if one.trouble)
    assert bad.job.name == "b" and bad.trouble == "it raised"
    assert sorted(one.shard.data for one in found if one.shard) == [b"a", b"c", b"d", b"e"]
    assert len({worker for worker, name in crew.log if name == "b"}) == 3


def test_a_lost_worker_is_replaced_and_its_shard_made_by_another() -> None:
    lost = iter([True])

    def does(worker: int, name: str) -> Packed | Exception:
        return OSError("gone") if name == "c" and next(lost, False) else Packed(b"")

    crew = Stub(2, does)
    found = list(crew.make(named(*"abcdef")))
    assert not any(one.trouble for one in found) and len(found) == 6
    first, second = (worker for worker, name in crew.log if name == "c")
    assert first != second and crew.ended == [first] and crew.started == 3


def test_a_shard_that_kills_its_workers_is_given_up() -> None:
    crew = Stub(2, lambda worker, name: OSError("gone") if name == "a" else Packed(b""))
    found = {one.job.name: one.trouble for one in crew.make(named("a", "b", "c"))}
    assert found == {"a": "its worker is lost (gone)", "b": "", "c": ""}
    assert crew.started == 2 + 2  # nothing waits when the third is lost


def test_work_without_hope_stops() -> None:
    crew = Stub(1, lambda worker, name: "it raised")
    found = list(crew.make(named(*(f"{i}" for i in range(1000)))))
    assert len(found) == 8 and all(one.trouble for one in found)


def test_a_worker_that_does_not_start_is_told() -> None:
    class Broken(Stub):
        def start(self) -> tuple[int, "Future[Hello]"]:
            self.started += 1
            return self.started, ended(Hello(0, "another crs-bench"))

    crew = Broken(2, lambda *_: Packed(b""))
    with pytest.raises(RuntimeError, match="no worker could start: another crs-bench"):
        list(crew.make(named("a")))
    assert crew.started == 2
    with pytest.raises(RuntimeError, match="no worker could start: another crs-bench"):
        Broken(2, lambda *_: Packed(b"")).muster()


def test_workers_can_be_there_before_the_first_shard() -> None:
    crew = Stub(3, lambda *_: Packed(b""))
    crew.muster()
    assert crew.started == 3 and not crew.log
    list(crew.make(named(*"abc")))
    assert crew.started == 3 and {worker for worker, _ in crew.log} == {1, 2, 3}


def test_a_worker_has_its_next_shard_before_the_last_is_given() -> None:
    crew = Stub(1, lambda *_: Packed(b""))
    made = crew.make(named("a", "b"))
    assert next(made).job.name == "a" and [name for _, name in crew.log] == ["a", "b"]
    assert [one.job.name for one in made] == ["b"]


def test_a_shard_is_not_lost_where_the_next_order_cannot_be_made() -> None:
    def bad() -> Any:
        raise ValueError("the converged shard is damaged")

    jobs = [*named("a"), Job("b", 1, bad)]
    made = Stub(1, lambda *_: Packed(b"")).make(jobs)
    assert next(made).job.name == "a"
    with pytest.raises(ValueError, match="damaged"):
        next(made)


def test_a_worker_that_comes_late_gets_work() -> None:
    class Growing(Stub):
        def submit(self, worker: int, order: Any) -> "Future[Any]":
            self.count = 2
            return super().submit(worker, order)

    crew = Growing(1, lambda *_: Packed(b""))
    assert len(list(crew.make(named(*"abcdef")))) == 6
    assert {worker for worker, _ in crew.log} == {1, 2}


def test_any_losses_leave_every_shard_made_once() -> None:
    draw = random.Random(0)

    def does(worker: int, name: str) -> Packed | str | Exception:
        chance = draw.random()
        return OSError("gone") if chance < 0.1 else "raised" if chance < 0.2 else Packed(b"")

    found = list(Stub(7, does).make(named(*(f"{i}" for i in range(500)))))
    assert sorted(int(one.job.name) for one in found) == list(range(500))
    assert sum(bool(one.trouble) for one in found) < 500 * 0.2**3 * 4


def test_orders_are_made_when_they_are_sent() -> None:
    made = 0

    def jobs() -> Iterator[Job]:
        nonlocal made
        for i in range(100):
            made += 1
            yield Job(f"{i}", 1, lambda: Order(NO_TASK))

    for left, _ in enumerate(Stub(2, lambda *_: Packed(b"")).make(jobs())):
        assert made - left <= 6, "jobs are read ahead"


# ---------------------------------------------------------------- workers


def test_a_batch_that_does_not_fit_is_halved_and_recorded(
    alone: Path, faults: Path, tiny_models: Path, tmp_path: Path,
) -> None:  # fmt: skip
    (faults / "memory").write_text("2")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    run.run(faulty.experiment(tiny_models), tmp_path, tiny_models)
    torch.set_num_threads(threads)
    same(tmp_path / "tiny", alone)
    rows = store.load_plan(alone)["rows"]
    for one, batch in ((alone, 4), (tmp_path / "tiny", 2)):
        records = store.load_records(one)
        assert {records[row["key"]]["batch"] for row in rows if row["role"] == "score"} == {batch}


def test_an_error_that_is_not_of_memory_is_no_reason_for_another_batch(
    faults: Path, tiny_models: Path, tmp_path: Path
) -> None:
    (faults / "memory").write_text("0")  # not even one image fits
    with pytest.raises(torch.OutOfMemoryError):
        run.run(faulty.experiment(tiny_models), tmp_path, tiny_models)


def test_progress_counts_every_image_once(tiny_models: Path, faults: Path) -> None:
    (faults / "memory").write_text("3")
    model = checkpoints.load("small", models=tiny_models)
    cell = Cell("small", Karras(), faulty.Faulty(), 2, range(8))
    grid = Karras()(2, model.process)
    counts = list[int]()
    worker = Worker({"small": model}.__getitem__, tiny.Pooled())
    worker.make(Order(Task(cell, grid, range(8), ("features",), 8)), counts.append)
    assert sum(counts) == 8 and worker.most == {"small": 2}


def kit_of(models: Path) -> Kit:
    opened = {"small": checkpoints.load("small", models=models)}
    where = checkpoints.Models(models)
    return Kit.of(opened, where, judge.extractor_of("tiny:Pooled", "cpu"), "float32", as_is)


def as_is(model: Any) -> Any:
    return model


def test_what_workers_open_is_checked(tiny_models: Path) -> None:
    kit = kit_of(tiny_models)
    kit.open("cpu")
    other = replace(kit, digests={**kit.digests, "crs-bench": "other"})
    with pytest.raises(ValueError, match="crs-bench on machine .* is another"):
        other.open("cpu")
    worker = replace(kit, digests={**kit.digests, "small": "x"}).open("cpu")
    with pytest.raises(ValueError, match="small on machine .* is another"):
        worker.models("small")


def test_an_order_carries_no_schedule(tiny_models: Path) -> None:
    cell = Cell("small", Karras(), DDIM(), 2, range(8))
    task = Task(cell, torch.ones(3), range(8), ("features",), 8)
    lean = Order(task).lean.task
    assert lean.cell.schedule == Native() and lean.seeds == task.seeds


# ---------------------------------------------------------------- by content


def test_a_parcel_brings_models_weights_and_modules(
    tiny_models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setenv("CRS_BENCH_CACHE", str(tmp_path / "there"))
    parcel = Parcel.of(kit_of(tiny_models), pickle.dumps, lambda data: data)
    assert {"modules/tiny.py", "modules/faulty.py"} <= parcel.files.keys()
    assert not any("torch" in name or name.startswith("modules/bench") for name in parcel.files)
    assert not any("v_x" in name or "reference" in name for name in parcel.files)
    kit = parcel.unpack(lambda data: data)
    assert kit.models["small"].is_relative_to(tmp_path / "there")
    assert kit.open("cpu").models("small").digest == kit.digests["small"]
    (weights,) = kit.models["small"].glob("*.safetensors")
    weights.write_bytes(b"damaged")
    again = parcel.unpack(lambda data: data)
    assert again.open("cpu").models("small").digest == kit.digests["small"]


def test_a_file_that_arrives_damaged_is_refused(
    tiny_models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CRS_BENCH_CACHE", str(tmp_path / "there"))
    parcel = Parcel.of(kit_of(tiny_models), pickle.dumps, lambda data: data)
    with pytest.raises(ValueError, match="arrived damaged"):
        parcel.unpack(lambda data: data[:-1])
    assert not list((tmp_path / "there").rglob("*.safetensors"))


def test_a_latent_model_comes_with_its_codec(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CRS_BENCH_CACHE", str(tmp_path / "there"))
    models = checkpoints.Models()
    opened = {"fmnist-latent": checkpoints.load("fmnist-latent")}
    kit = Kit.of(opened, models, tiny.Pooled(), "float32", as_is)
    unpacked = Parcel.of(kit, pickle.dumps, lambda data: data).unpack(lambda data: data)
    found = unpacked.open("cpu").models("fmnist-latent")
    assert found.digest == opened["fmnist-latent"].digest


# ---------------------------------------------------------------- processes


def go(models: Path, results: Path, engine: Engine) -> Path:
    run.run(faulty.experiment(models), results, models, engine=engine)
    return results / "tiny"


def check_killed(engine: Engine, alone: Path, faults: Path, models: Path, results: Path) -> None:
    for i in range(2):
        (faults / f"kill{i}").write_text("")
    same(go(models, results, engine), alone)
    assert not list(faults.glob("kill*"))


def check_raises(engine: Engine, alone: Path, faults: Path, models: Path, results: Path) -> None:
    """The shard of seeds 16 to 19 of every cell of a block."""
    number = normal(torch.tensor([16]), 0, (1, 8, 8)).flatten()[0]
    (faults / "raise").write_text(f"{float(number):.9g}")
    with pytest.raises(RuntimeError) as told:
        go(models, results, engine)
    said = str(told.value)
    assert "seeds 16 to 19: ArithmeticError: this shard cannot be made" in said
    names = [line for line in said.splitlines() if "seeds" in line]
    rows = [row for row in store.load_plan(alone)["rows"] if row["role"] == "score"]
    assert len(names) == len({row["key"] for row in rows if row["block"] == "1"})
    made = list((results / "tiny" / "shards").rglob("*.npz"))
    (faults / "raise").unlink()
    before = {path: path.stat().st_mtime_ns for path in made}
    same(go(models, results, engine), alone)
    assert before == {path: path.stat().st_mtime_ns for path in made}, "made again"


@pytest.mark.slow
def test_processes_that_are_killed_change_no_byte(
    alone: Path, faults: Path, tiny_models: Path, tmp_path: Path
) -> None:
    check_killed(Processes("cpu", 2), alone, faults, tiny_models, tmp_path)


@pytest.mark.slow
def test_a_shard_that_raises_in_processes_is_reported_and_the_rest_is_made(
    alone: Path, faults: Path, tiny_models: Path, tmp_path: Path
) -> None:
    check_raises(Processes("cpu", 2), alone, faults, tiny_models, tmp_path)


@pytest.mark.slow
def test_a_run_that_is_killed_takes_its_processes_with_it(
    alone: Path, faults: Path, tiny_models: Path, tmp_path: Path
) -> None:
    (faults / "slow").write_text("0.3")
    (faults / "log").write_text("")
    here = Path(__file__).resolve().parent
    command = [sys.executable, "-m", "bench", "run", "faulty:experiment", "--engine", "processes",
               "--workers", "2", "--device", "cpu", "--models", str(tiny_models),
               "--results", str(tmp_path)]  # fmt: skip
    path = os.pathsep.join(map(str, (here.parent, here)))
    driver = subprocess.Popen(command, cwd=here, env=os.environ | {"PYTHONPATH": path})
    while driver.poll() is None and len((faults / "log").read_text().split()) < 6:
        time.sleep(0.05)
    driver.kill()
    assert driver.wait() < 0
    workers = set((faults / "log").read_text().split())
    end = time.monotonic() + 60
    while any(Path("/proc", worker, "exe").exists() for worker in workers):
        assert time.monotonic() < end, "workers are left"
        time.sleep(0.05)
    (faults / "slow").unlink()
    same(go(tiny_models, tmp_path, Processes("cpu", 2)), alone)


# ---------------------------------------------------------------- the command line


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--engine", "rai"), "did you mean ray"),
        (("--engine", "in-process", "--workers", "2"), "--engine processes or ray"),
        (("--engine", "processes", "--address", "auto"), "is for --engine ray"),
        (("--engine", "ray", "--address", "ray://x:1"), "on a machine of the cluster"),
    ],
)
def test_an_engine_that_cannot_be_is_refused(
    options: tuple[str, ...], says: str, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    assert crs(monkeypatch, "run", "quick", *options) == 2
    said = capsys.readouterr().err
    assert says in said and said.count("\n") == 1


def test_without_ray_one_line_says_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import importlib.util

    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "ray" else find(name)
    )
    assert crs(monkeypatch, "run", "quick", "--engine", "ray") == 2
    said = capsys.readouterr().err
    assert "pip install 'crs-bench[cluster]'" in said and said.count("\n") == 1


@pytest.mark.parametrize(
    ("gpus", "ray", "device", "address", "expected"),
    [
        (0, True, "auto", "", InProcess()),
        (1, True, "auto", "", InProcess()),
        (2, True, "auto", "", Ray("", 0, "auto")),
        (2, False, "cuda", "", Processes("cuda", 0)),
        (2, True, "cuda:1", "", InProcess()),
        (0, True, "cpu", "auto", Ray("auto", 0, "cpu")),
    ],
)
def test_several_gpus_are_all_used(
    gpus: int, ray: bool, device: str, address: str, expected: Engine,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    from bench.cli import experiments

    find = experiments.importlib.util.find_spec
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(
        experiments.importlib.util, "find_spec",
        lambda name: None if name == "ray" and not ray else find(name),
    )  # fmt: skip
    assert experiments.engine_of("auto", device, address, 0) == expected


def test_stand_ins_make_every_shard_and_are_never_idle() -> None:
    """`scale.py` with few shards; its numbers at full size are in the page on clusters."""
    found = scale.simulate(scale.Timed(16, 0.01), 320)
    assert found["shards"] == 320 and found["wall"] >= found["ideal"] > 0
