"""UniPC: a predictor and a corrector of one family, with one denoiser call a step."""

import math
from collections import deque
from dataclasses import dataclass
from typing import Literal

import numpy as np

from bench.lazy import Tensor
from bench.samplers.order import LowerOrderFinal, Multistep
from bench.types import Denoiser, Noise

_Past = deque[tuple[float, Tensor]]  # (lambda, x0), newest first


@dataclass(frozen=True)
class UniPC(Multistep):
    """UniPC-p (Zhao et al. 2023, Algorithms 1 and 2): multistep predictor-corrector.

    It works on data prediction and calls the denoiser once a step. The predictor UniP-p gives the
    state at the next level. The denoiser is called on that state. The corrector UniC-p uses the
    result to correct the state. The next UniP-p uses the same result again, so the corrector needs
    no call. The corrector raises the order of convergence to p + 1.

    Arguments:
        order: p, 1 to 3.
        variant: the function B(h). "bh1" is h and "bh2" is e^h - 1, in the paper's sign of h.
        lower_order_final: see `Multistep`. The authors' code, diffusers and diff-sampler lower the
            order of UniPC in runs of every length.
    """

    order: int = 2
    variant: Literal["bh1", "bh2"] = "bh2"
    lower_order_final: LowerOrderFinal = "always"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.order not in (1, 2, 3):
            raise ValueError(f"UniPC needs an order of 1, 2 or 3, not {self.order}")
        if self.variant not in ("bh1", "bh2"):
            raise ValueError(f"UniPC: unknown variant {self.variant!r}; known: bh1, bh2")

    def __call__(self, denoise: Denoiser, x: Tensor, grid: Tensor, noise: Noise) -> Tensor:
        past: _Past = deque(maxlen=self.order)
        # sigma, order and the corrected state of the step before
        sigma_last, order_last, x_last = math.inf, 0, x
        for sigma, sigma_next, order in self._ordered(grid, self.order):
            x0 = denoise(x, sigma)
            if past:
                x = self._step(x_last, sigma_last, sigma, past, order_last, x0)
            past.appendleft((-math.log(sigma), x0))
            if sigma_next == 0:
                return x0
            sigma_last, order_last, x_last = sigma, order, x
            x = self._step(x, sigma, sigma_next, past, order, None)
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
