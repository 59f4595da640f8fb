"""Time from noise to the final state: our samplers, diffusers' loop, and the network alone.

All readings share network, batch and number of calls. The time includes the noise, but no decoding
and no quantisation.
"""

import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from bench import generate
from bench.benchmarks.record import Reading, Work, in_turns, seconds_of, table
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

    def seconds(self, work: Work) -> float:
        """Seconds of one run."""
        return seconds_of(work, self.model.device)

    @property
    def about(self) -> dict[str, Any]:
        """What all readings share, for the record."""
        weights = sum(weight.numel() for weight in self.model.net.parameters())
        return {
            "network": self.model.name, "parameters": weights, "dtype": dtype_of(self.model),
            "batch": self.batch,
        }  # fmt: skip


def dtype_of(model: Checkpoint) -> str:
    """`float16`."""
    return str(model.dtype).removeprefix("torch.")


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
    """Time the network, our samplers and diffusers'. With `compiled`, also the compiled ones.

    The seconds are those of a batch from noise to the final state, the median over the repeats.
    `overhead` is (seconds - network) / network, for as many calls of the network alone.
    """
    found = _read(trial, samplers, "", schedulers())
    if compiled is None:
        return found
    eager = [trial.ours(s)().cpu() for s in samplers]
    torch.cuda.empty_cache()  # CUDA graphs keep memory of their own
    fast = replace(trial, model=compiled(trial.model))
    alone, *ours = _read(fast, samplers, ", compiled", {})
    apart = [_apart(fast.ours(s)().cpu(), x) for s, x in zip(samplers, eager, strict=True)]
    return [*found, alone, *(replace(a, more={**a.more, **b})
                             for a, b in zip(ours, apart, strict=True))]  # fmt: skip


def _read(
    trial: Trial, samplers: tuple[Sampler, ...], suffix: str, peers: Mapping[str, Any]
) -> list[Reading]:
    """The network alone, then samplers. A peer stands beside our sampler of its name."""
    works = [trial.network(), *map(trial.ours, samplers), *map(trial.theirs, peers.values())]
    runs = in_turns(works, trial.repeats, trial.model.device)
    network, *seconds = map(statistics.median, runs)

    def more(took: float, calls: int, runs: tuple[float, ...]) -> dict[str, Any]:
        over = took * trial.nfe / (network * calls) - 1
        return {"calls": calls, "overhead": over, "runs": runs}

    beside = dict(zip(peers, zip(seconds[len(samplers):], runs[len(samplers) + 1:], strict=True),
                      strict=True))  # fmt: skip
    alone = {**trial.about, "calls": trial.nfe, "runs": runs[0]}
    found = [Reading(f"network alone{suffix}", network, alone)]
    for sampler, took, each in zip(samplers, seconds, runs[1:], strict=False):
        calls = sampler.evals(trial.grid(sampler))
        one = Reading(f"{sampler!r}{suffix}", took, trial.about | more(took, calls, each))
        if (name := type(sampler).__name__) in beside:
            took, each = beside[name]
            one = one.beside("diffusers", took, "diffusers", **more(took, trial.nfe, each))
        found.append(one)
    return found


def _apart(have: Tensor, want: Tensor) -> dict[str, Any]:
    """Largest differences of two final states and of their quantised images."""
    grey = [(x * 127.5 + 127.5).round().clamp(0, 255) for x in (have, want)]
    return {
        "difference": float((have - want).abs().max()),
        "grey_levels": int((grey[0] - grey[1]).abs().max()),
    }


def sampler_table(trial: Trial, readings: list[Reading]) -> str:
    """A text table with a row for each reading, and what is to be said of the readings."""
    model = trial.model
    text = f"{model.name}, batch {trial.batch}, {dtype_of(model)}\n"
    text += table(readings, calls="d", overhead="+.2%", difference=".2g", grey_levels="d")
    off = max((one.more.get("difference", 0.0) for one in readings), default=0.0)
    if off > COMPILED_WITHIN:
        text += f"\ncompiled and eager states differ by {off:.2g}, more than {COMPILED_WITHIN:g}"
    chunk = cpu_chunk(*model.shape[1:])
    if not model.device.startswith("cuda") and trial.batch % chunk:
        text += (
            f"\non a CPU we call the network with {chunk} padded images, so that no byte "
            f"depends on the batch; at batch {trial.batch} our overhead includes the padding"
        )
    return text
