"""A cell -> a stream of uint8 images, the same bytes for any batch size."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bench.noise import normal
from bench.types import (
    Cell,
    Denoiser,
    Model,
    Noise,
    Sampler,
    Schedule,
    VarianceDenoiser,
    grid_of,
)


@dataclass
class Counted:
    """A denoiser that counts its calls: the only source of NFE."""

    denoise: Denoiser
    calls: int = 0

    def __call__(self, x: Tensor, sigma: float) -> Tensor:
        self.calls += 1
        return self.denoise(x, sigma)

    def with_variance(self, x: Tensor, sigma: float) -> tuple[Tensor, Tensor]:
        """E[x0|x] and the variance's v; a call as well."""
        if not isinstance(self.denoise, VarianceDenoiser):
            raise ValueError("this model predicts no variance of its own")
        self.calls += 1
        return self.denoise.with_variance(x, sigma)


def check_fits(model: Model, sampler: Sampler) -> None:
    """ValueError if a sampler asks for what the model does not give, before any sampling."""
    asks = getattr(sampler, "variance", None) == "learned"
    if asks and not isinstance(model.denoiser(), VarianceDenoiser):
        raise ValueError(
            f"{model.name} predicts no variance, which {sampler!r} needs; take "
            "DDPM(variance='posterior') or 'upper', or a model whose card says learned_variance"
        )


def _noise(seeds: Tensor, shape: tuple[int, ...]) -> Noise:
    """Draw 0 is the starting point; each call then gives the next draw of every seed."""
    draw = -1

    def noise() -> Tensor:
        nonlocal draw
        draw += 1
        return normal(seeds, draw, shape)

    return noise


def images(
    model: Model, sampler: Sampler, grid: Tensor, seeds: Sequence[int], batch: int
) -> Iterator[tuple[Tensor, int]]:
    """Batches of (uint8 [<= batch, c, h, w] on the model's device, counted NFE), in seed order.

    Every batch is walked at full size, so that a compiled network sees one shape.
    RuntimeError: the sampler called the denoiser more or less often than it says.
    """
    if batch < 1:
        raise ValueError(f"batch must be at least 1, not {batch}")
    everything = torch.as_tensor(list(seeds), dtype=torch.int64)
    if len(everything) == 0 or int(everything.min()) < 0:
        raise ValueError("seeds must be non-negative integers, at least one")
    batch = min(batch, len(everything))
    for start in range(0, len(everything), batch):
        wanted = everything[start : start + batch]
        padded = torch.cat([wanted, everything[: batch - len(wanted)]]).to(model.device)
        denoise, noise = Counted(model.denoiser()), _noise(padded, model.shape)
        with torch.inference_mode():
            x = sampler(denoise, float(grid[0]) * noise(), grid, noise)
        if denoise.calls != sampler.evals(grid):
            raise RuntimeError(
                f"{sampler!r} made {denoise.calls} calls where it says {sampler.evals(grid)}"
            )
        yield model.decode(x[: len(wanted)]), denoise.calls


def sample(
    model: Model,
    sampler: Sampler,
    schedule: Schedule,
    nfe: int,
    seeds: Sequence[int],
    batch: int = 64,
) -> Tensor:
    """Images of a model: uint8 [len(seeds), c, h, w] on the CPU, one a seed.

    ValueError: nfe too small for the sampler, a schedule that gives no valid grid.
    """
    if len(seeds) == 0 or min(seeds) < 0:
        raise ValueError("seeds must be non-negative integers, at least one")
    low, high = min(seeds), max(seeds)
    cell = Cell(model.name, schedule, sampler, nfe, range(low, max(high, low + 1) + 1))
    check_fits(model, sampler)
    grid = grid_of(cell, model.process)
    return torch.cat([made.cpu() for made, _ in images(model, sampler, grid, seeds, batch)])
