"""Where the time of a network's forward pass goes: seconds of each class of kernel."""

import re
from collections import Counter

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from bench.benchmarks.record import Reading, seconds_of
from bench.benchmarks.sampling import dtype_of
from bench.benchmarks.throughput import Call
from bench.checkpoints import Checkpoint

_PRODUCTS, _ATTENTION = "convolutions and matrix products", "attention"
_POINTWISE, _COPIES, _OTHER = "norms and pointwise", "copies and layout", "other"
CLASSES = _PRODUCTS, _ATTENTION, _POINTWISE, _COPIES, _OTHER
# The first pattern that a name matches decides. Names are of CUDA's, Triton's and ATen's kernels.
# Triton's fused kernels are named after all that they fuse.
_MOVES = "_to_copy|_unsafe_view|cat|clone|copy|permute|stack|transpose|unbind|view"
_PATTERNS = (
    (_PRODUCTS, "^triton_tem_"),
    (_COPIES, rf"^triton_poi_fused_(({_MOVES})_)+\d+$"),
    (_POINTWISE, "^triton_"),
    (_ATTENTION, "flash|fmha|sdpa|attention|softmax"),
    (_COPIES, "to(nhwc|nchw)|converttensor|mem(cpy|set)|copy|catarray|::(cat|clone|contiguous)$|"
              "(?<!conv_)transpose"),
    (_PRODUCTS, "conv|[fdw](prop|grad)|xmma|cudnn|gem[mv]|nvjet|cutlass|splitk|mm$|linear"),
    (_POINTWISE, "elementwise|reduce|norm|moments|upsample|pool|::(silu|gelu|add|sub|mul|div|var|"
                 "mean|rsqrt|pad|constant)"),
)  # fmt: skip
_RANGES = re.compile("Torch-Compiled|CompiledFxGraph|ProfilerStep|## ")  # on a GPU no kernels


def class_of(kernel: str) -> str:
    """The class of `CLASSES` of a kernel or an operator, by its name."""
    return next((kind for kind, words in _PATTERNS if re.search(words, kernel, re.I)), _OTHER)


def profiled(model: Checkpoint, batch: int, calls: int = 3) -> list[Reading]:
    """Profile the network's forward pass with torch.profiler.

    On a CPU the kernels are ATen's operators. What a compiler made there is `other`.

    Returns:
        One reading of the whole call. `busy`: share of its time in which the device runs kernels.
        `kernels`: number of them. Then one of each class. `share`: of the sum of all classes.
        `longest`: its three longest kernels, name -> seconds of a call.
    """
    call, gpu = Call(model, batch, torch.channels_last), model.device.startswith("cuda")
    call.warm()
    with profile(activities=[ProfilerActivity.CUDA if gpu else ProfilerActivity.CPU]) as found:
        seconds = seconds_of(lambda: [call.once() for _ in range(calls)], model.device) / calls
    by: dict[str, Counter[str]] = {kind: Counter() for kind in CLASSES}
    counts, busy, end = Counter[str](), 0.0, 0.0
    for event in sorted(found.events(), key=lambda one: one.time_range.start):
        if gpu and (event.device_type != DeviceType.CUDA or _RANGES.match(event.name)):
            continue
        span, kind = event.time_range, class_of(event.name)
        took = span.elapsed_us() if gpu else event.self_cpu_time_total
        by[kind][event.name] += took / calls / 1e6
        counts[kind] += 1
        busy += max(0.0, span.end - max(span.start, end)) / calls / 1e6
        end = max(end, span.end)
    what, total = f"{model.name}, batch {batch}, profiled", sum(x.total() for x in by.values())
    whole = {"network": model.name, "dtype": dtype_of(model), "batch": batch,
             "busy": busy / seconds, "kernels": counts.total() / calls}  # fmt: skip
    return [Reading(what, seconds, whole)] + [
        Reading(kind, taken.total(), {
            "of": what, "share": taken.total() / total, "kernels": counts[kind] / calls,
            "longest": {name[:120]: took for name, took in taken.most_common(3)},
        }) for kind, taken in by.items()
    ]  # fmt: skip
