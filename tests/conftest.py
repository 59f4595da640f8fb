"""Fixtures that every test shares."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

if TYPE_CHECKING:
    from nursery import Nursery

_LONG = {f"test_{name}" for name in (
    "engines", "extractors", "kills", "layers", "published_plans", "run", "shards", "shipped",
    "studies", "wheel", "windows",
)}  # fmt: skip


def pytest_configure() -> None:
    """One torch thread per xdist worker, or the workers fight over the cores."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        torch.set_num_threads(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that take long go first, so that no worker waits for one at the end."""
    items.sort(key=lambda item: item.path.stem not in _LONG)


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """A test's name holds no bytes: packed ones hold the time, and each worker has its own."""
    return argname if isinstance(val, bytes) else None


@pytest.fixture(scope="session", autouse=True)
def cache_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """One feature cache for the run, shared by its workers; CRS_BENCH_CACHE overrides it."""
    with pytest.MonkeyPatch.context() as patch:
        if not os.environ.get("CRS_BENCH_CACHE"):
            base = tmp_path_factory.getbasetemp()
            if "PYTEST_XDIST_WORKER" in os.environ:  # each worker's base lies in the run's own
                base = base.parent
            folder = base / "crs-bench-cache"
            folder.mkdir(exist_ok=True)
            patch.setenv("CRS_BENCH_CACHE", str(folder))
        yield


@pytest.fixture(scope="session", autouse=True)
def coarse_figures() -> Iterator[None]:
    """Figures of tests have few dots, which takes a third of the time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bench.report.drawing.DPI", 60)
        yield


@pytest.fixture
def tables_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reports without figures, which take most of the time."""
    monkeypatch.setattr("bench.report.figures.write", lambda *_, **__: [])


@pytest.fixture(scope="session")
def device() -> torch.device:
    """The device that tests run on, unless they are marked gpu."""
    return torch.device("cpu")


@pytest.fixture(scope="session")
def inception_file(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """torch-fidelity's Inception with random weights, as the state dict that it reads."""
    from torch_fidelity import feature_extractor_inceptionv3 as theirs

    from bench.features import fidelity

    path = tmp_path_factory.mktemp("weights") / "inception.pth"
    with pytest.MonkeyPatch.context() as patch, torch.random.fork_rng():
        torch.manual_seed(0)
        net = theirs.FeatureExtractorInceptionV3
        patch.setattr(theirs, "load_state_dict_from_url", lambda *_, **__: {})
        patch.setattr(net, "load_state_dict", lambda *_: None)
        made = net("inception-v3-compat", ["2048"])
        for module in made.modules():
            if isinstance(module, torch.nn.Conv2d):
                torch.nn.init.kaiming_normal_(module.weight)
        # classes that differ between images, not by what all have in common; a bias that counts
        images = torch.nn.functional.interpolate(torch.rand(8, 3, 5, 5) * 200, (32, 32))
        common = torch.nn.functional.normalize(made(images.byte())[0].mean(0), dim=0)
        made.fc.weight -= torch.outer(made.fc.weight @ common, common)
        made.fc.weight *= 100
        made.fc.bias *= 40
        torch.save(made.state_dict(), path)
    yield path
    fidelity._inception.cache_clear()


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A models folder with one random checkpoint `tiny` and its measured rate."""
    import tiny

    return tiny.make_models(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="session")
def undisturbed(tiny_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of `tiny.pooled`, run at once, without figures. They must not be changed."""
    import tiny

    from bench import run
    from bench.report import figures

    results = tmp_path_factory.mktemp("results")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(figures, "write", lambda *_: [])
        run.run(tiny.pooled(tiny_models), results, tiny_models)
    return results / "tiny"


@pytest.fixture(scope="session")
def alone(tiny_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of `faulty.experiment` in one process, with one thread as workers have."""
    import faulty

    from bench import run
    from bench.report import figures

    results, threads = tmp_path_factory.mktemp("alone"), torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(figures, "write", lambda *_: [])
        run.run(faulty.experiment(tiny_models), results, tiny_models)
    torch.set_num_threads(threads)
    return results / "tiny"


@pytest.fixture(scope="session")
def nursery(tmp_path_factory: pytest.TempPathFactory) -> Iterator["Nursery"]:
    """Starts `crs-bench` as processes of their own, with as many threads as there are here."""
    from nursery import Nursery

    made = Nursery(tmp_path_factory.mktemp("nursery"), torch.get_num_threads())
    yield made
    made.close()
