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


@dataclass(frozen=True)
class Guided:
    """Classifier-free guidance (Ho and Salimans 2022): D_none + scale (D_class - D_none).

    One call is two of the network. A learned variance is that of the class.
    """

    given: Denoiser
    none: Denoiser
    scale: float

    def __call__(self, x: Tensor, sigma: float) -> Tensor:
        none = self.none(x, sigma)
        return none + self.scale * (self.given(x, sigma) - none)

    def with_variance(self, x: Tensor, sigma: float) -> tuple[Tensor, Tensor]:
        """Guided E[x0|x], and the variance's v."""
        assert isinstance(self.given, VarianceDenoiser)  # `check_fits`
        none = self.none(x, sigma)
        x0, v = self.given.with_variance(x, sigma)
        return none + self.scale * (x0 - none), v


def labels_of(seeds: Tensor, classes: int) -> Tensor:
    """The class of each seed [n]: seed mod classes, so that any run of seeds is balanced."""
    return seeds % classes


def _denoiser(model: Model, seeds: Tensor, guidance: float | None) -> Denoiser:
    """The model's, under the classes of the seeds [n] if it has any."""
    given = model.denoiser(labels_of(seeds, model.classes) if model.classes else None)
    return given if guidance is None else Guided(given, model.denoiser(), guidance)


def check_fits(model: Model, sampler: Sampler, guidance: float | None = None) -> None:
    """ValueError if a sampler or guidance asks for what the model does not give, before any
    sampling."""
    if guidance is not None and not model.classes:
        raise ValueError(f"{model.name} is unconditional: it takes no guidance")
    if guidance is not None:
        try:
            model.denoiser()
        except ValueError as error:
            raise ValueError(
                f"{model.name} was not trained to predict without a class: it takes no guidance"
            ) from error
    asks = getattr(sampler, "variance", None) == "learned"
    plain = _denoiser(model, torch.zeros(1, dtype=torch.int64), None)
    if asks and not isinstance(plain, VarianceDenoiser):
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
        denoise, noise = Counted(_denoiser(model, padded, guidance)), _noise(padded, model.shape)
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
    guidance: float | None = None,
) -> Tensor:
    """Images of a model: uint8 [len(seeds), c, h, w] on the CPU, one a seed.

    guidance: scale of classifier-free guidance; None for the plain conditional prediction.
    ValueError: nfe too small for the sampler, a schedule that gives no valid grid, guidance of a
    model that has no classes or no prediction without one.
    """
    if len(seeds) == 0 or min(seeds) < 0:
        raise ValueError("seeds must be non-negative integers, at least one")
    low, high = min(seeds), max(seeds)
    cell = Cell(model.name, schedule, sampler, nfe, range(low, max(high, low + 1) + 1))
    check_fits(model, sampler, guidance)
    grid = grid_of(cell, model.process)
    made = images(model, sampler, grid, seeds, batch, guidance)
    return torch.cat([part.cpu() for part, _ in made])
