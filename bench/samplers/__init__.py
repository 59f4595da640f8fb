"""Samplers: loops over a grid in the sigma frame, where VP and VE forms are the same numbers.

State x is float32 (or float64 in tests); coefficients are Python floats from the float64 grid, so
no step waits for the device. With d = (x - x0) / sigma the flow is dx/dsigma = d: methods for noise
prediction interpolate d, methods for data prediction x0 against lambda = -log sigma. Runge-Kutta
methods are in sigma, or in lambda where they say so. The step to 0, where lambda is infinite, is
first order for all and returns x0. `order` is the method's own; where its order of convergence on
uneven but smooth grids is another, `convergence` says so. `stochastic` samplers draw noise.
"""

from bench.samplers.ddim import DDIM, DDPM
from bench.samplers.dpmpp import DPMpp2M, DPMpp2MSDE, DPMpp2S, DPMpp3M
from bench.samplers.multistep import DEIS, IPNDM, PNDM
from bench.samplers.runge_kutta import DPMSolver2, EDMStochastic, Heun
from bench.samplers.unipc import UniPC

__all__ = [
    "DDIM",
    "DDPM",
    "DEIS",
    "DPMSolver2",
    "DPMpp2M",
    "DPMpp2MSDE",
    "DPMpp2S",
    "DPMpp3M",
    "EDMStochastic",
    "Heun",
    "IPNDM",
    "PNDM",
    "UniPC",
]
