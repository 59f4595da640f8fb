"""The hardware and software that a number was made with, and how scoring shares the processors."""

import platform
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from importlib.metadata import version
from typing import Any

import torch
from threadpoolctl import threadpool_limits
from torch import Tensor


def device_name(device: str) -> str:
    """The hardware, in words."""
    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    return f"CPU ({platform.machine()}, {torch.get_num_threads()} threads)"


def versions() -> dict[str, str]:
    """Versions that a number may depend on."""
    known = {name: version(name) for name in ("torch", "diffusers", "timm", "numpy", "scipy")}
    return {"python": platform.python_version(), **known}


def made_on(device: str, known: Mapping[str, Any]) -> dict[str, Any]:
    """The hardware and the versions of a score, where they are not those that are known."""
    here = {"device": device_name(device), "versions": versions()}
    return {name: value for name, value in here.items() if known.get(name) != value}


def scoring_threads(device: str) -> int:
    """Threads that score while the next cell is sampled: one on a CPU, and two on a GPU, where one
    computes while the other waits."""
    return 2 if device.startswith("cuda") else 1


@contextmanager
def beside_sampling(device: str) -> Iterator[None]:
    """The work of this thread on a GPU goes before that of the sampler; all is done at the end.

    The thread has a stream of its own. On the sampler's stream every number that it reads would
    wait for all that the sampler has queued.
    """
    if not device.startswith("cuda"):
        yield
        return
    try:
        stream = _IDLE[device].pop()
    except IndexError:
        stream = torch.cuda.Stream(device, priority=-1)
    try:
        with torch.cuda.stream(stream):
            yield
    finally:
        stream.synchronize()
        _IDLE[device].append(stream)


# torch keeps the memory that a stream used for this stream alone: few streams, used again
_IDLE: defaultdict[str, list[Any]] = defaultdict(list)


def settled(x: Tensor) -> Tensor:
    """The same tensor when it is computed, so that a thread with another stream may read it."""
    if x.is_cuda:
        torch.cuda.current_stream(x.device).synchronize()
    return x


def limited(device: str) -> AbstractContextManager[object]:
    """Beside a GPU a linear-algebra call has one core, so that scoring threads do not wait."""
    return threadpool_limits(1) if device.startswith("cuda") else nullcontext()
