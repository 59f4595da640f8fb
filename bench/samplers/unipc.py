"""UniPC: a predictor and a corrector of one family, with one denoiser call a step."""

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
    """UniPC-p (Zhao et al. 2023, Algorithms 1 and 2): multistep predictor-corrector.

    It works on data prediction and calls the denoiser once a step. The predictor UniP-p gives the
    state at the next level. The denoiser is called on that state. The corrector UniC-p uses the
    result to correct the state. The next UniP-p uses the same result again, so the corrector needs
    no call. The corrector raises the order of convergence to p + 1.

    The order starts at 1 and grows to p. On a grid that ends at 0 it falls again in the last steps,
    as in the authors' code.

    Arguments:
        order: p, 1 to 3.
        variant: the function B(h). "bh1" is h and "bh2" is e^h - 1, in the paper's sign of h.
    """

    order: int = 2
    variant: Literal["bh1", "bh2"] = "bh2"

    def __post_init__(self) -> None:
        if self.order not in (1, 2, 3):
            raise ValueError(f"UniPC needs an order of 1, 2 or 3, not {self.order}")
        if self.variant not in ("bh1", "bh2"):
            raise ValueError(f"UniPC: unknown variant {self.variant!r}; known: bh1, bh2")

    def __call__(self, denoise: Denoiser, x: Tensor, grid: Tensor, noise: Noise) -> Tensor:
        sigmas = grid.tolist()
        steps, to_zero = len(sigmas) - 1, sigmas[-1] == 0
        past: _Past = deque(maxlen=self.order)
        before, order = x, 0  # the corrected state at the level before, and the order used there
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
        """One step from sigma to `end`.

        Arguments:
            x: the corrected state at sigma.
            past: (lambda, x0) of sigma and of the levels before it.
            order: p of this step.
            x0_end: E[x0|x] at `end`. None: UniP-p, which does not know it. Else: UniC-p.

        Returns:
            The state at `end`.
        """
        (here, x0), earlier = past[0], list(past)[1:order]
        h = math.log(sigma / end)
        ratios = [(level - here) / h for level, _ in earlier] + [1.0]
        matrix, b, scale = self._system(h, ratios)
        x_end = (end / sigma) * x - math.expm1(-h) * x0
        if x0_end is None:
            if order == 1:
                return x_end
            # for p = 2 the authors take 1/2, which differs from the equation's solution by O(h)
            rho = [0.5] if order == 2 else np.linalg.solve(matrix[:-1, :-1], b[:-1]).tolist()
        else:
            rho = [0.5] if order == 1 else np.linalg.solve(matrix, b).tolist()
            x_end = x_end - scale * rho[-1] * (x0_end - x0)
        for weight, ratio, (_, other) in zip(rho, ratios, earlier, strict=False):
            x_end = x_end - (scale * weight / ratio) * (other - x0)
        return x_end

    def _system(self, h: float, ratios: list[float]) -> tuple[np.ndarray, np.ndarray, float]:
        """R_p(h), phi_p(h) and B(h) of the paper. Data prediction has -h in place of h."""
        scale = -h if self.variant == "bh1" else math.expm1(-h)
        phi, factorial, b = math.expm1(-h) / -h - 1, 1, []
        for i in range(1, len(ratios) + 1):
            b.append(phi * factorial / scale)
            factorial *= i + 1
            phi = phi / -h - 1 / factorial
        return np.vander(ratios, increasing=True).T, np.array(b), scale
