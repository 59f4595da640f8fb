"""First order: DDIM and DDPM."""

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar, Literal

from torch import Tensor

from bench.types import Denoiser, Noise, Sampler, VarianceDenoiser


@dataclass(frozen=True)
class DDIM(Sampler):
    """DDIM (Song et al. 2021, Eq. 12 and 16); eta = 0 is Euler's method in sigma.

    x_next = x0 + down / sigma (x - x0) + up z,  up^2 = eta^2 sigma_next^2 (1 - sigma_next^2 /
    sigma^2),  down^2 = sigma_next^2 - up^2. One call a step.
    """

    eta: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.eta <= 1:
            raise ValueError(f"DDIM's eta must lie between 0 and 1, not {self.eta}")

    @property
    def stochastic(self) -> bool:
        """Whether eta is above 0."""
        return self.eta > 0

    def __call__(self, denoise: Denoiser, x: Tensor, grid: Tensor, noise: Noise) -> Tensor:
        for sigma, sigma_next in pairwise(grid.tolist()):
            x0 = denoise(x, sigma)
            up = self.eta * sigma_next * math.sqrt(1 - (sigma_next / sigma) ** 2)
            down = math.sqrt(sigma_next**2 - up**2)
            x = x0 + (down / sigma) * (x - x0)
            if up > 0:
                x = x + up * noise()
        return x


@dataclass(frozen=True)
class DDPM(Sampler):
    """Ancestral sampling (Ho et al. 2020, Algorithm 2) over any grid.

    x_next = x0 + (sigma_next / sigma)^2 (x - x0) + up z. variance "posterior" (their beta-tilde,
    DDIM with eta = 1): up^2 = sigma_next^2 (1 - sigma_next^2 / sigma^2); "upper" (their beta):
    up^2 = (sigma^2 - sigma_next^2) (1 + sigma_next^2) / (1 + sigma^2); "learned": between the two
    in log, pixel by pixel, as the network says (Nichol and Dhariwal 2021, Eq. 15), which must be
    one that does (ADM's are). No noise in the step to 0.
    """

    variance: Literal["posterior", "upper", "learned"] = "posterior"
    stochastic: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.variance not in ("posterior", "upper", "learned"):
            raise ValueError(
                f"unknown variance {self.variance!r}; known: posterior, upper, learned"
            )

    @property
    def needs_variance(self) -> bool:
        """Whether the variance is the model's own."""
        return self.variance == "learned"

    def __call__(self, denoise: Denoiser, x: Tensor, grid: Tensor, noise: Noise) -> Tensor:
        for sigma, sigma_next in pairwise(grid.tolist()):
            x0, up = self._step(denoise, x, sigma, sigma_next)
            x = x0 + (sigma_next / sigma) ** 2 * (x - x0)
            if sigma_next > 0:
                x = x + up * noise()
        return x

    def _step(
        self, denoise: Denoiser, x: Tensor, sigma: float, sigma_next: float
    ) -> tuple[Tensor, float | Tensor]:
        """E[x0|x] and the standard deviation of the noise to add."""
        fall = sigma**2 - sigma_next**2
        posterior = math.sqrt(fall) * sigma_next / sigma
        if self.variance == "posterior":
            return denoise(x, sigma), posterior
        upper = math.sqrt(fall * (1 + sigma_next**2) / (1 + sigma**2))
        if self.variance == "upper":
            return denoise(x, sigma), upper
        if not isinstance(denoise, VarianceDenoiser):
            raise ValueError(f"{self!r} needs a denoiser that predicts its variance")
        x0, v = denoise.with_variance(x, sigma)
        return x0, posterior * (upper / posterior) ** v if sigma_next > 0 else 0.0
