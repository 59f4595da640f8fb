"""The one kernel against torch's own operations: interpreted on a CPU, compiled on a GPU."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from bench.features import windows

Operation = tuple[str, tuple[int, ...]]
OPERATIONS: list[Operation] = [
    ("greatest", (2,)), ("greatest", (1, 1)), ("mean_relu", ()),
    ("depthwise_relu6", (3, 1)), ("depthwise_relu6", (3, 2)),
    ("depthwise_relu6", (5, 1)), ("depthwise_relu6", (5, 2)),
]  # fmt: skip
SHAPES = [(2, 16, 7, 6), (1, 48, 5, 7), (1, 256, 4, 4)]


def perform(what: Operation, x: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """dtype: to whose precision the weights are rounded."""
    name, numbers = what
    if name != "depthwise_relu6":
        return getattr(windows, name)(x.clone(), *numbers)
    size, stride = numbers
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(x.shape[1], 1, size, size, generator=generator).to(dtype).to(x)
    bias = torch.randn(x.shape[1], generator=generator).to(dtype).to(x)
    return windows.depthwise_relu6(x, weight, bias, stride)


def check(device: str, dtype: torch.dtype) -> None:
    """The kernel's and torch's results of every operation on every shape; NaN stays NaN."""
    takes = windows._takes
    for shape in SHAPES:
        x = 4 * torch.randn(shape, generator=torch.Generator().manual_seed(0))
        x = x.to(device, dtype, memory_format=torch.channels_last)
        for what in OPERATIONS:
            windows._takes = lambda _: False
            want = perform(what, x.float(), dtype).to(dtype)  # torch's own rounds more than once
            windows._takes = lambda _: True
            have = perform(what, x, dtype)
            windows._takes = takes
            assert have.is_contiguous(memory_format=torch.channels_last)
            close = {"rtol": 1e-5, "atol": 1e-5} if dtype == torch.float32 else {}
            torch.testing.assert_close(have, want, **close)
    x[0, 3, 1, 1] = torch.nan
    windows._takes = lambda _: True
    for what in OPERATIONS:
        found = perform(what, x).isnan()
        assert found[0, 3].any() and not found[:, 4].any() and not found[1:].any()
    windows._takes = takes


@pytest.mark.parametrize("dtype", ["float32", pytest.param("float16", marks=pytest.mark.slow)])
def test_the_kernel_does_as_torch_does(dtype: str) -> None:
    pytest.importorskip("triton")
    environment = os.environ | {"TRITON_INTERPRET": "1"}  # read where the kernel is defined
    code = f"import torch; from test_windows import check; check('cpu', torch.{dtype})"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        env=environment,
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_the_kernel_does_as_torch_does_on_a_gpu(dtype: torch.dtype) -> None:
    assert windows._kernel is not None
    check("cuda", dtype)


def test_what_the_kernel_is_not_for_goes_to_torch() -> None:
    x = torch.rand(1, 3, 5, 5)
    assert not windows._takes(x)
    assert torch.equal(windows.greatest(x, 2), torch.nn.functional.max_pool2d(x, 3, 2))


@pytest.mark.parametrize("dtype", ["*fp16", "*fp32"])
@pytest.mark.parametrize(("kind", "size"), [("greatest", 3), ("mean", 3), ("product", 5)])
def test_the_kernel_compiles_for_a_gpu_where_there_is_none(
    kind: str, size: int, dtype: str
) -> None:
    pytest.importorskip("triton")
    compiler = pytest.importorskip("triton.backends.compiler")
    from triton.compiler import ASTSource, compile

    from bench.features.kernel import over_windows

    given = {"KIND": kind, "SIZE": size, "PIXELS": 16, "CHANNELS": 64}
    types = {name: "i32" for name in over_windows.arg_names}
    types |= dict.fromkeys(["x", "weight", "bias", "y"], dtype) | dict.fromkeys(given, "constexpr")
    places = {(over_windows.arg_names.index(name),): value for name, value in given.items()}
    source = ASTSource(over_windows, types, places)
    made = compile(source, target=compiler.GPUTarget("cuda", 90, 32))
    assert "st.global" in made.asm["ptx"]
