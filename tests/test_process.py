"""Alpha, sigma and timesteps agree with diffusers; predictions invert."""

import math

import pytest
import torch
from diffusers import DDPMScheduler

from bench.process import VE, VP, alpha, denoised, error_gain, target

PROCESSES = [
    VP(), VP("scaled_linear"), VP("cosine", 1000, 0.01, 80.0), VP("linear", 250), VE(),
    VE(0.01, 300.0, 0.7),
]  # fmt: skip
PREDICTIONS = ["eps", "v", "x0", "edm"]


@pytest.mark.parametrize("process", PROCESSES, ids=repr)
def test_timestep_and_sigma_are_inverse(process: VP | VE) -> None:
    ends = torch.tensor([process.sigma_min, process.sigma_max], dtype=torch.float64).log()
    sigma = torch.linspace(float(ends[0]), float(ends[1]), 997, dtype=torch.float64).exp()
    timestep = process.timestep(sigma)
    assert timestep.dtype == torch.float64
    assert (timestep.diff() > 0).all()
    torch.testing.assert_close(process.sigma(timestep), sigma, rtol=1e-10, atol=0)


@pytest.mark.parametrize("betas", ["linear", "scaled_linear", "cosine"])
def test_integer_timesteps_hit_the_table(betas: str) -> None:
    process = VP(betas)
    index = torch.arange(1000, dtype=torch.float64)
    torch.testing.assert_close(process.sigma(index), torch.from_numpy(process.table))
    torch.testing.assert_close(process.timestep(process.sigma(index)), index, rtol=0, atol=1e-8)
    assert process.sigma_min == process.table[0]
    assert process.sigma_max == process.table[-1]


@pytest.mark.parametrize(
    ("betas", "options"),
    [
        ("linear", {"beta_schedule": "linear"}),
        (
            "scaled_linear",
            {"beta_schedule": "scaled_linear", "beta_start": 0.0015, "beta_end": 0.0195},
        ),
        ("cosine", {"beta_schedule": "squaredcos_cap_v2"}),
    ],
)
def test_alpha_tables_are_those_of_diffusers(betas: str, options: dict) -> None:
    theirs = DDPMScheduler(num_train_timesteps=1000, **options).alphas_cumprod.double()
    ours = alpha(torch.from_numpy(VP(betas).table))
    # theirs is a float32 product of 1000 factors: 1000 roundings of 6e-8
    torch.testing.assert_close(ours, theirs, rtol=6e-5, atol=1e-9)


@pytest.mark.parametrize("process", PROCESSES, ids=repr)
def test_scale_gives_the_network_its_input(process: VP | VE) -> None:
    sigma = torch.tensor([0.02, 1.0, 50.0], dtype=torch.float64)
    if isinstance(process, VP):  # variance preserved for data of variance 1
        torch.testing.assert_close(process.scale(sigma) ** 2, alpha(sigma))
    else:
        total = process.scale(sigma) ** 2 * (sigma**2 + process.sigma_data**2)
        torch.testing.assert_close(total, torch.ones_like(total))


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("sigma_data", [0.5, 1.0])
def test_denoised_inverts_target(prediction: str, sigma_data: float) -> None:
    generator = torch.Generator().manual_seed(1)
    x0, eps = torch.randn(2, 6, 1, 3, 3, generator=generator, dtype=torch.float64)
    sigma = torch.logspace(-2, 2, 6, dtype=torch.float64)[:, None, None, None]
    output = target(prediction, x0, eps, sigma, sigma_data)
    back = denoised(prediction, output, x0 + sigma * eps, sigma, sigma_data)
    torch.testing.assert_close(back, x0, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("sigma_data", [0.5, 1.0])
def test_error_gain_is_the_error_of_x0_over_that_of_the_output(
    prediction: str, sigma_data: float
) -> None:
    generator = torch.Generator().manual_seed(4)
    x, output, error = torch.randn(3, 6, 1, 3, 3, generator=generator, dtype=torch.float64)
    sigma = torch.logspace(-2, 2, 6, dtype=torch.float64)[:, None, None, None]
    right, wrong = (
        denoised(prediction, out, x, sigma, sigma_data) for out in (output, output + error)
    )
    gain = error_gain(prediction, sigma, sigma_data)
    assert gain.shape == sigma.shape
    torch.testing.assert_close((wrong - right) ** 2, gain * error**2, rtol=1e-7, atol=0)


def test_v_is_that_of_salimans_and_ho() -> None:
    x0, eps = torch.randn(2, 5, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    sigma = torch.tensor(0.7, dtype=torch.float64)
    a = alpha(sigma)
    want = a.sqrt() * eps - (1 - a).sqrt() * x0
    torch.testing.assert_close(target("v", x0, eps, sigma), want)


@pytest.mark.parametrize("sigma", [0.01, 0.5, 60.0])
def test_edm_target_has_unit_variance(sigma: float) -> None:
    generator = torch.Generator().manual_seed(3)
    x0, eps = torch.randn(2, 200_000, generator=generator, dtype=torch.float64)
    out = target("edm", 0.5 * x0, eps, torch.tensor(sigma), 0.5)
    assert math.isclose(float(out.std()), 1, abs_tol=0.01)


@pytest.mark.parametrize(
    "make",
    [
        lambda: VP(sigma_min=5.0, sigma_max=1.0),
        lambda: VE(0.0, 1.0),
        lambda: VE(1.0, 1.0),
        lambda: VE(-1.0, 1.0),
        lambda: VE(0.1, math.inf),
        lambda: VE(math.nan, 1.0),
    ],
)
def test_bad_ends_are_refused(make) -> None:
    with pytest.raises(ValueError, match="0 < sigma_min < sigma_max"):
        make()


@pytest.mark.parametrize("ends", [(1e-4, 80.0), (0.02, 1e6)])
def test_range_outside_training_is_refused(ends: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="leaves the trained range"):
        VP("linear", 1000, *ends)


@pytest.mark.parametrize("timesteps", [2, 5, 20])
def test_linear_betas_of_few_timesteps_are_refused(timesteps: int) -> None:
    """DDPM's ends, scaled to fewer steps, pass 1 at 20: no noise level comes after that."""
    with pytest.raises(ValueError, match="linear betas of .* give beta_range, or more timesteps"):
        VP("linear", timesteps)
    assert len(VP("linear", timesteps, beta_range=(0.001, 0.4)).table) == timesteps


@pytest.mark.parametrize("timesteps", [-1, 0, 1, True])
def test_one_timestep_is_no_process(timesteps: int) -> None:
    with pytest.raises(ValueError, match="timesteps must be 2 or more"):
        VP("cosine", timesteps)


def test_unknown_names_are_refused() -> None:
    one = torch.ones(1)
    with pytest.raises(ValueError, match="known: linear, scaled_linear, cosine"):
        VP("quadratic")
    with pytest.raises(ValueError, match="known: eps, v, x0, edm"):
        denoised("score", one, one, one)
    with pytest.raises(ValueError, match="known: eps, v, x0, edm"):
        target("score", one, one, one)
    with pytest.raises(ValueError, match="known: eps, v, x0, edm"):
        error_gain("score", one)


@pytest.mark.parametrize("betas", ["linear", "scaled_linear"])
def test_beta_range_is_what_diffusers_takes(betas: str) -> None:
    peer = DDPMScheduler(1000, 0.0015, 0.0155, betas)
    ours = alpha(torch.from_numpy(VP(betas, beta_range=(0.0015, 0.0155)).table))
    torch.testing.assert_close(ours, peer.alphas_cumprod.double(), rtol=2e-5, atol=1e-9)
    default = (0.0001, 0.02) if betas == "linear" else (0.0015, 0.0195)
    assert (VP(betas).table == VP(betas, beta_range=default).table).all()
    with pytest.raises(ValueError, match="beta_range must be"):
        VP(betas, beta_range=(0.02, 0.0001))
    with pytest.raises(ValueError, match="cosine betas have no beta_range"):
        VP("cosine", beta_range=default)
