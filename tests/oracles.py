"""Models with an exact denoiser: on them, a sampler's error is discretisation and nothing else."""

import math
from dataclasses import dataclass, field

import numpy as np
import torch
from scipy.integrate import solve_ivp
from torch import Tensor

from bench.process import VE
from bench.types import Denoiser, Model, NoiseProcess


@dataclass(frozen=True)
class Gaussian(Model):
    """Data N(0, c^2 I): E[x0|x] = c^2 / (c^2 + sigma^2) x; pixels 0..255 <-> -1..1."""

    c: float = 0.5
    process: NoiseProcess = field(default_factory=lambda: VE(0.02, 80.0))
    shape: tuple[int, int, int] = (1, 4, 4)
    device: str = "cpu"
    name: str = "gaussian"
    digest: str = "gaussian"

    def denoiser(self, labels: Tensor | None = None) -> Denoiser:
        """In the dtype of x."""
        return lambda x, sigma: self.c**2 / (self.c**2 + sigma**2) * x

    def exact(self, x: Tensor, sigma_from: float, sigma_to: float) -> Tensor:
        """The probability-flow ODE's solution: x scales with s = sqrt(c^2 + sigma^2)."""
        return x * ((self.c**2 + sigma_to**2) / (self.c**2 + sigma_from**2)) ** 0.5

    def encode(self, images: Tensor) -> Tensor:
        """uint8 -> float32."""
        return images.float() / 127.5 - 1

    def decode(self, x: Tensor) -> Tensor:
        """float -> uint8."""
        return (x.float() * 127.5 + 127.5).round().clamp(0, 255).to(torch.uint8)


@dataclass(frozen=True)
class Mixture(Gaussian):
    """Data sum_k w_k N(m_k 1, c^2 I): every centre is a constant image.

    E[x0|x] = sum_k r_k (m_k + c^2 / (c^2 + sigma^2) (x - m_k)), r_k the posterior share of k.
    """

    centres: tuple[float, ...] = (-0.8, 0.1, 0.9)
    weights: tuple[float, ...] = (0.5, 0.2, 0.3)
    name: str = "mixture"

    def denoiser(self, labels: Tensor | None = None) -> Denoiser:
        """In the dtype of x."""

        def denoise(x: Tensor, sigma: float) -> Tensor:
            centre = torch.tensor(self.centres, dtype=x.dtype)  # [k]
            s2 = self.c**2 + sigma**2
            away = x.flatten(1)[:, None, :] - centre[:, None]  # [n, k, d]
            log_share = torch.tensor(self.weights, dtype=x.dtype).log() - away.square().sum(2) / (
                2 * s2
            )
            share = log_share.softmax(1)  # [n, k]
            mean = (share * centre).sum(1).reshape(-1, 1, 1, 1)
            return mean + self.c**2 / s2 * (x - mean)

        return denoise

    def exact(self, x: Tensor, sigma_from: float, sigma_to: float) -> Tensor:
        """Runge-Kutta of fourth order on dx / dlog sigma = x - E[x0|x], 1000 steps."""
        denoise, steps = self.denoiser(), 1000
        at = torch.tensor([sigma_from, sigma_to], dtype=torch.float64).log()
        start, h = float(at[0]), float(at[1] - at[0]) / steps

        def slope(x: Tensor, log_sigma: float) -> Tensor:
            return x - denoise(x, float(torch.tensor(log_sigma, dtype=torch.float64).exp()))

        for i in range(steps):
            here = start + i * h
            k1 = slope(x, here)
            k2 = slope(x + h / 2 * k1, here + h / 2)
            k3 = slope(x + h / 2 * k2, here + h / 2)
            k4 = slope(x + h * k3, here + h)
            x = x + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
        return x


@dataclass(frozen=True)
class Cloud(Gaussian):
    """Data sum_k w_k N(m_k, c^2 I) with any centres m_k, states [1, 1, dim].

    E[x0|x] = sum_k r_k (m_k + c^2 / (c^2 + sigma^2) (x - m_k)), r_k the posterior share of k.
    """

    c: float = 0.1
    centres: tuple[tuple[float, ...], ...] = ((-0.7, -0.3), (0.6, 0.1), (0.0, 0.6))
    weights: tuple[float, ...] = (0.5, 0.2, 0.3)
    shape: tuple[int, int, int] = (1, 1, 2)
    name: str = "cloud"

    def denoiser(self, labels: Tensor | None = None) -> Denoiser:
        """In the dtype of x."""

        def denoise(x: Tensor, sigma: float) -> Tensor:
            centre = torch.tensor(self.centres, dtype=x.dtype)  # [k, dim]
            s2 = self.c**2 + sigma**2
            square = (x.flatten(1)[:, None, :] - centre).square().sum(2)  # [n, k]
            log_weight = torch.tensor(self.weights, dtype=x.dtype).log()
            mean = ((log_weight - square / (2 * s2)).softmax(1) @ centre).view_as(x)
            return mean + self.c**2 / s2 * (x - mean)

        return denoise

    def images(self, n: int, seed: int) -> Tensor:
        """uint8 [n, 1, 1, dim] of the data, rounded."""
        generator = torch.Generator().manual_seed(seed)
        pick = torch.multinomial(torch.tensor(self.weights), n, True, generator=generator)
        noise = torch.randn(n, *self.shape, generator=generator)
        return self.decode(torch.tensor(self.centres)[pick].view_as(noise) + self.c * noise)

    def exact(self, x: Tensor, sigma_from: float, sigma_to: float) -> Tensor:
        """dx / dlog sigma = x - E[x0|x] by DOP853 (scipy), relative tolerance 1e-10."""
        denoise = self.denoiser()

        def slope(log_sigma: float, flat: np.ndarray) -> np.ndarray:
            at = torch.from_numpy(flat).view_as(x)
            return (at - denoise(at, math.exp(log_sigma))).numpy().ravel()

        span = math.log(sigma_from), math.log(sigma_to)
        found = solve_ivp(slope, span, x.numpy().ravel(), method="DOP853", rtol=1e-10, atol=1e-12)
        return torch.from_numpy(found.y[:, -1].copy()).view_as(x)
