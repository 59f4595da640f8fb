"""Samplers: loops that walk a grid of noise levels from noise to data.

All samplers work in the sigma frame, x = x0 + sigma eps. The VP and VE forms of a method are the
same numbers there. The probability-flow ODE is dx/dsigma = d with d = (x - x0) / sigma, where x0
is the denoiser's E[x0|x].

- Methods for noise prediction interpolate d.
- Methods for data prediction interpolate x0 as a function of lambda = -log sigma.
- Runge-Kutta methods step in sigma. A docstring says so where a method steps in lambda.

The last step of a grid goes to sigma = 0, where lambda is infinite. There every sampler is of first
order and returns x0.

The state x is float32; tests also use float64. Coefficients are Python floats, computed from the
float64 grid. No step therefore waits for the device.
"""

from bench.samplers.ddim import DDIM, DDPM
from bench.samplers.dpmpp import DPMpp2M, DPMpp2MSDE, DPMpp2S, DPMpp3M
from bench.samplers.multistep import DEIS, IPNDM, PNDM
from bench.samplers.runge_kutta import DPMSolver2, EDMStochastic, Heun
from bench.samplers.unipc import UniPC

__all__ = [
    "DDIM", "DDPM", "DEIS", "DPMSolver2", "DPMpp2M", "DPMpp2MSDE", "DPMpp2S", "DPMpp3M",
    "EDMStochastic", "Heun", "IPNDM", "PNDM", "UniPC",
]  # fmt: skip
