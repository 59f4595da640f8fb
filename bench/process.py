"""Diffusion processes: alpha, timestep <-> sigma, and what a network predicts -> E[x0|x].

The only room that knows alpha. Everything else sees sigma = sqrt((1 - alpha) / alpha).
"""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import torch
from torch import Tensor

Betas = Literal["linear", "scaled_linear", "cosine"]
Prediction = Literal["eps", "v", "x0", "edm"]


def _alphas(
    betas: Betas, timesteps: int, beta_range: tuple[float, float] | None = None
) -> np.ndarray:
    """Alpha-bar table [timesteps], as DDPM (linear), LDM (scaled linear) and IDDPM (cosine)."""
    if betas == "linear":
        scale = 1000 / timesteps
        first, last = beta_range or (scale * 1e-4, scale * 0.02)
        beta = np.linspace(first, last, timesteps)
    elif betas == "scaled_linear":
        first, last = beta_range or (0.0015, 0.0195)
        beta = np.linspace(first**0.5, last**0.5, timesteps) ** 2
    elif betas == "cosine":
        if beta_range:
            raise ValueError("cosine betas have no beta_range")
        t = np.arange(timesteps + 1) / timesteps
        f = np.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2
        beta = np.minimum(1 - f[1:] / f[:-1], 0.999)
    else:
        raise ValueError(f"unknown betas {betas!r}; known: linear, scaled_linear, cosine")
    if not ((beta > 0) & (beta < 1)).all():
        raise ValueError(
            f"{betas} betas of {timesteps} timesteps run from {beta[0]:.4g} to {beta[-1]:.4g}, "
            "which must lie within 0 and 1: give beta_range, or more timesteps"
        )
    return np.cumprod(1 - beta)


def _check_ends(sigma_min: float, sigma_max: float) -> None:
    if not 0 < sigma_min < sigma_max < math.inf:
        raise ValueError(f"need 0 < sigma_min < sigma_max, got {sigma_min} and {sigma_max}")


@dataclass(frozen=True)
class VP:
    """Variance preserving, with the model's own discrete timesteps 0 .. timesteps - 1.

    x_vp = sqrt(alpha) x0 + sqrt(1 - alpha) eps; DDPM (Ho et al. 2020), IDDPM (Nichol & Dhariwal
    2021). Between integer timesteps log sigma is linear, so any sigma has a timestep; schedules
    that want integers use `schedules.snap`. `sigma_min`, `sigma_max` are where sampling ends and
    starts; 0 stands for the table's own ends. `beta_range` is the first and last beta of linear and
    scaled linear; None stands for DDPM's 0.0001 and 0.02 (of 1000 steps, larger for fewer) and
    LDM's 0.0015 and 0.0195.
    """

    betas: Betas = "linear"
    timesteps: int = 1000
    sigma_min: float = 0.0
    sigma_max: float = 0.0
    beta_range: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if isinstance(self.timesteps, bool) or not self.timesteps >= 2:
            raise ValueError(f"timesteps must be 2 or more, not {self.timesteps}")
        if self.beta_range and not 0 < self.beta_range[0] <= self.beta_range[1] < 1:
            raise ValueError(f"beta_range must be 0 < first <= last < 1, not {self.beta_range}")
        table = self.table
        object.__setattr__(self, "sigma_min", float(self.sigma_min or table[0]))
        object.__setattr__(self, "sigma_max", float(self.sigma_max or table[-1]))
        _check_ends(self.sigma_min, self.sigma_max)
        if self.sigma_min < table[0] * (1 - 1e-9) or self.sigma_max > table[-1] * (1 + 1e-9):
            raise ValueError(
                f"sigma range {self.sigma_min}..{self.sigma_max} leaves the trained "
                f"range {table[0]:.6g}..{table[-1]:.6g}"
            )

    @cached_property
    def table(self) -> np.ndarray:
        """sigma at each integer timestep, float64 [timesteps], increasing."""
        alpha = _alphas(self.betas, self.timesteps, self.beta_range)
        return np.sqrt((1 - alpha) / alpha)

    def timestep(self, sigma: Tensor) -> Tensor:
        """The (fractional) index the network takes; clamped to the trained range."""
        index = np.arange(self.timesteps, dtype=np.float64)
        value = np.interp(np.log(_numpy(sigma)), np.log(self.table), index)
        return torch.as_tensor(value, dtype=torch.float64)

    def sigma(self, timestep: Tensor) -> Tensor:
        """Inverse of `timestep`."""
        index = np.arange(self.timesteps, dtype=np.float64)
        value = np.exp(np.interp(_numpy(timestep), index, np.log(self.table)))
        return torch.as_tensor(value, dtype=torch.float64)

    def scale(self, sigma: Tensor | float) -> Tensor | float:
        """What x is multiplied by before the network: sqrt(alpha)."""
        return (1 + sigma**2) ** -0.5


@dataclass(frozen=True)
class VE:
    """Variance exploding as in EDM (Karras et al. 2022): the network sees c_in x and ln(sigma)/4.

    sigma_data is the data's standard deviation, of the preconditioning (their Table 1).
    """

    sigma_min: float = 0.002
    sigma_max: float = 80.0
    sigma_data: float = 0.5

    def __post_init__(self) -> None:
        _check_ends(self.sigma_min, self.sigma_max)

    def timestep(self, sigma: Tensor) -> Tensor:
        """c_noise = ln(sigma) / 4."""
        return torch.as_tensor(np.log(_numpy(sigma)) / 4, dtype=torch.float64)

    def sigma(self, timestep: Tensor) -> Tensor:
        """Inverse of `timestep`."""
        return torch.as_tensor(np.exp(4 * _numpy(timestep)), dtype=torch.float64)

    def scale(self, sigma: Tensor | float) -> Tensor | float:
        """c_in = 1 / sqrt(sigma^2 + sigma_data^2)."""
        return (sigma**2 + self.sigma_data**2) ** -0.5


Process = VP | VE


def _numpy(x: Tensor | float) -> np.ndarray:
    return torch.as_tensor(x, dtype=torch.float64).cpu().numpy()


def alpha(sigma: Tensor) -> Tensor:
    """VP signal variance 1 / (1 + sigma^2), DDPM's alpha-bar."""
    return 1 / (1 + sigma**2)


def denoised(
    prediction: Prediction, output: Tensor, x: Tensor, sigma: Tensor | float, sigma_data: float = 1
) -> Tensor:
    """E[x0|x] from a network's output; x = x0 + sigma eps (not scaled), shapes that broadcast.

    eps: x - sigma eps.  v (Salimans & Ho 2022): x / (1 + sigma^2) - sigma v / sqrt(1 + sigma^2).
    edm: c_skip x + c_out F (Karras et al. 2022, Table 1).
    """
    if prediction == "eps":
        return x - sigma * output
    if prediction == "v":
        return x / (1 + sigma**2) - sigma * (1 + sigma**2) ** -0.5 * output
    if prediction == "x0":
        return output
    if prediction == "edm":
        total = sigma**2 + sigma_data**2
        return sigma_data**2 / total * x + sigma * sigma_data * total**-0.5 * output
    raise ValueError(f"unknown prediction {prediction!r}; known: eps, v, x0, edm")


def target(
    prediction: Prediction, x0: Tensor, eps: Tensor, sigma: Tensor, sigma_data: float = 1
) -> Tensor:
    """What the network is trained to output: the inverse of `denoised` at the true x0."""
    x = x0 + sigma * eps
    if prediction == "eps":
        return eps
    if prediction == "v":
        return (x / (1 + sigma**2) - x0) * (1 + sigma**2) ** 0.5 / sigma
    if prediction == "x0":
        return x0
    if prediction == "edm":
        total = sigma**2 + sigma_data**2
        return (x0 - sigma_data**2 / total * x) * total**0.5 / (sigma * sigma_data)
    raise ValueError(f"unknown prediction {prediction!r}; known: eps, v, x0, edm")


def error_gain(prediction: Prediction, sigma: Tensor, sigma_data: float = 1) -> Tensor:
    """Squared error of x0 over that of the network's output, at each sigma: see `denoised`."""
    if prediction == "eps":
        return sigma**2
    if prediction == "v":
        return sigma**2 / (1 + sigma**2)
    if prediction == "x0":
        return torch.ones_like(sigma)
    if prediction == "edm":
        return sigma**2 * sigma_data**2 / (sigma**2 + sigma_data**2)
    raise ValueError(f"unknown prediction {prediction!r}; known: eps, v, x0, edm")
