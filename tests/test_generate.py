"""The same bytes for any batch size; calls are counted; bad requests stop before they start."""

from contextlib import nullcontext
from dataclasses import dataclass, replace
from itertools import pairwise

import pytest
import torch
from oracles import Gaussian
from torch import Tensor

from bench import checkpoints, generate, names, samplers
from bench.checkpoints import Checkpoint
from bench.checkpoints.card import Card, Data, VPCard
from bench.noise import normal
from bench.samplers import DDIM, DPMpp2M
from bench.schedules import Karras, LogSNR, Native
from bench.shards import ranges
from bench.types import Cell, Denoiser, Noise, Sampler, Schedule, grid_of, steps_for

SAMPLERS = [kind() for kind in names.public(samplers).values()]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """A small random network with attention, 28 x 28."""
    network = {
        "sample_size": 28, "in_channels": 1, "out_channels": 1, "block_out_channels": [8, 16],
        "layers_per_block": 1, "down_block_types": ["DownBlock2D", "AttnDownBlock2D"],
        "up_block_types": ["AttnUpBlock2D", "UpBlock2D"], "norm_num_groups": 8,
        "attention_head_dim": 8,
    }  # fmt: skip
    card = Card(
        name="tiny", network=network, prediction="v", training={}, weights_sha256="",
        process=VPCard(kind="vp", betas="cosine", sigma_min=0.01, sigma_max=80),
        data=Data(name="none", digest="", licence="none"),
    )  # fmt: skip
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("models") / "tiny"
    checkpoints.save(folder, card, checkpoints.network(network).state_dict())
    return checkpoints.load(folder)


@pytest.mark.parametrize("sampler", SAMPLERS, ids=repr)
def test_batch_size_changes_no_byte(sampler: Sampler, model: Checkpoint) -> None:
    made = {
        batch: generate.sample(model, sampler, Karras(), 3, range(64), batch) for batch in (7, 64)
    }
    assert made[64].dtype == torch.uint8 and made[64].shape == (64, 1, 28, 28)
    assert torch.equal(made[7], made[64])
    assert len({image.numpy().tobytes() for image in made[64]}) == 64


@dataclass(frozen=True)
class Restless(Sampler):
    """A sampler of a user's own: Euler's step, half of which is taken back with fresh noise."""

    @property
    def stochastic(self) -> bool:
        return True

    def evals(self, grid: Tensor) -> int:
        return len(grid) - 1

    def __call__(self, denoise: Denoiser, x: Tensor, grid: Tensor, noise: Noise) -> Tensor:
        for sigma, sigma_next in pairwise(grid.tolist()):
            x0 = denoise(x, sigma)
            x = x0 + 0.8 * (sigma_next / sigma) * (x - x0) + 0.6 * sigma_next * noise()
        return x


@pytest.mark.parametrize("schedule", [Karras(), Native()], ids=repr)
@pytest.mark.parametrize("sampler", [*SAMPLERS, DDIM(eta=1.0), Restless()], ids=repr)
def test_five_or_sixteen_at_once_are_the_same_bytes(
    sampler: Sampler, schedule: Schedule, model: Checkpoint
) -> None:
    """At 5 calls: five steps, three of two calls, two of PNDM. The network is convolutional, so it
    takes fewer pixels too."""
    few = replace(model, shape=(1, 8, 8))
    five, sixteen = (
        generate.sample(few, sampler, schedule, 5, range(16), batch) for batch in (5, 16)
    )
    assert torch.equal(five, sixteen)
    assert len({image.numpy().tobytes() for image in sixteen}) == 16


@pytest.mark.parametrize("sampler", SAMPLERS, ids=repr)
@pytest.mark.parametrize("batch", [1, 7, 33])
def test_batch_size_changes_no_byte_of_an_exact_denoiser(sampler: Sampler, batch: int) -> None:
    """Arithmetic that is the same a pixel: noise, padding, trimming and order alone are tested."""
    want = generate.sample(Gaussian(), sampler, Karras(), 8, range(64), 64)
    assert torch.equal(generate.sample(Gaussian(), sampler, Karras(), 8, range(64), batch), want)


def test_an_image_belongs_to_its_seed(model: Checkpoint) -> None:
    whole = generate.sample(model, DDIM(), Native(), 2, range(12), 5)
    some = generate.sample(model, DDIM(), Native(), 2, [11, 3, 3], 5)
    assert torch.equal(some, whole[[11, 3, 3]])
    assert torch.equal(generate.sample(model, DDIM(), Native(), 2, [4], 5), whole[4:5])


def test_it_starts_from_draw_0_at_the_first_level() -> None:
    oracle, seen = Gaussian(), []

    @dataclass(frozen=True)
    class Watch(Sampler):
        def evals(self, grid: Tensor) -> int:
            return 0

        def __call__(self, denoise: Denoiser, x: Tensor, grid: Tensor, noise: Noise) -> Tensor:
            seen.extend([x, noise(), noise()])
            return x

    grid = torch.tensor([80.0, 1.0, 0.0], dtype=torch.float64)
    list(generate.images(oracle, Watch(), grid, [7, 2**33], 10))
    seeds = torch.tensor([7, 2**33])
    for found, draw, sigma in zip(seen, (0, 1, 2), (80, 1, 1), strict=True):
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, sigma * normal(seeds, draw, oracle.shape))


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("batch", [1, 4, 10, 99])
def test_batches_are_trimmed_and_padded_to_one_shape_where_there_is_a_gpu(
    batch: int, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a CPU padding would cost time: a model pads its own chunks there."""
    shapes = []
    monkeypatch.setattr(generate, "normal", lambda seeds, draw, shape: torch.zeros(
        len(seeds), *shape, device=seeds.device))  # fmt: skip

    @dataclass(frozen=True)
    class Watched(Gaussian):
        def denoiser(self, labels: Tensor | None = None) -> Denoiser:
            def denoise(x: Tensor, sigma: float) -> Tensor:
                shapes.append(len(x))
                return 0 * x

            return denoise

    grid = torch.tensor([1.0, 0.5, 0.0], dtype=torch.float64)
    made = list(generate.images(Watched(device=device), DDIM(), grid, range(10), batch))
    sizes = [len(one) for one in ranges(range(10), batch)] if device == "cpu" else [min(batch, 10)]
    assert set(shapes) == set(sizes)
    assert sum(len(images) for images, _ in made) == 10
    assert [nfe for _, nfe in made] == [2] * len(made)


@dataclass(frozen=True)
class Liar(Sampler):
    """A sampler that calls the denoiser `calls` times and says it does once."""

    calls: int = 2

    def evals(self, grid: Tensor) -> int:
        return 1

    def __call__(self, denoise: Denoiser, x: Tensor, grid: Tensor, noise: Noise) -> Tensor:
        for _ in range(self.calls):
            x = denoise(x, 1.0)
        return x


@pytest.mark.parametrize("calls", [0, 2])
def test_a_sampler_that_miscounts_is_stopped(calls: int) -> None:
    with pytest.raises(RuntimeError, match=f"Liar.* made {calls} calls, but its evals.grid. is 1"):
        generate.sample(Gaussian(), Liar(calls), Native(), 3, range(2))


def test_a_network_of_nans_is_named(model: Checkpoint) -> None:
    @dataclass(frozen=True)
    class Output:
        sample: Tensor

    def net(x: Tensor, timestep: Tensor) -> Output:
        return Output(x * torch.nan)

    with pytest.raises(FloatingPointError, match="broken made NaN"):
        generate.sample(replace(model, name="broken", net=net), DDIM(), Native(), 2, range(2))


@pytest.mark.parametrize("seeds", [[-1], [3, -2], range(-3, 3), [], range(0)])
def test_bad_seeds_are_refused(seeds) -> None:
    grid = torch.tensor([1.0, 0.0], dtype=torch.float64)
    with pytest.raises(ValueError, match="seeds must be non-negative"):
        next(generate.images(Gaussian(), DDIM(), grid, seeds, 4))
    with pytest.raises(ValueError, match="seeds must be non-negative"):
        generate.sample(Gaussian(), DDIM(), Native(), 2, seeds)


def test_fractional_seeds_are_refused() -> None:
    with pytest.raises((ValueError, TypeError)):
        generate.sample(Gaussian(), DDIM(), Native(), 2, [0.5, 1.5])


@pytest.mark.parametrize("batch", [0, -1])
def test_bad_batch_is_refused(batch: int) -> None:
    with pytest.raises(ValueError, match="batch"):
        generate.sample(Gaussian(), DDIM(), Native(), 2, range(4), batch)


@pytest.mark.parametrize("nfe", [0, -3])
def test_bad_nfe_is_refused(nfe: int) -> None:
    with pytest.raises(ValueError, match="nfe must be at least 1"):
        generate.sample(Gaussian(), DDIM(), Native(), nfe, range(4))


@dataclass(frozen=True)
class Grid:
    """A schedule that gives what it is told."""

    levels: tuple[float, ...]
    dtype: torch.dtype = torch.float64

    def __call__(self, steps: int, process) -> Tensor:
        return torch.tensor(self.levels, dtype=self.dtype)


@pytest.mark.parametrize(
    "schedule",
    [
        Grid((3.0, 1.0)),
        Grid((3.0, 1.0, 1.0)),
        Grid((1.0, 3.0, 0.0)),
        Grid((3.0, 1.0, -1.0)),
        Grid((3.0, float("nan"), 0.0)),
        Grid((float("inf"), 1.0, 0.0)),
        Grid((3.0, 1.0, 0.0), torch.float32),
    ],
    ids=repr,
)
def test_an_invalid_grid_is_refused(schedule: Grid) -> None:
    with pytest.raises(ValueError, match="gave no valid grid for 2 steps"):
        generate.sample(Gaussian(), DDIM(), schedule, 2, range(4))


@dataclass(frozen=True)
class Costly(Sampler):
    """Two calls a step, but one for the step to 0, as Heun's."""

    def evals(self, grid: Tensor) -> int:
        return 2 * (len(grid) - 1) - int(grid[-1] == 0)

    def __call__(self, denoise: Denoiser, x: Tensor, grid: Tensor, noise: Noise) -> Tensor:
        for _ in range(self.evals(grid)):
            x = denoise(x, 1.0)
        return x


@pytest.mark.parametrize(("nfe", "steps"), [(1, 1), (2, 1), (3, 2), (4, 2), (19, 10)])
def test_a_cell_takes_the_most_steps_that_fit(nfe: int, steps: int) -> None:
    process = Gaussian().process
    assert steps_for(Costly(), nfe) == steps
    assert steps_for(DPMpp2M(), nfe) == nfe
    assert len(grid_of(Cell("m", Native(), Costly(), nfe, range(2)), process)) == steps + 1


def test_a_sampler_that_cannot_start_says_so() -> None:
    @dataclass(frozen=True)
    class Dear(Costly):
        def evals(self, grid: Tensor) -> int:
            return 100

    with pytest.raises(ValueError, match="raise --nfe"):
        steps_for(Dear(), 5)


def test_samples_of_a_gaussian_are_that_gaussian() -> None:
    made = generate.sample(Gaussian(0.3), DPMpp2M(), Karras(), 60, range(400), 100)
    z = made.double() / 127.5 - 1
    n = z.numel()
    assert abs(float(z.mean())) < 5 * 0.3 / n**0.5
    assert abs(float(z.std()) / 0.3 - 1) < 0.03


@dataclass(frozen=True)
class Labelled(Gaussian):
    """Predicts ten times an image's class everywhere, and 3 without one."""

    classes: int = 4

    def denoiser(self, labels: Tensor | None = None) -> Denoiser:
        def denoise(x: Tensor, sigma: float) -> Tensor:
            said = torch.full((len(x),), 3.0) if labels is None else 10.0 * labels
            return said.view(-1, 1, 1, 1).expand_as(x).to(x.dtype)

        return denoise

    def decode(self, x: Tensor) -> Tensor:
        return (x + 128).round().to(torch.uint8)


@pytest.mark.parametrize("batch", [3, 64])
def test_a_seed_has_one_class_whatever_the_batch(batch: int) -> None:
    made = generate.sample(Labelled(), DDIM(), LogSNR(), 2, range(5, 12), batch)
    assert made[:, 0, 0, 0].tolist() == [128 + 10 * (seed % 4) for seed in range(5, 12)]


@pytest.mark.parametrize("scale", [0.0, 1.0, 2.5])
def test_guidance_leads_away_from_the_prediction_without_a_class(scale: float) -> None:
    made = generate.sample(Labelled(), DDIM(), LogSNR(), 2, range(4), guidance=scale)
    want = torch.tensor([128 + 3 + scale * (10 * c - 3) for c in range(4)])
    assert (made[:, 0, 0, 0] - want).abs().max() <= 0.5


def test_guidance_needs_classes() -> None:
    with pytest.raises(ValueError, match="gaussian is unconditional: it takes no guidance"):
        generate.sample(Gaussian(), DDIM(), LogSNR(), 2, range(4), guidance=2.0)


@dataclass(frozen=True)
class Elsewhere(Gaussian):
    """A model whose device is no CPU."""

    device: str = "meta"


@pytest.mark.parametrize(("model", "uses"), [(Gaussian(), 2), (Elsewhere(), 0)])
def test_only_a_model_on_the_cpu_takes_its_cores(
    model: Gaussian, uses: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = []
    monkeypatch.setattr(generate, "normal", lambda seeds, draw, shape: torch.zeros(
        len(seeds), *shape, device=seeds.device))  # fmt: skip
    monkeypatch.setattr(generate, "spread", lambda: taken.append(1) or nullcontext())
    grid = torch.tensor([2.0, 1.0, 0.0], dtype=torch.float64)
    assert len(list(generate.images(model, DDIM(), grid, range(4), 2))) == 2
    assert len(taken) == uses
