"""How many images at once: what memory holds, and what there is time for."""

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
    """A trial of `batch` images (0: 500 on a GPU, 4 on a CPU), fewer where it must be.

    Halved until the network and samplers with a past fit in memory, and a whole `time_samplers`
    takes about `seconds` at most (inf: any time). A batch that is asked for by number, with any
    time, is left as it is. ValueError where one image takes longer; RuntimeError where it does not
    fit.
    """
    gpu = model.device.startswith("cuda")
    trial = Trial(model, nfe, batch or (LARGEST if gpu else LARGEST_ON_CPU), repeats)
    if seconds == math.inf and (batch or not gpu):
        return trial
    most, calls, best = trial.batch, network_calls(trial, compiled), 0
    for size in reversed([most >> k for k in range(most.bit_length())]):  # 1, ..., most // 2, most
        try:
            took = calls * _seconds_a_call(replace(trial, nfe=4, batch=size))
        except RuntimeError:  # out of memory, or a kernel that counts no further than 2^31
            if not best:
                raise
            torch.cuda.empty_cache()
            break
        if took > seconds:
            break
        best = size
    if not best:
        raise ValueError(
            f"{model.name} takes about {took:.3g} s with one image at once and there are "
            f"{max(seconds, 0):.3g}; raise --seconds, or lower --nfe"
        )
    return replace(trial, batch=best)


def network_calls(trial: Trial, compiled: bool) -> int:
    """The network calls of one `time_samplers`, with its warm-up."""
    ours, turns = len(SAMPLERS), trial.repeats + 1
    runs = turns * (1 + ours + len(schedulers()))
    if compiled:  # the network and ours again, and a last state of both to compare
        runs += turns * (1 + ours) + 2 * ours
    return trial.nfe * runs


def _seconds_a_call(trial: Trial) -> float:
    """With the samplers that hold most memory, warmed up."""
    ours = trial.ours(UniPC())
    for work in (ours, trial.theirs(schedulers()["UniPC"])):
        work()
    return trial.seconds(ours) / trial.nfe
