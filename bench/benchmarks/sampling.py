"""Time from noise to the final state: our samplers, diffusers' loop, and the network alone.

All lines share network, batch and number of calls. They run in turns, so that a drift of the
machine affects all lines equally. The time includes the noise, but no decoding and no quantisation.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from tabulate import tabulate
from torch import Tensor

from bench import generate
from bench.checkpoints import Checkpoint
from bench.checkpoints.codecs import cpu_chunk
from bench.samplers import (
    DDIM,
    DDPM,
    DEIS,
    DPMpp2M,
    DPMpp2MSDE,
    DPMpp3M,
    EDMStochastic,
    Heun,
    UniPC,
)
from bench.schedules import Karras
from bench.types import Cell, Sampler, grid_of

SAMPLERS: tuple[Any, ...] = (
    DDIM(), DPMpp2M(), UniPC(), DPMpp3M(), DEIS(), Heun(), DDPM(), DPMpp2MSDE(), EDMStochastic(),
)  # fmt: skip
COMPILED_WITHIN = 1e-3  # largest accepted difference from eager states, in units of [-1, 1]
Work = Callable[[], Any]


@dataclass(frozen=True)
class Reading:
    """The times of one line. Each is the time of a batch from noise to the final state.

    overhead: (median - network) / network, for the same number of calls of the network alone.
    """

    by: str  # network, bench, diffusers; compiled network, compiled bench
    what: str
    calls: int  # of the network
    seconds: tuple[float, ...] = ()  # one for each repeat
    median: float = 0.0
    overhead: float | None = None  # None for the network alone
    difference: float | None = None  # largest difference from eager, in units of [-1, 1]
    grey_levels: int | None = None  # largest difference from eager, in uint8 levels


@dataclass(frozen=True)
class Trial:
    """What all lines share. ValueError: nfe, batch or repeats is below 1."""

    model: Checkpoint
    nfe: int
    batch: int
    repeats: int = 3

    def __post_init__(self) -> None:
        for name in ("nfe", "batch", "repeats"):
            if (value := getattr(self, name)) < 1:
                raise ValueError(f"--{name} must be at least 1, not {value}")

    def network(self) -> Work:
        """Call the network alone on prepared inputs [batch, c, h, w] and timesteps [batch]."""
        model = self.model
        x = torch.randn(self.batch, *model.shape).to(model.device, model.dtype)
        x = x.contiguous(memory_format=torch.channels_last)
        timestep = torch.full((self.batch,), 500.0, device=model.device)

        @torch.inference_mode()
        def work() -> None:
            for _ in range(self.nfe):
                model.net(x, timestep)

        return work

    def grid(self, sampler: Sampler) -> Tensor:
        """The grid with as many steps as `nfe` calls allow, float64 [steps + 1]."""
        cell = Cell(self.model.name, Karras(), sampler, self.nfe, range(2))
        return grid_of(cell, self.model.process)

    def ours(self, sampler: Sampler) -> Work:
        """Sample the final states of seeds 0 .. batch - 1, float32 [batch, c, h, w]."""
        grid, seeds = self.grid(sampler), range(self.batch)
        return lambda: next(generate.images(self.model, sampler, grid, seeds, self.batch))[0]

    def theirs(self, scheduler: Any) -> Work:
        """Run the loop of diffusers' pipelines: [batch, c, h, w], in the network's dtype."""
        model, shape = self.model, (self.batch, *self.model.shape)

        @torch.no_grad()
        def work() -> Tensor:
            x = torch.randn(shape, device=model.device, dtype=model.dtype)
            x = x * scheduler.init_noise_sigma
            scheduler.set_timesteps(self.nfe, device=model.device)
            for t in scheduler.timesteps:
                output = model.net(scheduler.scale_model_input(x, t), t).sample
                x = scheduler.step(output, t, x).prev_sample
            return x

        return work

    def read(self, lines: list[tuple[Reading, Work]]) -> list[Reading]:
        """The lines with their times, after a warm-up. The first line must be the network."""
        turns = [[self.seconds(work) for _, work in lines] for _ in range(self.repeats + 1)][1:]
        alone = statistics.median(turn[0] for turn in turns) / self.nfe
        read: list[Reading] = []
        for (line, _), seconds in zip(lines, zip(*turns, strict=True), strict=True):
            median = statistics.median(seconds)
            over = median / (alone * line.calls) - 1 if read else None
            read.append(replace(line, seconds=seconds, median=median, overhead=over))
        return read

    def seconds(self, work: Work) -> float:
        """Seconds of one run. The device is idle before and after it."""
        self._wait()
        start = time.perf_counter()
        work()
        self._wait()
        return time.perf_counter() - start

    def _wait(self) -> None:
        if self.model.device.startswith("cuda"):
            torch.cuda.synchronize(self.model.device)

    def lines(self, samplers: tuple[Sampler, ...], by: str = "") -> list[tuple[Reading, Work]]:
        """The network alone, then our samplers."""
        alone = Reading(f"{by}network", self.model.name, self.nfe)
        return [(alone, self.network())] + [
            (Reading(f"{by}bench", repr(s), s.evals(self.grid(s))), self.ours(s)) for s in samplers
        ]


def schedulers() -> dict[str, Any]:
    """Our name of a sampler -> diffusers' scheduler for the same process."""
    from diffusers.schedulers.scheduling_ddim import DDIMScheduler
    from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler
    from diffusers.schedulers.scheduling_unipc_multistep import UniPCMultistepScheduler

    v: dict[str, Any] = {"prediction_type": "v_prediction"}
    karras = v | {"use_karras_sigmas": True}
    return {
        "DDIM": DDIMScheduler(**v),
        "DPMpp2M": DPMSolverMultistepScheduler(**karras),
        "UniPC": UniPCMultistepScheduler(**karras),
        "DPMpp2MSDE": DPMSolverMultistepScheduler(**karras, algorithm_type="sde-dpmsolver++"),
    }


def time_samplers(
    trial: Trial,
    compiled: Callable[[Checkpoint], Checkpoint] | None = None,
    samplers: tuple[Sampler, ...] = SAMPLERS,
) -> list[Reading]:
    """Time the network, our samplers and diffusers'. With `compiled`, also the compiled ones."""
    theirs = [
        (Reading("diffusers", name, trial.nfe), trial.theirs(scheduler))
        for name, scheduler in schedulers().items()
    ]
    found = trial.read(trial.lines(samplers) + theirs)
    if compiled is None:
        return found
    eager = [trial.ours(s)().cpu() for s in samplers]
    torch.cuda.empty_cache()  # CUDA graphs keep memory of their own
    fast = replace(trial, model=compiled(trial.model))
    alone, *ours = fast.read(fast.lines(samplers, "compiled "))
    apart = [_apart(fast.ours(s)().cpu(), x) for s, x in zip(samplers, eager, strict=True)]
    return [*found, alone, *(replace(a, **b) for a, b in zip(ours, apart, strict=True))]


def _apart(have: Tensor, want: Tensor) -> dict[str, Any]:
    """Largest differences of two final states and of their quantised images."""
    grey = [(x * 127.5 + 127.5).round().clamp(0, 255) for x in (have, want)]
    return {
        "difference": float((have - want).abs().max()),
        "grey_levels": int((grey[0] - grey[1]).abs().max()),
    }


def content(trial: Trial, lines: list[Reading]) -> dict[str, Any]:
    """The settings and readings of a comparison, for JSON."""
    weights = sum(weight.numel() for weight in trial.model.net.parameters())
    return {
        "network": trial.model.name, "parameters": weights,
        "dtype": str(trial.model.dtype).removeprefix("torch."), "batch": trial.batch,
        "nfe": trial.nfe, "repeats": trial.repeats, "lines": [asdict(line) for line in lines],
    }  # fmt: skip


def table(trial: Trial, lines: list[Reading]) -> str:
    """A text table with a row for each line."""
    names = "by", "what", "calls", "seconds", "overhead", "from eager", "grey levels"
    rows = []
    for line in lines:
        over = "" if line.overhead is None else f"{line.overhead:+.2%}"
        apart = (
            ("", "") if line.difference is None else (f"{line.difference:.2g}", line.grey_levels)
        )
        rows.append((line.by, line.what, line.calls, f"{line.median:.4g}", over, *apart))
    model = trial.model
    text = f"{model.name}, batch {trial.batch}, {str(model.dtype).removeprefix('torch.')}\n"
    text += tabulate(rows, names, disable_numparse=True)
    off = max((line.difference for line in lines if line.difference is not None), default=0.0)
    if off > COMPILED_WITHIN:
        text += f"\ncompiled and eager states differ by {off:.2g}, more than {COMPILED_WITHIN:g}"
    chunk = cpu_chunk(*model.shape[1:])
    if not model.device.startswith("cuda") and trial.batch % chunk:
        text += (
            f"\non a CPU we call the network with {chunk} padded images, so that no byte "
            f"depends on the batch; at batch {trial.batch} our overhead includes the padding"
        )
    return text
