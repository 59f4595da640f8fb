"""The rivals in closed form give valid grids, and each agrees with its formula."""

import math

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.stats import beta as beta_law
from torch import Tensor

from bench.process import VE, VP
from bench.schedules import (
    AlignYourSteps,
    Beta,
    Cosine,
    DMNonUniform,
    KLOptimal,
    LinearAlpha,
    LogSNR,
    Native,
    PolyExponential,
    Quadratic,
    Sigmoid,
    TimeUniform,
)

PROCESSES = [VP("cosine", 1000, 0.01, 80.0), VP("linear"), VE()]
RIVALS = [
    TimeUniform(), TimeUniform(rho=2.0), PolyExponential(), PolyExponential(2.0), Sigmoid(),
    Sigmoid(0.0, 3.0, 0.7), Beta(), Beta(2.0, 3.0), Beta(of="sigma"), KLOptimal(), KLOptimal(0.5),
    LinearAlpha(), Quadratic(), DMNonUniform(), DMNonUniform("latent"), AlignYourSteps(),
    AlignYourSteps("sdxl"), AlignYourSteps("svd"),
]  # fmt: skip


def levels(schedule, process, steps: int = 12) -> Tensor:
    return schedule(steps, process)[:-1]


@pytest.mark.parametrize("steps", [1, 2, 7, 250])
@pytest.mark.parametrize("process", PROCESSES, ids=repr)
@pytest.mark.parametrize("schedule", RIVALS, ids=repr)
def test_grids_fall_from_end_to_end(schedule, process, steps: int) -> None:
    if isinstance(schedule, Quadratic) and isinstance(process, VE):
        with pytest.raises(ValueError, match="timesteps"):
            schedule(steps, process)
        return
    grid = schedule(steps, process)
    assert grid.dtype == torch.float64 and grid.shape == (steps + 1,)
    assert torch.isfinite(grid).all() and (grid.diff() < 0).all()
    assert grid[0] == process.sigma_max and grid[-1] == 0
    assert steps == 1 or grid[-2] == process.sigma_min


@pytest.mark.parametrize("process", PROCESSES[:2], ids=repr)
def test_quadratic_has_equal_roots_of_timesteps(process) -> None:
    steps = process.timestep(levels(Quadratic(), process)).sqrt().diff()
    torch.testing.assert_close(steps, steps[:1].expand(11), rtol=1e-5, atol=0)


@pytest.mark.parametrize("rho", [1.0, 2.0])
def test_time_uniform_is_a_linear_beta_in_time(rho: float) -> None:
    """log(1 + sigma^2) is the integral of a beta that is linear in t, t^(1/rho) uniform."""
    process = VE(0.02, 30.0)
    t = np.linspace(1, 1e-3 ** (1 / rho), 12) ** rho
    total = torch.log1p(levels(TimeUniform(rho), process) ** 2).numpy()
    high, low = math.log1p(30.0**2), math.log1p(0.02**2)
    a, b = np.linalg.solve([[1, 0.5], [1e-3, 0.5e-6]], [high, low])
    want = [quad(lambda s: a + b * s, 0, one)[0] for one in t]
    np.testing.assert_allclose(total, want, rtol=1e-9)


def test_special_cases_are_the_schedules_they_should_be() -> None:
    process = PROCESSES[0]
    torch.testing.assert_close(PolyExponential(1.0)(9, process), LogSNR()(9, process))
    torch.testing.assert_close(KLOptimal(1.0)(9, process), Cosine()(9, process))
    torch.testing.assert_close(Beta(1.0, 1.0)(9, process), Native()(9, process))


def test_poly_exponential_is_k_diffusions() -> None:
    ramp = np.linspace(1, 0, 12) ** 1.7
    want = np.exp(ramp * (math.log(80) - math.log(0.01)) + math.log(0.01))
    found = levels(PolyExponential(1.7), PROCESSES[0])
    np.testing.assert_allclose(found.numpy(), want, rtol=1e-12)


def test_sigmoid_is_uniform_in_its_time() -> None:
    """Jabri et al.: gamma(t) = (s(end) - s(start + t (end - start))) / (s(end) - s(start))."""
    schedule = Sigmoid(-3.0, 3.0, 1.1)

    def gamma(t: np.ndarray) -> np.ndarray:
        def s(x):
            return 1 / (1 + np.exp(-x / 1.1))

        return (s(3.0) - s(-3.0 + t * 6.0)) / (s(3.0) - s(-3.0))

    alpha = (1 / (1 + levels(schedule, PROCESSES[0]) ** 2)).numpy()
    t = np.interp(-alpha, -gamma(np.linspace(0, 1, 200_001)), np.linspace(0, 1, 200_001))
    np.testing.assert_allclose(np.diff(t), np.diff(t)[0], rtol=1e-3)


@pytest.mark.parametrize("of", ["timestep", "sigma"])
def test_beta_has_equal_shares_of_its_law(of: str) -> None:
    process = PROCESSES[0]
    grid = levels(Beta(0.6, 0.8, of), process)
    place = process.timestep(grid) if of == "timestep" else grid
    share = ((place - place[-1]) / (place[0] - place[-1])).numpy()
    cdf = beta_law(0.6, 0.8).cdf(share)
    np.testing.assert_allclose(cdf, np.linspace(1, 0, 12), atol=1e-5)


def test_kl_optimal_is_uniform_in_its_angle() -> None:
    angle = torch.atan(levels(KLOptimal(0.4), PROCESSES[0]) / 0.4).diff()
    torch.testing.assert_close(angle, angle[:1].expand(11), rtol=1e-9, atol=0)


def test_linear_alpha_is_uniform_in_alpha() -> None:
    step = (1 / (1 + levels(LinearAlpha(), PROCESSES[0]) ** 2)).diff()
    torch.testing.assert_close(step, step[:1].expand(11), rtol=1e-8, atol=0)


@pytest.mark.parametrize(
    "make",
    [
        lambda: TimeUniform(0), lambda: TimeUniform(eps=2), lambda: PolyExponential(-1),
        lambda: Sigmoid(3, -3), lambda: Sigmoid(tau=0), lambda: Beta(0, 1), lambda: Beta(of="t"),
        lambda: KLOptimal(0),
    ],
)  # fmt: skip
def test_bad_parameters_are_refused_when_built(make) -> None:
    with pytest.raises(ValueError):
        make()
