"""Throughput and memory of a network's forward pass, by batch size, beside its ceiling."""

import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from bench.benchmarks.record import Reading, Work, in_turns, wait
from bench.benchmarks.sampling import dtype_of
from bench.checkpoints import Checkpoint
from bench.checkpoints.codecs import in_chunks
from bench.machine import limited

WARM = 3  # warm-up calls; the first may compile
ROUNDS = 3  # in turn; the fastest counts
SIDES = {"cpu": 2048, "cuda": 8192}  # of the matrices that show what a device can do


@dataclass
class Call:
    """One network at one batch size, with prepared inputs."""

    model: Checkpoint
    batch: int
    layout: torch.memory_format

    def __post_init__(self) -> None:
        model = self.model
        x = torch.randn(self.batch, *model.shape).to(model.device, model.dtype)
        self.x = x.contiguous(memory_format=self.layout)
        self.timestep = torch.full((self.batch,), 500.0, device=model.device)
        labels = torch.zeros_like(self.timestep).long()
        self.given = {"class_labels": labels} if model.classes else {}

    @torch.inference_mode()
    def once(self) -> None:
        """Call the network, and do not wait for a GPU."""
        self.model.net(self.x, self.timestep, **self.given)

    def __call__(self) -> None:
        self.once()
        wait(self.model.device)

    def warm(self) -> float | None:
        """Call a few times. Returns: peak memory in GiB with the weights; None on a CPU."""
        device, before = self.model.device, 0
        if gpu := device.startswith("cuda"):
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(device)
            before = torch.cuda.memory_allocated(device)
        for _ in range(WARM):
            self()
        if not gpu:
            return None
        weights = sum(w.nbytes for w in self.model.net.parameters())
        return (torch.cuda.max_memory_allocated(device) - before + weights) / 2**30

    def mean(self, seconds: float) -> float:
        """Mean seconds of the calls that `seconds` allow, one at least."""
        start = time.perf_counter()
        for calls in count(1):
            self()
            if (took := time.perf_counter() - start) >= seconds:
                return took / calls
        raise AssertionError


def forget() -> None:
    """Drop what torch.compile has made, and its memory."""
    if "torch._dynamo" in sys.modules:  # its import takes seconds
        torch.compiler.reset()


def alone(model: Checkpoint, batch: int, calls: int) -> Work:
    """Call the network so many times on prepared inputs, in the way a run calls it: it waits for
    no call, and on a CPU each core has images of its own."""
    with torch.inference_mode():  # as in a run; of other tensors it would compile again
        call = Call(model, batch, torch.channels_last)
    inputs = [call.x, call.timestep, *call.given.values()]

    def network(x: Tensor, timestep: Tensor, *labels: Tensor) -> Tensor:
        return model.net(x, timestep, **dict(zip(call.given, labels, strict=True))).sample

    @torch.inference_mode()
    def work() -> None:
        with limited(model.device):
            for _ in range(calls):
                in_chunks(network, *inputs)

    return work


def throughput(
    model: Checkpoint,
    batches: tuple[int, ...],
    seconds: float = 2.0,
    published: Checkpoint | None = None,
) -> Iterator[Reading]:
    """Time each batch size in ascending order, until one does not fit in memory.

    Arguments:
        batches: batch sizes.
        seconds: duration of the calls of each network for each batch size.
        published: the same network, to be called as published code does: not compiled, and its
            tensors contiguous. Where a batch does not fit, it has no peer.

    Raises:
        ValueError: a batch is below 1.
        RuntimeError: the smallest batch does not fit.
    """
    if not batches or min(batches) < 1:
        raise ValueError(f"--batch must be 1 or more, not {min(batches, default='none')}")
    peer = published and _contiguous(published)
    for batch in sorted(batches):
        try:
            yield _reading(model, batch, seconds, peer)
        except RuntimeError:  # out of memory, or a kernel with 32-bit indices
            if batch == min(batches):
                raise
            return


def _reading(
    model: Checkpoint, batch: int, seconds: float, published: Checkpoint | None
) -> Reading:
    forget()  # it compiles for eight batch sizes, and runs others as they are
    ours = Call(model, batch, torch.channels_last)
    memory, theirs = [ours.warm()], None
    if published:
        try:
            theirs = Call(published, batch, torch.contiguous_format)
            memory.append(theirs.warm())
        except RuntimeError:
            theirs = None
    calls = [ours, theirs] if theirs else [ours]
    means = [min(each) for each in zip(
        *([call.mean(seconds / ROUNDS) for call in calls] for _ in range(ROUNDS)), strict=True
    )]  # fmt: skip
    rates = [{"images_a_second": batch / mean, "memory_gib": gib}
             for mean, gib in zip(means, memory, strict=False)]  # fmt: skip
    more = {"network": model.name, "weights_sha256": model.card.weights_sha256,
            "dtype": dtype_of(model), "batch": batch}  # fmt: skip
    found = Reading(f"{model.name}, batch {batch}", means[0], more | rates[0])
    if not (theirs and published):
        return found
    kind = type(published.net)
    package = "diffusers" if kind.__module__.startswith("diffusers.") else ""
    name = f"{f'diffusers {kind.__name__}' if package else 'as published'}, {dtype_of(published)}"
    return found.beside(name, means[1], package, **rates[1])


def _contiguous(model: Checkpoint) -> Checkpoint:
    nn.Module.to(model.net, memory_format=torch.contiguous_format)
    return model


def ceiling(model: Checkpoint) -> Reading:
    """The fastest of several products of large square matrices, in the network's dtype.

    `tflops`: of the product. `network_tflop`: of one image. `images_a_second`: what the network
    would do at the rate of the product.
    """
    size = SIDES[torch.device(model.device).type]
    one = torch.randn(size, size).to(model.device, model.dtype)
    out = torch.empty_like(one)

    def products() -> Tensor:
        for _ in range(10):
            torch.mm(one, one, out=out)
        return out

    (runs,) = in_turns([products], 5, model.device)
    seconds, call = min(runs) / 10, Call(model, 1, torch.channels_last)
    with FlopCounterMode(display=False) as counter:
        call()
    rate, image = 2 * size**3 / seconds / 1e12, counter.get_total_flops() / 1e12
    more: dict[str, Any] = {"dtype": dtype_of(model), "tflops": rate, "network_tflop": image}
    what = f"matrix product, {size} x {size}"
    return Reading(what, seconds, more | {"images_a_second": rate / image})
