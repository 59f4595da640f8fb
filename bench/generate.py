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


@dataclass
class CountedVariance(VarianceDenoiser):
    """`Counted`, of a denoiser that predicts its variance."""

    denoise: VarianceDenoiser
    calls: int = 0

    def __call__(self, x: Tensor, sigma: float) -> Tensor:
        self.calls += 1
        return self.denoise(x, sigma)

    def with_variance(self, x: Tensor, sigma: float) -> tuple[Tensor, Tensor]:
        self.calls += 1
        return self.denoise.with_variance(x, sigma)


def counted(denoise: Denoiser) -> Counted | CountedVariance:
    """The denoiser with a counter; it predicts a variance if the denoiser does."""
    if isinstance(denoise, VarianceDenoiser):
        return CountedVariance(denoise)
    return Counted(denoise)


@dataclass(frozen=True)
class Guided:
    """Classifier-free guidance (Ho and Salimans 2022): D_none + scale (D_class - D_none).

    One call of it is two calls of the network.
    """

    given: Denoiser
    none: Denoiser
    scale: float

    def __call__(self, x: Tensor, sigma: float) -> Tensor:
        none = self.none(x, sigma)
        return none + self.scale * (self.given(x, sigma) - none)


@dataclass(frozen=True)
class GuidedVariance(VarianceDenoiser):
    """`Guided`, of a model that predicts its variance: the variance is that of the class."""

    given: VarianceDenoiser
    none: Denoiser
    scale: float

    def __call__(self, x: Tensor, sigma: float) -> Tensor:
        return self.with_variance(x, sigma)[0]

    def with_variance(self, x: Tensor, sigma: float) -> tuple[Tensor, Tensor]:
        none = self.none(x, sigma)
        x0, v = self.given.with_variance(x, sigma)
        return none + self.scale * (x0 - none), v


def labels_of(seeds: Tensor, classes: int) -> Tensor:
    """The class of each seed [n]: seed mod classes, so that any run of seeds is balanced."""
    return seeds % classes


def _denoiser(model: Model, seeds: Tensor, guidance: float | None) -> Denoiser:
    """The model's denoiser, given the class of each seed [n] if the model has classes."""
    given = model.denoiser(labels_of(seeds, model.classes) if model.classes else None)
    if guidance is None:
        return given
    if isinstance(given, VarianceDenoiser):
        return GuidedVariance(given, model.denoiser(), guidance)
    return Guided(given, model.denoiser(), guidance)


def check_fits(model: Model, sampler: Sampler, guidance: float | None = None) -> None:
    """Check, before any sampling, that the model gives what the sampler and guidance ask for.

    Raises:
        ValueError: guidance of a model without classes or without a prediction that needs no class;
            a sampler that needs a variance, of a model that predicts none.
    """
    if guidance is not None and not model.classes:
        raise ValueError(f"{model.name} is unconditional: it takes no guidance")
    if guidance is not None:
        try:
            model.denoiser()
        except ValueError as error:
            raise ValueError(
                f"{model.name} was not trained to predict without a class: it takes no guidance"
            ) from error
    if sampler.needs_variance and not model.predicts_variance:
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
    model: Model,
    sampler: Sampler,
    grid: Tensor,
    seeds: Sequence[int],
    batch: int,
    guidance: float | None = None,
) -> Iterator[tuple[Tensor, int]]:
    """Batches of (uint8 [<= batch, c, h, w] on the model's device, counted NFE), in seed order.

    Every batch has the full size while it is sampled, so that a compiled network sees one shape.

    Raises:
        ValueError: batch below 1; no seeds, or negative ones.
        RuntimeError: the sampler called the denoiser more or less often than its `evals`.
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
        denoise = counted(_denoiser(model, padded, guidance))
        noise = _noise(padded, model.shape)
        with torch.inference_mode():
            x = sampler(denoise, float(grid[0]) * noise(), grid, noise)
        if denoise.calls != sampler.evals(grid):
            raise RuntimeError(
                f"{sampler!r} made {denoise.calls} calls, but evals(grid) is {sampler.evals(grid)}"
            )
        yield model.decode(x[: len(wanted)]), denoise.calls


def sample(
    model: Model,
    sampler: Sampler,
    schedule: Schedule,
    nfe: int,
    seeds: Sequence[int],
    batch: int = 64,
    guidance: float | None = None,
) -> Tensor:
    """Images of a model.

    Arguments:
        model: as of `bench.load`.
        nfe: the most evaluations of the denoiser for each image.
        seeds: whole numbers from 0; each gives one image.
        batch: images at once; the images do not depend on it.
        guidance: scale of classifier-free guidance; None: the plain (conditional) prediction.

    Returns:
        uint8 [len(seeds), c, h, w] on the CPU.

    Raises:
        ValueError: an nfe too small for the sampler, a schedule that gives no valid grid, no seeds,
            what `check_fits` refuses.
    """
    if len(seeds) == 0 or min(seeds) < 0:
        raise ValueError("seeds must be non-negative integers, at least one")
    low, high = min(seeds), max(seeds)
    cell = Cell(model.name, schedule, sampler, nfe, range(low, max(high, low + 1) + 1))
    check_fits(model, sampler, guidance)
    grid = grid_of(cell, model.process)
    made = images(model, sampler, grid, seeds, batch, guidance)
    return torch.cat([part.cpu() for part, _ in made])
