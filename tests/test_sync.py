"""No step of a sampler waits for the device: no tensor moves between the host and the device."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from bench import generate, names, samplers
from bench.benchmarks import untrained
from bench.checkpoints.model import Varying
from bench.schedules import Karras
from bench.types import Cell, Sampler, grid_of

SAMPLERS: list[Sampler] = [kind() for kind in names.public(samplers).values()]
SAMPLERS += [samplers.DDIM(eta=1.0), samplers.UniPC(order=3), samplers.DDPM("learned")]


class NoCopies(TorchDispatchMode):
    """RuntimeError where a tensor is moved between the host and the device `meta`."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        of = {x.device.type for x in (*args, made) if isinstance(x, torch.Tensor)}
        name = func.overloadpacket.__name__
        moved = name in ("_to_copy", "copy_") and of == {"cpu", "meta"}
        if moved or (name == "lift_fresh" and "meta" in of):
            raise RuntimeError(f"{func} moves a tensor between the host and the device")
        return made


@contextmanager
def no_sync() -> Iterator[None]:
    """RuntimeError where a CUDA call waits for the device."""
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)


def walk(sampler: Sampler, device: str) -> Any:
    """A function that samples from seeded noise and gives the last state.

    The seeds are on the device before the function is called.
    """
    model = untrained("tiny", device)
    grid = grid_of(Cell("tiny", Karras(), sampler, 12, range(2)), model.process)
    seeds = torch.arange(4, device=device)
    plain = model.denoiser()
    denoise = Varying(lambda x, sigma: (plain(x, sigma), x.tanh()))  # for DDPM("learned")

    @torch.inference_mode()
    def work() -> torch.Tensor:
        noise = generate._noise(seeds, model.shape)
        return sampler(denoise, float(grid[0]) * noise(), grid, noise)

    return work


@pytest.mark.parametrize("sampler", SAMPLERS, ids=repr)
def test_no_step_reads_or_sends_a_tensor(sampler: Sampler) -> None:
    """The device "meta" holds no numbers. Code that reads a number from it fails."""
    work = walk(sampler, "meta")
    with NoCopies():
        assert work().device.type == "meta"


@pytest.mark.parametrize(
    "wrong",
    [
        lambda x: x.sum().item(),
        lambda x: float(x.max()),
        lambda x: bool((x > 0).any()),
        lambda x: x.cpu(),
        lambda x: x * torch.tensor([1.0, 2.0], device=x.device),
        lambda x: x * torch.ones(2).to(x.device),
        lambda x: x[torch.tensor([0])].copy_(torch.zeros(2)),
    ],
)
def test_what_waits_is_found(wrong: Any) -> None:
    x = torch.empty(2, device="meta")
    with NoCopies(), pytest.raises((RuntimeError, NotImplementedError)):
        wrong(x)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("sampler", SAMPLERS, ids=repr)
def test_no_step_waits_for_a_gpu(sampler: Sampler) -> None:
    work = walk(sampler, "cuda")
    work()  # the first call chooses kernels and allocates memory
    torch.cuda.synchronize()
    with no_sync():
        x = work()
    assert torch.isfinite(x).all()
