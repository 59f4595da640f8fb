"""Orders of convergence measured on exact denoisers, and the forms of the papers."""

import math

import numpy as np
import pytest
import torch
from diffusers import DPMSolverMultistepScheduler
from oracles import Gaussian, Mixture
from torch import Tensor

from bench import names, samplers
from bench.generate import Counted
from bench.process import alpha
from bench.samplers import DDIM, DPMpp2M
from bench.schedules import Karras, LogSNR
from bench.types import Sampler

SAMPLERS = [kind() for kind in names.public(samplers).values()]
ORACLES = [Gaussian(), Mixture()]


def no_noise() -> Tensor:
    raise AssertionError("a deterministic sampler drew noise")


def start(oracle: Gaussian, sigma: float) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return sigma * torch.randn(8, *oracle.shape, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("sampler", SAMPLERS, ids=repr)
def test_it_is_a_sampler(sampler: Sampler) -> None:
    assert isinstance(sampler, Sampler)


@pytest.mark.parametrize("schedule", [LogSNR(), Karras()], ids=repr)
@pytest.mark.parametrize("sampler", SAMPLERS, ids=repr)
@pytest.mark.parametrize("oracle", ORACLES, ids=lambda o: o.name)
def test_order_of_convergence(oracle: Gaussian, sampler: Sampler, schedule) -> None:
    high, low = oracle.process.sigma_max, oracle.process.sigma_min
    x = start(oracle, high)
    want = oracle.exact(x, high, low)
    counts, errors = [128, 256, 512], []
    for steps in counts:
        grid = schedule(steps + 1, oracle.process)[:-1]
        assert grid[-1] == low
        made = sampler(oracle.denoiser(), x, grid, no_noise)
        assert made.dtype == torch.float64
        errors.append(float((made - want).square().mean().sqrt()))
    slope = -np.polyfit(np.log(counts), np.log(errors), 1)[0]
    assert abs(slope - sampler.order) < 0.15, errors


@pytest.mark.parametrize("sampler", SAMPLERS, ids=repr)
def test_it_solves_the_gaussian(sampler: Sampler) -> None:
    oracle = Gaussian(c=0.3)
    high, low = oracle.process.sigma_max, oracle.process.sigma_min
    x = start(oracle, high)
    made = sampler(oracle.denoiser(), x, LogSNR()(4001, oracle.process)[:-1], no_noise)
    want = oracle.exact(x, high, low)
    torch.testing.assert_close(made, want, rtol=10 ** (-2 * sampler.order), atol=0)


@pytest.mark.parametrize("steps", [1, 2, 3, 10])
@pytest.mark.parametrize("sampler", SAMPLERS, ids=repr)
def test_it_calls_the_denoiser_as_often_as_it_says(sampler: Sampler, steps: int) -> None:
    oracle = Mixture()
    grid = Karras()(steps, oracle.process)
    for walked in (grid, grid[:-1]) if steps > 1 else (grid,):
        denoise = Counted(oracle.denoiser())
        sampler(denoise, start(oracle, 80.0), walked, no_noise)
        assert denoise.calls == sampler.evals(walked)


@pytest.mark.parametrize("sampler", SAMPLERS, ids=repr)
def test_the_step_to_0_returns_the_denoised(sampler: Sampler) -> None:
    seen = []

    def denoise(x: Tensor, sigma: float) -> Tensor:
        seen.append(Mixture().denoiser()(x, sigma))
        return seen[-1]

    grid = Karras()(6, Mixture().process)
    made = sampler(denoise, start(Mixture(), 80.0), grid, no_noise)
    torch.testing.assert_close(made, seen[-1], rtol=0, atol=1e-14)


@pytest.mark.parametrize("sampler", SAMPLERS, ids=repr)
def test_float32_state_stays_float32_and_close(sampler: Sampler) -> None:
    oracle = Mixture()
    grid, x = Karras()(20, oracle.process), start(oracle, 80.0)
    single = sampler(oracle.denoiser(), x.float(), grid, no_noise)
    assert single.dtype == torch.float32
    double = sampler(oracle.denoiser(), x, grid, no_noise)
    torch.testing.assert_close(single.double(), double, rtol=0, atol=1e-4)


def test_ddim_is_its_vp_form() -> None:
    """Song et al. 2021, Eq. 12, sigma = 0: on the scaled state sqrt(alpha) x."""
    oracle = Mixture()
    grid = Karras()(10, oracle.process)
    x = start(oracle, 80.0)
    x_vp, denoise = alpha(grid[0]).sqrt() * x, oracle.denoiser()
    for sigma, sigma_next in zip(grid[:-1], grid[1:], strict=True):
        a, a_next = alpha(sigma), alpha(sigma_next)
        x0 = denoise(x_vp / a.sqrt(), float(sigma))
        eps = (x_vp - a.sqrt() * x0) / (1 - a).sqrt()
        x_vp = a_next.sqrt() * x0 + (1 - a_next).sqrt() * eps
    torch.testing.assert_close(DDIM()(denoise, x, grid, no_noise), x_vp, rtol=0, atol=1e-9)


@pytest.mark.parametrize("timesteps", [[999, 700, 420, 333, 100, 20, 0], [950, 500, 30]])
@pytest.mark.parametrize("prediction", ["sample", "epsilon"])
def test_dpmpp2m_is_that_of_diffusers(timesteps: list[int], prediction: str) -> None:
    scheduler = DPMSolverMultistepScheduler(
        prediction_type=prediction, solver_order=2, solver_type="midpoint"
    )
    scheduler.set_timesteps(timesteps=timesteps)
    grid = scheduler.sigmas.double()
    oracle = Mixture()
    x = start(oracle, float(grid[0]))
    x_vp, denoise = (alpha(grid[0]).sqrt() * x).float(), oracle.denoiser()
    for t, sigma in zip(scheduler.timesteps, grid[:-1], strict=True):
        scaled = x_vp.double() / alpha(sigma).sqrt()
        x0 = denoise(scaled, float(sigma))
        output = x0 if prediction == "sample" else (scaled - x0) / sigma
        x_vp = scheduler.step(output.float(), t, x_vp).prev_sample
    made = DPMpp2M()(denoise, x, grid, no_noise)
    # theirs runs in float32; eps at sigma ~ 157 loses two more digits of x0
    atol = 1e-5 if prediction == "sample" else 2e-4
    torch.testing.assert_close(made, x_vp.double(), rtol=0, atol=atol)


def test_dpmpp2m_uses_the_last_step_by_the_ratio_of_log_steps() -> None:
    """One step by hand: lambda-linear x0 is extrapolated to the midpoint of the interval."""
    grid = torch.tensor([8.0, 2.0, 1.0], dtype=torch.float64)
    x = torch.ones(1, 1, 1, 1, dtype=torch.float64)
    made = DPMpp2M()(lambda x, sigma: torch.full_like(x, -math.log(sigma)), x, grid, no_noise)
    first = 0.25 * 1 + 0.75 * -math.log(8)
    d = -math.log(2) + (math.log(2) / (2 * math.log(4))) * (math.log(8) - math.log(2))
    assert math.isclose(float(made), 0.5 * first + 0.5 * d, rel_tol=1e-12)
    assert math.isclose(d, -math.log(2**0.5), rel_tol=1e-12)
