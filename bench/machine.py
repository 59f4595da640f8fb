"""The hardware and software that a number was made with, and how work shares the processors."""

import ctypes
import platform
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from typing import Any

from threadpoolctl import threadpool_limits

from bench.lazy import Tensor, torch


@dataclass(frozen=True)
class _Cores:
    """All cores of the CPU, and a pool with a thread for each."""

    number: int
    pool: ThreadPoolExecutor


_cores: _Cores | None = None  # while `spread` holds


def device_name(device: str) -> str:
    """The hardware, in words."""
    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    threads = _cores.number if _cores else torch.get_num_threads()
    return f"CPU ({platform.machine()}, {threads} threads)"


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
    """While cells are sampled and scored, one call of linear algebra has one core.

    Beside a GPU, scoring threads then do not wait for each other. On a CPU it is `spread`.
    """
    return threadpool_limits(1) if device.startswith("cuda") else spread()


@contextmanager
def spread() -> Iterator[None]:
    """While it holds, `side_by_side` uses all cores of the CPU, and every other call has one core.

    Operations of small networks are short. Cores that share one operation mostly wait for each
    other. No image depends on the number of cores.
    """
    global _cores
    _keep_memory()
    threads = torch.get_num_threads()
    if _cores or threads == 1:
        yield
        return
    torch.set_num_threads(1)  # of the calling thread, and of threads that start later
    try:
        # each thread sets it again: a first call may come before torch has read it
        workers = ThreadPoolExecutor(threads, "core", torch.set_num_threads, (1,))
        with threadpool_limits(1), workers as pool:
            _cores = _Cores(threads, pool)
            yield
    finally:
        _cores = None
        torch.set_num_threads(threads)


def side_by_side(call: Callable[..., Any], parts: Iterable[Any]) -> list[Any]:
    """[call(part) for part in parts], each on a core of its own while `spread` holds.

    A call must not use `side_by_side` itself.
    """
    if _cores is None:
        return [call(part) for part in parts]
    inference, gradients = torch.is_inference_mode_enabled(), torch.is_grad_enabled()

    def alike(part: Any) -> Any:  # torch's modes belong to one thread
        with torch.inference_mode(inference), torch.set_grad_enabled(gradients):
            return call(part)

    return list(_cores.pool.map(alike, parts))


@cache
def _keep_memory() -> None:
    """Tell glibc to keep freed memory for the next tensor, rather than give it to the system.

    This holds until the process ends.

    Pages that come back from the system are filled with zeros, which takes 10 % of the time.
    """
    if platform.libc_ver()[0] == "glibc":
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(-1, 1 << 30)  # M_TRIM_THRESHOLD
        mallopt(-2, 1 << 26)  # M_TOP_PAD
        mallopt(-3, 1 << 25)  # M_MMAP_THRESHOLD
