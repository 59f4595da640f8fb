"""The roles that a part can play: small base classes with visible, typed defaults.

A part of yours is a frozen dataclass that derives from one of these. What a class does not define
has the default that stands here.

Shapes and dtypes are part of the contract. A sampler's state is float32, grids are float64 on the
CPU, images are uint8 [n, c, h, w], features are float32 [n, dim], sums are float64. `sigma` is the
standard deviation of the noise over the scale of the signal: x = x0 + sigma * eps.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self, TypeVar

import numpy as np

from bench.lazy import Tensor, torch
from bench.types.described import Described
from bench.types.measured import Costs, Rate

Values = TypeVar("Values", np.ndarray, Tensor)  # noise levels or timesteps
Noise = Callable[[], Tensor]  # each call gives a fresh standard normal draw, shaped like the state


class Denoiser(Protocol):
    """E[x0 | x] for x = x0 + sigma * eps."""

    def __call__(self, x: Tensor, sigma: float) -> Tensor:
        """The expected data.

        Arguments:
            x: float [n, c, h, w], the noisy state.
            sigma: its noise level.

        Returns:
            float [n, c, h, w].
        """
        ...


class VarianceDenoiser(ABC):
    """A denoiser that also predicts the variance of the reverse step (Nichol and Dhariwal 2021)."""

    @abstractmethod
    def __call__(self, x: Tensor, sigma: float) -> Tensor:
        """E[x0|x], as of a `Denoiser`."""

    @abstractmethod
    def with_variance(self, x: Tensor, sigma: float) -> tuple[Tensor, Tensor]:
        """E[x0|x] and v, float [n, c, h, w] each.

        v is 0 at the posterior variance and 1 at the upper variance, and linear in the logarithm
        between them.
        """


class NoiseProcess(Protocol):
    """A diffusion process as a schedule sees it: the range of sigma, and the model's own clock."""

    @property
    def sigma_min(self) -> float:
        """The lowest noise level above 0."""
        ...

    @property
    def sigma_max(self) -> float:
        """The highest noise level, where sampling starts."""
        ...

    def timestep(self, sigma: Values) -> Values:
        """The index that the network takes at each sigma, float64: of an array an array, of a
        tensor a tensor."""
        ...

    def sigma(self, timestep: Values) -> Values:
        """The inverse of `timestep`, float64."""
        ...


class Schedule(Described, ABC):
    """Noise levels for a number of steps."""

    @abstractmethod
    def __call__(self, steps: int, process: NoiseProcess) -> Tensor:
        """The grid that a sampler walks.

        Arguments:
            steps: number of steps, at least 1.
            process: of the model.

        Returns:
            float64 [steps + 1] on the CPU, strictly decreasing, the last 0 (or above).

        Raises:
            ValueError: no such grid for these steps and this process.
        """

    def noise_levels(self, steps: int, process: NoiseProcess) -> np.ndarray:
        """The same grid as an array. Default: that of the tensor."""
        grid = self(steps, process)
        return grid.numpy() if isinstance(grid, Tensor) else np.asarray(grid)

    @property
    def measured(self) -> tuple[Rate | Costs, ...]:
        """The measurements of a model that the schedule is made from. Default: none."""
        return ()


class Sampler(Described, ABC):
    """A loop that walks a grid from noise to data."""

    @property
    def stochastic(self) -> bool:
        """Whether it draws noise on its way. Default: no."""
        return False

    @property
    def needs_variance(self) -> bool:
        """Whether it asks the denoiser for a variance (`VarianceDenoiser`). Default: no."""
        return False

    def evals(self, grid: Tensor) -> int:
        """Calls of the denoiser on this grid. Default: one a step."""
        return len(grid) - 1

    @abstractmethod
    def __call__(self, denoise: Denoiser, x: Tensor, grid: Tensor, noise: Noise) -> Tensor:
        """Walk the grid.

        Arguments:
            denoise: (x, sigma) -> E[x0|x]; its calls are counted.
            x: float32 [n, c, h, w], noise of standard deviation grid[0].
            grid: float64 [steps + 1], strictly decreasing.
            noise: () -> a standard normal draw, shaped like x.

        Returns:
            float32 [n, c, h, w], the state at grid[-1].
        """


class Extractor(Described, ABC):
    """Images to feature vectors."""

    layers: ClassVar[tuple[str, ...]] = ("features",)  # names of what it can give in one pass
    banked: ClassVar[tuple[str, ...]] = ("features",)  # those that references keep single rows of
    published: ClassVar[Any] = None  # its published weights, a `Published`; None: it has none

    @property
    @abstractmethod
    def name(self) -> str:
        """The name that records and references use."""

    @property
    @abstractmethod
    def digest(self) -> str:
        """SHA-256 of its weights and settings: features of another digest are never compared."""

    def on(self, device: str) -> Self:
        """The same extractor on a torch device. Default: itself."""
        return self

    @property
    def files(self) -> dict[str, Path]:
        """Field -> its file of weights, which other machines are sent. Default: none."""
        return {}

    def reading(self, files: dict[str, str]) -> Self:
        """The same extractor with `files` at other places. Default: itself."""
        return self

    @abstractmethod
    def __call__(self, images: Tensor) -> Tensor:
        """Features of the layer "features".

        Arguments:
            images: uint8 [n, c, h, w].

        Returns:
            float32 [n, dim].
        """

    def of_layers(self, images: Tensor, wanted: Collection[str]) -> dict[str, Tensor]:
        """Several layers in one pass. Default: "features" alone.

        Arguments:
            images: uint8 [n, c, h, w].
            wanted: names among `layers`.

        Returns:
            layer -> float32 [n, dim].
        """
        return {"features": self(images)}


class FeatureStatistics(Protocol):
    """What a metric may ask of a set of images."""

    @property
    def n(self) -> int:
        """Number of images."""
        ...

    @property
    def mean(self) -> Tensor:
        """Mean feature, float64 [dim]."""
        ...

    @property
    def cov(self) -> Tensor:
        """Unbiased covariance, float64 [dim, dim]."""
        ...

    @property
    def bank(self) -> Tensor:
        """Features of single images, float32 [m, dim], m <= n."""
        ...


@dataclass(frozen=True)
class Score:
    """What a metric gives. error: its standard error; None where the metric knows none."""

    value: float
    error: float | None = None


class Metric(Described, ABC):
    """A score of generated features against real ones."""

    name: ClassVar[str]  # as tables and `--metrics` write it
    higher_is_better: ClassVar[bool] = False
    needs_real: ClassVar[bool] = True  # whether it reads the real set
    reads_rows: ClassVar[bool] = False  # whether it reads features of single images (`bank`)
    whole_bank: ClassVar[bool] = False  # whether the generated bank must hold every image

    @property
    def reads_layer(self) -> str:
        """The extractor's layer that it reads. Default: "features"."""
        return "features"

    @property
    def least_rows(self) -> int:
        """The fewest single real features that it takes. Default: 0."""
        return 0

    @abstractmethod
    def __call__(self, *, fake: FeatureStatistics, real: FeatureStatistics) -> Score:
        """The score. Both arguments are keywords, so that they cannot be exchanged.

        Arguments:
            fake: features of the generated images.
            real: features of the real images; where `needs_real` is false, those of `fake` again.

        Raises:
            ValueError: too few images for this metric, or features that are not finite.
        """


class Model(ABC):
    """A checkpoint: its parameterisation ends in one denoiser."""

    name: str
    digest: str  # of the weights and the card
    process: NoiseProcess
    shape: tuple[int, int, int]  # of the sampler's state: c, h, w
    device: str

    @property
    def has_network(self) -> bool:
        """Whether it has a denoiser. Default: yes. A `checkpoints.Forward` has none."""
        return True

    @property
    def classes(self) -> int:
        """Classes that it is conditioned on. Default: 0, unconditional."""
        return 0

    @property
    def quantiser(self) -> str:
        """How images become whole grey levels: "round" (the default) or "floor"."""
        return "round"

    @property
    def predicts_variance(self) -> bool:
        """Whether its denoisers are `VarianceDenoiser`s. Default: no."""
        return False

    @abstractmethod
    def denoiser(self, labels: Tensor | None = None) -> Denoiser:
        """E[x0|x]. labels: the class of each image, int64 [n]; None: without a class."""

    @abstractmethod
    def encode(self, images: Tensor) -> Tensor:
        """uint8 images [n, c, h, w] -> state, float32 [n, *shape]."""

    @abstractmethod
    def decode(self, x: Tensor) -> Tensor:
        """State [n, *shape] -> uint8 images [n, c, h, w]."""


class Measure(Described, ABC):
    """A discrepancy between diffused distributions at neighbouring noise levels, as a rate."""

    needs_images: ClassVar[bool] = True  # False: `images` is empty
    needs_network: ClassVar[bool] = True  # False: the process and the codec are enough
    whole_range: ClassVar[bool] = False  # True: called once; False: for some ten levels at a time
    overlaps: ClassVar[bool] = False  # True: may run in several threads, to use CPU and GPU at once
    default_levels: ClassVar[int] = 101

    @property
    @abstractmethod
    def name(self) -> str:
        """The name of what it measures, and of its file: v_x, say."""

    def levels(self, count: int, process: NoiseProcess) -> Tensor:
        """Noise levels that it is measured at: float64 [count].

        Default: increasing, at equal distances of log sigma, over the process's whole range.
        """
        return torch.as_tensor(np.geomspace(process.sigma_min, process.sigma_max, count))

    @abstractmethod
    def __call__(self, model: Model, images: Iterable[Tensor], sigmas: Tensor) -> Rate | Costs:
        """Measure.

        Arguments:
            model: whose predictions, process and codec it may use.
            images: batches uint8 [n, c, h, w]; results must not depend on how they are cut.
            sigmas: float64 [k + 1], as of `levels`.

        Returns:
            The rate at these levels; `rate_between` makes one of means over the intervals.

        Raises:
            ValueError: no images where some are needed.
        """


class CostMeasure(Measure):
    """A cost of single steps between any two noise levels: called with decreasing `sigmas`."""

    whole_range: ClassVar[bool] = True
    default_levels: ClassVar[int] = 61

    def levels(self, count: int, process: NoiseProcess) -> Tensor:
        """As of `Measure`, but decreasing."""
        return super().levels(count, process).flip(0)

    @abstractmethod
    def __call__(self, model: Model, images: Iterable[Tensor], sigmas: Tensor) -> Costs:
        """As of `Measure`; gives `Costs` over `sigmas`."""
