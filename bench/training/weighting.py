"""Loss weightings: the weight of each noise level in the training loss.

The law of noise levels is separate: it says how often a level is drawn. A weighting is a frozen
dataclass. It returns the factor of the squared error of the network's prediction. It sees the law,
so that `Importance` can undo it.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from bench.process import Process
from bench.training.laws import OnlineConstantRate, law_density, noise_law
from bench.types import Described, Schedule


class NoiseLaw(Protocol):
    """The current law of noise levels, as a weighting sees it."""

    @property
    def process(self) -> Process:
        """The process of the model."""
        ...

    def density(self, sigma: Tensor) -> Tensor:
        """The law's density per unit of log sigma, float32, the shape of sigma."""
        ...


class Weighting(Described, ABC):
    """The factor of the squared error of the network's prediction, at each sigma."""

    @abstractmethod
    def __call__(self, sigma: Tensor, gain: Tensor, law: NoiseLaw) -> Tensor:
        """The factor at each noise level.

        Arguments:
            sigma: noise levels, float [n, 1, 1, 1].
            gain: squared error of x0 divided by the squared error of the prediction, same shape.
                `weight * gain` weighs the squared error of x0 by `weight`.
            law: that the noise levels were drawn from.

        Returns:
            float [n, 1, 1, 1].
        """


@dataclass(frozen=True)
class Unweighted(Weighting):
    """Weight 1: the mean squared error of the network's prediction (Ho et al. 2020, Eq. 14)."""

    def __call__(self, sigma: Tensor, gain: Tensor, law: NoiseLaw) -> Tensor:
        return torch.ones_like(sigma)


@dataclass(frozen=True)
class MinSNR(Weighting):
    """Weight min(SNR, gamma) of the squared x0 error, SNR = sigma^-2 (Hang et al. 2023, Eq. 8)."""

    gamma: float = 5.0

    def __post_init__(self) -> None:
        if not self.gamma > 0:
            raise ValueError(f"MinSNR needs gamma > 0, not {self.gamma}")

    def __call__(self, sigma: Tensor, gain: Tensor, law: NoiseLaw) -> Tensor:
        return (1 / sigma**2).clamp(max=self.gamma) * gain


@dataclass(frozen=True)
class EDMWeighting(Weighting):
    """EDM's weight of the squared error of x0: (sigma^2 + sigma_data^2) / (sigma sigma_data)^2
    (Karras et al. 2022, Table 1).

    sigma_data: standard deviation of the data.
    """

    written: ClassVar[str] = "EDM"  # the name on the command line

    sigma_data: float = 0.5

    def __post_init__(self) -> None:
        if not self.sigma_data > 0:
            raise ValueError(f"EDMWeighting needs sigma_data > 0, not {self.sigma_data}")

    def __call__(self, sigma: Tensor, gain: Tensor, law: NoiseLaw) -> Tensor:
        return (sigma**2 + self.sigma_data**2) / (sigma * self.sigma_data) ** 2 * gain


@lru_cache(maxsize=8)
def _table(law: Schedule, process: Process, device: torch.device) -> Tensor:
    return noise_law(law, process).to(device)


@dataclass(frozen=True)
class Importance(Weighting):
    """Weight min(p_target / p_law, cap): the loss of another law, on samples of this one.

    p is the density of a law of noise levels. Without the cap, the mean loss is that of
    `Unweighted` under `target`, whatever law draws the samples. So a law and this weighting tell
    where samples go from what the loss weighs. Levels where p_target exceeds `cap` times p_law
    count less than under `target`.

    target: the law whose loss is wanted.
    cap: the largest weight, above 0. It bounds the variance of the gradient.
    """

    target: Schedule
    cap: float = 10.0

    def __post_init__(self) -> None:
        if not isinstance(self.target, Schedule) or isinstance(self.target, OnlineConstantRate):
            raise ValueError(f"target must be a law that is not estimated, not {self.target!r}")
        if not self.cap > 0:
            raise ValueError(f"Importance needs a cap > 0, not {self.cap}")

    def __call__(self, sigma: Tensor, gain: Tensor, law: NoiseLaw) -> Tensor:
        target = law_density(_table(self.target, law.process, sigma.device), sigma)
        return (target / law.density(sigma)).clamp(max=self.cap)
