"""Orders of convergence on exact denoisers, and agreement with the papers and with diffusers."""

import functools
import itertools
import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from diffusers import (
    DEISMultistepScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    HeunDiscreteScheduler,
    IPNDMScheduler,
    UniPCMultistepScheduler,
)
from oracles import Gaussian, Mixture
from torch import Tensor

from bench import names, samplers
from bench.generate import Counted
from bench.process import VE, alpha
from bench.samplers import (
    DDIM,
    DDPM,
    DEIS,
    IPNDM,
    PNDM,
    DPMpp2M,
    DPMpp2MSDE,
    DPMpp2S,
    DPMpp3M,
    DPMSolver2,
    EDMStochastic,
    Heun,
    UniPC,
    multistep,
)
from bench.samplers.order import Multistep
from bench.schedules import Karras, LogSNR
from bench.types import Noise, Sampler, steps_for


class Orders(NamedTuple):
    """method: the order that the method has by its name. measured: that on uneven grids."""

    method: int
    measured: int


# A new sampler needs a row here. Its name without arguments must be a row.
ORDERS = {  # the global error of the probability-flow ODE
    DDIM(): Orders(1, 1),
    Heun(): Orders(2, 2),
    DPMSolver2(): Orders(2, 2),
    DPMpp2S(): Orders(2, 2),
    DPMpp2M(): Orders(2, 2),
    DPMpp3M(): Orders(3, 2),  # the published weights halve the quadratic term
    DPMpp3M("taylor"): Orders(3, 3),
    UniPC(1): Orders(1, 2),  # the corrector adds 1
    UniPC(): Orders(2, 3),
    UniPC(3): Orders(3, 4),
    UniPC(2, "bh1"): Orders(2, 3),
    UniPC(3, "bh1"): Orders(3, 4),
    DEIS(1): Orders(1, 1),
    DEIS(2): Orders(2, 2),
    DEIS(): Orders(3, 3),
    DEIS(4): Orders(4, 4),
    DEIS(3, "rho"): Orders(3, 3),
    IPNDM(1): Orders(1, 1),
    IPNDM(2): Orders(2, 2),
    IPNDM(3): Orders(3, 2),  # the weights of equal steps
    IPNDM(): Orders(4, 2),
    IPNDM(2, "variable"): Orders(2, 2),
    IPNDM(3, "variable"): Orders(3, 3),
    PNDM(): Orders(4, 2),  # the weights of equal steps
}
WEAK_ORDERS = {  # the error of the variance of the samples
    DDIM(eta=0.5): Orders(1, 1),
    DDIM(eta=1.0): Orders(1, 1),
    DDPM(): Orders(1, 1),
    DDPM("upper"): Orders(1, 1),
    DPMpp2MSDE(): Orders(2, 2),
    EDMStochastic(): Orders(2, 0),  # s_noise adds 0.3 % of noise: the variance does not converge
    EDMStochastic(churn=0): Orders(2, 2),
    EDMStochastic(churn=10, s_min=0, s_max=1000, s_noise=1): Orders(2, 2),
}
SAMPLERS: list[Sampler] = list(ORDERS)
STOCHASTIC: list[Sampler] = list(WEAK_ORDERS)
EVERY = SAMPLERS + STOCHASTIC
ORACLES = [Gaussian(), Mixture()]


def no_noise() -> Tensor:
    raise AssertionError("a deterministic sampler drew noise")


def start(oracle: Gaussian, sigma: float) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return sigma * torch.randn(8, *oracle.shape, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("sampler", EVERY, ids=repr)
def test_it_is_a_sampler(sampler: Sampler) -> None:
    assert isinstance(sampler, Sampler)
    assert sampler.stochastic is (sampler in WEAK_ORDERS)


@pytest.mark.parametrize("kind", names.public(samplers).values(), ids=lambda kind: kind.__name__)
def test_every_sampler_has_an_expected_order(kind: type[Sampler]) -> None:
    assert kind() in EVERY, f"give {kind.__name__}() a row in ORDERS or in WEAK_ORDERS"


@pytest.mark.parametrize("sampler", EVERY, ids=repr)
def test_a_label_names_what_differs_from_the_defaults(sampler: Sampler) -> None:
    assert names.build(sampler.label, samplers) == sampler
    plain = type(sampler)()
    assert plain.label == type(sampler).__name__
    assert (sampler.label == plain.label) is (sampler == plain)


def test_labels_by_hand() -> None:
    labels = [one.label for one in (DDIM(eta=1.0), UniPC(3), IPNDM(3, "variable"), DDPM("upper"))]
    assert labels == [
        "DDIM(eta=1)", "UniPC(order=3)", "IPNDM(order=3, steps=variable)", "DDPM(variance=upper)",
    ]  # fmt: skip


@pytest.mark.parametrize("schedule", [LogSNR(), Karras()], ids=repr)
@pytest.mark.parametrize("sampler", [s for s in SAMPLERS if ORDERS[s].measured < 3], ids=repr)
@pytest.mark.parametrize("oracle", ORACLES, ids=lambda o: o.name)
def test_order_of_convergence(oracle: Gaussian, sampler: Sampler, schedule) -> None:
    high, low = oracle.process.sigma_max, oracle.process.sigma_min
    x = start(oracle, high)
    want = exact(oracle, high, low)
    counts, errors = [128, 256, 512], []
    for steps in counts:
        grid = schedule(steps + 1, oracle.process)[:-1]
        assert grid[-1] == low
        made = sampler(oracle.denoiser(), x, grid, no_noise)
        assert made.dtype == torch.float64
        errors.append(float((made - want).square().mean().sqrt()))
    slope = -np.polyfit(np.log(counts), np.log(errors), 1)[0]
    assert abs(slope - ORDERS[sampler].measured) < 0.15, errors


def graded(grid: Tensor, halvings: int = 18) -> Tensor:
    """The grid with its first step cut into steps that double in log sigma.

    A multistep method starts with lower orders. The error of its first step, an Euler step, would
    hide the order of all later steps.
    """
    share = 0.5 ** torch.arange(halvings, 0, -1, dtype=torch.float64)
    return torch.cat([grid[:1], grid[0] * (grid[1] / grid[0]) ** share, grid[1:]])


@functools.lru_cache
def exact(oracle: Gaussian, high: float, low: float) -> Tensor:
    return oracle.exact(start(oracle, high), high, low)


@pytest.mark.parametrize("sampler", [s for s in SAMPLERS if ORDERS[s].measured > 2], ids=repr)
def test_high_order_of_convergence(sampler: Sampler) -> None:
    """The errors of four problems are summed. The error of a single problem can change its sign.

    One last step of first order, as by default in UniPC, would hide the order of all others.
    """
    high, low, errors = 10.0, 0.1, []
    whole = replace(sampler, lower_order_final="never")
    for steps in (256, 512):
        total = 0.0
        for oracle in (Gaussian(0.3), Mixture(0.3)):
            for schedule in (LogSNR(), Karras()):
                grid = graded(schedule(steps + 1, VE(low, high))[:-1])
                made = whole(oracle.denoiser(), start(oracle, high), grid, no_noise)
                total += float((made - exact(oracle, high, low)).square().mean().sqrt())
        errors.append(total)
    assert abs(math.log2(errors[0] / errors[1]) - ORDERS[sampler].measured) < 0.15, errors


def test_pndm_has_its_fourth_order_on_equal_steps() -> None:
    high, low, errors = 10.0, 2.0, []
    for steps in (256, 512):
        total = 0.0
        for oracle in (Gaussian(0.3), Mixture(0.3)):
            grid = torch.linspace(high, low, steps + 1, dtype=torch.float64)
            made = PNDM()(oracle.denoiser(), start(oracle, high), grid, no_noise)
            total += float((made - exact(oracle, high, low)).square().mean().sqrt())
        errors.append(total)
    assert abs(math.log2(errors[0] / errors[1]) - ORDERS[PNDM()].method) < 0.2, errors


@pytest.mark.parametrize("sampler", SAMPLERS, ids=repr)
def test_it_solves_the_gaussian(sampler: Sampler) -> None:
    oracle = Gaussian(c=0.3)
    high, low = oracle.process.sigma_max, oracle.process.sigma_min
    x = start(oracle, high)
    made = sampler(oracle.denoiser(), x, LogSNR()(4001, oracle.process)[:-1], no_noise)
    want = oracle.exact(x, high, low)
    rtol = max(1e-7, 10.0 ** (-2 * ORDERS[sampler].measured))
    torch.testing.assert_close(made, want, rtol=rtol, atol=0)


def draws(seed: int = 1) -> Noise:
    generator = torch.Generator().manual_seed(seed)
    return lambda: torch.randn(8, 1, 4, 4, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 5, 10])
@pytest.mark.parametrize("sampler", EVERY, ids=repr)
def test_it_calls_the_denoiser_as_often_as_it_says(sampler: Sampler, steps: int) -> None:
    oracle = Mixture()
    grid = Karras()(steps, oracle.process)
    for walked in (grid, grid[:-1]) if steps > 1 else (grid,):
        denoise = Counted(oracle.denoiser())
        sampler(denoise, start(oracle, 80.0), walked, draws())
        assert denoise.calls == sampler.evals(walked)


@pytest.mark.parametrize("nfe", [5, 6, 7, 8, 10, 25, 50, 100, 250])
@pytest.mark.parametrize("sampler", EVERY, ids=repr)
def test_a_budget_is_met_or_missed_by_less_than_a_step(sampler: Sampler, nfe: int) -> None:
    process, steps = Mixture().process, steps_for(sampler, nfe)
    assert sampler.evals(Karras()(steps, process)) <= nfe
    assert sampler.evals(Karras()(steps + 1, process)) > nfe


@pytest.mark.parametrize("sampler", EVERY, ids=repr)
def test_the_step_to_0_returns_the_denoised(sampler: Sampler) -> None:
    seen = []

    def denoise(x: Tensor, sigma: float) -> Tensor:
        seen.append(Mixture().denoiser()(x, sigma))
        return seen[-1]

    grid = Karras()(6, Mixture().process)
    made = sampler(denoise, start(Mixture(), 80.0), grid, draws())
    torch.testing.assert_close(made, seen[-1], rtol=0, atol=1e-14)


@pytest.mark.parametrize("sampler", STOCHASTIC, ids=repr)
def test_a_stochastic_sampler_reaches_the_exact_variance(sampler: Sampler) -> None:
    """On a Gaussian the state is a sum of independent normal draws, the start among them.

    Each pixel of the state carries the coefficient of one draw. The variance is then known without
    sampling error.
    """
    oracle = Gaussian(c=0.4)
    errors = []
    for steps in (200, 400, 800):
        grid = Karras()(steps, oracle.process)[:-1]
        drawn = [0]

        def unit(at: list[int] = drawn, n: int = steps) -> Tensor:
            at[0] += 1
            return torch.eye(n + 1, dtype=torch.float64)[at[0]].reshape(1, 1, 1, -1)

        x = torch.zeros(1, 1, 1, steps + 1, dtype=torch.float64)
        x[..., 0] = (oracle.c**2 + float(grid[0]) ** 2) ** 0.5
        made = sampler(oracle.denoiser(), x, grid, unit)
        want = oracle.c**2 + float(grid[-1]) ** 2
        errors.append(abs(float(made.square().sum()) / want - 1))
    assert errors[-1] < 0.02, errors
    if WEAK_ORDERS[sampler].measured:
        assert errors[0] > 1.8 * errors[1] > 3 * errors[2], errors
        slope = math.log2(errors[0] / errors[2]) / 2
        assert abs(slope - WEAK_ORDERS[sampler].measured) < 0.15, errors


@pytest.mark.parametrize("sampler", [DDIM(eta=1.0), DDPM()], ids=repr)
def test_ddpm_is_its_vp_form(sampler: Sampler) -> None:
    """Ho et al. 2020, Eq. 6 and 7, with beta = 1 - alpha / alpha_next, on sqrt(alpha) x."""
    oracle = Mixture()
    grid = Karras()(10, oracle.process)
    x = start(oracle, 80.0)
    x_vp, denoise, noise = alpha(grid[0]).sqrt() * x, oracle.denoiser(), draws()
    for sigma, sigma_next in zip(grid[:-1], grid[1:], strict=True):
        a, a_next = alpha(sigma), alpha(sigma_next)
        beta = 1 - a / a_next
        x0 = denoise(x_vp / a.sqrt(), float(sigma))
        mean = a_next.sqrt() * beta / (1 - a) * x0
        mean = mean + (a / a_next).sqrt() * (1 - a_next) / (1 - a) * x_vp
        x_vp = mean
        if sigma_next > 0:
            x_vp = mean + ((1 - a_next) / (1 - a) * beta).sqrt() * noise()
    made = sampler(denoise, x, grid, draws())
    torch.testing.assert_close(made, x_vp, rtol=0, atol=1e-9)


def test_the_upper_variance_is_beta() -> None:
    """Ho et al. 2020, section 3.2: the upper choice is sigma_t^2 = beta_t."""
    grid = Karras()(3, Mixture().process)
    zero = torch.zeros(8, 1, 4, 4, dtype=torch.float64)
    made = DDPM("upper")(lambda x, sigma: zero, zero, grid[:2], lambda: zero + 1)
    a, a_next = alpha(grid[0]), alpha(grid[1])
    want = ((1 - a / a_next) / a_next).sqrt()
    torch.testing.assert_close(made, zero + want, rtol=1e-9, atol=0)


def test_churn_0_is_heun() -> None:
    oracle = Mixture()
    grid, x = Karras()(12, oracle.process), start(oracle, 80.0)
    made = EDMStochastic(churn=0)(oracle.denoiser(), x, grid, no_noise)
    assert torch.equal(made, Heun()(oracle.denoiser(), x, grid, no_noise))


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
    # diffusers runs in float32; eps at sigma ~ 157 loses two more digits of x0
    atol = 1e-5 if prediction == "sample" else 2e-4
    torch.testing.assert_close(made, x_vp.double(), rtol=0, atol=atol)


def test_dpmpp2m_uses_the_last_step_by_the_ratio_of_log_steps() -> None:
    """One step by hand: x0, linear in lambda, is extrapolated to the midpoint of the step."""
    grid = torch.tensor([8.0, 2.0, 1.0], dtype=torch.float64)
    x = torch.ones(1, 1, 1, 1, dtype=torch.float64)
    sampler = DPMpp2M(lower_order_final="never")
    made = sampler(lambda x, sigma: torch.full_like(x, -math.log(sigma)), x, grid, no_noise)
    first = 0.25 * 1 + 0.75 * -math.log(8)
    d = -math.log(2) + (math.log(2) / (2 * math.log(4))) * (math.log(8) - math.log(2))
    assert math.isclose(float(made), 0.5 * first + 0.5 * d, rel_tol=1e-12)
    assert math.isclose(d, -math.log(2**0.5), rel_tol=1e-12)


def custom(scheduler, grid: Tensor):
    """A diffusers scheduler on a grid of ours. Its VP schedulers have the same sigma."""
    steps = len(grid) - 1
    scheduler.set_timesteps(steps)
    scheduler.timesteps = torch.arange(steps, 0, -1).double()  # the timesteps only name the levels
    scheduler.sigmas = grid.to(torch.get_default_dtype())
    return scheduler


def walk(scheduler, oracle: Gaussian, grid: Tensor, scaled: bool, noise: Noise | None = None):
    """Steps of a diffusers scheduler that predicts x0. scaled: its state is sqrt(alpha) x."""

    def scale(sigma: Tensor) -> Tensor:
        return alpha(sigma).sqrt() if scaled else torch.ones(())

    x = scale(grid[0]) * start(oracle, float(grid[0]))
    for t, sigma in zip(scheduler.timesteps, grid[:-1], strict=True):
        x0 = oracle.denoiser()(x / scale(sigma), float(sigma))
        more = {"variance_noise": noise()} if noise else {}
        x = scheduler.step(x0, t, x, **more).prev_sample
    return x.double()


DPM, UNIPC = DPMSolverMultistepScheduler, UniPCMultistepScheduler
THEIRS: dict[Multistep, tuple[Any, dict[str, Any]]] = {
    DPMpp2M(): (DPM, {"solver_order": 2}),
    DPMpp3M(): (DPM, {"solver_order": 3}),
    DPMpp2MSDE(): (DPM, {"solver_order": 2, "algorithm_type": "sde-dpmsolver++"}),
    **{UniPC(order): (UNIPC, {"solver_order": order}) for order in (1, 2, 3)},
    **{UniPC(order, "bh1"): (UNIPC, {"solver_order": order, "solver_type": "bh1"})
       for order in (1, 2, 3)},
    **{DEIS(order): (DEISMultistepScheduler, {"solver_order": order}) for order in (1, 2, 3)},
}  # fmt: skip


def defined(sampler: Multistep, lowers: bool, to_zero: bool) -> bool:
    """Whether diffusers has such a step to 0: others divide infinity by infinity there."""
    return not to_zero or THEIRS[sampler][0] is DPM or (lowers and "bh2" in repr(sampler))


@pytest.fixture
def double(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """diffusers in float64: its DPM-Solver++ rounds the state to `torch.float32` in each step."""
    torch.set_default_dtype(torch.float64)
    with monkeypatch.context() as patch:
        patch.setattr(torch, "float32", torch.float64)
        yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.usefixtures("double")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # diffusers' DEIS, in numpy
@pytest.mark.parametrize(
    ("sampler", "lowers", "to_zero"),
    [case for case in itertools.product(THEIRS, (True, False), (True, False)) if defined(*case)],
    ids=str,
)
def test_it_is_that_of_diffusers(sampler: Multistep, lowers: bool, to_zero: bool) -> None:
    """Both settings of diffusers' `lower_order_final`, at 5 to 20 steps, in float64."""
    kind, options = THEIRS[sampler]
    if kind is not DEISMultistepScheduler:  # it always ends at sigma_min
        options = options | {"final_sigmas_type": "zero" if to_zero else "sigma_min"}
    ours = sampler if lowers else replace(sampler, lower_order_final="never")
    for steps in range(5, 21):
        oracle = Mixture()
        grid = (
            Karras()(steps, oracle.process) if to_zero else Karras()(steps + 1, VE(0.02, 80))[:-1]
        )
        theirs = custom(kind(prediction_type="sample", lower_order_final=lowers, **options), grid)
        noise = draws() if sampler.stochastic else None
        want = walk(theirs, oracle, grid, True, noise) / alpha(grid[-1]).sqrt()
        made = ours(oracle.denoiser(), start(oracle, float(grid[0])), grid, draws())
        torch.testing.assert_close(made, want, rtol=0, atol=1e-10)


@pytest.mark.usefixtures("double")
def test_ipndm_is_that_of_diffusers() -> None:
    """It lowers no order, not even in the step to 0, where ours returns x0."""
    for steps in range(5, 21):
        oracle, grid = Mixture(), Karras()(steps + 1, Mixture().process)[:-1]
        theirs = IPNDMScheduler()
        theirs.set_timesteps(steps)
        theirs.alphas = alpha(grid).sqrt()
        theirs.betas = grid * theirs.alphas
        x = start(oracle, float(grid[0])) * theirs.alphas[0]
        for t, sigma, a in zip(theirs.timesteps, grid, theirs.alphas, strict=False):
            x0 = oracle.denoiser()(x / a, float(sigma))
            eps = (x / a - x0) / sigma
            x = theirs.step(a * eps - a * sigma * x0, t, x).prev_sample  # it takes v
        made = IPNDM()(oracle.denoiser(), start(oracle, float(grid[0])), grid, no_noise)
        torch.testing.assert_close(made, x / theirs.alphas[-1], rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    ("rule", "steps", "to_zero", "want"),
    [
        ("below15", 14, True, [1, 2, *[3] * 10, 2, 1]),
        ("below15", 14, False, [1, 2, *[3] * 10, 2, 1]),
        ("below15", 15, True, [1, 2, *[3] * 12, 1]),
        ("below15", 15, False, [1, 2, *[3] * 13]),
        ("always", 15, False, [1, 2, *[3] * 11, 2, 1]),
        ("never", 6, True, [1, 2, 3, 3, 3, 1]),
        ("never", 6, False, [1, 2, 3, 3, 3, 3]),
        ("below15", 3, False, [1, 2, 1]),
        ("below15", 2, False, [1, 1]),
        ("never", 1, True, [1]),
    ],
)
def test_the_order_of_each_step(rule: Any, steps: int, to_zero: bool, want: list[int]) -> None:
    grid = Karras()(steps + 1 - to_zero, Mixture().process)[: steps + 1]
    for sampler in (DPMpp3M(lower_order_final=rule), UniPC(lower_order_final=rule)):
        assert [order for *_, order in sampler._ordered(grid, 3)] == want


@pytest.mark.parametrize("sampler", [s for s in EVERY if isinstance(s, Multistep)], ids=repr)
def test_runs_of_15_steps_and_more_differ_by_always_alone(sampler: Multistep) -> None:
    oracle = Mixture()
    for steps, different in ((14, "never"), (15, "always")):
        grid = Karras()(steps + 1, oracle.process)[:-1]
        x = start(oracle, float(grid[0]))
        made = {rule: replace(sampler, lower_order_final=rule)(oracle.denoiser(), x, grid, draws())
                for rule in ("below15", "always", "never")}  # fmt: skip
        odd = made.pop(different)
        first, second = made.values()
        assert torch.equal(first, second)
        assert torch.equal(odd, first) is (getattr(sampler, "order", 2) == 1)


def test_the_defaults_are_those_of_the_published_codes() -> None:
    rules = {type(s).__name__: s.lower_order_final for s in EVERY if isinstance(s, Multistep)}
    assert rules == {
        "DPMpp2M": "below15", "DPMpp3M": "below15", "DPMpp2MSDE": "below15", "DEIS": "below15",
        "UniPC": "always", "IPNDM": "never",
    }  # fmt: skip
    versions = {kind.__name__: kind.version for kind in names.public(samplers).values()}
    assert {name for name, version in versions.items() if version > 1} == {"DPMpp3M", "DEIS"}
    label = UniPC(3, lower_order_final="never").label
    assert label == "UniPC(order=3, lower_order_final=never)"
    assert names.build(label, samplers) == UniPC(3, lower_order_final="never")


def test_euler_and_heun_are_those_of_diffusers() -> None:
    oracle, grid = Mixture(), Karras()(9, Mixture().process)
    euler = custom(EulerDiscreteScheduler(prediction_type="sample"), grid)
    made = DDIM()(oracle.denoiser(), start(oracle, float(grid[0])), grid, no_noise)
    torch.testing.assert_close(made, walk(euler, oracle, grid, scaled=False), rtol=0, atol=1e-5)
    heun = HeunDiscreteScheduler(prediction_type="sample")
    heun.set_timesteps(9)
    heun.sigmas = torch.cat([grid[:1], grid[1:-1].repeat_interleave(2), grid[-1:]]).float()
    heun.timesteps = torch.arange(len(heun.sigmas) - 1, 0, -1).double()
    x = start(oracle, float(grid[0]))
    at = torch.cat([grid[:1], grid[1:-1].repeat_interleave(2)])
    for t, sigma in zip(heun.timesteps, at, strict=True):
        x = heun.step(oracle.denoiser()(x, float(sigma)), t, x).prev_sample
    made = Heun()(oracle.denoiser(), start(oracle, float(grid[0])), grid, no_noise)
    torch.testing.assert_close(made, x.double(), rtol=0, atol=1e-5)


@pytest.mark.parametrize("rule", ["below15", "always", "never"])
def test_variable_ipndm_is_rho_deis(rule: Any) -> None:
    oracle, grid = Mixture(), Karras()(9, Mixture().process)
    x = start(oracle, 80.0)
    one = IPNDM(3, "variable", rule)(oracle.denoiser(), x, grid, no_noise)
    assert torch.equal(one, DEIS(3, "rho", rule)(oracle.denoiser(), x, grid, no_noise))


@pytest.mark.parametrize("number", [1, 2, 3, 4])
def test_adams_bashforth_weights_on_equal_steps(number: int) -> None:
    nodes = [3.0 + i for i in range(number)]
    found = multistep._weights(nodes, 3.0, 2.0, log=False)
    np.testing.assert_allclose(found, -np.array(multistep._UNIFORM[number]), rtol=1e-12)


@pytest.mark.parametrize(
    "make",
    [
        lambda: DDIM(eta=2), lambda: DDPM("lower"), lambda: UniPC(4), lambda: UniPC(2, "bh3"),
        lambda: DEIS(5), lambda: DEIS(2, "t"), lambda: IPNDM(0), lambda: IPNDM(2, "even"),
        lambda: EDMStochastic(churn=-1), lambda: EDMStochastic(s_min=2, s_max=1),
        lambda: DPMpp3M("mine"), lambda: DPMpp2M("below10"), lambda: IPNDM(lower_order_final=True),
    ],
)  # fmt: skip
def test_bad_parameters_are_refused_when_built(make) -> None:
    with pytest.raises(ValueError):
        make()
