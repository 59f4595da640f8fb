"""Fixtures that every test shares."""

import os
from collections.abc import Iterator

import pytest
import torch


def pytest_configure() -> None:
    """One torch thread per xdist worker, or the workers fight over the cores."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        torch.set_num_threads(1)


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


@pytest.fixture(scope="session")
def device() -> torch.device:
    """The device that tests run on, unless they are marked gpu."""
    return torch.device("cpu")
