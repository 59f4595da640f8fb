"""Loss weightings: apart from the law of noise levels, which says how often a level is seen.

A weighting is a frozen dataclass `(sigma, gain) -> factor` on the squared error of what the network
predicts. gain = squared error of x0 over that of the prediction, so `weight(sigma) * gain` weighs
the squared error of x0 by `weight(sigma)` whatever the network predicts. Tensors [n, 1, 1, 1].
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


class Weighting(Protocol):
    """Factor of the squared error of the prediction, at each sigma."""

    def __call__(self, sigma: Tensor, gain: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class Unweighted:
    """1: the plain mean squared error of what the network predicts (Ho et al. 2020, Eq. 14)."""

    def __call__(self, sigma: Tensor, gain: Tensor) -> Tensor:
        return torch.ones_like(sigma)


@dataclass(frozen=True)
class MinSNR:
    """min(SNR, gamma) on the error of x0, SNR = sigma^-2 (Hang et al. 2023, Eq. 8)."""

    gamma: float = 5.0

    def __post_init__(self) -> None:
        if not self.gamma > 0:
            raise ValueError(f"MinSNR needs gamma > 0, not {self.gamma}")

    def __call__(self, sigma: Tensor, gain: Tensor) -> Tensor:
        return (1 / sigma**2).clamp(max=self.gamma) * gain


@dataclass(frozen=True)
class EDM:
    """(sigma^2 + sigma_data^2) / (sigma sigma_data)^2 on the error of x0 (Karras et al. 2022)."""

    sigma_data: float = 0.5

    def __post_init__(self) -> None:
        if not self.sigma_data > 0:
            raise ValueError(f"EDM needs sigma_data > 0, not {self.sigma_data}")

    def __call__(self, sigma: Tensor, gain: Tensor) -> Tensor:
        return (sigma**2 + self.sigma_data**2) / (sigma * self.sigma_data) ** 2 * gain
