"""Throughput and memory of a network's forward pass, by batch size."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from tabulate import tabulate

from bench.checkpoints import Checkpoint

WARM = 3  # warm-up calls; the first may compile


@dataclass(frozen=True)
class Throughput:
    """The throughput of the network alone at one batch size."""

    batch: int
    images_a_second: float
    memory_gib: float | None  # peak memory with the weights; None on a CPU


def throughput(
    model: Checkpoint,
    batches: tuple[int, ...],
    seconds: float = 2.0,
    compiled: Callable[[Checkpoint], Checkpoint] | None = None,
) -> Iterator[Throughput]:
    """Time each batch size in ascending order, until one does not fit in memory.

    Arguments:
        batches: batch sizes.
        seconds: duration of the calls for each batch size.

    Raises:
        ValueError: a batch is below 1.
        RuntimeError: the smallest batch does not fit.
    """
    if not batches or min(batches) < 1:
        raise ValueError(f"--batch must be 1 or more, not {min(batches, default='none')}")
    for batch in sorted(batches):
        try:
            yield _reading(compiled(model) if compiled else model, batch, seconds)
        except RuntimeError:  # out of memory, or a kernel with 32-bit indices
            if batch == min(batches):
                raise
            return


def _reading(model: Checkpoint, batch: int, seconds: float) -> Throughput:
    gpu = model.device.startswith("cuda")
    x = torch.randn(batch, *model.shape).to(model.device, model.dtype)
    x = x.contiguous(memory_format=torch.channels_last)
    timestep = torch.full((batch,), 500.0, device=model.device)
    given = {"class_labels": torch.zeros_like(timestep).long()} if model.classes else {}
    if gpu:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(model.device)

    def call() -> None:
        model.net(x, timestep, **given)
        if gpu:
            torch.cuda.synchronize(model.device)

    with torch.inference_mode():
        for _ in range(WARM):
            call()
        calls, start = 0, time.perf_counter()
        while (took := time.perf_counter() - start) < seconds or not calls:
            call()
            calls += 1
    peak = torch.cuda.max_memory_allocated(model.device) / 2**30 if gpu else None
    return Throughput(batch, calls * batch / took, peak)


def throughput_table(rates: list[Throughput]) -> str:
    """A text table with a row for each batch size."""
    rows = [(r.batch, f"{r.images_a_second:.4g}",
             "" if r.memory_gib is None else f"{r.memory_gib:.1f}") for r in rates]  # fmt: skip
    return tabulate(rows, ("batch", "images/s", "GiB"), disable_numparse=True)
