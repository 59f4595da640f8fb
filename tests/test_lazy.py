"""torch that is imported when it is used: other processes get the real one."""

import importlib
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from bench import lazy
from bench.data.arrays import first_rows
from bench.features import EffNetLite0, first_images
from bench.process import VP
from bench.schedules import Karras
from bench.types import Rate


def test_the_lazy_torch_is_pickled_as_torch() -> None:
    """Ray sends local functions with the modules that they name."""
    assert pickle.loads(pickle.dumps(lazy.torch)) is importlib.import_module("torch")


def test_half_precision_is_converted() -> None:
    half = torch.arange(1, 6, dtype=torch.bfloat16)
    assert Rate("v_x", half, half).v.tolist() == [1, 2, 3, 4, 5]
    assert VP().timestep(half).dtype == torch.float64


def test_a_schedule_that_is_called_through_levels_keeps_its_call() -> None:
    """Else `run` would use one grid, and `crs-bench schedule` and Snapped another."""
    with pytest.raises(ValueError, match="Mine changes __call__"):

        class Mine(Karras):
            def __call__(self, steps: int, process: object) -> torch.Tensor:
                return torch.zeros(steps)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_the_first_images_of_a_file_are_read_alone(tmp_path: Path, save: object) -> None:
    images = np.arange(5 * 4 * 4 * 3, dtype=np.uint8).reshape(5, 4, 4, 3)
    save(path := tmp_path / "a.npz", mu=np.zeros(2), arr_0=images)  # type: ignore[operator]
    assert (first_rows(path, "arr_0", 2) == images[:2]).all()
    assert len(first_rows(path, "arr_0", 9)) == 5
    found = first_images(path, EffNetLite0(), 2)
    assert found is not None and (found.numpy() == images[:2].transpose(0, 3, 1, 2)).all()
    np.savez(path, mu=np.zeros(2), sigma=np.eye(2))
    assert first_images(path, EffNetLite0(), 2) is None
