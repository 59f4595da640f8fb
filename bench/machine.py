"""The hardware and software that a number was made with, and how scoring shares the processors."""

import os
import platform
from contextlib import AbstractContextManager, nullcontext
from importlib.metadata import version

import torch
from threadpoolctl import threadpool_limits


def device_name(device: str) -> str:
    """The hardware, in words."""
    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    return f"CPU ({platform.machine()}, {torch.get_num_threads()} threads)"


def versions() -> dict[str, str]:
    """Versions that a number may depend on."""
    known = {name: version(name) for name in ("torch", "diffusers", "timm", "numpy", "scipy")}
    return {"python": platform.python_version(), **known}


def scoring_threads(device: str) -> int:
    """Threads that score while the next cell is sampled: one on a CPU, some beside a GPU."""
    return max(1, min(8, (os.cpu_count() or 2) // 4)) if device.startswith("cuda") else 1


def limited(device: str) -> AbstractContextManager[object]:
    """Beside a GPU a linear-algebra call has one core, so that scoring threads do not wait."""
    return threadpool_limits(1) if device.startswith("cuda") else nullcontext()
