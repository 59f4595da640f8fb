"""Laws have the density that they say, and a weighting by importance undoes a law."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from test_training import ONLINE, PROCESSES, RECIPE, dataset, gaussian  # noqa: F401
from torch import Tensor

from bench import measures, schedules
from bench.cli.options import built
from bench.data import FashionMNIST
from bench.measures import DataPrediction, mix, of_schedule
from bench.process import VE, VP
from bench.schedules import ConstantRate, Cosine, Karras, LogNormal, LogSNR, Native
from bench.training import (
    Importance,
    MinSNR,
    OnlineConstantRate,
    draw_sigmas,
    laws,
    noise_law,
    train,
    weighting,
)
from bench.training.laws import Law
from bench.types import Measure, Model, Rate, Schedule

COSINE = VP("cosine", 1000, 0.01, 80.0)
LEVELS = torch.logspace(-3, 2.5, 60, dtype=torch.float64)


def bell(peak: float = 0.3, name: str = "v_fid") -> Rate:
    """A rate per log sigma like that of natural images: a bell over a small floor."""
    per_log = torch.exp(-((LEVELS / peak).log() ** 2) / 4) + 0.01
    return Rate(name, LEVELS, per_log / LEVELS)


def laws_of(process: VP | VE) -> list[Schedule]:
    v_cos = of_schedule(Cosine(), process)
    return [
        Native(), LogSNR(), LogNormal(), Karras(), ConstantRate(bell()),
        ConstantRate(bell(), 0.5, "angle"), ConstantRate(bell(), 0.5, "logsnr"),
        ConstantRate(mix({bell(): 0.5, v_cos: 0.5})), OnlineConstantRate(),
    ]  # fmt: skip


def drawn(law: Law, n: int = 100_000) -> Tensor:
    return draw_sigmas(law.table, n, torch.Generator().manual_seed(0))


@pytest.mark.parametrize("process", PROCESSES, ids=repr)
@pytest.mark.parametrize("kind", range(9))
def test_the_density_is_that_of_the_draws(kind: int, process: VP | VE) -> None:
    law = Law(laws_of(process)[kind], process, "cpu", 0)
    ends = np.log([process.sigma_min, process.sigma_max])
    fine = torch.linspace(*ends, 80_001, dtype=torch.float64)
    middle = (fine[1:] + fine[:-1]) / 2
    p = law.density(middle.exp()).double() * fine.diff()
    assert float(p.sum()) == pytest.approx(1, abs=2e-3)
    edges = np.linspace(*ends, 33)
    share = np.histogram(drawn(law).flatten().log().numpy(), edges)[0] / 100_000
    want = np.histogram(middle.numpy(), edges, weights=p.numpy())[0]
    np.testing.assert_allclose(share, want, rtol=0.02, atol=5e-4)


@pytest.mark.parametrize("process", PROCESSES, ids=repr)
@pytest.mark.parametrize(("law", "target"), [(0, 5), (5, 0), (2, 7), (7, 3), (8, 4)])
def test_importance_undoes_the_law(law: int, target: int, process: VP | VE) -> None:
    """E_law[w f] = E_target[f], where the law has enough samples."""
    kinds = laws_of(process)
    one, other = (Law(kinds[i], process, "cpu", 0) for i in (law, target))
    sigma, wanted = drawn(one), drawn(other)
    weight = Importance(kinds[target], cap=1e9)(sigma, sigma, one)
    assert weight.shape == sigma.shape and weight.dtype == torch.float32
    for f in (torch.ones_like, torch.atan, lambda s: (-s.log().square()).exp()):
        found = float((weight * f(sigma)).mean())
        assert found == pytest.approx(float(f(wanted).mean()), rel=0.02)


def test_importance_has_a_cap_and_its_own_law_weighs_1() -> None:
    law = Law(LogNormal(), COSINE, "cpu", 0)
    sigma = drawn(law)
    free, capped = (Importance(Native(), cap)(sigma, sigma, law) for cap in (1e9, 3.0))
    assert float(free.max()) > 30
    assert torch.equal(capped, free.clamp(max=3))
    same = Importance(LogNormal())(sigma, sigma, law)
    torch.testing.assert_close(same, torch.ones_like(same))


def test_importance_follows_an_online_law() -> None:
    law = Law(OnlineConstantRate(bins=16), COSINE, "cpu", 0)
    law.probe(gaussian(0.5), torch.randn(64, 1, 4, 4))
    before = Importance(Native())(sigma := drawn(law), sigma, law)
    torch.testing.assert_close(before, torch.ones_like(before))
    law.update(1)
    weight = Importance(Native(), 1e9)(sigma := drawn(law), sigma, law)
    assert float((weight * sigma.atan()).mean()) == pytest.approx(
        float(drawn(Law(Native(), COSINE, "cpu", 0)).atan().mean()), rel=0.02
    )


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"target": "Native"}, "target must be a law"),
        ({"target": OnlineConstantRate()}, "that is not estimated"),
        ({"target": Native(), "cap": 0.0}, "cap > 0"),
    ],
)
def test_a_bad_importance_is_refused(arguments: dict, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Importance(**arguments)


@pytest.mark.parametrize("mixed", [bell(), Cosine()], ids=["rate", "schedule"])
def test_an_online_rate_is_mixed_with_a_fixed_one(mixed: Rate | Schedule) -> None:
    online = OnlineConstantRate("v_eps", 0.5, "angle", bins=16, mixed=mixed, share=0.3)
    law = Law(online, COSINE, "cpu", 0)
    law.probe(gaussian(0.5), torch.randn(64, 1, 4, 4))
    law.update(1)
    fixed = mixed if isinstance(mixed, Rate) else of_schedule(mixed, COSINE)
    estimate = law._rate(torch.tensor(law.history[0][1], dtype=torch.float64))
    want = ConstantRate(mix({estimate: 0.3, fixed: 0.7}), 0.5, "angle")
    torch.testing.assert_close(law.table, noise_law(want, COSINE), rtol=0, atol=1e-9)
    assert law.final().name == "v_eps_online"  # the estimate alone
    assert online.measured == ((mixed,) if isinstance(mixed, Rate) else ())


def test_a_fixed_rate_of_another_range_is_refused_before_training() -> None:
    short = Rate("short", *torch.linspace(0.1, 1, 8, dtype=torch.float64).repeat(2, 1))
    with pytest.raises(ValueError, match="was measured for sigma 0.1 .. 1"):
        Law(OnlineConstantRate(mixed=short), COSINE, "cpu", 0)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"mixed": "Cosine"}, "mixed must be a rate or a schedule"),
        ({"mixed": OnlineConstantRate()}, "mixed must be"),
        ({"share": 1.0}, "share must lie"),
        ({"measure": measures.GITS()}, "a bench.Measure that gives a rate"),
    ],
)
def test_a_bad_mix_is_refused(arguments: dict, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        OnlineConstantRate(**arguments)


@dataclass(frozen=True)
class Mine(Measure):
    """A user's measure: the rate is that of log sigma, whatever the network says."""

    name: ClassVar[str] = "v_mine"

    def __call__(self, model: Model, images: Iterable[Tensor], sigmas: Tensor) -> Rate:
        batch = next(iter(images))
        assert batch.dtype == torch.uint8 and model.encode(batch).shape[1:] == model.shape
        assert torch.isfinite(model.denoiser()(model.encode(batch), 1.0)).all()
        return Rate(self.name, sigmas, 1 / sigmas)


def test_a_measure_of_the_users_own_is_estimated_online(
    dataset: FashionMNIST,  # noqa: F811
    tmp_path: Path,
) -> None:
    law = replace(ONLINE, measure=Mine())
    card = train(replace(RECIPE, law=law), dataset, tmp_path / "m")
    rate = measures.measured(tmp_path / "m")["v_mine_online"]
    np.testing.assert_allclose(rate.v[1:-1] * rate.sigma[1:-1], torch.ones(4).double(),
                               rtol=1e-6, atol=0)  # fmt: skip
    assert "Mine" in card.training["law_spec"]["fields"]["measure"]["class"]


def test_the_projects_measure_online_is_the_probes(
    dataset: FashionMNIST,  # noqa: F811
    tmp_path: Path,
) -> None:
    """`DataPrediction` on the network in training, and the probe of v_x, measure one thing."""
    found = {}
    for name, measure in (("probe", "v_x"), ("measure", DataPrediction())):
        law = replace(ONLINE, measure=measure, images=512, warmup=12)
        train(replace(RECIPE, law=law, weighting=MinSNR()), dataset, tmp_path / name)
        found[name] = measures.measured(tmp_path / name)["v_x_online"].v[1:-1]
    torch.testing.assert_close(found["measure"], found["probe"], rtol=0.1, atol=0)


def test_the_card_says_which_rate_the_law_has(
    dataset: FashionMNIST,  # noqa: F811
    tmp_path: Path,
) -> None:
    recipe = replace(RECIPE, law=ConstantRate(bell()), weighting=Importance(Native(), 5))
    card = train(recipe, dataset, tmp_path / "m")
    assert card.training["law_spec"] == recipe.law.spec()
    assert card.training["weighting"] == "Importance(target=Native(), cap=5)"
    other = replace(recipe, law=ConstantRate(bell(0.5)))  # of the same name
    assert repr(other) == repr(recipe)
    with pytest.raises(ValueError, match="a law with another rate"):
        train(other, dataset, tmp_path / "m")


def test_what_is_no_law_is_refused() -> None:
    with pytest.raises(ValueError, match="no weighting"):
        replace(RECIPE, weighting=Native())
    with pytest.raises(ValueError, match="no schedule"):
        replace(RECIPE, law=MinSNR())


@pytest.mark.parametrize("quote", ["", "'", '"'])
def test_laws_and_weightings_name_files_of_rates(quote: str, tmp_path: Path) -> None:
    path = measures.save(tmp_path / "some-rates" / "v_fid.json", bell())
    file = f"{quote}{path}{quote}"
    found = built(f"ConstantRate({file}, xi=0.5, coordinate=angle)", [], schedules, laws)
    assert (found.xi, found.coordinate, found.rate.spec()) == (0.5, "angle", bell().spec())
    one = built(f"Importance(target=ConstantRate({file}), cap=5)", [], weighting, schedules)
    assert one.cap == 5 and one.target.rate.spec() == bell().spec()
    law = built(f"OnlineConstantRate(v_eps, mixed=mix({{{file}: 1.0}}))", [], schedules, laws)
    assert law.mixed.name == "1 v_fid"
    with pytest.raises(ValueError, match="none.json does not exist; measure it first"):
        built("ConstantRate(none.json)", [], schedules, laws)
