"""Sample uint8 images. The bytes do not depend on the batch size."""

import math
import shlex
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

from bench.lazy import Tensor, torch
from bench.machine import spread
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
    written,
)


@dataclass
class Counted:
    """A denoiser that counts its calls. The NFE is this count."""

    denoise: Denoiser
    calls: int = 0

    def __call__(self, x: Tensor, sigma: float) -> Tensor:
        self.calls += 1
        return self.denoise(x, sigma)


@dataclass
class CountedVariance(VarianceDenoiser):
    """`Counted` for a denoiser that predicts a variance."""

    denoise: VarianceDenoiser
    calls: int = 0

    def __call__(self, x: Tensor, sigma: float) -> Tensor:
        self.calls += 1
        return self.denoise(x, sigma)

    def with_variance(self, x: Tensor, sigma: float) -> tuple[Tensor, Tensor]:
        self.calls += 1
        return self.denoise.with_variance(x, sigma)


def counted(denoise: Denoiser) -> Counted | CountedVariance:
    """Add a counter to a denoiser. A `VarianceDenoiser` stays one."""
    if isinstance(denoise, VarianceDenoiser):
        return CountedVariance(denoise)
    return Counted(denoise)


@dataclass(frozen=True)
class Guided:
    """Classifier-free guidance (Ho and Salimans 2022): D_none + scale (D_class - D_none).

    Each call makes two calls of the network.
    """

    given: Denoiser
    none: Denoiser
    scale: float

    def __call__(self, x: Tensor, sigma: float) -> Tensor:
        none = self.none(x, sigma)
        return none + self.scale * (self.given(x, sigma) - none)


@dataclass(frozen=True)
class GuidedVariance(VarianceDenoiser):
    """`Guided` for a model that predicts a variance. The variance is the class-conditional one."""

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
    """The class of each seed [n]: seed mod classes. Consecutive seeds are balanced over classes."""
    return seeds % classes


def _denoiser(model: Model, seeds: Tensor, guidance: float | None) -> Denoiser:
    """The model's denoiser for the classes of the seeds [n], with guidance if there is a scale."""
    given = model.denoiser(labels_of(seeds, model.classes) if model.classes else None)
    if guidance is None:
        return given
    if isinstance(given, VarianceDenoiser):
        return GuidedVariance(given, model.denoiser(), guidance)
    return Guided(given, model.denoiser(), guidance)


def check_measured(schedule: Schedule, model: str, digest: str) -> None:
    """ValueError where a schedule was measured on other weights of the same model.

    A measurement of another model is the user's choice.

    Arguments:
        model, digest: of the model that is sampled.
    """
    for found in schedule.measured:
        for source in (found.provenance, *found.provenance.get("parts", [])):
            if source.get("model") == model and source.get("model_digest") != digest:
                how = source.get("measure")
                form = shlex.quote(written(how)) if isinstance(how, dict) else "MEASURE"
                part = "" if source is found.provenance else "a part of "
                raise ValueError(
                    f"{part}{found.name} was measured on other weights of {model}; delete its "
                    f".json file, and measure it again: crs-bench measure MODEL --measure {form}"
                )


def check_fits(
    model: Model, sampler: Sampler, guidance: float | None = None, schedule: Schedule | None = None
) -> None:
    """Check before sampling that the model suits the sampler, the guidance and the schedule.

    Raises:
        ValueError: the guidance is not finite, or needs classes or an unconditional prediction that
            the model lacks; the sampler needs a variance that the model does not predict; the
            schedule was measured on other weights of the model.
    """
    if isinstance(schedule, Schedule):
        check_measured(schedule, model.name, model.digest)
    if guidance is not None and not math.isfinite(guidance):
        raise ValueError(f"a guidance scale is a finite number, not {guidance}")
    if guidance is not None and not model.classes:
        raise ValueError(
            f"{model.name} is unconditional: it takes no guidance; leave --guidance out"
        )
    if guidance is not None:
        try:
            model.denoiser()
        except ValueError as error:
            raise ValueError(
                f"{model.name} has no unconditional prediction: it takes no guidance"
            ) from error
    if sampler.needs_variance and not model.predicts_variance:
        raise ValueError(
            f"{model.name} predicts no variance, but {sampler!r} needs one; use "
            "DDPM(variance='posterior') or 'upper', or a model with learned_variance in its card"
        )


def _noise(seeds: Tensor, shape: tuple[int, ...]) -> Noise:
    """The noise of the seeds: the first call gives draw 0, the start; each later call the next."""
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
    """Sample images in batches, in the order of the seeds.

    On a GPU the last batch is padded to the full size, so that a compiled network gets only one
    shape. On a CPU a `Checkpoint` pads its own smaller chunks (`in_chunks`), and another `Model`
    gets a smaller last batch.

    Arguments:
        grid: float64 [steps + 1], strictly decreasing.
        batch: images at once.
        guidance: scale of classifier-free guidance; None: no guidance.

    Returns:
        (images, NFE) for each batch. Images are uint8 [<= batch, c, h, w] on the model's device.

    Raises:
        ValueError: batch is below 1, there are no seeds, or a seed is negative.
        RuntimeError: the number of denoiser calls is not the sampler's `evals`.
    """
    if batch < 1:
        raise ValueError(f"batch must be at least 1, not {batch}")
    everything = torch.as_tensor(list(seeds), dtype=torch.int64)
    if len(everything) == 0 or int(everything.min()) < 0:
        raise ValueError("seeds must be non-negative integers, at least one")
    batch = min(batch, len(everything))
    on_cpu = torch.device(model.device).type == "cpu"
    for start in range(0, len(everything), batch):
        wanted = everything[start : start + batch]
        filling = everything[: 0 if on_cpu else batch - len(wanted)]
        padded = torch.cat([wanted, filling]).to(model.device)
        denoise = counted(_denoiser(model, padded, guidance))
        noise = _noise(padded, model.shape)
        with torch.inference_mode(), spread() if on_cpu else nullcontext():
            x = sampler(denoise, float(grid[0]) * noise(), grid, noise)
        if denoise.calls != (evals := sampler.evals(grid)):
            raise RuntimeError(f"{sampler!r} made {denoise.calls} calls, but its evals(grid) is "
                               f"{evals}; correct evals")  # fmt: skip
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
    """Sample images of a model.

    Arguments:
        model: a model, such as `bench.load` returns.
        nfe: denoiser calls for each image, at most.
        seeds: whole numbers, at least 0; each seed gives one image.
        batch: images at once. The images do not depend on it.
        guidance: scale of classifier-free guidance; None: no guidance.

    Returns:
        uint8 [len(seeds), c, h, w] on the CPU.

    Raises:
        ValueError: the nfe is too small for the sampler, the schedule gives no valid grid, there
            are no seeds, or what `check_fits` refuses.
    """
    if len(seeds) == 0 or min(seeds) < 0:
        raise ValueError("seeds must be non-negative integers, at least one")
    low, high = min(seeds), max(seeds)
    cell = Cell(model.name, schedule, sampler, nfe, range(low, max(high, low + 1) + 1))
    check_fits(model, sampler, guidance, schedule)
    grid = grid_of(cell, model.process)
    made = images(model, sampler, grid, seeds, batch, guidance)
    return torch.cat([part.cpu() for part, _ in made])
