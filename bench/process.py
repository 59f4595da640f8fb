"""Diffusion processes: alpha, the timestep of a sigma, and E[x0|x] of a network's prediction.

Only this module knows alpha. All other modules use sigma = sqrt((1 - alpha) / alpha).
"""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, TypeVar

import numpy as np

from bench.lazy import Tensor, torch

Betas = Literal["linear", "scaled_linear", "cosine"]
Prediction = Literal["eps", "v", "x0", "edm"]
Values = TypeVar("Values", np.ndarray, Tensor)


def _alphas(
    betas: Betas, timesteps: int, beta_range: tuple[float, float] | None = None
) -> np.ndarray:
    """Alpha-bar [timesteps] of DDPM (linear), LDM (scaled_linear) or IDDPM (cosine)."""
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
    """The variance-preserving process, with discrete timesteps 0 .. timesteps - 1.

    x_vp = sqrt(alpha) x0 + sqrt(1 - alpha) eps: DDPM (Ho et al. 2020), IDDPM (Nichol & Dhariwal
    2021). log sigma is linear between integer timesteps, so every sigma has a timestep. The
    schedule `Snapped` gives integer timesteps.

    sigma_min, sigma_max: noise levels where sampling ends and starts. 0: the ends of the table.
    beta_range: first and last beta, for linear and scaled_linear. None: DDPM's 0.0001 and 0.02 for
        1000 timesteps (larger for fewer timesteps), or LDM's 0.0015 and 0.0195.
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

    def timestep(self, sigma: Values) -> Values:
        """The timestep of each sigma, float64; not always whole; clamped to the trained range.

        Of an array it gives an array, and of a tensor a tensor on the CPU.
        """
        index = np.arange(self.timesteps, dtype=np.float64)
        return _alike(sigma, np.interp(np.log(_numpy(sigma)), np.log(self.table), index))

    def sigma(self, timestep: Values) -> Values:
        """Inverse of `timestep`."""
        index = np.arange(self.timesteps, dtype=np.float64)
        return _alike(timestep, np.exp(np.interp(_numpy(timestep), index, np.log(self.table))))

    def scale(self, sigma: Tensor | float) -> Tensor | float:
        """The factor of x at the input of the network: sqrt(alpha)."""
        return (1 + sigma**2) ** -0.5


@dataclass(frozen=True)
class VE:
    """The variance-exploding process of EDM (Karras et al. 2022).

    The network takes c_in x and ln(sigma) / 4.

    sigma_data: standard deviation of the data in the preconditioning (their Table 1).
    """

    sigma_min: float = 0.002
    sigma_max: float = 80.0
    sigma_data: float = 0.5

    def __post_init__(self) -> None:
        _check_ends(self.sigma_min, self.sigma_max)

    def timestep(self, sigma: Values) -> Values:
        """c_noise = ln(sigma) / 4."""
        return _alike(sigma, np.log(_numpy(sigma)) / 4)

    def sigma(self, timestep: Values) -> Values:
        """Inverse of `timestep`."""
        return _alike(timestep, np.exp(4 * _numpy(timestep)))

    def scale(self, sigma: Tensor | float) -> Tensor | float:
        """The factor of x at the input of the network: c_in = 1 / sqrt(sigma^2 + sigma_data^2)."""
        return (sigma**2 + self.sigma_data**2) ** -0.5


Process = VP | VE


def _numpy(x: np.ndarray | Tensor) -> np.ndarray:
    return np.asarray(x.cpu().double().numpy() if isinstance(x, Tensor) else x, dtype=np.float64)


def _alike(x: np.ndarray | Tensor, value: Any) -> Any:
    """A value, float64, as a tensor where x is one, else as an array."""
    return torch.as_tensor(value) if isinstance(x, Tensor) else value


def alpha(sigma: Values) -> Values:
    """DDPM's alpha-bar, the variance of the signal: 1 / (1 + sigma^2)."""
    return 1 / (1 + sigma**2)


def denoised(
    prediction: Prediction, output: Tensor, x: Tensor, sigma: Tensor | float, sigma_data: float = 1
) -> Tensor:
    """E[x0|x] of a network's output.

    eps: x - sigma eps. v: x / (1 + sigma^2) - sigma v / sqrt(1 + sigma^2) (Salimans & Ho 2022).
    edm: c_skip x + c_out F (Karras et al. 2022, Table 1).

    Arguments:
        x: x0 + sigma eps, not scaled. All shapes broadcast.

    Raises:
        ValueError: unknown prediction.
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
    """The training target of the network: the output for which `denoised` gives the true x0."""
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
    """Squared error of x0 divided by the squared error of the network's output, at each sigma."""
    if prediction == "eps":
        return sigma**2
    if prediction == "v":
        return sigma**2 / (1 + sigma**2)
    if prediction == "x0":
        return torch.ones_like(sigma)
    if prediction == "edm":
        return sigma**2 * sigma_data**2 / (sigma**2 + sigma_data**2)
    raise ValueError(f"unknown prediction {prediction!r}; known: eps, v, x0, edm")
