"""Work that is spread over the cores of a CPU."""

import threading

import pytest
import torch

from bench import machine


@pytest.fixture
def two_cores() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_calls_run_side_by_side_in_order_and_leave_threads_as_they_were(two_cores: None) -> None:
    both = threading.Barrier(2, timeout=60)

    def call(part: int) -> tuple[int, int, bool]:
        both.wait()  # fails unless two calls run at once
        return part, torch.get_num_threads(), torch.is_inference_mode_enabled()

    said = machine.device_name("cpu")
    with torch.inference_mode(), machine.spread(), machine.spread():
        found = machine.side_by_side(call, range(4))
        assert machine.device_name("cpu") == said and "2 threads" in said
    assert found == [(part, 1, True) for part in range(4)]
    assert torch.get_num_threads() == 2
    assert machine.side_by_side(lambda part: -part, (1, 2)) == [-1, -2]


def test_an_error_in_a_call_is_raised_and_threads_are_restored(two_cores: None) -> None:
    def call(part: int) -> float:
        return 1 / part

    with pytest.raises(ZeroDivisionError), machine.spread():
        machine.side_by_side(call, (1, 0))
    assert torch.get_num_threads() == 2
    assert machine.side_by_side(call, (1, 2)) == [1, 0.5]
