"""DDPM with a variance that the network predicts, from the closed form to a checkpoint's card."""

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from console import crs
from torch import Tensor

import bench
from bench import checkpoints, generate, run, training
from bench.checkpoints.card import Card, Data, VPCard
from bench.samplers import DDIM, DDPM
from bench.schedules import Karras
from bench.types import Block, Experiment, VarianceDenoiser

GRID = Karras()(6, bench.load("fmnist-pixel-small").process)


@dataclass(frozen=True)
class Says(VarianceDenoiser):
    """Data N(0, 1/4), and v as told: a number, or [n, 1, h, w]."""

    v: float | Tensor

    def __call__(self, x: Tensor, sigma: float) -> Tensor:
        return x * 0.25 / (0.25 + sigma**2)

    def with_variance(self, x: Tensor, sigma: float) -> tuple[Tensor, Tensor]:
        return self(x, sigma), torch.as_tensor(self.v, dtype=x.dtype).expand_as(x)


def draws(seed: int):
    generator = torch.Generator().manual_seed(seed)
    return lambda: torch.randn(3, 1, 4, 4, dtype=torch.float64, generator=generator)


def walk(sampler: DDPM, denoise) -> Tensor:
    noise = draws(0)
    return sampler(denoise, 80 * noise(), GRID, noise)


@pytest.mark.parametrize(("v", "like"), [(0.0, DDPM()), (1.0, DDPM("upper"))])
def test_its_ends_are_the_fixed_variances(v: float, like: DDPM) -> None:
    """The posterior to the byte; the upper one is their quotient times it, to rounding."""
    made, want = walk(DDPM("learned"), Says(v)), walk(like, Says(v))
    if v == 0:
        assert torch.equal(made, want)
    torch.testing.assert_close(made, want, rtol=1e-14, atol=1e-14)


def test_between_them_it_is_that_of_nichol_and_dhariwal_in_the_vp_frame() -> None:
    v = torch.rand(3, 1, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    denoise, noise = Says(v), draws(0)
    bar = 1 / (1 + GRID**2)  # alpha-bar of each level
    x = bar[0].sqrt() * 80 * noise()
    for (at, then), sigma in zip(pairwise(bar.tolist()), GRID.tolist()[:-1], strict=True):
        x0 = denoise(x / at**0.5, sigma)
        beta = 1 - at / then
        mean = then**0.5 * beta / (1 - at) * x0 + (1 - beta) ** 0.5 * (1 - then) / (1 - at) * x
        tilde = beta * (1 - then) / (1 - at)
        if then < 1:
            log = v * torch.tensor(beta).log() + (1 - v) * torch.tensor(tilde).log()
            mean = mean + (log / 2).exp() * noise()
        x = mean
    torch.testing.assert_close(walk(DDPM("learned"), denoise), x, rtol=1e-6, atol=1e-9)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random checkpoint with a variance, `says`, and one without, `plain`."""
    folder = tmp_path_factory.mktemp("models")
    for name, learned in (("says", True), ("plain", False)):
        torch.manual_seed(0)
        config = training.unet((8, 16), 1) | {"out_channels": 2 if learned else 1}
        card = Card(
            name=name, network=config, prediction="eps", learned_variance=learned,
            process=VPCard(kind="vp"), training={}, weights_sha256="",
            data=Data(name="none", digest="", licence="none"),
        )  # fmt: skip
        checkpoints.save(folder / name, card, checkpoints.network(config).state_dict())
    return folder


def test_a_checkpoint_says_it_and_is_sampled(models: Path) -> None:
    model = checkpoints.load("says", models=models)
    denoise = model.denoiser()
    assert isinstance(denoise, VarianceDenoiser)
    x = 3 * torch.randn(2, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    x0, v = denoise.with_variance(x, 3.0)
    assert torch.equal(x0, denoise(x, 3.0)) and v.shape == x0.shape
    step = torch.full((2,), float(model.process.timestep(torch.tensor(3.0))))
    net = checkpoints.load("says", models=models).net.eval()
    with torch.no_grad():
        raw = net(x * model.process.scale(3.0), step).sample
    torch.testing.assert_close(v, (raw[:, 1:] + 1) / 2, rtol=1e-4, atol=1e-5)
    made = bench.sample(model, DDPM("learned"), Karras(), 4, range(3), batch=2)
    assert made.shape == (3, 1, 28, 28) and made.dtype == torch.uint8
    assert not torch.equal(made, bench.sample(model, DDPM(), Karras(), 4, range(3)))
    assert torch.equal(made, bench.sample(model, DDPM("learned"), Karras(), 4, range(3), batch=3))
    assert bench.sample(model, DDIM(), Karras(), 3, range(2)).shape == (2, 1, 28, 28)


def test_a_model_without_it_is_refused_before_sampling(models: Path) -> None:
    model = checkpoints.load("plain", models=models)
    with pytest.raises(ValueError, match="plain predicts no variance.*posterior"):
        bench.sample(model, DDPM("learned"), Karras(), 4, range(3))
    assert not isinstance(generate.counted(model.denoiser()), VarianceDenoiser)
    with pytest.raises(ValueError, match="plain predicts no variance"):
        generate.check_fits(model, DDPM("learned"))
    generate.check_fits(model, DDPM())
    generate.check_fits(checkpoints.load("says", models=models), DDPM("learned"))
    with pytest.raises(ValueError, match="needs a network that predicts its variance"):
        DDPM("learned")(lambda x, sigma: x, torch.zeros(1), GRID, lambda: torch.zeros(1))


def test_the_command_line_refuses_it_before_sampling(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr(generate, "images", lambda *_: pytest.fail("it was sampled"))
    how = ("--sampler", "DDPM('learned')", "--nfe", 4, "--models", models, "--device", "cpu")
    assert crs(monkeypatch, "sample", "plain", tmp_path / "out", *how) == 2
    said = capsys.readouterr().err
    assert "plain predicts no variance" in said and "posterior" in said and said.count("\n") == 1
    assert not (tmp_path / "out").exists()
    lines, blocks = {"Karras": Karras()}, (Block("1", range(4), (3,)),)
    refused = Experiment("x", "x", "plain", lines, (DDPM("learned"),), blocks)
    with pytest.raises(ValueError, match="plain predicts no variance"):
        run.run(refused, tmp_path / "results", models)
    assert not list((tmp_path / "results").rglob("*.json"))


def test_channels_that_do_not_fit_the_card_are_refused(models: Path, tmp_path: Path) -> None:
    card = checkpoints.read_card(models / "plain")
    wrong = card.model_copy(update={"learned_variance": True})
    weights = checkpoints.load("plain", models=models).net.state_dict()
    checkpoints.save(tmp_path / "plain", wrong, weights)
    with pytest.raises(ValueError, match="with learned_variance has 2 out_channels, not 1"):
        checkpoints.load("plain", models=tmp_path)


def test_digests_of_models_without_it_are_what_they_were() -> None:
    assert bench.load("fmnist-pixel").digest == "a20188dd04acf83d12b9"
