"""Measured rates against closed forms on Gaussian data; rates of schedules, and sums of rates."""

import importlib
import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from oracles import Gaussian
from torch import Tensor

from bench import measures
from bench.features import Features, Flatten
from bench.measures import (
    DataPrediction,
    FeatureFrechet,
    GaussianW2,
    NoisePrediction,
    OfSchedule,
    Uniform,
    measuring,
    predictions,
)
from bench.measures.measuring import _ahead
from bench.metrics import frechet_distance
from bench.process import VE, VP
from bench.schedules import ConstantRate, Cosine, Karras, Linear, LogSNR, Native
from bench.types import Denoiser, Extractor, Measure, NoiseProcess, Rate, rate_between

SHAPE = (1, 16, 16)


def pictures(c: float, n: int = 96) -> Tensor:
    """uint8 images that `Gaussian.encode` takes to N(0, c^2), rounded."""
    z = torch.randn(n, *SHAPE, generator=torch.Generator().manual_seed(4))
    return Gaussian(c).decode(c * z)


def closed_form(measure, c: float, sigma: Tensor) -> Tensor:
    """x0_hat = a x, a = c^2 / s^2; eps_hat = b x, b = sigma / s^2; x = x0 + sigma eps.

    The change of f(sigma) x with x0 and eps held is (df) x0 + d(f sigma) eps, of mean square
    df^2 c^2 + d(f sigma)^2.
    """
    s2 = c**2 + sigma**2
    f = c**2 / s2 if isinstance(measure, DataPrediction) else sigma / s2
    return (f.diff() ** 2 * c**2 + (f * sigma).diff() ** 2).sqrt() / sigma.diff()


@pytest.mark.parametrize("measure", [DataPrediction(), NoisePrediction()], ids=repr)
@pytest.mark.parametrize("c", [0.1, 0.3])
def test_rate_of_a_gaussian(measure, c: float) -> None:
    model = Gaussian(c, shape=SHAPE)
    rate = measures.measure(model, measure, pictures(c), levels=61)
    sigma = torch.as_tensor(np.geomspace(0.02, 80.0, 61))
    want = closed_form(measure, c, sigma)
    middle = (sigma[1:] * sigma[:-1]).sqrt()
    np.testing.assert_allclose(rate.sigma, torch.cat([sigma[:1], middle, sigma[-1:]]))
    # 96 x 256 pixels: sampling error of a root mean square is 1 / sqrt(2 x 24576) = 0.5 %
    np.testing.assert_allclose(rate.v[1:-1], want, rtol=0.025, atol=0)
    assert rate.v[0] == rate.v[1] and rate.v[-1] == rate.v[-2]
    assert rate.name == measure.name


@pytest.mark.parametrize("measure", [DataPrediction(), NoisePrediction()], ids=repr)
@pytest.mark.parametrize("batch", [1, 7, 1000])
def test_rate_does_not_depend_on_the_batch(measure, batch: int) -> None:
    model, images = Gaussian(0.3, shape=SHAPE), pictures(0.3, 20)
    one = measures.measure(model, measure, images, levels=9, batch=20)
    two = measures.measure(model, measure, images, levels=9, batch=batch)
    np.testing.assert_allclose(two.v, one.v, rtol=1e-6, atol=0)
    assert np.array_equal(one.sigma, two.sigma)


def test_provenance_says_what_it_was_measured_from() -> None:
    model, images = Gaussian(0.3, shape=SHAPE), pictures(0.3, 5)
    found = measures.measure(model, DataPrediction(), images, levels=5).provenance
    assert found["model_digest"] == model.digest
    assert found["images"] == 5 and found["levels"] == 5
    assert found["measure"] == {"class": "DataPrediction", "fields": {}}
    assert found["first_seed"] == measures.FIRST_SEED
    other = measures.measure(model, DataPrediction(), images.flip(0), levels=5).provenance
    assert len(found["data_digest"]) == 64 and found["data_digest"] != other["data_digest"]


@pytest.mark.parametrize("measure", [DataPrediction(), NoisePrediction()], ids=repr)
def test_save_and_load_keep_every_bit(measure, tmp_path: Path) -> None:
    rate = measures.measure(Gaussian(shape=SHAPE), measure, pictures(0.3, 4), levels=6)
    path = measures.save(measures.path_of(tmp_path / "m", measure.name), rate)
    back = measures.load_rate(path)
    assert np.array_equal(back.sigma, rate.sigma) and np.array_equal(back.v, rate.v)
    assert (back.name, back.provenance) == (rate.name, rate.provenance)
    assert list(measures.measured(tmp_path / "m")) == [measure.name]


def test_a_model_without_rates_has_none(tmp_path: Path) -> None:
    assert measures.measured(tmp_path) == {}


def test_missing_file_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="crs-bench measure mymodel --measure MEASURE --name v_x"):
        measures.load_rate(measures.path_of(tmp_path / "mymodel", "v_x"))


@pytest.mark.parametrize(
    "text",
    ["{", "{}", '{"name": "v_x", "sigma": [1, 2]}', '{"name": 1, "sigma": "a", "v": 1}', "[]"],
)
def test_broken_file_is_named(text: str, tmp_path: Path) -> None:
    path = tmp_path / "broken.json"
    path.write_text(text)
    with pytest.raises(ValueError, match="broken.json"):
        measures.load_rate(path)


def test_bad_requests_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 4 levels"):
        measures.measure(Gaussian(shape=SHAPE), DataPrediction(), pictures(0.3, 2), levels=3)
    with pytest.raises(ValueError, match="no images"):
        measures.measure(Gaussian(shape=SHAPE), DataPrediction(), pictures(0.3, 0), levels=5)


@dataclass(frozen=True)
class Broken(Gaussian):
    """A network gone bad."""

    def denoiser(self, labels: Tensor | None = None) -> Denoiser:
        return lambda x, sigma: x * torch.nan


def test_a_network_of_nans_gives_no_rate() -> None:
    with pytest.raises(ValueError, match="v_x.*NaN"):
        measures.measure(Broken(shape=SHAPE), DataPrediction(), pictures(0.3, 2), levels=5)


@dataclass(frozen=True)
class Mine(Measure):
    """A user's own measure needs nothing but a name and the call."""

    power: float = 1.0
    name = "mine"

    def __call__(self, model, images, sigmas: Tensor) -> Rate:
        n = sum(len(batch) for batch in images)
        return Rate("mine", sigmas, n * sigmas**-self.power)


def test_a_users_measure_is_a_measure() -> None:
    rate = measures.measure(Gaussian(shape=SHAPE), Mine(2.0), pictures(0.3, 3), levels=5)
    np.testing.assert_allclose(rate.v, 3 * rate.sigma**-2)
    assert rate.provenance["measure"]["class"].endswith("test_measures_rates:Mine")
    assert rate.provenance["measure"]["fields"] == {"power": 2.0}


@dataclass(frozen=True)
class Step(Measure):
    """Changes above a sigma only, so that whole segments have a rate of zero."""

    above: float = 1.0
    name = "step"

    def __call__(self, model, images, sigmas: Tensor) -> Rate:
        return Rate("step", sigmas, (sigmas > self.above).double())


def test_a_rate_may_be_zero_through_whole_segments_but_not_everywhere() -> None:
    model = Gaussian(shape=SHAPE)
    rate = measures.measure(model, Step(), pictures(0.3, 3), levels=41)
    assert np.array_equal(rate.v, rate.sigma > 1)
    with pytest.raises(ValueError, match="no change at any level"):
        measures.measure(model, Step(1e9), pictures(0.3, 3), levels=41)


# ---------------------------------------------------------------- without a network


def geometric(low: float, high: float, levels: int = 2001) -> Tensor:
    return torch.as_tensor(np.geomspace(low, high, levels))


def w2(sigma: float, mean: Tensor, cov: Tensor, frame: str) -> tuple[Tensor, Tensor]:
    """Mean and covariance of the Gaussian N(mean, cov) diffused to sigma."""
    scale = 1.0 if frame == "ve" else (1 + sigma**2) ** -0.5
    return scale * mean, scale**2 * (cov + sigma**2 * torch.eye(len(cov), dtype=torch.float64))


def w2_rate(sigma: float, mean: Tensor, cov: Tensor, frame: str) -> float:
    """Distance of the marginals at sigma (1 -+ h) over that of the levels, h = 1 %."""
    low, high = 0.99 * sigma, 1.01 * sigma
    square = frechet_distance(*w2(low, mean, cov, frame), *w2(high, mean, cov, frame))
    return math.sqrt(square) / (high - low)


@pytest.mark.parametrize("frame", ["ve", "vp"])
@pytest.mark.parametrize("spectrum", [(0.25,) * 6, (2.0, 0.5, 0.1, 0.01, 1e-4, 0.0)], ids=str)
def test_w2_rate_of_a_spectrum(spectrum: tuple[float, ...], frame: str) -> None:
    """Against the Wasserstein-2 distance of neighbouring marginals, to the 1e-4 of its own step."""
    sigma = geometric(0.02, 80.0, 9)
    rate = GaussianW2(spectrum, frame)(Gaussian(), [], sigma)
    cov = torch.diag(torch.tensor(spectrum, dtype=torch.float64))
    want = [w2_rate(s, torch.zeros(6, dtype=torch.float64), cov, frame) for s in sigma.tolist()]
    np.testing.assert_allclose(rate.v, want, rtol=1e-3)
    assert rate.name == "v_w2"


@pytest.mark.parametrize("frame", ["ve", "vp"])
@pytest.mark.parametrize("shape", [(1, 3, 3), (2, 1, 2), (1, 1, 1)], ids=str)
def test_w2_rate_of_images_takes_their_mean_and_covariance(
    shape: tuple[int, int, int], frame: str
) -> None:
    """Correlated pixels off centre, in two batches. Only the VP frame moves the mean."""
    model, dim = Gaussian(shape=shape), math.prod(shape)
    draw = torch.Generator().manual_seed(8)
    mixing = torch.randn(dim, dim, generator=draw) / dim**0.5
    x0 = 0.4 + 0.2 * torch.randn(60, dim, generator=draw) @ mixing
    images = model.decode(x0.view(60, *shape))
    sigma = geometric(0.02, 80.0, 9)
    rate = GaussianW2(frame=frame)(model, images.split(40), sigma)
    rows = model.encode(images).flatten(1).double()
    moments = rows.mean(0), torch.cov(rows.T).view(dim, dim)
    want = [w2_rate(s, *moments, frame) for s in sigma.tolist()]
    np.testing.assert_allclose(rate.v, want, rtol=1e-3)


@pytest.mark.parametrize("frame", ["ve", "vp"])
@pytest.mark.parametrize("c", [0.1, 0.5, 2.0])
def test_constant_rate_of_w2_is_linear_in_the_marginal_std(c: float, frame: str) -> None:
    """s = sqrt(c^2 + sigma^2), over sqrt(1 + sigma^2) in the VP frame, in which it can fall."""
    process = VE(0.02, 80.0)
    rate = GaussianW2((c**2,) * 5, frame)(Gaussian(c), [], geometric(0.02, 80.0))
    sigma = ConstantRate(rate, floor=1e-12)(20, process)[:-1]
    s = (c**2 + sigma**2).sqrt()
    if frame == "vp":
        s = s / (1 + sigma**2).sqrt()
    want = torch.linspace(float(s[0]), float(s[-1]), 20, dtype=torch.float64)
    torch.testing.assert_close(s, want, rtol=1e-6, atol=0)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: GaussianW2(frame="vq"), "known: ve, vp"),
        (lambda: GaussianW2((1.0, -0.1)), "negative or NaN"),
        (lambda: GaussianW2((math.nan,)), "negative or NaN"),
        (lambda: GaussianW2()(Gaussian(), [pictures(0.3, 1)], geometric(1, 2, 5)), "2 images"),
        (lambda: Uniform("snr"), "known: sigma, alpha, angle, logsnr"),
        (lambda: FeatureFrechet(Flatten(), space="latent"), "known: image, state"),
        (lambda: FeatureFrechet(Flatten(), bootstrap=-1), "0 or more"),
        (lambda: FeatureFrechet(torch.flatten), "derive its class from bench.Extractor"),
    ],
)
def test_bad_measures_are_refused(make: Callable, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        make()


@pytest.mark.parametrize(
    "process", [VE(0.02, 80.0), VP(), VP("cosine", 1000, 0.01, 80.0)], ids=repr
)
@pytest.mark.parametrize(
    ("coordinate", "u"),
    [
        ("sigma", lambda sigma: sigma),
        ("alpha", lambda sigma: 1 / (1 + sigma**2)),
        ("angle", torch.atan),
        ("logsnr", torch.log),
    ],
)
def test_uniform_gives_equal_steps_of_its_coordinate(process, coordinate: str, u) -> None:
    measure = Uniform(coordinate)
    rate = measure(Gaussian(), [], geometric(process.sigma_min, process.sigma_max))
    at = u(ConstantRate(rate, floor=1e-12)(16, process)[:-1])
    want = torch.linspace(float(at[0]), float(at[-1]), 16, dtype=torch.float64)
    assert (at - want).abs().max() < 1e-6 * (at[0] - at[-1]).abs()
    assert rate.name == measure.name == f"uniform_{coordinate}"


SCHEDULES = [Karras(), Karras(2.0), Cosine(), LogSNR(), Native(), Linear()]
PROCESSES = [VE(), VP(), VP("cosine", 1000, 0.01, 80.0)]


@pytest.mark.parametrize(("levels", "rtol"), [(401, 8e-3), (2001, 1.5e-3)])
@pytest.mark.parametrize("process", PROCESSES, ids=repr)
@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
def test_a_schedule_is_the_constant_rate_of_its_own_rate(
    schedule, process, levels: int, rtol: float
) -> None:
    """To 0.8 % of sigma with 401 levels and 0.15 % with 2001; Linear on the wide EDM range is the
    worst, the others within 0.55 % and 0.05 %: means over the schedule's own steps are held at
    their middles, and its first steps span much of log sigma."""
    rate = measures.of_schedule(schedule, process, levels)
    grid, want = ConstantRate(rate)(20, process), schedule(20, process)
    torch.testing.assert_close(grid, want, rtol=rtol, atol=0)
    assert rate.name == f"v_{type(schedule).__name__.lower()}"


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
def test_of_schedule_is_a_measure_too(schedule) -> None:
    """The same v at the schedule's own levels, and the schedule's grid after `measure`."""
    process = VP("cosine", 1000, 0.01, 80.0)
    model, measure = Gaussian(process=process, shape=SHAPE), OfSchedule(schedule)
    rate = measures.of_schedule(schedule, process)
    assert rate.provenance["measure"] == measure.spec()
    np.testing.assert_allclose(
        measure(model, [], torch.as_tensor(rate.sigma)).v, rate.v, rtol=1e-12, atol=0
    )
    found = measures.measure(model, measure, pictures(0.3, 2), levels=401)
    assert found.name == measure.name == rate.name
    grid = ConstantRate(found)(20, process)
    torch.testing.assert_close(grid, schedule(20, process), rtol=5e-3, atol=0)


# ---------------------------------------------------------------- sums


def bumpy(name: str = "bumpy", levels: int = 40, seed: int = 0, high: float = 80.0) -> Rate:
    """Of a measured rate's form, with two replicates."""
    draw = torch.Generator().manual_seed(seed)
    v = torch.randn(3, levels - 1, generator=draw, dtype=torch.float64).exp()
    found = rate_between(name, geometric(0.02, high, levels), v[0])
    again = [rate_between(name, geometric(0.02, high, levels), row).v for row in v[1:]]
    return Rate(name, found.sigma, found.v, {"measure": name}, np.stack(again))


def power(p: float, levels: int = 30) -> Rate:
    sigma = geometric(0.02, 80.0, levels)
    return Rate(f"power{p:g}", sigma, sigma**p)


def test_mix_of_a_rate_with_itself_is_itself() -> None:
    rate = bumpy()
    for found in (measures.mix({rate: 7.0}), measures.mix({rate: 0.3, bumpy("other"): 2.0})):
        ratio = found.v / rate.v
        np.testing.assert_allclose(ratio, ratio[0], rtol=1e-12, atol=0)
        np.testing.assert_allclose(found.sigma, rate.sigma, rtol=1e-12, atol=0)


@pytest.mark.parametrize("factor", [1e-5, 3.0])
def test_mix_cares_for_shares_alone(factor: float) -> None:
    """Neither the sum of the weights nor the scale of a rate matters."""
    one, two = bumpy("one", seed=1), bumpy("two", 33, seed=2)
    found = measures.mix({one: 1.0, two: 3.0})
    assert found.name == "0.25 one + 0.75 two"
    scaled = Rate("scaled", two.sigma, factor * two.v)
    for same in (measures.mix({one: 0.25, two: 0.75}), measures.mix({one: 1.0, scaled: 3.0})):
        np.testing.assert_allclose(same.v, found.v, rtol=1e-9, atol=0)


@pytest.mark.parametrize("weights", [(0.5, 0.5), (1.0, 9.0)])
def test_mix_of_power_laws_is_the_direct_sum(weights: tuple[float, float]) -> None:
    """Each over its integral from sigma_min to sigma_max, log(high / low) for 1 / sigma."""
    parts = {power(-1.0, 30): weights[0], power(0.5, 47): weights[1]}
    found = measures.mix(parts)
    totals = math.log(80 / 0.02), (80**1.5 - 0.02**1.5) / 1.5
    share = weights[0] / sum(weights)
    want = share / totals[0] / found.sigma + (1 - share) / totals[1] * found.sigma**0.5
    np.testing.assert_allclose(found.v, want, rtol=1e-5, atol=0)
    assert found.replicates is None


def test_mix_spans_what_all_share() -> None:
    found = measures.mix({bumpy("whole"): 1.0, bumpy("part", high=7.0): 1.0})
    assert found.sigma[0] == 0.02
    assert abs(found.sigma[-1] - 7.0) < 1e-12
    with pytest.raises(ValueError, match="measure it over that range"):
        ConstantRate(found)(10, VE(0.02, 80.0))


def test_mix_takes_levels_that_differ_by_rounding_as_one() -> None:
    """101 levels of a measurement and of log-SNR are the same levels by two roads."""
    process = VE(0.02, 80.0)
    measured, own = bumpy(levels=101), measures.of_schedule(LogSNR(), process, 101)
    found = measures.mix({measured: 0.5, own: 0.5})
    assert len(found.sigma) == 102
    assert (ConstantRate(found)(20, process).diff() < 0).all()


@pytest.mark.parametrize(
    ("parts", "says"),
    [
        ({}, "weights above 0"),
        ({bumpy(): 0.0}, "weights above 0"),
        ({bumpy(): 1.0, bumpy("other"): -1.0}, "weights above 0"),
        ({bumpy(): math.nan}, "weights above 0"),
        ({bumpy(): math.inf}, "weights above 0"),
        ({bumpy(): "half"}, "weights above 0"),
        ({"v_x": 1.0}, "weights above 0"),
        (bumpy(), "weights above 0"),
        (
            {bumpy(): 1.0, Rate("far", geometric(100, 200, 5), torch.ones(5)): 1.0},
            "bumpy, far share no range",
        ),
    ],
)
def test_bad_mixes_are_refused(parts: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        measures.mix(parts)


def test_mix_says_what_it_was_made_of() -> None:
    own = measures.of_schedule(Cosine(), VE(0.02, 80.0))
    made = measures.mix({bumpy(): 1.0, own: 3.0}).provenance
    assert made["measure"] == "mix"
    assert made["parts"] == [
        {"weight": 0.25, "name": "bumpy", "measure": "bumpy"},
        {"weight": 0.75, "name": "v_cosine", "measure": OfSchedule(Cosine()).spec()},
    ]


def test_replicates_of_a_mix_are_mixes_of_replicates() -> None:
    """An exact rate has none and does not vary."""
    one, two, exact = bumpy("one", seed=1), bumpy("two", seed=2), power(-1.0)
    found = measures.mix({one: 1.0, two: 2.0, exact: 1.0})
    assert found.replicates.shape == (2, len(found.sigma))
    for i, row in enumerate(found.replicates):
        again = [Rate(r.name, r.sigma, r.replicates[i]) for r in (one, two)]
        want = measures.mix({again[0]: 1.0, again[1]: 2.0, exact: 1.0})
        np.testing.assert_allclose(row, want.v, rtol=1e-12, atol=0)


# ---------------------------------------------------------------- features


SMALL = (1, 4, 4)


def small(c: float, n: int, seed: int = 0) -> tuple[Gaussian, Tensor]:
    model = Gaussian(c, shape=SMALL)
    noise = torch.randn(n, *SMALL, generator=torch.Generator().manual_seed(seed))
    return model, model.decode(c * noise)


def vp_distances(c: float, sigma: Tensor) -> Tensor:
    """Frechet distances' roots of neighbouring N(0, s^2 I) in 16 dimensions: 4 |s - s'|."""
    return 4 * ((c**2 + sigma**2) / (1 + sigma**2)).sqrt().diff().abs()


@pytest.mark.parametrize("c", [0.1, 0.3])
def test_frechet_rate_of_a_gaussian(c: float) -> None:
    """v_FID of the state itself is the VP-frame change of the standard deviation.

    Both levels of an interval are made of the same x0 and eps. With 2000 images the root of the
    Frechet distance is then within 0.002 of 4 |s - s'|, which is 0.0002 .. 0.4 here. Unpaired draws
    of the same number would put a floor of about 0.28 under every interval (0.15 with 8000): two
    samples of one Gaussian are that far apart.
    """
    model, images = small(c, 2000)
    sigma = geometric(0.02, 80.0, 31)
    measure = FeatureFrechet(Flatten(), space="state")
    rate = measure(model, images.split(700), sigma)
    want = vp_distances(c, sigma)
    np.testing.assert_allclose(rate.v[1:-1] * np.diff(sigma), want, rtol=0.03, atol=0.003)
    draw = torch.Generator().manual_seed(5)
    one, two = (Features.of(torch.randn(2000, 16, generator=draw), 0) for _ in range(2))
    floor = math.sqrt(frechet_distance(one.mean, one.cov, two.mean, two.cov))
    assert 0.2 < floor < 0.36


def test_frechet_rate_agrees_with_the_closed_form_of_the_same_images() -> None:
    model, images = small(0.3, 500)
    sigma = geometric(0.1, 3.0, 15)
    found = FeatureFrechet(Flatten(), space="state")(model, [images], sigma)
    middle = (sigma[1:] * sigma[:-1]).sqrt()
    want = GaussianW2(frame="vp")(model, [images], middle)
    np.testing.assert_allclose(found.v[1:-1], want.v, rtol=0.05, atol=0)


@dataclass(frozen=True)
class Watching(Extractor):
    """An extractor that notes what it is given."""

    seen: list = field(default_factory=list)
    device: str = "none"
    name = "watching"
    digest = ""

    def on(self, device: str) -> "Watching":
        return replace(self, device=device)

    def __call__(self, images: Tensor) -> Tensor:
        self.seen.append((images.dtype, self.device))
        return images.float().flatten(1)


@pytest.mark.parametrize(("space", "dtype"), [("image", torch.uint8), ("state", torch.float32)])
def test_extractors_see_pictures_or_states_on_the_models_device(space: str, dtype) -> None:
    model, images = small(0.3, 20)
    extractor = Watching()
    measure = FeatureFrechet(extractor, space)
    rate = measure(model, images.split(10), geometric(0.02, 80.0, 5))
    assert set(extractor.seen) == {(dtype, "cpu")}
    assert len(extractor.seen) == 2 * 5
    assert rate.name == "v_fid" and rate.replicates is None


def test_an_extractor_needs_not_be_a_dataclass() -> None:
    class Plain(Extractor):
        name, digest = "plain", ""

        def __call__(self, images: Tensor) -> Tensor:
            return images.float().flatten(1)

    model, images = small(0.3, 20)
    sigma = geometric(0.02, 80.0, 5)
    found = FeatureFrechet(Plain(), "state")(model, [images], sigma)
    assert np.array_equal(found.v, FeatureFrechet(Flatten(), "state")(model, [images], sigma).v)


def test_frechet_replicates_lie_around_v() -> None:
    """Where the change is well above its sampling error, within four deviations of them; they
    deviate by about 1 / sqrt(2 n dim) = 0.8 %, and more where little changes."""
    model, images = small(0.3, 500)
    sigma = geometric(0.02, 80.0, 16)
    rate = FeatureFrechet(Flatten(), "state", bootstrap=12)(model, [images], sigma)
    assert rate.replicates.shape == (12, 17)
    mean, deviation = rate.replicates.mean(0), rate.replicates.std(0, ddof=1)
    assert (deviation > 0).all()
    large = rate.v[1:-1] * np.diff(sigma) > 0.05
    assert large.sum() >= 5
    assert (np.abs(mean - rate.v) < 4 * deviation)[1:-1][large].all()
    share = (deviation / rate.v)[1:-1][large]
    assert share.min() > 0.004 and share.max() < 0.06


# ---------------------------------------------------------------- error bands


@pytest.mark.parametrize("measure", [DataPrediction(), NoisePrediction()], ids=repr)
def test_replicates_vary_as_independent_measurements_do(measure, monkeypatch) -> None:
    """Standard deviation of v over bootstrap replicates of one set of images and noise, against
    that over 40 independent sets: within 50 % at every level, 20 % on average.

    The sets need noise of their own: `measure` always draws from the same seeds, and of v_x at
    large sigma noise is nearly all that varies. Two image sets measured as usual agree better there
    than their bands say, by up to 100 times.
    """
    found = []
    for k in range(40):
        monkeypatch.setattr(predictions, "FIRST_SEED", measures.FIRST_SEED + 1000 * k)
        model, images = small(0.3, 64, seed=k)
        found.append(measure(model, [images], geometric(0.02, 80.0, 16)))
    spread = np.std([rate.v for rate in found], 0, ddof=1)
    bands = np.std([rate.replicates for rate in found], 1, ddof=1)
    assert found[0].replicates.shape == (predictions.REPLICATES, 17)
    ratio = np.sqrt((bands**2).mean(0)) / spread
    assert (ratio > 0.67).all() and (ratio < 1.5).all()
    assert 0.8 < ratio.mean() < 1.2
    ratio = bands[0] / spread
    assert (ratio > 0.5).all() and (ratio < 1.5).all()


# ---------------------------------------------------------------- segments


@pytest.mark.parametrize("segment", [3, 5, 9])
@pytest.mark.parametrize("measure", [DataPrediction(), NoisePrediction()], ids=repr)
def test_segments_join_to_the_rate_of_one_piece(measure, segment: int, monkeypatch) -> None:
    """But for the order in which a sum over images is taken: 1e-15."""
    model, images = small(0.3, 24)
    monkeypatch.setattr(measuring, "_SEGMENT", 1000)
    whole = measures.measure(model, measure, images, levels=24)
    monkeypatch.setattr(measuring, "_SEGMENT", segment)
    found = measures.measure(model, measure, images, levels=24)
    assert np.array_equal(found.sigma, whole.sigma)
    np.testing.assert_allclose(found.v, whole.v, rtol=1e-14, atol=0)
    np.testing.assert_allclose(found.replicates, whole.replicates, rtol=1e-12, atol=0)


@dataclass(frozen=True)
class Between(Measure):
    """A user's measure at the middles of the intervals, which no two segments share."""

    name = "between"

    def __call__(self, model, images, sigmas: Tensor) -> Rate:
        middle = (sigmas[1:] * sigmas[:-1]).sqrt()
        return Rate("between", middle, 1 / middle)


@pytest.mark.parametrize("levels", [4, 14, 15, 16, 26, 101])
def test_a_users_levels_join_once_each(levels: int) -> None:
    """Mine answers at the levels asked for, Between only inside; neither loses or repeats one."""
    model, images = Gaussian(shape=SHAPE), pictures(0.3, 3)
    sigma = geometric(0.02, 80.0, levels)
    found = measures.measure(model, Mine(1.5), images, levels=levels)
    assert np.array_equal(found.sigma, sigma)
    assert np.array_equal(found.v, 3 * sigma**-1.5)
    if levels > 4:
        found = measures.measure(model, Between(), images, levels=levels)
        assert np.array_equal(found.sigma, (sigma[1:] * sigma[:-1]).sqrt())
        assert np.array_equal(found.v, 1 / found.sigma)


@dataclass(frozen=True, repr=False)
class Stopping(Measure):
    """A measure that stops the program before its call number `stop`, counted over its life."""

    inner: Measure
    stop: int = field(default=-1, compare=False)
    calls: list[int] = field(default_factory=list, compare=False)  # levels asked for, by call

    @property
    def name(self) -> str:
        return self.inner.name

    def __call__(self, model, images, sigmas: Tensor) -> Rate:
        if len(self.calls) == self.stop:
            raise KeyboardInterrupt
        self.calls.append(len(sigmas))
        return self.inner(model, images, sigmas)


@pytest.mark.parametrize("stop", [0, 1, 3])
@pytest.mark.parametrize(
    "inner",
    [DataPrediction(), FeatureFrechet(Flatten(), "state", bootstrap=2), Mine(0.5)],
    ids=lambda m: type(m).__name__,
)
def test_a_stopped_measurement_goes_on_where_it_was(inner, stop: int, tmp_path: Path) -> None:
    """Each of four segments is measured once over both runs, and no bit differs."""
    model, images = small(0.3, 24)
    partial = tmp_path / "cache" / "partial.json"
    first = Stopping(inner, stop)
    with pytest.raises(KeyboardInterrupt):
        measures.measure(model, first, images, 41, 10, partial)
    assert partial.is_file() == (stop > 0)
    second = Stopping(inner)
    found = measures.measure(model, second, images, 41, 10, partial)
    assert first.calls + second.calls == [11] * 4
    want = measures.measure(model, Stopping(inner), images, 41, 10)
    assert np.array_equal(found.sigma, want.sigma) and np.array_equal(found.v, want.v)
    if want.replicates is not None:
        assert np.array_equal(found.replicates, want.replicates)
    assert (found.name, found.provenance) == (want.name, want.provenance)
    assert not partial.exists()


@pytest.mark.parametrize(
    "change",
    [
        {"images": small(0.3, 24, seed=1)[1]},
        {"images": small(0.3, 23)[1]},
        {"levels": 42},
        {"model": Gaussian(0.3, shape=SMALL, digest="other weights")},
        {"measure": Stopping(NoisePrediction())},
    ],
    ids=lambda change: next(iter(change)),
)
def test_what_another_measurement_left_is_not_used(change: dict, tmp_path: Path) -> None:
    model, images = small(0.3, 24)
    partial = tmp_path / "partial.json"
    with pytest.raises(KeyboardInterrupt):
        measures.measure(model, Stopping(DataPrediction(), 2), images, 41, partial=partial)
    asked = {"model": model, "measure": Stopping(DataPrediction()), "images": images, "levels": 41}
    asked |= change
    asked["measure"].calls.clear()
    found = measures.measure(**asked, partial=partial)
    assert len(asked["measure"].calls) == 4
    assert np.array_equal(found.v, measures.measure(**asked).v)
    assert not partial.exists()


def test_an_edited_measure_starts_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else half of the rate is of the old formula."""
    model, images = small(0.3, 24)
    code = (
        "import bench\n"
        "from bench.types import rate_between\n"
        "class Edited(bench.Measure):\n"
        "    name = 'v_mine'\n"
        "    calls = 0\n"
        "    def __call__(self, model, images, sigmas):\n"
        "        Edited.calls += 1\n"
        "        if Edited.calls > {most}:\n"
        "            raise KeyboardInterrupt\n"
        "        return rate_between('v_mine', sigmas, {scale} / sigmas[1:])\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "edited_lab.py").write_text(code.format(most=2, scale=7))
    partial = tmp_path / "partial.json"
    lab = importlib.import_module("edited_lab")
    with pytest.raises(KeyboardInterrupt):
        measures.measure(model, lab.Edited(), images, 41, partial=partial)
    (tmp_path / "edited_lab.py").write_text(code.format(most=10, scale=1.5))
    importlib.invalidate_caches()
    lab = importlib.reload(lab)
    found = measures.measure(model, lab.Edited(), images, 41, partial=partial)
    assert lab.Edited.calls == 4
    assert float((found.v * found.sigma).max()) < 2


@pytest.mark.parametrize("content", ["[]", "{}", '{"identity": 3}', "nothing"])
def test_a_damaged_partial_is_not_used(content: str, tmp_path: Path) -> None:
    model, images = small(0.3, 24)
    (tmp_path / "partial.json").write_text(content)
    found = measures.measure(model, DataPrediction(), images, 41, partial=tmp_path / "partial.json")
    assert np.array_equal(found.v, measures.measure(model, DataPrediction(), images, 41).v)


def test_a_measure_that_finds_nothing_can_be_mended(tmp_path: Path) -> None:
    model, images = small(0.3, 24)

    with pytest.raises(ValueError, match="found no change"):
        measures.measure(model, Step(1e9), images, 41, partial=tmp_path / "partial.json")
    assert not (tmp_path / "partial.json").exists()


class Sigmas(Measure):
    """Gives something that is no rate."""

    name = "sigmas"

    def __call__(self, model, images, sigmas: Tensor) -> Tensor:  # type: ignore[override]
        return sigmas


@pytest.mark.parametrize("what", [Karras(), Flatten(), 3, lambda model, images, sigmas: sigmas])
def test_what_is_no_measure_is_refused(what: object) -> None:
    model, images = small(0.3, 24)
    with pytest.raises(ValueError, match="is no measure: derive its class from bench.Measure"):
        measures.measure(model, what, images, 41)
    with pytest.raises(ValueError, match="gave Tensor, not bench.Rate"):
        measures.measure(model, Sigmas(), images, 41)


@dataclass(frozen=True)
class Whole(Mine):
    """Is called once, for the whole range, at levels of its own."""

    whole_range = True
    default_levels = 33

    def levels(self, count: int, process: NoiseProcess) -> Tensor:
        return torch.linspace(process.sigma_min, process.sigma_max, count, dtype=torch.float64)


def test_a_measure_may_choose_its_levels_and_take_the_whole_range(tmp_path: Path) -> None:
    model, images = small(0.3, 3)
    partial = tmp_path / "partial.json"
    counted = []
    found = measures.measure(model, Whole(), lambda: counted.append(1) or images, partial=partial)
    assert np.array_equal(found.sigma, torch.linspace(0.02, 80, 33, dtype=torch.float64))
    assert found.provenance["levels"] == 33 and counted == [1] and not partial.exists()


@pytest.mark.parametrize(
    "measure", [Uniform(), OfSchedule(Cosine()), GaussianW2((0.5, 0.1))], ids=repr
)
def test_images_are_not_read_where_none_are_needed(measure: Measure) -> None:
    def forbidden() -> Tensor:
        raise AssertionError

    model = Gaussian(shape=SHAPE)
    found = measures.measure(model, measure, forbidden, levels=9)
    assert "images" not in found.provenance and "data_digest" not in found.provenance
    assert np.array_equal(found.v, measures.measure(model, measure, levels=9).v)
    assert GaussianW2().needs_images


# ---------------------------------------------------------------- files


def test_files_keep_infinite_v_and_six_digits_of_replicates(tmp_path: Path) -> None:
    rate = bumpy()
    v, replicates = rate.v.copy(), rate.replicates.copy()
    v[[0, 7]] = replicates[:, [0, 7]] = math.inf
    rate = replace(rate, v=v, replicates=replicates)
    back = measures.load_rate(measures.save(tmp_path / "bumpy.json", rate))
    assert np.array_equal(back.v, rate.v) and np.array_equal(back.sigma, rate.sigma)
    np.testing.assert_allclose(back.replicates, rate.replicates, rtol=5e-6, atol=0)
    assert not np.array_equal(back.replicates, rate.replicates)
    again = measures.load_rate(measures.save(tmp_path / "again.json", back))
    assert np.array_equal(again.replicates, back.replicates)


@pytest.mark.parametrize("workers", [1, 2])
def test_segments_come_in_order_and_a_failure_stops_them(workers: int) -> None:
    asked: list[tuple[int, int]] = []

    def of(ends: tuple[int, int]) -> str:
        asked.append(ends)
        if ends == (2, 3):
            raise ValueError("segment 2")
        return f"{ends[0]}"

    todo = [(i, i + 1) for i in range(20)]
    found = []
    with pytest.raises(ValueError, match="segment 2"):
        for one in _ahead(of, todo, workers):  # type: ignore[arg-type]
            found.append(one)
    assert found == ["0", "1"] and len(asked) < 20
