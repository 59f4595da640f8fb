"""Exported levels make the same images in diffusers as here, where its schedulers take levels."""

import json
import re
from dataclasses import replace
from typing import Any

import pytest
import torch
from console import crs
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EDMEulerScheduler,
    EulerDiscreteScheduler,
    HeunDiscreteScheduler,
    UniPCMultistepScheduler,
)
from torch import Tensor

from bench import checkpoints, generate, schedules
from bench.noise import normal
from bench.process import VE, VP
from bench.samplers import DDIM, DPMpp2M
from bench.schedules import Karras, Levels, LogSNR, Native, Snapped, export
from bench.types import Sampler, Schedule

COSINE = {"beta_schedule": "squaredcos_cap_v2", "prediction_type": "v_prediction",
          "timestep_spacing": "linspace"}  # fmt: skip


@pytest.fixture(scope="module")
def model() -> checkpoints.Checkpoint:
    """`fmnist-pixel-small` without clipping, since these schedulers clip nothing."""
    made = checkpoints.load("fmnist-pixel-small")
    return replace(made, card=made.card.model_copy(update={"clip": False}))


def ours(model: Any, sampler: Sampler, schedule: Schedule, steps: int) -> Tensor:
    """uint8 [4, 1, 28, 28] of the seeds 0 to 3."""
    grid = schedule(steps, model.process)
    return next(iter(generate.images(model, sampler, grid, range(4), 4)))[0]


def theirs(model: Any, scheduler: Any) -> Tensor:
    """The same seeds, by the loop of a diffusers pipeline."""
    scaled = scheduler.scale_model_input
    x = normal(torch.arange(4), 0, model.shape) * scheduler.init_noise_sigma
    with torch.inference_mode():
        for t in scheduler.timesteps:
            output = model.net(scaled(x, t), t.expand(4)).sample
            x = scheduler.step(output, t, x).prev_sample
    return model.decode(x.clamp(-1, 1))


def exported(schedule: Schedule, steps: int, process: Any) -> dict[str, Any]:
    return json.loads(export("diffusers", schedule(steps, process), process)[0])


@pytest.mark.parametrize("schedule", [Karras(), Native()], ids=repr)
def test_sigmas_in_diffusers(model: checkpoints.Checkpoint, schedule: Schedule) -> None:
    """Euler's method in sigma is DDIM; levels between timesteps are kept."""
    levels = exported(schedule, 6, model.process)
    scheduler = EulerDiscreteScheduler(**COSINE)
    scheduler.set_timesteps(sigmas=levels["sigmas"])
    assert scheduler.sigmas.tolist() == pytest.approx(levels["sigmas"], rel=1e-6)
    made, want = theirs(model, scheduler).int(), ours(model, DDIM(), schedule, 6).int()
    assert want.float().std() > 40
    assert (made - want).abs().max() <= 1


@pytest.mark.parametrize("schedule", [Karras(), LogSNR()], ids=repr)
def test_timesteps_in_diffusers(model: checkpoints.Checkpoint, schedule: Schedule) -> None:
    """Whole timesteps are those of `Snapped`."""
    levels = exported(schedule, 6, model.process)
    scheduler = DPMSolverMultistepScheduler(**COSINE)
    scheduler.set_timesteps(timesteps=levels["timesteps"])
    want = ours(model, DPMpp2M(), Snapped(schedule), 6).int()
    started = float(scheduler.sigmas[0]) / model.process.sigma_max
    assert started == pytest.approx(1, abs=0.01)
    assert (theirs(model, scheduler).int() - want).abs().max() <= 1


def test_heun_takes_the_same_timesteps() -> None:
    levels = exported(Karras(), 6, VP("linear"))
    scheduler = HeunDiscreteScheduler(beta_start=1e-4, beta_end=0.02)
    scheduler.set_timesteps(timesteps=levels["timesteps"])
    snapped = Snapped(Karras())(6, VP("linear"))
    assert scheduler.sigmas[::2].tolist() == pytest.approx(
        snapped[:-1].tolist(), rel=1e-2, abs=1e-3
    )


@pytest.mark.parametrize("schedule", [Karras(), Native()], ids=repr)
def test_sigmas_in_k_diffusion(schedule: Schedule) -> None:
    """k-diffusion's model gives E[x0|x] of x = x0 + sigma eps, as our denoiser does."""
    sampling = pytest.importorskip("k_diffusion.sampling", exc_type=ImportError)
    model = checkpoints.load("fmnist-pixel-small")
    denoise = model.denoiser()
    text, _ = export("k-diffusion", schedule(6, model.process), model.process)
    sigmas = torch.tensor(json.loads(text))
    for sampler, theirs in ((DDIM(), sampling.sample_euler), (DPMpp2M(), sampling.sample_dpmpp_2m)):
        start = normal(torch.arange(4), 0, model.shape) * sigmas[0]
        x = theirs(lambda x, sigma: denoise(x, float(sigma[0])), start, sigmas, disable=True)
        want = ours(model, sampler, schedule, 6).int()
        assert want.float().std() > 40
        assert (model.decode(x).int() - want).abs().max() <= 1


def test_who_takes_no_levels() -> None:
    """What the docs say of diffusers. When it changes, they must change."""
    with pytest.raises(TypeError, match="unexpected keyword argument"):
        DDIMScheduler().set_timesteps(timesteps=[900, 5])
    with pytest.raises(ValueError, match="only supported when `use_flow_sigmas=True`"):
        UniPCMultistepScheduler().set_timesteps(sigmas=[1.0, 0.0])
    edm = EDMEulerScheduler()
    edm.set_timesteps(sigmas=torch.tensor([80.0, 1.0]))
    assert edm.sigmas[1].item() != pytest.approx(1.0, rel=0.1)  # reads them as shares of its range


def test_text_of_the_other_forms() -> None:
    """Nine digits at most, no exponent: ComfyUI's ManualSigmas finds numbers by this pattern."""
    grid = torch.tensor([157.40718, 0.1, 0.000012345678, 0.0], dtype=torch.float64)
    text, _ = export("comfyui", grid, VE(1e-5, 200))
    found = [float(one) for one in re.findall(r"[-+]?(?:\d*\.*\d+)", text)]
    assert torch.equal(torch.tensor(found), grid.float())
    text, _ = export("k-diffusion", grid, VE(1e-5, 200))
    assert torch.equal(torch.tensor(json.loads(text)), grid.float())


def test_where_there_are_no_whole_timesteps() -> None:
    process = VP("linear")
    for grid, its, why in [
        (Karras()(4, VE()), VE(), "no whole timesteps"),
        (Native()(900, VP("linear", 100)), VP("linear", 100), "use fewer steps"),
        (torch.tensor([10.0, 1.0], dtype=torch.float64), process, "always end at 0"),
    ]:
        text, note = export("diffusers", grid, its)
        assert json.loads(text)["timesteps"] is None and why in note


def test_levels_that_float32_cannot_tell_apart() -> None:
    close = Levels((1.0, 1 - 1e-12, 0.0))(2, VP("linear"))
    with pytest.raises(ValueError, match="one number in float32"):
        export("comfyui", close, VP("linear"))
    with pytest.raises(ValueError, match="'csv' is not known; known: diffusers, k-diffusion"):
        export("csv", close, VP("linear"))


def test_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    ask = ("schedule", "fmnist-pixel-small", "--schedule", "Karras", "--nfe", 4)
    assert crs(monkeypatch, *ask, "--format", "comfyui") == 0
    said = capsys.readouterr()
    assert len(said.out.split(", ")) == 5 and said.out.endswith(", 0.0\n")
    assert "ManualSigmas" in said.err
    assert crs(monkeypatch, *ask, "--format", "comfyui", "--json") == 2
    assert crs(monkeypatch, *ask, "--format", "csv") == 2
    assert schedules.export is export
