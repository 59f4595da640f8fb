"""Protocols and records that pass between rooms, with shapes and dtypes as part of the contract.

Sampler state is float32; grids and coefficients are float64 on the CPU; features are float32;
sums are float64; images are uint8, NCHW. `sigma` is noise over signal: x = x0 + sigma * eps.
"""

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol, runtime_checkable

import torch
from torch import Tensor


class Denoiser(Protocol):
    """E[x0 | x] for x = x0 + sigma * eps; x float [n, c, h, w], sigma a float (VE frame)."""

    def __call__(self, x: Tensor, sigma: float) -> Tensor: ...


@runtime_checkable
class VarianceDenoiser(Denoiser, Protocol):
    """A denoiser that also predicts the variance of the reverse step (Nichol and Dhariwal 2021).

    v float [n, c, h, w], 0 at the posterior variance and 1 at the upper one, in between in log.
    """

    def with_variance(self, x: Tensor, sigma: float) -> tuple[Tensor, Tensor]: ...  # x0, v


class NoiseProcess(Protocol):
    """A diffusion process as a sampler sees it: where sigma starts and ends, the model's clock."""

    @property
    def sigma_min(self) -> float: ...
    @property
    def sigma_max(self) -> float: ...
    def timestep(self, sigma: Tensor) -> Tensor: ...  # float64, the index the network takes
    def sigma(self, timestep: Tensor) -> Tensor: ...  # float64, inverse of `timestep`


@runtime_checkable
class Schedule(Protocol):
    """Noise levels for a number of steps: float64 [steps + 1], strictly decreasing, last 0."""

    def __call__(self, steps: int, process: NoiseProcess) -> Tensor: ...


Noise = Callable[[], Tensor]  # a fresh standard normal draw, shaped like the state


@runtime_checkable
class Sampler(Protocol):
    """Walks any grid from noise to data; `order` is its order of convergence in the step.

    One that draws noise also says `stochastic = True`; where the order measured on uneven grids is
    not the method's own, `convergence` gives it.
    """

    @property
    def order(self) -> int: ...
    def evals(self, grid: Tensor) -> int: ...
    def __call__(self, denoise: Denoiser, x: Tensor, grid: Tensor, noise: Noise) -> Tensor: ...


def is_stochastic(sampler: Sampler) -> bool:
    """Whether a sampler draws noise on its way: its attribute `stochastic`, false without one."""
    return bool(getattr(sampler, "stochastic", False))


class FeatureExtractor(Protocol):
    """Images to feature vectors: uint8 [n, c, h, w] -> float32 [n, dim]."""

    @property
    def name(self) -> str: ...
    @property
    def digest(self) -> str: ...
    def __call__(self, images: Tensor) -> Tensor: ...


class LayeredExtractor(FeatureExtractor, Protocol):
    """An extractor that gives several layers of its network in one pass.

    layers: their names, among them "features", which is what a plain call gives.
    """

    layers: ClassVar[tuple[str, ...]]

    def of_layers(self, images: Tensor, wanted: Collection[str]) -> dict[str, Tensor]: ...


def layers_of(extractor: FeatureExtractor | type) -> tuple[str, ...]:
    """The layers that an extractor, or a class of them, gives: "features" alone without more."""
    return tuple(getattr(extractor, "layers", ("features",)))


class FeatureStatistics(Protocol):
    """What a metric may ask of a set of images: count, moments, and a bank of single features."""

    @property
    def n(self) -> int: ...
    @property
    def mean(self) -> Tensor: ...  # float64 [dim]
    @property
    def cov(self) -> Tensor: ...  # float64 [dim, dim]
    @property
    def bank(self) -> Tensor: ...  # float32 [m, dim]


class Metric(Protocol):
    """A score of generated against real features; keyword-only, so that it cannot be swapped.

    One that reads another layer of the extractor than "features" also says `layer`; one that
    ignores `real`, `needs_real = False`; one whose bank must hold every image, `whole_bank = True`;
    one that reads single real features, the fewest that it takes, `least_bank`.
    """

    name: ClassVar[str]
    higher_is_better: ClassVar[bool]

    def __call__(self, *, fake: FeatureStatistics, real: FeatureStatistics) -> float: ...


def layer_of(metric: Metric) -> str:
    """The extractor's layer that a metric reads: its attribute `layer`, "features" without one."""
    return str(getattr(metric, "layer", "features"))


def least_bank(metric: Metric) -> int:
    """Features of the real set that a metric needs one by one: its attribute, 0 without it."""
    return int(getattr(metric, "least_bank", 0))


def needs_real(metric: Metric) -> bool:
    """Whether a metric reads the real set: its attribute `needs_real`, true without one."""
    return bool(getattr(metric, "needs_real", True))


class Model(Protocol):
    """A checkpoint behind its edge: all parameterisations end in one denoiser."""

    @property
    def name(self) -> str: ...
    @property
    def digest(self) -> str: ...  # of the weights and the card
    @property
    def process(self) -> NoiseProcess: ...
    @property
    def shape(self) -> tuple[int, int, int]: ...  # of the sampler's state: c, h, w
    @property
    def device(self) -> str: ...
    @property
    def classes(self) -> int: ...  # that it is conditioned on; 0: unconditional
    def denoiser(self, labels: Tensor | None = None) -> Denoiser: ...
    def encode(self, images: Tensor) -> Tensor: ...  # uint8 -> state space, float32
    def decode(self, x: Tensor) -> Tensor: ...  # state space -> uint8


@dataclass(frozen=True, eq=False)
class Rate:
    """How fast the diffused distribution changes: `v` >= 0 per unit of sigma, at levels `sigma`.

    sigma  float64 [k], strictly increasing, > 0
    v      float64 [k]; infinite at some levels, at least 4 are finite
    provenance  what it was measured from: model and data digests, images, levels, seeds
    replicates  float64 [b, k] or None: v of b bootstrap resamples of the images
    """

    name: str
    sigma: Tensor
    v: Tensor
    provenance: dict[str, Any] = field(default_factory=dict)
    replicates: Tensor | None = None

    def __post_init__(self) -> None:
        sigma = torch.as_tensor(self.sigma, dtype=torch.float64)
        v = torch.as_tensor(self.v, dtype=torch.float64)
        object.__setattr__(self, "sigma", sigma)
        object.__setattr__(self, "v", v)
        if sigma.shape != v.shape or sigma.ndim != 1:
            raise ValueError(
                f"rate {self.name}: sigma {list(sigma.shape)} and v {list(v.shape)} must be "
                "one-dimensional and of one length"
            )
        finite = int(torch.isfinite(v).sum())
        if finite < 4 and not v.isnan().any():
            raise ValueError(f"rate {self.name} has {finite} levels; at least 4 are needed")
        if not torch.isfinite(sigma).all() or v.isnan().any():
            raise ValueError(f"rate {self.name} has NaN or infinite entries; measure it again")
        if not ((sigma > 0).all() and (sigma.diff() > 0).all()):
            raise ValueError(f"rate {self.name}: sigma must be positive and strictly increasing")
        if (v < 0).any():
            raise ValueError(f"rate {self.name}: v must be >= 0")
        if self.replicates is not None and self.replicates.shape[1:] != v.shape:
            raise ValueError(f"rate {self.name}: replicates must be [b, {len(v)}]")

    def __repr__(self) -> str:
        return self.name


def rate_between(name: str, sigmas: Tensor, v: Tensor) -> Rate:
    """A rate from its means `v` [k] over the intervals of `sigmas` [k + 1]: held at their geometric
    midpoints, and at the two ends of the range as in the interval beside them."""
    middle = (sigmas[1:] * sigmas[:-1]).sqrt()
    level = torch.cat([sigmas[:1], middle, sigmas[-1:]])
    return Rate(name, level, torch.cat([v[:1], v, v[-1:]]))


class RateMeasure(Protocol):
    """A discrepancy between diffused distributions at neighbouring levels, as a rate.

    One with work for the CPU that can go on beside the next levels on a GPU, and that may be called
    from two threads, says `overlaps = True`.
    """

    def __call__(self, model: Model, images: Iterable[Tensor], sigmas: Tensor) -> Rate: ...


@dataclass(frozen=True, eq=False)
class Costs:
    """What one step costs between any two of `sigma`, measured; the steps of a schedule add up.

    sigma  float64 [n], strictly decreasing, > 0
    cost   float64 [n, n]: cost[i, j], i < j, of the step from sigma[i] to sigma[j]; all other
           entries are ignored, and kept as 0
    coefficient  the k-th step of a schedule, from 0, counts coefficient^k times; 1 for plain sums
    provenance   what it was measured from: measure, model digest, images, levels, seeds
    """

    name: str
    sigma: Tensor
    cost: Tensor
    coefficient: float = 1.0
    provenance: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        sigma = torch.as_tensor(self.sigma, dtype=torch.float64)
        cost = torch.as_tensor(self.cost, dtype=torch.float64)
        n = sigma.numel()
        if sigma.ndim != 1 or n < 2 or cost.shape != (n, n):
            raise ValueError(
                f"costs {self.name}: sigma {list(sigma.shape)} must be [n], n at least 2, and cost "
                f"{list(cost.shape)} [n, n]"
            )
        ahead = torch.ones_like(cost, dtype=torch.bool).triu(1)
        if not (torch.isfinite(sigma).all() and torch.isfinite(cost[ahead]).all()):
            raise ValueError(f"costs {self.name} have NaN or infinite entries; measure them again")
        if not ((sigma > 0).all() and (sigma.diff() < 0).all()):
            raise ValueError(f"costs {self.name}: sigma must be positive and strictly decreasing")
        if not 0 < self.coefficient < float("inf"):
            raise ValueError(f"costs {self.name}: coefficient must be > 0, not {self.coefficient}")
        object.__setattr__(self, "sigma", sigma)
        object.__setattr__(self, "cost", cost.where(ahead, 0.0))

    def __repr__(self) -> str:
        return self.name


@runtime_checkable
class CostMeasure(Protocol):
    """A cost of single steps. `fine` places the levels that it is measured between, and its last
    two attributes tell it from a `RateMeasure`."""

    @property
    def name(self) -> str: ...
    @property
    def coefficient(self) -> float: ...
    @property
    def fine(self) -> Schedule: ...
    def __call__(self, model: Model, images: Iterable[Tensor], sigmas: Tensor) -> Costs: ...


@dataclass(frozen=True)
class Cell:
    """One point of a comparison: everything that decides which images are made."""

    model: str
    schedule: Schedule
    sampler: Sampler
    nfe: int
    seeds: range
    guidance: float | None = None

    def __post_init__(self) -> None:
        if self.nfe < 1:
            raise ValueError(f"nfe must be at least 1, not {self.nfe}")
        if len(self.seeds) < 2:
            raise ValueError("a cell needs at least 2 seeds: a covariance of one image is none")


def steps_for(sampler: Sampler, schedule: Schedule, nfe: int, process: NoiseProcess) -> int:
    """The most steps whose grid the sampler walks in at most `nfe` calls of the denoiser."""
    for steps in range(nfe, 0, -1):
        if sampler.evals(torch.arange(steps, -1, -1, dtype=torch.float64)) <= nfe:
            return steps
    raise ValueError(f"{sampler!r} cannot take a step with {nfe} function evaluations; raise --nfe")


def grid_of(cell: Cell, process: NoiseProcess) -> Tensor:
    """The cell's grid: float64 [steps + 1]. ValueError if it is not strictly decreasing to >= 0."""
    steps = steps_for(cell.sampler, cell.schedule, cell.nfe, process)
    grid = cell.schedule(steps, process)
    ok = grid.dtype == torch.float64 and grid.shape == (steps + 1,) and torch.isfinite(grid).all()
    if not (ok and (grid.diff() < 0).all() and grid[-1] >= 0):
        raise ValueError(
            f"{cell.schedule!r} gave no valid grid for {steps} steps: expected float64 "
            f"[{steps + 1}], strictly decreasing to >= 0, got {grid.tolist()}"
        )
    return grid


@dataclass(frozen=True)
class Tuned:
    """A schedule that is picked from `tries`, one a sampler, on seeds that no table scores.

    The winner has the lowest geometric mean of FD over the experiment's tuning NFEs.
    """

    tries: tuple[Schedule, ...]


@dataclass(frozen=True)
class On:
    """A line whose cells are of another model than the experiment's own."""

    model: str
    schedule: "Schedule | Tuned"


@dataclass(frozen=True)
class Converged:
    """The fine run of the same model and seeds that every cell of a block is compared with.

    Only the first `images` seeds of a block are walked, once a model and block; its pictures are
    kept in the cache, its scores as a record.
    """

    sampler: Sampler
    schedule: Schedule
    nfe: int
    images: int = 10_000


@dataclass(frozen=True)
class Scoring:
    """How images are made and scored: with the model's and reference's digests, the protocol."""

    features: str = "effnet-lite0"
    reference: str = "fashion-mnist"
    metrics: tuple[str, ...] = ("fd", "precision", "recall")
    bank: int = 10_000  # features kept for precision and recall, of either set
    dtype: str = "float32"  # the network's, while sampling
    batch: int = 100  # of sampling; results do not depend on it
    converged: Converged | None = None  # None: no distance to the model's own converged samples
    strip: int = 8  # images that are kept, side by side, of a line's first block at its end NFEs

    def __post_init__(self) -> None:
        if self.converged and self.converged.images > self.bank:
            raise ValueError(
                f"converged runs of {self.converged.images} images need as large a bank of "
                f"features, not {self.bank}"
            )


@dataclass(frozen=True)
class Block:
    """Seeds that are scored at some NFEs. Blocks must not overlap, nor touch tuning seeds.

    lines: those that are run on it; () stands for all.
    """

    name: str
    seeds: range
    nfes: tuple[int, ...]
    lines: tuple[str, ...] = ()


@dataclass(frozen=True)
class Experiment:
    """A named list of choices: every line, sampler, block and NFE of the block is a cell.

    guidance: scale of classifier-free guidance of every cell, for class-conditional models.
    """

    name: str
    title: str
    model: str
    lines: dict[str, Schedule | Tuned | On]
    samplers: tuple[Sampler, ...]
    blocks: tuple[Block, ...]
    tuning: Block | None = None
    scoring: Scoring = field(default_factory=Scoring)
    note: str = ""
    guidance: float | None = None
    published: str = ""  # data set of `published.csv` whose numbers stand beside ours

    def __post_init__(self) -> None:
        blocks = [*self.blocks, *([self.tuning] if self.tuning else [])]
        spans = sorted((b.seeds.start, b.seeds.stop) for b in blocks)
        if any(stop > start for (_, stop), (start, _) in zip(spans, spans[1:], strict=False)):
            raise ValueError(f"experiment {self.name}: seed blocks overlap: {spans}")
        strangers = {line for block in blocks for line in block.lines} - self.lines.keys()
        if strangers:
            raise ValueError(f"experiment {self.name}: blocks name no lines: {sorted(strangers)}")
        tuned = any(isinstance(self.on(line).schedule, Tuned) for line in self.lines)
        if tuned and self.tuning is None:
            raise ValueError(f"experiment {self.name} has tuned lines but no tuning block")

    def on(self, line: str) -> On:
        """The model and schedule of a line."""
        what = self.lines[line]
        return what if isinstance(what, On) else On(self.model, what)
