"""`measure`: one measure over a process's whole range, in segments that survive a stop."""

import hashlib
import inspect
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from bench import store
from bench.features import full_float32
from bench.lazy import Tensor
from bench.measures.files import from_json, to_json
from bench.measures.predictions import FIRST_SEED
from bench.types import CostMeasure, Costs, Measure, Model, Rate

_SEGMENT = 10  # intervals between levels, about, that are measured and kept together

Images = Tensor | Callable[[], Tensor] | None


def measure(
    model: Model,
    measure: Measure,
    images: Images = None,
    levels: int | None = None,
    batch: int = 256,
    partial: Path | None = None,
) -> Rate | Costs:
    """Measure a rate or costs over the process's whole range of sigma.

    Arguments:
        images: uint8 [n, c, h, w], or a function that gives them. The function is called only if
            the measure needs images. 256 images are enough for v_x and v_eps: a grid of 10 steps
            then moves by 0.01 in t.
        levels: number of noise levels. Default: the measure's `default_levels`.
        batch: images at once; the result does not depend on it.
        partial: a file that keeps the finished segments. A second call after a stop does not
            measure them again, unless the measure's code changed. The file is deleted at the end.
            A measure that takes the whole range at once does not use it.

    Returns:
        `Costs` of a `CostMeasure`, else a `Rate`, with the measure's name.

    Raises:
        ValueError: too few levels, no images where some are needed, an object that is no
            `Measure`, or a result of NaN or of zeros alone.
    """
    real = _read(measure, images)
    provenance = planned(model, measure, levels, 0 if real is None else len(real))
    if real is not None:
        pixels = real.contiguous().numpy().tobytes()
        provenance["data_digest"] = hashlib.sha256(pixels).hexdigest()
    cuts = _cuts(measure, provenance["levels"])
    kept = _Kept(None if measure.whole_range else partial,
                 provenance | {"cuts": cuts, "source": _source(measure)})  # fmt: skip
    sigmas = measure.levels(provenance["levels"], model.process)

    def segment(ends: tuple[int, int]) -> Rate | Costs:
        about = f"{measure.name}, levels {ends[0]} to {ends[1]} of {len(sigmas)}"
        batches = () if real is None else tqdm(
            real.split(batch), unit="batch", disable=None, desc=about
        )  # fmt: skip
        return _checked(measure, measure(model, batches, sigmas[ends[0] : ends[1] + 1]))

    with full_float32():  # the rounding of TF32 is not small beside the change between levels
        todo = list(pairwise(cuts))[len(kept.parts) :]
        overlap = measure.overlaps and model.device != "cpu"
        for found in _ahead(segment, todo, 3 if overlap else 1):
            kept.add(found)
    whole = kept.joined()
    if isinstance(whole, Rate) and not (whole.v > 0).any():
        raise ValueError(f"{measure!r} found no change at any level of {model.name}")
    return replace(whole, name=measure.name, provenance=whole.provenance | provenance)


def planned(
    model: Model, measure: Measure, levels: int | None = None, images: int = 0
) -> dict[str, Any]:
    """The provenance that is known before anything is measured.

    Arguments:
        levels: number of noise levels. Default: the measure's `default_levels`.
        images: number of images; ignored if the measure needs none.

    Raises:
        ValueError: an object that is no `Measure`, too few levels, or a process alone where a
            network is needed.
    """
    _check(measure)
    if measure.needs_network and not model.has_network:
        raise ValueError(f"{measure!r} needs a network, but {model.name} is a process alone: name "
                         "a model")  # fmt: skip
    count = measure.default_levels if levels is None else levels
    least = 3 if isinstance(measure, CostMeasure) else 4
    if count < least:
        raise ValueError(f"{measure!r} needs at least {least} levels, not {count}")
    return {
        "measure": measure.spec(), "model": model.name, "model_digest": model.digest,
        "levels": count, "first_seed": FIRST_SEED,
    } | ({"images": images} if measure.needs_images else {})  # fmt: skip


def _check(measure: object) -> None:
    if not isinstance(measure, Measure):
        raise ValueError(f"{measure!r} is no measure: derive its class from bench.Measure")


def _read(measure: Measure, images: Images) -> Tensor | None:
    """The images if the measure needs them."""
    _check(measure)
    if not measure.needs_images:
        return None
    found = images() if callable(images) else images
    if found is None or len(found) == 0:
        raise ValueError(f"{measure!r} needs images, and there are no images to measure on")
    return found


def _cuts(measure: Measure, levels: int) -> list[int]:
    """The first and last level of each segment; neighbours share a level."""
    parts = 1 if measure.whole_range else max(1, round((levels - 1) / _SEGMENT))
    return [round(i * (levels - 1) / parts) for i in range(parts + 1)]


def _checked(measure: Measure, found: object) -> Rate | Costs:
    wanted = Costs if isinstance(measure, CostMeasure) else Rate
    if not isinstance(found, wanted):
        raise ValueError(f"{measure!r} gave {type(found).__name__}, not bench.{wanted.__name__}")
    return found


def _ahead(
    of: Callable[[tuple[int, int]], Rate | Costs], todo: list[tuple[int, int]], workers: int
) -> Iterator[Rate | Costs]:
    """The results of `of`, in order; `workers` of them are computed at once."""
    if workers == 1:
        yield from map(of, todo)
        return
    with ThreadPoolExecutor(workers) as pool:
        try:
            yield from pool.map(of, todo)
        finally:
            pool.shutdown(cancel_futures=True)


def _source(measure: Measure) -> str:
    """The digest of a user's module; empty for the measures of this package.

    An edited measure must not be joined to segments that its old code measured.
    """
    kind = type(measure)
    if kind.__module__.startswith("bench."):
        return ""
    try:
        return hashlib.sha256(Path(inspect.getfile(kind)).read_bytes()).hexdigest()
    except (OSError, TypeError):  # the class was defined at a prompt
        return ""


class _Kept:
    """The finished segments of one measurement, in a file if there is one."""

    def __init__(self, path: Path | None, identity: dict[str, Any]) -> None:
        self.path, self.identity = path, identity
        self.parts: list[Rate | Costs] = []
        if path is None or not path.is_file():
            return
        try:
            content = store.read_json(path)
            if content["identity"] == identity:  # else other weights, images, levels or code
                self.parts = [from_json(part) for part in content["parts"]]
        except (KeyError, TypeError, AttributeError, ValueError):
            return  # a damaged file: measure everything again

    def add(self, part: Rate | Costs) -> None:
        self.parts.append(part)
        if self.path:
            parts = [to_json(one) for one in self.parts]
            store.write_json(self.path, {"identity": self.identity, "parts": parts})

    def joined(self) -> Rate | Costs:
        """All segments as one; deletes the file."""
        whole, *others = self.parts
        for part in others:
            assert isinstance(whole, Rate) and isinstance(part, Rate)  # costs have one segment
            whole = _joined(whole, part)
        if self.path:
            self.path.unlink(missing_ok=True)
        return whole


def _joined(left: Rate, right: Rate) -> Rate:
    """Two neighbouring segments as one rate.

    Segments that share no level follow each other. A shared level that only repeats its neighbour
    (the held end of `rate_between`) is dropped. Otherwise its two values are averaged.
    """
    rows = [np.stack([r.v, *(r.replicates if r.replicates is not None else [])])
            for r in (left, right)]  # fmt: skip
    if left.sigma[-1] * (1 + 1e-9) < right.sigma[0]:
        sigma, values = np.concatenate([left.sigma, right.sigma]), np.concatenate(rows, axis=1)
    elif left.v[-1] == left.v[-2] and right.v[0] == right.v[1]:
        sigma = np.concatenate([left.sigma[:-1], right.sigma[1:]])
        values = np.concatenate([rows[0][:, :-1], rows[1][:, 1:]], axis=1)
    else:
        sigma = np.concatenate([left.sigma, right.sigma[1:]])
        middle = (rows[0][:, -1:] + rows[1][:, :1]) / 2
        values = np.concatenate([rows[0][:, :-1], middle, rows[1][:, 1:]], axis=1)
    replicates = values[1:] if len(values) > 1 else None
    return Rate(left.name, sigma, values[0], left.provenance, replicates)
