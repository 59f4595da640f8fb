"""Loss weightings: the weight of each noise level in the training loss.

The law of noise levels is separate: it says how often a level is drawn. A weighting is a frozen
dataclass. It returns the factor of the squared error of the network's prediction.
"""

from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor


class Weighting(Protocol):
    """The factor of the squared error of the network's prediction, at each sigma."""

    def __call__(self, sigma: Tensor, gain: Tensor) -> Tensor:
        """The factor at each noise level.

        Arguments:
            sigma: noise levels, float [n, 1, 1, 1].
            gain: squared error of x0 divided by the squared error of the prediction, same shape.
                `weight * gain` weighs the squared error of x0 by `weight`.

        Returns:
            float [n, 1, 1, 1].
        """
        ...


@dataclass(frozen=True)
class Unweighted:
    """Weight 1: the mean squared error of the network's prediction (Ho et al. 2020, Eq. 14)."""

    def __call__(self, sigma: Tensor, gain: Tensor) -> Tensor:
        return torch.ones_like(sigma)


@dataclass(frozen=True)
class MinSNR:
    """Weight min(SNR, gamma) of the squared x0 error, SNR = sigma^-2 (Hang et al. 2023, Eq. 8)."""

    gamma: float = 5.0

    def __post_init__(self) -> None:
        if not self.gamma > 0:
            raise ValueError(f"MinSNR needs gamma > 0, not {self.gamma}")

    def __call__(self, sigma: Tensor, gain: Tensor) -> Tensor:
        return (1 / sigma**2).clamp(max=self.gamma) * gain


@dataclass(frozen=True)
class EDMWeighting:
    """EDM's weight of the squared error of x0: (sigma^2 + sigma_data^2) / (sigma sigma_data)^2
    (Karras et al. 2022, Table 1).

    sigma_data: standard deviation of the data.
    """

    written: ClassVar[str] = "edm"  # the name on the command line

    sigma_data: float = 0.5

    def __post_init__(self) -> None:
        if not self.sigma_data > 0:
            raise ValueError(f"EDMWeighting needs sigma_data > 0, not {self.sigma_data}")

    def __call__(self, sigma: Tensor, gain: Tensor) -> Tensor:
        return (sigma**2 + self.sigma_data**2) / (sigma * self.sigma_data) ** 2 * gain
