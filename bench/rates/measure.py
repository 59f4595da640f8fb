"""A measure over a process's whole range, level by level, so that it can be stopped and resumed."""

import hashlib
import inspect
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from bench import store
from bench.features import full_float32
from bench.rates.files import from_json, to_json
from bench.rates.measures import FIRST_SEED
from bench.types import Model, Rate, RateMeasure

_SEGMENT = 10  # intervals between levels, about, that are measured and kept together


def measure(
    model: Model,
    measure: RateMeasure,
    images: Tensor,
    levels: int = 101,
    batch: int = 256,
    partial: Path | None = None,
) -> Rate:
    """A rate over the process's whole range at `levels` sigmas, equally spaced in log sigma.

    images  uint8 [n, c, h, w]; 256 are enough for v_x and v_eps (a 10-step grid moves by 0.01 in t)
    partial a file that keeps the finished levels: call again after a stop and they are not measured
            twice, unless the measure was edited; deleted at the end
    ValueError: fewer than 4 levels, no images, no measure of rates, a rate of NaN.
    """
    _check(measure, images, levels)
    process = model.process
    sigmas = torch.as_tensor(np.geomspace(process.sigma_min, process.sigma_max, levels))
    provenance = {
        "measure": repr(measure), "model": model.name, "model_digest": model.digest,
        "images": len(images), "levels": levels, "first_seed": FIRST_SEED,
        "data_digest": hashlib.sha256(images.contiguous().numpy().tobytes()).hexdigest(),
    }  # fmt: skip
    parts = max(1, round((levels - 1) / _SEGMENT))
    cuts = [round(i * (levels - 1) / parts) for i in range(parts + 1)]
    identity = provenance | {"cuts": cuts, "source": _source(measure)}
    done = _kept(partial, identity)
    with full_float32():  # TF32's rounding is not small beside the change between levels

        def segment(ends: tuple[int, int]) -> Rate:
            batches = tqdm(
                images.split(batch), unit="batch", disable=None,
                desc=f"{measure!r}, levels {ends[0]} to {ends[1]} of {levels}",
            )  # fmt: skip
            return _rate(measure, measure(model, batches, sigmas[ends[0] : ends[1] + 1]))

        todo = list(pairwise(cuts))[len(done) :]
        overlap = getattr(measure, "overlaps", False) and model.device != "cpu"
        for rate in _ahead(segment, todo, 3 if overlap else 1):
            done.append(rate)
            _keep(partial, identity, done)
    rate = _joined(done)
    if partial:
        partial.unlink(missing_ok=True)
    if not (rate.v > 0).any():
        raise ValueError(f"{measure!r} found no change at any level of {model.name}")
    return Rate(rate.name, rate.sigma, rate.v, provenance, rate.replicates)


def _check(measure: RateMeasure, images: Tensor, levels: int) -> None:
    if levels < 4:
        raise ValueError(f"a rate needs at least 4 levels, not {levels}")
    if len(images) == 0:
        raise ValueError(f"{measure!r}: no images to measure on")
    if not callable(measure) or len(inspect.signature(measure).parameters) != 3:
        raise ValueError(f"{measure!r} is no measure of a rate: (model, images, sigmas) -> Rate")


def _rate(measure: RateMeasure, found: object) -> Rate:
    if not isinstance(found, Rate):
        raise ValueError(f"{measure!r} gave a {type(found).__name__}, not a bench.types.Rate")
    return found


def _ahead(
    of: Callable[[tuple[int, int]], Rate], todo: list[tuple[int, int]], workers: int
) -> Iterator[Rate]:
    """`of` each, in order, that many at once."""
    if workers == 1:
        yield from map(of, todo)
        return
    with ThreadPoolExecutor(workers) as pool:
        try:
            yield from pool.map(of, todo)
        finally:
            pool.shutdown(cancel_futures=True)


def _source(measure: RateMeasure) -> str:
    """The digest of a user's module, so that an edited measure does not go on with the old one's
    levels; empty for the measures of this package."""
    kind = type(measure)
    if kind.__module__.startswith("bench."):
        return ""
    try:
        return hashlib.sha256(Path(inspect.getfile(kind)).read_bytes()).hexdigest()
    except (OSError, TypeError):  # of no file: defined at a prompt
        return ""


def _kept(partial: Path | None, identity: dict) -> list[Rate]:
    """The segments that an earlier run of the same measurement finished."""
    if partial is None or not partial.is_file():
        return []
    try:
        content = store.read_json(partial)
        if content["identity"] != identity:
            return []  # of other weights, images, levels or code
        return [from_json(part) for part in content["parts"]]
    except (KeyError, TypeError, AttributeError, ValueError):
        return []  # damaged: nothing in it can be gone on with


def _keep(partial: Path | None, identity: dict, done: list[Rate]) -> None:
    if partial:
        store.write_json(partial, {"identity": identity, "parts": [to_json(r) for r in done]})


def _joined(parts: list[Rate]) -> Rate:
    """Segments as one rate. Where two meet, a level that only repeats its neighbour (the held end
    of `rate_between`) is dropped; otherwise the two readings of that level are averaged. Segments
    that share no level follow each other."""
    whole = parts[0]
    for part in parts[1:]:
        left, right = whole, part
        rows = [torch.stack([r.v, *(r.replicates if r.replicates is not None else [])])
                for r in (left, right)]  # fmt: skip
        if left.sigma[-1] * (1 + 1e-9) < right.sigma[0]:
            sigma, values = torch.cat([left.sigma, right.sigma]), torch.cat(rows, dim=1)
        elif left.v[-1] == left.v[-2] and right.v[0] == right.v[1]:
            sigma = torch.cat([left.sigma[:-1], right.sigma[1:]])
            values = torch.cat([rows[0][:, :-1], rows[1][:, 1:]], dim=1)
        else:
            sigma = torch.cat([left.sigma, right.sigma[1:]])
            middle = (rows[0][:, -1:] + rows[1][:, :1]) / 2
            values = torch.cat([rows[0][:, :-1], middle, rows[1][:, 1:]], dim=1)
        whole = Rate(left.name, sigma, values[0], {}, values[1:] if len(values) > 1 else None)
    return whole
