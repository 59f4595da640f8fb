"""Samplers of first order: DDIM and DDPM."""

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar, Literal

from bench.lazy import Tensor
from bench.types import Denoiser, Noise, Sampler, VarianceDenoiser


@dataclass(frozen=True)
class DDIM(Sampler):
    """DDIM (Song et al. 2021, Eq. 12 and 16). It calls the denoiser once a step.

    x_next = x0 + (down / sigma) (x - x0) + up z, z standard normal, with
    up^2 = eta^2 sigma_next^2 (1 - sigma_next^2 / sigma^2) and down^2 = sigma_next^2 - up^2.

    Arguments:
        eta: share of noise, 0 to 1. 0 is Euler's method in sigma, which draws no noise. 1 is
            `DDPM("posterior")`.
    """

    eta: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.eta <= 1:
            raise ValueError(f"DDIM needs eta between 0 and 1, not {self.eta}")

    @property
    def stochastic(self) -> bool:
        """True if eta is above 0."""
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
    """Ancestral sampling (Ho et al. 2020, Algorithm 2) on any grid, one denoiser call a step.

    x_next = x0 + (sigma_next / sigma)^2 (x - x0) + up z, z standard normal. The step to 0 adds no
    noise.

    Arguments:
        variance: which variance up^2 the noise has.
            "posterior": up^2 = sigma_next^2 (1 - sigma_next^2 / sigma^2). The paper calls it
            beta-tilde. It is DDIM with eta = 1.
            "upper": up^2 = (sigma^2 - sigma_next^2) (1 + sigma_next^2) / (1 + sigma^2). The paper
            calls it beta.
            "learned": the network predicts it for each pixel, as an interpolation between log
            "posterior" and log "upper" (Nichol and Dhariwal 2021, Eq. 15). The denoiser must be a
            `VarianceDenoiser`; those of ADM's networks are.
    """

    variance: Literal["posterior", "upper", "learned"] = "posterior"
    stochastic: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.variance not in ("posterior", "upper", "learned"):
            raise ValueError(
                f"DDPM: unknown variance {self.variance!r}; known: posterior, upper, learned"
            )

    @property
    def needs_variance(self) -> bool:
        """True if the network predicts the variance."""
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
        """E[x0|x], and `up`, the standard deviation of the noise that the step adds."""
        fall = sigma**2 - sigma_next**2
        posterior = math.sqrt(fall) * sigma_next / sigma
        if self.variance == "posterior":
            return denoise(x, sigma), posterior
        upper = math.sqrt(fall * (1 + sigma_next**2) / (1 + sigma**2))
        if self.variance == "upper":
            return denoise(x, sigma), upper
        if not isinstance(denoise, VarianceDenoiser):
            raise ValueError(
                f"{self.label} needs a network that predicts its variance, such as ADM's; "
                "for this model write DDPM(variance=posterior) or DDPM(variance=upper)"
            )
        x0, v = denoise.with_variance(x, sigma)
        return x0, posterior * (upper / posterior) ** v if sigma_next > 0 else 0.0
