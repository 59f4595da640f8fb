"""Rates: how fast the diffused distribution changes with the noise level, measured on a checkpoint.

v(sigma) = D(p_sigma, p_sigma') / |sigma - sigma'| for neighbouring levels. A measure is one frozen
dataclass `(model, images, sigmas) -> Rate`; a user's own needs nothing else.
"""

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from bench import store
from bench.features import full_float32
from bench.noise import normal
from bench.types import Model, Rate, RateMeasure

FIRST_SEED = 2**40  # measurements draw their noise from seeds that no sample uses


def _between(name: str, sigmas: Tensor, v: Tensor) -> Rate:
    """A rate from its means over the intervals of `sigmas`: held at their geometric midpoints, and
    at the two ends of the range as in the interval beside them."""
    middle = (sigmas[1:] * sigmas[:-1]).sqrt()
    level = torch.cat([sigmas[:1], middle, sigmas[-1:]])
    return Rate(name, level, torch.cat([v[:1], v, v[-1:]]))


def _prediction_rate(
    name: str,
    model: Model,
    images: Iterable[Tensor],
    sigmas: Tensor,
    predict: Callable[[Tensor, Tensor, float], Tensor],
) -> Rate:
    """Root mean square change of `predict(x0_hat, x, sigma)`, same x0 and eps at both levels."""
    denoise = model.denoiser()
    total, n = torch.zeros(len(sigmas) - 1, dtype=torch.float64), 0
    for batch in images:
        x0 = model.encode(batch)
        seeds = torch.arange(n, n + len(batch), device=x0.device) + FIRST_SEED
        eps = normal(seeds, 0, tuple(x0.shape[1:]))
        last, changes = None, []
        for sigma in sigmas.tolist():
            x = x0 + sigma * eps
            now = predict(denoise(x, sigma), x, sigma)
            if last is not None:
                changes.append((now - last).double().square().mean((1, 2, 3)).sum())
            last = now
        total += torch.stack(changes).cpu()
        n += len(batch)
    if n == 0:
        raise ValueError(f"{name}: no images to measure on")
    return _between(name, sigmas, (total / n).sqrt() / sigmas.diff())


@dataclass(frozen=True)
class DataPrediction:
    """v_x: root mean square change of the data prediction x0_hat = E[x0|x] (arXiv 2411.12188).

    Per pixel and per unit sigma, over data and noise, the same x0 and eps at both levels.
    """

    name: ClassVar[str] = "v_x"

    def __call__(self, model: Model, images: Iterable[Tensor], sigmas: Tensor) -> Rate:
        return _prediction_rate(self.name, model, images, sigmas, lambda x0, x, sigma: x0)


@dataclass(frozen=True)
class NoisePrediction:
    """v_eps: the same of the noise prediction eps_hat = (x - x0_hat) / sigma (arXiv 2411.12188)."""

    name: ClassVar[str] = "v_eps"

    def __call__(self, model: Model, images: Iterable[Tensor], sigmas: Tensor) -> Rate:
        def noise(x0: Tensor, x: Tensor, sigma: float) -> Tensor:
            return (x - x0) / sigma

        return _prediction_rate(self.name, model, images, sigmas, noise)


def measure(
    model: Model, measure: RateMeasure, images: Tensor, levels: int = 101, batch: int = 256
) -> Rate:
    """A rate over the process's whole range at `levels` sigmas, equally spaced in log sigma.

    images  uint8 [n, c, h, w]; 256 are enough for v_x and v_eps (a 10-step grid moves by 0.01 in t)
    ValueError: fewer than 4 levels or no images.
    """
    if levels < 4:
        raise ValueError(f"a rate needs at least 4 levels, not {levels}")
    process = model.process
    sigmas = torch.as_tensor(np.geomspace(process.sigma_min, process.sigma_max, levels))
    batches = tqdm(images.split(batch), desc=f"measure {measure!r}", unit="batch", disable=None)
    with full_float32():  # TF32's rounding is not small beside the change between levels
        rate = measure(model, batches, sigmas)
    provenance = {
        "measure": repr(measure), "model": model.name, "model_digest": model.digest,
        "images": len(images), "levels": levels, "first_seed": FIRST_SEED,
        "data_digest": hashlib.sha256(images.contiguous().numpy().tobytes()).hexdigest(),
    }  # fmt: skip
    return Rate(rate.name, rate.sigma, rate.v, provenance)


def save_rate(path: Path, rate: Rate) -> Path:
    """Write a rate as a small JSON file."""
    content = {"name": rate.name, "sigma": rate.sigma.tolist(), "v": rate.v.tolist()}
    return store.write_json(path, content | {"provenance": rate.provenance})


def load_rate(path: Path) -> Rate:
    """Read a rate; ValueError naming the file if it is missing or no rate."""
    if not Path(path).is_file():
        model = Path(path).parent.parent.name
        raise ValueError(f"no rate {path}; first: crs-bench measure {model}")
    content = store.read_json(path)
    try:
        sigma, v = (torch.tensor(content[k], dtype=torch.float64) for k in ("sigma", "v"))
        return Rate(content["name"], sigma, v, content["provenance"])
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path} is not a rate file ({error}); measure it again") from error


def measured(folder: Path) -> dict[str, Rate]:
    """All rates of a model folder, by name: those of `folder/rates/*.json`."""
    found = [load_rate(path) for path in sorted((folder / "rates").glob("*.json"))]
    return {rate.name: rate for rate in found}
