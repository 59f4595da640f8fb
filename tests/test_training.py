"""Training can be stopped and started, and draws noise levels from its law, fixed or online."""

import json
import math
import signal
import struct
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from test_measures_rates import closed_form
from torch import Tensor

from bench import checkpoints, measures
from bench.checkpoints.card import VECard, VPCard
from bench.data import FashionMNIST
from bench.measures import DataPrediction, NoisePrediction
from bench.process import VE, VP, target
from bench.schedules import ConstantRate, Cosine, Karras, Laplace, Linear, LogNormal, LogSNR, Native
from bench.training import (
    EDMWeighting,
    MinSNR,
    OnlineConstantRate,
    Recipe,
    Unweighted,
    clock,
    draw_sigmas,
    loop,
    noise_law,
    train,
    unet,
)
from bench.training.laws import Law
from bench.types import rate_between

NETWORK = {
    "sample_size": 8, "in_channels": 1, "out_channels": 1, "block_out_channels": [8, 8],
    "layers_per_block": 1, "down_block_types": ["DownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "UpBlock2D"], "norm_num_groups": 4, "dropout": 0.1,
}  # fmt: skip
RECIPE = Recipe("tiny", NETWORK, steps=12, batch=8, warmup=3, ema=0.9, seed=5)
PROCESSES = [VP("cosine", 1000, 0.01, 80.0), VP(), VE()]
ONLINE = OnlineConstantRate(warmup=4, every=3, probe=2, images=16, bins=4)


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
    inner = loop._steps

    def watched(run: loop._Run, *rest) -> Iterator:
        for batch in inner(run, *rest):
            if run.step == steps:
                raise Killed
            yield batch
            if run.step == steps - 1:
                run.save(state)

    monkeypatch.setattr(loop, "_steps", watched)


def trained(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"network": NETWORK | {"dropout": 0.0}},
        {"law": ONLINE},
        {"law": replace(ONLINE, measure="v_eps", warmup=7, start=LogSNR())},  # killed in warm-up
    ],
    ids=["dropout", "none", "online v_x", "online v_eps"],
)
def test_a_killed_training_ends_at_the_same_weights(
    change: dict, dataset: FashionMNIST, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = replace(RECIPE, **change)
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
    laws = [state["law"] for state in states]
    assert laws[0]["history"] == laws[1]["history"] and laws[0]["probes"] == laws[1]["probes"]
    assert torch.equal(laws[0]["mean"], laws[1]["mean"])
    if recipe.law != Native():
        one, two = ((path / "law.json").read_bytes() for path in (straight, resumed))
        assert one == two
    assert found.weights_sha256 == want.weights_sha256
    assert found.training["steps"] == 12


def test_training_again_changes_nothing(dataset: FashionMNIST, tmp_path: Path) -> None:
    first = train(RECIPE, dataset, tmp_path / "m")
    again = train(RECIPE, dataset, tmp_path / "m")
    assert again.weights_sha256 == first.weights_sha256
    other = train(RECIPE, dataset, tmp_path / "n")
    assert other.weights_sha256 == first.weights_sha256


@pytest.mark.parametrize(
    "change",
    [
        {"steps": 13}, {"rate": 1e-4}, {"law": Karras()}, {"seed": 6}, {"prediction": "eps"},
        {"law": ONLINE}, {"weighting": MinSNR()},
    ],
)  # fmt: skip
def test_another_recipe_is_refused_and_the_state_kept(
    change: dict, dataset: FashionMNIST, tmp_path: Path
) -> None:
    recipe = replace(RECIPE, steps=4)
    train(recipe, dataset, tmp_path / "m")
    kept = (tmp_path / "m" / "state.pt").read_bytes()
    with pytest.raises(ValueError, match="state.pt is the state of a training with other options"):
        train(replace(recipe, **change), dataset, tmp_path / "m")
    assert (tmp_path / "m" / "state.pt").read_bytes() == kept


def test_a_damaged_state_is_named(dataset: FashionMNIST, tmp_path: Path) -> None:
    train(RECIPE, dataset, tmp_path / "m")
    state = tmp_path / "m" / "state.pt"
    whole = state.read_bytes()
    other = {"step": 3, "recipe": torch.load(state, weights_only=True)["recipe"]}
    torch.save(other, short := tmp_path / "short.pt")
    flipped = whole[:100] + b"\xff" * 50 + whole[150:]
    for content in (b"hi", b"", whole[: len(whole) // 2], flipped, short.read_bytes()):
        state.write_bytes(content)
        with pytest.raises(ValueError, match=r"m/state.pt is damaged; delete it"):
            train(RECIPE, dataset, tmp_path / "m")
    state.unlink()
    weights = (tmp_path / "m" / "model.safetensors").read_bytes()
    with pytest.raises(ValueError, match=r"m/card.json is there, but not .*state.pt"):
        train(RECIPE, dataset, tmp_path / "m")
    assert (tmp_path / "m" / "model.safetensors").read_bytes() == weights


def test_a_renamed_model_resumes(dataset: FashionMNIST, tmp_path: Path) -> None:
    first = train(RECIPE, dataset, tmp_path / "m")
    again = train(replace(RECIPE, name="other"), dataset, tmp_path / "m")
    assert again.weights_sha256 == first.weights_sha256


def test_ctrl_c_ends_the_step_and_saves(
    dataset: FashionMNIST, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    whole = train(RECIPE, dataset, tmp_path / "whole")
    inner = loop._Run.update

    def update(run: loop._Run, loss: Tensor) -> None:
        inner(run, loss)
        if run.step == 5:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(loop._Run, "update", update)
    with pytest.raises(KeyboardInterrupt):
        train(RECIPE, dataset, tmp_path / "m")
    assert "stopped at step 5; the same command goes on" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert not (tmp_path / "m" / "card.json").exists()
    monkeypatch.setattr(loop._Run, "update", inner)
    again = train(RECIPE, dataset, tmp_path / "m")
    assert again.weights_sha256 == whole.weights_sha256


def test_ctrl_c_in_the_last_step_ends_the_training_and_then_stops(
    dataset: FashionMNIST, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inner = loop._Run.update

    def update(run: loop._Run, loss: Tensor) -> None:
        inner(run, loss)
        if run.step == RECIPE.steps:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(loop._Run, "update", update)
    with pytest.raises(KeyboardInterrupt):
        train(RECIPE, dataset, tmp_path / "m")
    assert (tmp_path / "m" / "card.json").exists()


def test_a_state_of_an_earlier_version_resumes(dataset: FashionMNIST, tmp_path: Path) -> None:
    first = train(RECIPE, dataset, tmp_path / "m")
    path = tmp_path / "m" / "state.pt"
    state = torch.load(path, weights_only=True)
    torch.save(state | {"recipe": repr(replace(RECIPE, name="old"))}, path)
    assert train(RECIPE, dataset, tmp_path / "m").weights_sha256 == first.weights_sha256
    with pytest.raises(ValueError, match="other options"):
        train(replace(RECIPE, seed=9), dataset, tmp_path / "m")


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
    losses, update = [], loop._Run.update

    def watched(run: loop._Run, loss: torch.Tensor) -> None:
        losses.append(float(loss.detach()))
        update(run, loss)

    monkeypatch.setattr(loop._Run, "update", watched)
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
    update = loop._Run.update
    monkeypatch.setattr(loop._Run, "update", lambda run, loss: update(run, loss * torch.nan))
    with pytest.raises(FloatingPointError, match="diverged"):
        train(replace(RECIPE, steps=45), dataset, tmp_path / "m")
    assert not (tmp_path / "m" / "card.json").exists()


def test_a_short_training_of_nan_writes_no_model(
    dataset: FashionMNIST, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Divergence after the last check of the weights is seen too."""
    update = loop._Run.update

    def late(run: loop._Run, loss: torch.Tensor) -> None:
        update(run, loss * (torch.nan if run.step > 5 else 1))

    monkeypatch.setattr(loop._Run, "update", late)
    with pytest.raises(FloatingPointError):
        train(RECIPE, dataset, tmp_path / "m")
    assert not (tmp_path / "m" / "card.json").exists()


@pytest.mark.parametrize("process", PROCESSES, ids=repr)
@pytest.mark.parametrize(
    "schedule",
    [Native(), LogSNR(), Karras(), Cosine(), Linear(), LogNormal(), Laplace()],
    ids=repr,
)
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
    run = loop._Run(replace(RECIPE, steps=100, warmup=10, decay=0.5, rate=1.0), "cpu")
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


class Told(torch.nn.Module):
    """A network that says what it is told to."""

    def __init__(self, output: Tensor):
        super().__init__()
        self.output = output

    def forward(self, x: Tensor, timestep: Tensor) -> SimpleNamespace:
        return SimpleNamespace(sample=self.output)


@pytest.mark.parametrize("prediction", ["eps", "v", "x0", "edm"])
@pytest.mark.parametrize(
    ("weighting", "weight"),
    [
        (MinSNR(), lambda sigma: torch.minimum(sigma**-2.0, torch.tensor(5.0))),
        (MinSNR(0.3), lambda sigma: torch.minimum(sigma**-2.0, torch.tensor(0.3))),
        (EDMWeighting(), lambda sigma: (sigma**2 + 0.25) / (0.5 * sigma) ** 2),
        (EDMWeighting(0.8), lambda sigma: (sigma**2 + 0.64) / (0.8 * sigma) ** 2),
    ],
    ids=lambda item: repr(item) if isinstance(item, MinSNR | EDMWeighting) else "",
)
@pytest.mark.parametrize("process", [VE(sigma_data=0.7), VP()], ids=["ve", "vp"])
def test_a_weighted_loss_weighs_the_error_of_x0(process, weighting, weight, prediction) -> None:
    """Whatever the network predicts."""
    generator = torch.Generator().manual_seed(0)
    x0, eps, error = torch.randn(3, 8, 1, 4, 4, generator=generator)
    sigma = torch.logspace(-1.5, 1.2, 8)[:, None, None, None]
    sigma_data = process.sigma_data if isinstance(process, VE) else 1.0
    seen = x0 + error, eps - error / sigma  # the same x
    net = Told(target(prediction, *seen, sigma, sigma_data))
    recipe = replace(RECIPE, prediction=prediction, weighting=weighting)
    loss, law = loop._Loss(net, recipe, process), Law(Native(), process, "cpu", 0)
    found = loss(x0, eps, sigma, torch.zeros(8), loss.weight(sigma, law))
    torch.testing.assert_close(found, (weight(sigma) * error**2).mean(), rtol=1e-3, atol=0)


@pytest.mark.parametrize(
    ("prediction", "want"),
    [
        ("eps", lambda snr: (5 / snr).clamp(max=1)),
        ("x0", lambda snr: snr.clamp(max=5)),
        ("v", lambda snr: snr.clamp(max=5) / (snr + 1)),
    ],
)
def test_min_snr_is_that_of_hang_et_al(prediction: str, want) -> None:
    sigma = torch.logspace(-2, 2, 41, dtype=torch.float64)
    law = Law(Native(), VP(), "cpu", 0)
    found = MinSNR()(sigma, loop.processes.error_gain(prediction, sigma), law)
    torch.testing.assert_close(found, want(sigma**-2))


def test_edm_weighs_its_own_prediction_by_1() -> None:
    sigma = torch.logspace(-2, 2, 41, dtype=torch.float64)
    law = Law(Native(), VP(), "cpu", 0)
    found = EDMWeighting(0.7)(sigma, loop.processes.error_gain("edm", sigma, 0.7), law)
    torch.testing.assert_close(found, torch.ones_like(sigma))
    assert torch.equal(Unweighted()(sigma, sigma, law), torch.ones_like(sigma))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"measure": "v_z"}, "known: v_x, v_eps"),
        *(({"decay": decay}, "decay") for decay in (0.0, 1.0, math.nan)),
        ({"bins": 3}, "at least 4 bins"),
        ({"images": 63}, "an image a bin"),
        ({"probe": 0}, "at least 1"),
        ({"every": 0}, "at least 1"),
        ({"warmup": 15}, "needs a measured rate"),
        ({"xi": -1.0}, "xi"),
        ({"coordinate": "snr"}, "known: sigma, alpha, angle, logsnr"),
        ({"start": "Karras"}, "start must be a schedule"),
        ({"start": OnlineConstantRate()}, "start must be a schedule"),
    ],
)
def test_a_bad_online_law_is_refused_when_built(arguments: dict, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        OnlineConstantRate(**arguments)


PICTURES = torch.zeros(4, 1, 8, 8)


def gaussian(c: float):
    """The exact denoiser of data N(0, c^2 I), as a training network in the probe."""

    def predict(x0: Tensor, eps: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        x = x0 + sigma * eps
        return c**2 / (c**2 + sigma**2) * x, x

    return predict


def ramp(slope: float):
    """A prediction of slope log sigma: v = |slope| dlog sigma / dsigma, the same at every draw."""

    def predict(x0: Tensor, eps: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        x = x0 + sigma * eps
        return slope * sigma.log().expand(x.shape), x

    return predict


@pytest.mark.parametrize("probes", [1, 6])
@pytest.mark.parametrize(
    ("measure", "kind"), [("v_x", DataPrediction()), ("v_eps", NoisePrediction())]
)
def test_online_rate_of_a_gaussian(measure: str, kind, probes: int) -> None:
    """32 images of 256 pixels a bin: sampling error of a root mean square is 0.8 %."""
    online = OnlineConstantRate(measure, images=512, bins=16, decay=0.7)
    law = Law(online, VE(0.02, 80.0), "cpu", 3)
    images = 0.3 * torch.randn(600, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    for _ in range(probes):
        law.probe(gaussian(0.3), images)
    law.update(1)
    v = torch.tensor(law.history[0][1], dtype=torch.float64)
    torch.testing.assert_close(v, closed_form(kind, 0.3, law.edges), rtol=0.03, atol=0)


@pytest.mark.parametrize("probes", [1, 2, 30])
@pytest.mark.parametrize("decay", [0.3, 0.98])
def test_the_online_rate_has_no_start_up_bias(probes: int, decay: float) -> None:
    law = Law(OnlineConstantRate(decay=decay), VE(), "cpu", 0)
    for _ in range(probes):
        law.probe(ramp(0.7), PICTURES)
    law.update(1)
    want = 0.7 * law.edges.log().diff() / law.edges.diff()
    found = torch.tensor(law.history[0][1], dtype=torch.float64)
    torch.testing.assert_close(found, want, rtol=1e-4, atol=0)


def test_later_probes_weigh_more() -> None:
    """v^2 = (decay v_1^2 + v_2^2) / (decay + 1)."""
    law = Law(OnlineConstantRate(decay=0.8), VE(), "cpu", 0)
    law.probe(ramp(1.0), PICTURES)
    law.probe(ramp(3.0), PICTURES)
    law.update(1)
    one = law.edges.log().diff() / law.edges.diff()
    found = torch.tensor(law.history[0][1], dtype=torch.float64)
    torch.testing.assert_close(found, one * ((0.8 + 9) / 1.8) ** 0.5, rtol=1e-4, atol=0)


@pytest.mark.parametrize(("xi", "coordinate"), [(1.0, "alpha"), (0.5, "angle"), (2.0, "logsnr")])
@pytest.mark.parametrize("process", PROCESSES, ids=repr)
def test_an_update_makes_the_law_that_of_constant_rate(process, xi: float, coordinate: str) -> None:
    law = Law(OnlineConstantRate("v_eps", xi, coordinate, Karras(3)), process, "cpu", 0)
    table = law.table
    law.probe(gaussian(0.5), torch.randn(64, 1, 4, 4))
    assert torch.equal(law.table, noise_law(Karras(3), process))
    assert law.final() is None
    law.update(5)
    v = torch.tensor(law.history[0][1], dtype=torch.float64)
    schedule = ConstantRate(rate_between("v_eps", law.edges, v), xi, coordinate)
    assert torch.equal(law.table, noise_law(schedule, process))
    assert law.table is table  # compiled code and the loop hold on to it
    assert repr(law.final()) == "v_eps_online"


def test_a_constant_rate_per_log_sigma_tends_to_logsnr() -> None:
    law = Law(OnlineConstantRate(), VE(), "cpu", 0)
    law.probe(ramp(1.0), PICTURES)
    law.update(1)
    # the rate is held over the outer half of either end's bin, of log(40000) / 64
    assert (law.table - noise_law(LogSNR(), VE())).abs().max() < 0.01


def test_when_an_online_law_is_measured_and_updated() -> None:
    law = Law(replace(ONLINE, warmup=10, every=4, probe=3), VE(), "cpu", 0)
    assert [step for step in range(1, 20) if law.wants_update(step)] == [10, 14, 18]
    assert [step for step in range(1, 20) if law.wants_probe(step)] == [3, 6, 9, 12, 15, 18]
    fixed = Law(Karras(), VE(), "cpu", 0)
    assert not any(fixed.wants_update(step) or fixed.wants_probe(step) for step in range(1, 2000))
    assert fixed.final() is None


@pytest.mark.parametrize("slope", [0.0, math.nan, math.inf])
def test_a_network_without_a_rate_stops_training(slope: float) -> None:
    law = Law(ONLINE, VE(), "cpu", 0)
    law.probe(ramp(slope), PICTURES)
    with pytest.raises(FloatingPointError, match="step 4.*lower --rate"):
        law.update(4)
    assert law.history == []


def test_the_probe_sees_the_network_as_it_samples(dataset: FashionMNIST) -> None:
    """Without dropout, within the data's range; and leaves it, and its generator, as they were."""
    run = loop._Run(replace(RECIPE, network=NETWORK | {"dropout": 0.5}), "cpu")
    loss = loop._Loss(run.net, RECIPE, VP())
    x0, eps = torch.randn(2, 4, 1, 8, 8)
    sigma, before = torch.tensor([0.01, 1, 9, 99])[:, None, None, None], torch.get_rng_state()
    (one, x), (two, _) = (loss.predict(x0, eps, sigma, torch.zeros(4)) for _ in range(2))
    assert torch.equal(one, two) and one.abs().max() <= 1
    assert torch.equal(x, x0 + sigma * eps)
    assert torch.equal(torch.get_rng_state(), before)
    assert run.net.training and not one.requires_grad


@pytest.mark.parametrize("measure", ["v_x", "v_eps"])
def test_an_online_law_is_written_down(measure: str, dataset: FashionMNIST, tmp_path: Path) -> None:
    online, out = replace(ONLINE, measure=measure), tmp_path / "m"
    card = train(replace(RECIPE, law=online), dataset, out)
    written = json.loads((out / "law.json").read_text())
    assert written["law"] == repr(online) == card.training["law"]
    assert written["steps"] == [4, 7, 10]
    assert np.shape(written["v"]) == (3, 4) and len(written["sigma"]) == 5
    rate = measures.load_rate(measures.path_of(out, f"{measure}_online"))
    assert rate.name == f"{measure}_online"
    assert rate.v[1:-1].tolist() == written["v"][-1]
    assert rate.provenance["training_steps"] == 10
    assert rate.provenance["images"] == 5 * online.images  # probes after steps 2, 4 .. 10, not 12
    grid = ConstantRate(measures.measured(out)[rate.name])(10, checkpoints.load(out).process)
    assert (grid.diff() < 0).all()


def test_a_training_shorter_than_the_warm_up_of_its_law_is_refused() -> None:
    with pytest.raises(ValueError, match="first estimated at step 13, but the training has 12"):
        replace(RECIPE, law=replace(ONLINE, warmup=13))


@pytest.mark.parametrize("law", [Karras(), replace(ONLINE, warmup=10**6)], ids=["fixed", "warm-up"])
def test_a_law_that_never_changed_is_not_written_down(
    law, dataset: FashionMNIST, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(replace(RECIPE, law=law, steps=0, minutes=0.002), dataset, tmp_path / "m")
    assert ("in the warm-up of its law" in capsys.readouterr().err) == (law != Karras())
    assert not (tmp_path / "m" / "law.json").exists()
    assert measures.measured(tmp_path / "m") == {}


def test_laws_differ_in_nothing_but_the_levels(
    dataset: FashionMNIST, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Images and noise are the same; so are the levels, until the warm-up of four steps ends."""
    seen: dict[str, list] = {}
    inner = loop._steps

    def watched(run: loop._Run, *rest) -> Iterator:
        for batch in inner(run, *rest):
            seen.setdefault(run.recipe.name, []).append(batch)
            yield batch

    monkeypatch.setattr(loop, "_steps", watched)
    for name, law in (("fixed", Native()), ("online", ONLINE)):
        train(replace(RECIPE, name=name, law=law), dataset, tmp_path / name)
    for step, (one, two) in enumerate(zip(seen["fixed"], seen["online"], strict=True)):
        assert torch.equal(one[0], two[0]) and torch.equal(one[1], two[1])
        assert torch.equal(one[2], two[2]) == (step < 4)


@pytest.mark.parametrize(("kind", "value"), [(MinSNR, -1.0), (MinSNR, 0.0), (EDMWeighting, 0.0)])
def test_weightings_that_weigh_nothing_are_refused(kind: type, value: float) -> None:
    with pytest.raises(ValueError, match="needs (gamma|sigma_data) > 0"):
        kind(value)
