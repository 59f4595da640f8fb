"""Measured rates against closed forms on Gaussian data."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from oracles import Gaussian
from torch import Tensor

from bench import rates
from bench.rates import DataPrediction, NoisePrediction
from bench.types import Denoiser, Rate

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
    rate = rates.measure(model, measure, pictures(c), levels=61)
    sigma = torch.as_tensor(np.geomspace(0.02, 80.0, 61))
    want = closed_form(measure, c, sigma)
    middle = (sigma[1:] * sigma[:-1]).sqrt()
    torch.testing.assert_close(rate.sigma, torch.cat([sigma[:1], middle, sigma[-1:]]))
    # 96 x 256 pixels: sampling error of a root mean square is 1 / sqrt(2 x 24576) = 0.5 %
    torch.testing.assert_close(rate.v[1:-1], want, rtol=0.025, atol=0)
    assert rate.v[0] == rate.v[1] and rate.v[-1] == rate.v[-2]
    assert rate.name == measure.name


@pytest.mark.parametrize("measure", [DataPrediction(), NoisePrediction()], ids=repr)
@pytest.mark.parametrize("batch", [1, 7, 1000])
def test_rate_does_not_depend_on_the_batch(measure, batch: int) -> None:
    model, images = Gaussian(0.3, shape=SHAPE), pictures(0.3, 20)
    one = rates.measure(model, measure, images, levels=9, batch=20)
    two = rates.measure(model, measure, images, levels=9, batch=batch)
    torch.testing.assert_close(two.v, one.v, rtol=1e-6, atol=0)
    assert torch.equal(one.sigma, two.sigma)


def test_provenance_says_what_it_was_measured_from() -> None:
    model, images = Gaussian(0.3, shape=SHAPE), pictures(0.3, 5)
    found = rates.measure(model, DataPrediction(), images, levels=5).provenance
    assert found["model_digest"] == model.digest
    assert found["images"] == 5 and found["levels"] == 5
    assert found["measure"] == "DataPrediction()"
    assert found["first_seed"] == rates.FIRST_SEED
    other = rates.measure(model, DataPrediction(), images.flip(0), levels=5).provenance
    assert len(found["data_digest"]) == 64 and found["data_digest"] != other["data_digest"]


@pytest.mark.parametrize("measure", [DataPrediction(), NoisePrediction()], ids=repr)
def test_save_and_load_keep_every_bit(measure, tmp_path: Path) -> None:
    rate = rates.measure(Gaussian(shape=SHAPE), measure, pictures(0.3, 4), levels=6)
    path = rates.save_rate(tmp_path / "m" / "rates" / f"{measure.name}.json", rate)
    back = rates.load_rate(path)
    assert torch.equal(back.sigma, rate.sigma) and torch.equal(back.v, rate.v)
    assert (back.name, back.provenance) == (rate.name, rate.provenance)
    assert list(rates.measured(tmp_path / "m")) == [measure.name]


def test_a_model_without_rates_has_none(tmp_path: Path) -> None:
    assert rates.measured(tmp_path) == {}


def test_missing_file_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="crs-bench measure mymodel"):
        rates.load_rate(tmp_path / "mymodel" / "rates" / "v_x.json")


@pytest.mark.parametrize(
    "text",
    ["{", "{}", '{"name": "v_x", "sigma": [1, 2]}', '{"name": 1, "sigma": "a", "v": 1}', "[]"],
)
def test_broken_file_is_named(text: str, tmp_path: Path) -> None:
    path = tmp_path / "broken.json"
    path.write_text(text)
    with pytest.raises(ValueError, match="broken.json"):
        rates.load_rate(path)


def test_bad_requests_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 4 levels"):
        rates.measure(Gaussian(shape=SHAPE), DataPrediction(), pictures(0.3, 2), levels=3)
    with pytest.raises(ValueError, match="no images"):
        rates.measure(Gaussian(shape=SHAPE), DataPrediction(), pictures(0.3, 0), levels=5)


@dataclass(frozen=True)
class Broken(Gaussian):
    """A network gone bad."""

    def denoiser(self, labels: Tensor | None = None) -> Denoiser:
        return lambda x, sigma: x * torch.nan


def test_a_network_of_nans_gives_no_rate() -> None:
    with pytest.raises(ValueError, match="v_x.*NaN"):
        rates.measure(Broken(shape=SHAPE), DataPrediction(), pictures(0.3, 2), levels=5)


@dataclass(frozen=True)
class Mine:
    """A user's own measure needs nothing but the call."""

    power: float = 1.0

    def __call__(self, model, images, sigmas: Tensor) -> Rate:
        n = sum(len(batch) for batch in images)
        return Rate("mine", sigmas, n * sigmas**-self.power)


def test_a_users_measure_is_a_measure() -> None:
    rate = rates.measure(Gaussian(shape=SHAPE), Mine(2.0), pictures(0.3, 3), levels=5)
    torch.testing.assert_close(rate.v, 3 * rate.sigma**-2)
    assert rate.provenance["measure"] == "Mine(power=2.0)"
