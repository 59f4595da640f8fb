"""UniPC: a predictor and a corrector from one family, at one call a step."""

import math
from collections import deque
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
from torch import Tensor

from bench.types import Denoiser, Noise, Sampler

_Past = deque[tuple[float, Tensor]]  # (lambda, x0), newest first


@dataclass(frozen=True)
class UniPC(Sampler):
    """UniPC-p (Zhao et al. 2023, Algorithms 1 and 2), data prediction. One call a step.

    UniP-p predicts the state at the next level; what the denoiser makes of it there serves UniC-p
    to correct the state and the next UniP, without a call of its own. variant is B(h): "bh1" h,
    "bh2" e^h - 1 (in the paper's sign). Orders start at 1 and fall again towards a grid's 0, as in
    the authors' code. The corrector raises the order to p + 1.
    """

    order: int = 2
    variant: Literal["bh1", "bh2"] = "bh2"

    def __post_init__(self) -> None:
        if self.order not in (1, 2, 3):
            raise ValueError(f"UniPC's order must be 1, 2 or 3, not {self.order}")
        if self.variant not in ("bh1", "bh2"):
            raise ValueError(f"unknown variant {self.variant!r}; known: bh1, bh2")

    def __call__(self, denoise: Denoiser, x: Tensor, grid: Tensor, noise: Noise) -> Tensor:
        sigmas = grid.tolist()
        steps, to_zero = len(sigmas) - 1, sigmas[-1] == 0
        past: _Past = deque(maxlen=self.order)
        before, order = x, 0  # the corrected state one level up, and the order that left it
        for i, (sigma, sigma_next) in enumerate(pairwise(sigmas)):
            x0 = denoise(x, sigma)
            if i > 0:
                x = self._step(before, sigmas[i - 1], sigma, past, order, x0)
            past.appendleft((-math.log(sigma), x0))
            if sigma_next == 0:
                return x0
            order = min(self.order, i + 1, steps - i if to_zero else self.order)
            before, x = x, self._step(x, sigma, sigma_next, past, order, None)
        return x

    def _step(
        self, x: Tensor, sigma: float, end: float, past: _Past, order: int, x0_end: Tensor | None
    ) -> Tensor:
        """UniP-p from sigma to end; UniC-p where x0 at the end is known."""
        (here, x0), earlier = past[0], list(past)[1:order]
        h = math.log(sigma / end)
        ratios = [(level - here) / h for level, _ in earlier] + [1.0]
        matrix, b, scale = self._system(h, ratios)
        x_end = (end / sigma) * x - math.expm1(-h) * x0
        if x0_end is None:
            if order == 1:
                return x_end
            # the authors take 1/2 for p = 2, which the equation gives up to O(h)
            rho = [0.5] if order == 2 else np.linalg.solve(matrix[:-1, :-1], b[:-1]).tolist()
        else:
            rho = [0.5] if order == 1 else np.linalg.solve(matrix, b).tolist()
            x_end = x_end - scale * rho[-1] * (x0_end - x0)
        for weight, ratio, (_, other) in zip(rho, ratios, earlier, strict=False):
            x_end = x_end - (scale * weight / ratio) * (other - x0)
        return x_end

    def _system(self, h: float, ratios: list[float]) -> tuple[np.ndarray, np.ndarray, float]:
        """The paper's R_p(h), phi_p(h) and B(h), for data prediction: with -h."""
        scale = -h if self.variant == "bh1" else math.expm1(-h)
        phi, factorial, b = math.expm1(-h) / -h - 1, 1, []
        for i in range(1, len(ratios) + 1):
            b.append(phi * factorial / scale)
            factorial *= i + 1
            phi = phi / -h - 1 / factorial
        return np.vander(ratios, increasing=True).T, np.array(b), scale
