"""Find a batch size that fits the memory and the time limit."""

import math
from dataclasses import replace

import torch

from bench.benchmarks.sampling import SAMPLERS, Trial, schedulers
from bench.checkpoints import Checkpoint
from bench.samplers import UniPC

LARGEST = 500  # images at once on a GPU
LARGEST_ON_CPU = 4


def fitting(
    model: Checkpoint, nfe: int, batch: int, repeats: int, compiled: bool, seconds: float
) -> Trial:
    """A trial whose batch fits.

    The batch is halved until the network and the multistep samplers fit in memory, and until
    `time_samplers` takes about `seconds` at most. A given batch without a time limit is kept.

    Arguments:
        batch: images at once; 0: 500 on a GPU, 4 on a CPU.
        compiled: whether compiled networks are timed too.
        seconds: time limit; inf: no limit.

    Raises:
        ValueError: one image takes longer than `seconds`.
        RuntimeError: one image does not fit in memory.
    """
    gpu = model.device.startswith("cuda")
    trial = Trial(model, nfe, batch or (LARGEST if gpu else LARGEST_ON_CPU), repeats)
    if seconds == math.inf and (batch or not gpu):
        return trial
    most, calls, best = trial.batch, network_calls(trial, compiled), 0
    for size in reversed([most >> k for k in range(most.bit_length())]):  # 1, ..., most // 2, most
        try:
            took = calls * _seconds_a_call(replace(trial, nfe=4, batch=size))
        except RuntimeError:  # out of memory, or a kernel with 32-bit indices
            if not best:
                raise
            torch.cuda.empty_cache()
            break
        if took > seconds:
            break
        best = size
    if not best:
        raise ValueError(
            f"{model.name} takes about {took:.3g} s with a batch of 1, but the limit is "
            f"{max(seconds, 0):.3g} s; raise --seconds, or lower --nfe"
        )
    return replace(trial, batch=best)


def network_calls(trial: Trial, compiled: bool) -> int:
    """Calls of the network in `time_samplers`, with the warm-up."""
    ours, turns = len(SAMPLERS), trial.repeats + 1
    runs = turns * (1 + ours + len(schedulers()))
    if compiled:  # the network and our samplers again, and two final states to compare
        runs += turns * (1 + ours) + 2 * ours
    return trial.nfe * runs


def _seconds_a_call(trial: Trial) -> float:
    """Seconds for each network call, after a warm-up. UniPC needs the most memory."""
    ours = trial.ours(UniPC())
    for work in (ours, trial.theirs(schedulers()["UniPC"])):
        work()
    return trial.seconds(ours) / trial.nfe
