"""Ray's engine on Ray's own test cluster, of processes on this machine: no fault changes a byte."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import faulty
import pytest
from test_engines import check_killed, check_raises
from test_shards import same

from bench import run, store
from bench.engines import Ray
from bench.report import figures

ray = pytest.importorskip("ray")
pytestmark = pytest.mark.slow
HERE = Path(__file__).resolve().parent
PATIENCE = 600  # seconds


@pytest.fixture(autouse=True)
def no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figures, "write", lambda *_: [])


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A head that makes nothing and two nodes of a core each, which share no cache with the run."""
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_worker_niceness", "0")
        patch.setenv("FAULTS", str(tmp_path_factory.mktemp("faults")))
        patch.setenv("CRS_BENCH_CACHE", str(tmp_path_factory.mktemp("there")))
        made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
        made.add_node(num_cpus=1)
        made.add_node(num_cpus=1)
        yield made
        ray.shutdown()
        made.shutdown()


@pytest.fixture
def faults(cluster: Any) -> Iterator[Path]:
    """The folder that says how samplers fail."""
    folder = Path(os.environ["FAULTS"])
    yield folder
    for path in folder.iterdir():
        path.unlink()


def until(done: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not done():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.05)


def shards_in(results: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in results.glob("*/shards/*/*/[!.]*.npz")}


def on(cluster: Any) -> Ray:
    return Ray(cluster.address, 0, "cpu")


def test_workers_that_are_killed_or_lack_memory_change_no_byte(
    cluster: Any, faults: Path, alone: Path, tiny_models: Path, tmp_path: Path
) -> None:
    (faults / "memory").write_text("2")
    check_killed(on(cluster), alone, faults, tiny_models, tmp_path)
    records = store.load_records(tmp_path / "tiny")
    rows = store.load_plan(alone)["rows"]
    assert {records[row["key"]]["batch"] for row in rows if row["role"] == "score"} == {2}


def test_a_shard_that_raises_is_reported_and_the_rest_is_made(
    cluster: Any, faults: Path, alone: Path, tiny_models: Path, tmp_path: Path
) -> None:
    check_raises(on(cluster), alone, faults, tiny_models, tmp_path)


def test_a_driver_that_is_killed_loses_no_shard(
    cluster: Any, faults: Path, alone: Path, tiny_models: Path, tmp_path: Path
) -> None:
    (faults / "slow").write_text("0.5")
    command = [sys.executable, "-m", "bench", "run", "faulty:experiment", "--engine", "ray",
               "--address", cluster.address, "--device", "cpu", "--models", str(tiny_models),
               "--results", str(tmp_path)]  # fmt: skip
    path = os.pathsep.join(map(str, (HERE.parent, HERE)))
    with open(tmp_path / "said", "w") as said:
        driver = subprocess.Popen(
            command, cwd=HERE, env=os.environ | {"PYTHONPATH": path}, stdout=said, stderr=said
        )
        until(lambda: len(shards_in(tmp_path)) >= 4 or driver.poll() is not None)
        driver.send_signal(signal.SIGKILL)
        assert driver.wait() == -signal.SIGKILL, (tmp_path / "said").read_text()
    before = shards_in(tmp_path)
    (faults / "slow").unlink()
    run.run(faulty.experiment(tiny_models), tmp_path, tiny_models, engine=on(cluster))
    same(tmp_path / "tiny", alone)
    after = shards_in(tmp_path)
    assert all(after.get(path, time) == time for path, time in before.items()), "made again"


def test_a_node_that_goes_and_one_that_comes_change_no_byte(
    cluster: Any, faults: Path, alone: Path, tiny_models: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    # a node that starts in a thread cannot take over signals
    monkeypatch.setattr("ray._private.node.Node._register_shutdown_hooks", lambda self: None)
    log, problems = faults / "log", list[BaseException]()
    (faults / "slow").write_text("2")
    log.write_text("")

    def processes() -> int:
        return len(set(log.read_text().split()))

    def change() -> None:
        try:
            until(lambda: processes() == 2)
            kept = {
                cluster.head_node.raylet_socket_name,
                ray._private.worker._global_node.raylet_socket_name,  # the run is joined to it
            }
            nodes = cluster.list_all_nodes()
            node = next(one for one in nodes if one.raylet_socket_name not in kept)
            cluster.remove_node(node, allow_graceful=False)
            cluster.add_node(num_cpus=1)
            until(lambda: processes() == 3)  # the new node works
        except BaseException as error:  # noqa: BLE001 - told below
            problems.append(error)
        (faults / "slow").unlink()

    changer = threading.Thread(target=change)
    changer.start()
    run.run(faulty.experiment(tiny_models), tmp_path, tiny_models, engine=on(cluster))
    changer.join()
    assert not problems
    same(tmp_path / "tiny", alone)


def test_a_cluster_of_one_machine_listens_to_the_loopback_only(
    alone: Path, tiny_models: Path, tmp_path: Path
) -> None:
    """In a process of its own: Ray must not have been imported before."""
    code = f"""
import sys
sys.path.insert(0, {str(HERE)!r})
import faulty, pathlib, os
from bench import run
from bench.engines import Ray
from bench.report import figures

def listening(*_):
    import ray
    name = os.path.basename(ray._private.worker._global_node.get_session_dir_path())
    ours = [str(os.getpid())] + [one for one in os.listdir("/proc") if one.isdigit() and name in
            pathlib.Path("/proc", one, "cmdline").read_text(errors="replace")]
    sockets = set()
    for one in ours:
        for file in pathlib.Path("/proc", one, "fd").iterdir():
            try:
                sockets.add(os.readlink(file))
            except OSError:
                pass
    for kind in ("tcp", "tcp6"):
        for line in pathlib.Path("/proc/net", kind).read_text().splitlines()[1:]:
            part = line.split()
            if part[3] == "0A" and f"socket:[{{part[9]}}]" in sockets:
                print("LISTENS", part[1].partition(":")[0])
    return []

from bench import plan
choose = plan.choose
plan.choose = lambda *what: (listening(), choose(*what))[1]
figures.write = lambda *_: []
models = pathlib.Path({str(tiny_models)!r})
results = pathlib.Path({str(tmp_path)!r})
run.run(faulty.experiment(models), results, models, engine=Ray("", 1, "cpu"))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=HERE,
        env=os.environ | {"PYTHONPATH": str(HERE.parent), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = [line.split()[1] for line in done.stdout.splitlines() if line.startswith("LISTENS")]
    loopback = {"0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000"}
    assert found and set(found) <= loopback
    same(tmp_path / "tiny", alone)
