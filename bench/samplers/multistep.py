"""Adams-Bashforth methods for noise prediction: dx/dsigma = d with d = (x - x0) / sigma."""

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import ClassVar, Literal

import numpy as np

from bench.lazy import Tensor
from bench.samplers.order import LowerOrderFinal, Multistep
from bench.types import Denoiser, Noise, Sampler

_UNIFORM = {
    1: (1.0,),
    2: (3 / 2, -1 / 2),
    3: (23 / 12, -16 / 12, 5 / 12),
    4: (55 / 24, -59 / 24, 37 / 24, -9 / 24),
}  # order -> weights of Adams-Bashforth on equal steps, newest first
_Past = Sequence[tuple[float, Tensor]]  # (sigma, d), newest first
_Steps = Iterable[tuple[float, float, int]]  # (sigma, sigma_next, order)
_Weigh = Callable[[list[float], float, float], list[float]]  # nodes, start, end -> weights


def _check_order(name: str, order: int) -> None:
    if order not in _UNIFORM:
        raise ValueError(f"{name} needs an order of 1, 2, 3 or 4, not {order}")


def _weights(nodes: list[float], start: float, end: float, log: bool) -> list[float]:
    """Integrals over sigma, from start to end, of the Lagrange polynomials through `nodes`.

    Gauss-Legendre quadrature computes them, exactly to rounding.

    Arguments:
        nodes: noise levels, newest first.
        log: polynomials in log sigma; else in sigma.

    Returns:
        One weight for each node.
    """
    clock = np.log if log else np.asarray
    at, share = np.polynomial.legendre.leggauss(12)
    low, high = float(clock(start)), float(clock(end))
    u = (high + low) / 2 + (high - low) / 2 * at
    measure = (high - low) / 2 * share * (np.exp(u) if log else 1.0)
    u_nodes = [float(clock(node)) for node in nodes]
    weights = []
    for i, mine in enumerate(u_nodes):
        others = [other for j, other in enumerate(u_nodes) if j != i]
        polynomial = np.prod([(u - other) / (mine - other) for other in others], axis=0)
        weights.append(float((measure * polynomial).sum()))
    return weights


def _equal_steps(nodes: list[float], start: float, end: float) -> list[float]:
    """The weights of equal steps. Of the nodes only their number is used."""
    return [(end - start) * weight for weight in _UNIFORM[len(nodes)]]


def _combine(weights: list[float], past: _Past) -> Tensor:
    total = weights[0] * past[0][1]
    for weight, (_, d) in zip(weights[1:], past[1:], strict=True):
        total = total + weight * d
    return total


def _walk(denoise: Denoiser, x: Tensor, steps: _Steps, weigh: _Weigh) -> Tensor:
    """Adams-Bashforth: a step of order k uses the last k slopes d."""
    past: deque[tuple[float, Tensor]] = deque(maxlen=len(_UNIFORM))
    for sigma, sigma_next, order in steps:
        x0 = denoise(x, sigma)
        if sigma_next == 0:
            return x0
        past.appendleft((sigma, (x - x0) / sigma))
        used = list(past)[:order]
        x = x + _combine(weigh([node for node, _ in used], sigma, sigma_next), used)
    return x


@dataclass(frozen=True)
class DEIS(Multistep):
    """tAB-DEIS (Zhang and Chen 2023, Algorithm 1 with Eq. 15): exponential multistep integrator.

    It calls the denoiser once a step. A polynomial through d at the last `order` levels gives d
    within the step. The step integrates that polynomial exactly.

    Arguments:
        order: number of levels, 1 to 4.
        variable: "logrho": polynomials in log sigma, as in diffusers. "rho": polynomials in sigma,
            which the paper calls rhoAB.
        lower_order_final: see `Multistep`.
    """

    version: ClassVar[int] = 2  # 1 had no `lower_order_final`: it was "never"
    order: int = 3
    variable: Literal["logrho", "rho"] = "logrho"
    lower_order_final: LowerOrderFinal = "below15"

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_order("DEIS", self.order)
        if self.variable not in ("logrho", "rho"):
            raise ValueError(f"DEIS: unknown variable {self.variable!r}; known: logrho, rho")

    def __call__(self, denoise: Denoiser, x: Tensor, grid: Tensor, noise: Noise) -> Tensor:
        weigh = partial(_weights, log=self.variable == "logrho")
        return _walk(denoise, x, self._ordered(grid, self.order), weigh)


@dataclass(frozen=True)
class IPNDM(Multistep):
    """iPNDM (Zhang and Chen 2023, section 3; Liu et al. 2022): Adams-Bashforth multistep.

    It calls the denoiser once a step. The first steps have lower orders, where PNDM has
    Runge-Kutta steps.

    Arguments:
        order: number of slopes d that a step uses, 1 to 4.
        steps: "uniform": the weights of equal steps on every grid, as published. On uneven grids
            orders 3 and 4 converge with order 2. "variable": the weights of the actual grid
            (iPNDM_v). It is then the same method as `DEIS(variable="rho")`.
        lower_order_final: see `Multistep`. No published code lowers the order of iPNDM.
    """

    order: int = 4
    steps: Literal["uniform", "variable"] = "uniform"
    lower_order_final: LowerOrderFinal = "never"

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_order("IPNDM", self.order)
        if self.steps not in ("uniform", "variable"):
            raise ValueError(f"IPNDM: unknown steps {self.steps!r}; known: uniform, variable")

    def __call__(self, denoise: Denoiser, x: Tensor, grid: Tensor, noise: Noise) -> Tensor:
        weigh = _equal_steps if self.steps == "uniform" else partial(_weights, log=False)
        return _walk(denoise, x, self._ordered(grid, self.order), weigh)


@dataclass(frozen=True)
class PNDM(Sampler):
    """PNDM (Liu et al. 2022, Algorithm 2, "F-PNDM"): Runge-Kutta start, then Adams-Bashforth.

    The first three steps are pseudo Runge-Kutta steps, with four denoiser calls each. All later
    steps are Adams-Bashforth of fourth order with the weights of equal steps, one call each. The
    order does not fall at the end, except in the step to 0: no published code lowers it.

    In the sigma frame the paper's transfer function is x + (sigma_next - sigma) d. The midpoint of
    a Runge-Kutta step is the middle in sigma. The paper has the middle in timesteps, which a
    sampler does not know: it sees the grid only.
    """

    warmup: ClassVar[int] = 3

    def evals(self, grid: Tensor) -> int:
        """Function evaluations on this grid: 4 in each of the first three steps, else 1.

        The step to 0 has 1 evaluation, even as one of the first three.
        """
        steps = len(grid) - 1
        full = steps - int(float(grid[-1]) == 0)  # the step to 0 is never a Runge-Kutta step
        return steps + 3 * min(self.warmup, full)

    def __call__(self, denoise: Denoiser, x: Tensor, grid: Tensor, noise: Noise) -> Tensor:
        past: deque[tuple[float, Tensor]] = deque(maxlen=4)

        def slope(x: Tensor, sigma: float) -> Tensor:
            return (x - denoise(x, sigma)) / sigma

        for step, (sigma, sigma_next) in enumerate(pairwise(grid.tolist())):
            if sigma_next == 0:
                return denoise(x, sigma)
            h, d = sigma_next - sigma, slope(x, sigma)
            past.appendleft((sigma, d))
            if step < self.warmup:
                d2 = slope(x + h / 2 * d, sigma + h / 2)
                d3 = slope(x + h / 2 * d2, sigma + h / 2)
                d4 = slope(x + h * d3, sigma_next)
                x = x + h / 6 * (d + 2 * d2 + 2 * d3 + d4)
            else:
                x = x + h * _combine(list(_UNIFORM[4]), list(past))
        return x
