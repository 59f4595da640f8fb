"""Training can be stopped and started, and draws noise levels from its schedule."""

import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from bench import checkpoints, training
from bench.checkpoints.card import VECard, VPCard
from bench.data import FashionMNIST
from bench.process import VE, VP
from bench.schedules import Karras, LogSNR, Native
from bench.training import Recipe, clock, draw_sigmas, noise_law, train, unet

NETWORK = {
    "sample_size": 8, "in_channels": 1, "out_channels": 1, "block_out_channels": [8, 8],
    "layers_per_block": 1, "down_block_types": ["DownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "UpBlock2D"], "norm_num_groups": 4, "dropout": 0.1,
}  # fmt: skip
RECIPE = Recipe("tiny", NETWORK, steps=12, batch=8, warmup=3, ema=0.9, seed=5)
PROCESSES = [VP("cosine", 1000, 0.01, 80.0), VP(), VE()]


@pytest.fixture
def dataset(tmp_path: Path) -> FashionMNIST:
    """Sixteen images of 8 x 8: left or right half bright."""
    images = np.zeros((16, 8, 8), np.uint8)
    images[::2, :, :4] = images[1::2, :, 4:] = 220
    (tmp_path / "data").mkdir()
    raw = struct.pack(">IIII", 0x803, *images.shape) + images.tobytes()
    (tmp_path / "data" / "train-images-idx3-ubyte").write_bytes(raw)
    return FashionMNIST("train", tmp_path / "data")


class Killed(Exception):
    """Stands for a kill between two steps."""


def stop_after(steps: int, state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the state had been saved after `steps`, and the process killed one step later."""
    update = training._Run.update

    def watched(run: training._Run, loss: torch.Tensor) -> None:
        if run.step == steps:
            raise Killed
        update(run, loss)
        if run.step == steps - 1:
            run.save(state)

    monkeypatch.setattr(training._Run, "update", watched)


def trained(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


@pytest.mark.parametrize("network", [NETWORK, NETWORK | {"dropout": 0.0}], ids=["dropout", "none"])
def test_a_killed_training_ends_at_the_same_weights(
    network: dict, dataset: FashionMNIST, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = replace(RECIPE, network=network)
    straight, resumed = tmp_path / "straight", tmp_path / "resumed"
    want = train(recipe, dataset, straight)
    with monkeypatch.context() as patch:
        stop_after(7, resumed / "state.pt", patch)
        with pytest.raises(Killed):
            train(recipe, dataset, resumed)
    assert not (resumed / "card.json").exists()
    assert torch.load(resumed / "state.pt", weights_only=True)["step"] == 6
    torch.rand(99)  # a new process does not have the generator of the old one
    found = train(recipe, dataset, resumed)
    states = [torch.load(path / "state.pt", weights_only=True) for path in (straight, resumed)]
    for key, value in states[0]["net"].items():
        assert torch.equal(value, states[1]["net"][key]), key
    for one, two in zip(states[0]["ema"], states[1]["ema"], strict=True):
        assert torch.equal(one, two)
    assert found.weights_sha256 == want.weights_sha256
    assert found.training["steps"] == 12


def test_training_again_changes_nothing(dataset: FashionMNIST, tmp_path: Path) -> None:
    first = train(RECIPE, dataset, tmp_path / "m")
    again = train(RECIPE, dataset, tmp_path / "m")
    assert again.weights_sha256 == first.weights_sha256
    other = train(RECIPE, dataset, tmp_path / "n")
    assert other.weights_sha256 == first.weights_sha256


@pytest.mark.parametrize(
    "change", [{"steps": 13}, {"rate": 1e-4}, {"law": Karras()}, {"seed": 6}, {"prediction": "eps"}]
)
def test_another_recipe_is_refused_and_the_state_kept(
    change: dict, dataset: FashionMNIST, tmp_path: Path
) -> None:
    recipe = replace(RECIPE, steps=1)
    train(recipe, dataset, tmp_path / "m")
    kept = (tmp_path / "m" / "state.pt").read_bytes()
    with pytest.raises(ValueError, match="state.pt is the state of another recipe"):
        train(replace(recipe, **change), dataset, tmp_path / "m")
    assert (tmp_path / "m" / "state.pt").read_bytes() == kept


def test_what_is_written_loads_and_is_the_average(dataset: FashionMNIST, tmp_path: Path) -> None:
    card = train(RECIPE, dataset, tmp_path / "m")
    model = checkpoints.load(tmp_path / "m")
    state = torch.load(tmp_path / "m" / "state.pt", weights_only=True)
    for p, average in zip(model.net.parameters(), state["ema"], strict=True):
        assert torch.equal(p, average.half().float())
    assert card == model.card
    assert card.prediction == "v" and card.process == RECIPE.process
    assert card.training["law"] == "Native()" and card.training["batch"] == 8
    assert card.data.name == "fashion-mnist-train" and len(card.data.digest) == 64
    assert model.denoiser()(torch.zeros(2, 1, 8, 8), 1.0).shape == (2, 1, 8, 8)


@pytest.mark.parametrize(
    ("prediction", "process"),
    [
        ("v", VPCard(kind="vp", betas="cosine", sigma_min=0.01, sigma_max=80)),
        ("edm", VECard(kind="ve", sigma_data=0.9)),
    ],
)
def test_loss_falls_on_a_tiny_set(
    prediction: str, process, dataset: FashionMNIST, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses, update = [], training._Run.update

    def watched(run: training._Run, loss: torch.Tensor) -> None:
        losses.append(float(loss.detach()))
        update(run, loss)

    monkeypatch.setattr(training._Run, "update", watched)
    recipe = replace(
        RECIPE, prediction=prediction, process=process, steps=60, batch=16, rate=5e-3,
        network=NETWORK | {"dropout": 0.0},
    )  # fmt: skip
    train(recipe, dataset, tmp_path / "m")
    assert len(losses) == 60
    assert np.mean(losses[-15:]) < 0.85 * np.mean(losses[:5])


def test_a_loss_of_nan_stops_training(
    dataset: FashionMNIST, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    update = training._Run.update
    monkeypatch.setattr(training._Run, "update", lambda run, loss: update(run, loss * torch.nan))
    with pytest.raises(FloatingPointError, match="diverged"):
        train(replace(RECIPE, steps=45), dataset, tmp_path / "m")
    assert not (tmp_path / "m" / "card.json").exists()


def test_a_short_training_of_nan_writes_no_model(
    dataset: FashionMNIST, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Divergence after the last check of the weights is seen too."""
    update = training._Run.update

    def late(run: training._Run, loss: torch.Tensor) -> None:
        update(run, loss * (torch.nan if run.step > 5 else 1))

    monkeypatch.setattr(training._Run, "update", late)
    with pytest.raises(FloatingPointError):
        train(RECIPE, dataset, tmp_path / "m")
    assert not (tmp_path / "m" / "card.json").exists()


@pytest.mark.parametrize("process", PROCESSES, ids=repr)
@pytest.mark.parametrize("schedule", [Native(), LogSNR(), Karras()], ids=repr)
def test_noise_levels_follow_the_law(schedule, process) -> None:
    """Stratified: the i-th largest of n levels lies at a time t in [i / n, (i + 1) / n]."""
    law, n = noise_law(schedule, process), 1024
    assert law.dtype == torch.float64 and (law.diff() < 0).all()
    sigma = draw_sigmas(law, n, torch.Generator().manual_seed(0))
    assert sigma.shape == (n, 1, 1, 1) and sigma.dtype == torch.float32
    assert float(sigma.max()) <= process.sigma_max * (1 + 1e-6)
    assert float(sigma.min()) >= process.sigma_min * (1 - 1e-6)
    found = sigma.flatten().double().log().sort(descending=True).values
    nodes = np.linspace(0, 1, len(law))
    t = np.interp(-found.numpy(), -law.numpy(), nodes) * n
    assert (t >= np.arange(n) - 0.02).all() and (t <= np.arange(n) + 1.02).all()
    within = t - np.arange(n)  # uniform inside its stratum: Kolmogorov-Smirnov at 1e-4
    distance = np.abs(np.sort(within) - (np.arange(n) + 0.5) / n).max()
    assert distance < 2.2 / n**0.5
    again = draw_sigmas(law, n, torch.Generator().manual_seed(1))
    assert not torch.equal(sigma, again)


def test_the_law_of_log_snr_is_uniform_in_log_sigma() -> None:
    sigma = draw_sigmas(noise_law(LogSNR(), VE()), 4000, torch.Generator().manual_seed(0))
    at = torch.tensor([0.1, 0.25, 0.5, 0.9])
    low, high = np.log(0.002), np.log(80.0)
    want = low + (high - low) * at
    torch.testing.assert_close(sigma.flatten().log().quantile(at), want, rtol=0, atol=0.01)


@pytest.mark.parametrize("process", PROCESSES, ids=repr)
def test_the_clock_is_that_of_the_process(process) -> None:
    ends = np.log([process.sigma_min, process.sigma_max])
    sigma = torch.linspace(*ends, 3001, dtype=torch.float64).exp()
    want = process.timestep(sigma)
    found = clock(process, "cpu")(sigma.float()[:, None, None, None])
    assert found.dtype == torch.float32 and found.shape == (3001,)
    span = float(want.max() - want.min())
    # a thousand kinks under 16,384 nodes; the network's embedding cannot tell 1e-3 of an index
    assert float((found - want).abs().max()) < 1e-4 * span


def test_learning_rate_warms_up_and_falls_to_0() -> None:
    run = training._Run(replace(RECIPE, steps=100, warmup=10, decay=0.5, rate=1.0), "cpu")
    rates = []
    for run.step in range(101):
        rates.append(run.learning_rate())
    np.testing.assert_allclose(rates[:10], np.arange(1, 11) / 10)
    np.testing.assert_allclose(rates[10:51], 1)
    np.testing.assert_allclose(rates[75], 0.5)
    assert abs(rates[100]) < 1e-12 and (np.diff(rates[50:]) < 0).all()


@pytest.mark.parametrize("end", [{}, {"steps": 1, "minutes": 1.0}])
def test_a_recipe_ends_by_steps_or_by_minutes(end: dict) -> None:
    with pytest.raises(ValueError, match="either steps or minutes"):
        Recipe("x", NETWORK, **end)


@pytest.mark.parametrize("end", [{"steps": -1}, {"minutes": -1.0}])
def test_a_recipe_does_not_end_before_it_begins(end: dict) -> None:
    with pytest.raises(ValueError, match="above 0"):
        Recipe("x", NETWORK, **end)


def test_missing_data_stops_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="train-images"):
        train(RECIPE, FashionMNIST("train", tmp_path), tmp_path / "m")
    assert not (tmp_path / "m").exists()


@pytest.mark.parametrize(("channels", "size"), [((8, 16), 28), ((32, 32, 64), 28), ((8,), 8)])
def test_unet_makes_a_network_of_its_size(channels: tuple[int, ...], size: int) -> None:
    net = checkpoints.network(unet(channels, 1, size)).eval()
    with torch.no_grad():
        made = net(torch.zeros(1, 1, size, size), torch.zeros(1)).sample
    assert made.shape == (1, 1, size, size)
