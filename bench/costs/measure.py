"""A cost measure over a process's whole range."""

from collections.abc import Iterable
from dataclasses import replace

from torch import Tensor

from bench.features import full_float32
from bench.rates import FIRST_SEED
from bench.types import CostMeasure, Costs, Model


def measure(
    model: Model, measure: CostMeasure, images: Iterable[Tensor], levels: int = 61
) -> Costs:
    """Costs of all steps between `levels` levels of the measure's `fine` schedule.

    images  batches uint8 [n, c, h, w], such as `images.split(256)`; results do not depend on how
            they are cut. A measure that needs none never asks for the first
    ValueError: fewer than 3 levels, no images where some are needed, costs of NaN.
    """
    if levels < 3:
        raise ValueError(f"costs need at least 3 levels, not {levels}")
    sigmas = measure.fine(levels, model.process)[:-1]
    with full_float32():  # as rates are measured
        found = measure(model, images, sigmas)
    provenance = {
        "measure": repr(measure), "model": model.name, "model_digest": model.digest,
        "levels": levels, "first_seed": FIRST_SEED,
    }  # fmt: skip
    return replace(found, provenance=provenance | found.provenance)
