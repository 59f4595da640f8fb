"""Extrapolation in N and bootstrap intervals: closed forms, toys, bad input."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor

from bench import metrics as room
from bench import names
from bench.metrics import KID, FIDInfinity, FrechetDistance, Precision, interval, paired_interval
from bench.metrics.banks import Rows
from bench.types import FeatureStatistics, Metric, Score


@dataclass(frozen=True, eq=False)
class Law:
    """The moments of N(0, 1) in `dim` dimensions, without a sample."""

    dim: int
    n: int = 0

    @property
    def mean(self) -> Tensor:
        return torch.zeros(self.dim).double()

    @property
    def cov(self) -> Tensor:
        return torch.eye(self.dim).double()

    @property
    def bank(self) -> Tensor:
        return torch.zeros(0, self.dim)


@dataclass(frozen=True)
class Mean(Metric):
    """The mean of the first feature: everything about its interval is known."""

    name: ClassVar[str] = "mean"
    higher_is_better: ClassVar[bool] = True

    def __call__(self, *, fake: FeatureStatistics, real: FeatureStatistics) -> Score:
        return Score(float(fake.mean[0]))


def normal(n: int, dim: int, seed: int) -> Tensor:
    return torch.randn(n, dim, generator=torch.Generator().manual_seed(seed))


# ---------------------------------------------------------------- FD at infinity


def test_extrapolation_takes_the_bias_of_few_images_away() -> None:
    dim, shift = 12, 0.3
    truth = dim * shift**2
    draws = [Rows(normal(300, dim, i) + shift) for i in range(40)]
    plain = [FrechetDistance()(fake=x, real=Law(dim)).value - truth for x in draws]
    found = [FIDInfinity()(fake=x, real=Law(dim)).value - truth for x in draws]
    error = np.std(found) / 40**0.5
    assert np.mean(plain) > 5 * error
    assert abs(np.mean(found)) < min(3 * error, np.mean(plain) / 4)


def test_extrapolation_is_the_intercept_of_its_curve() -> None:
    fake, one = Rows(normal(200, 3, 0) + 1), FIDInfinity(points=5, smallest=0.2, seed=3)
    sizes, distances = one.curve(fake=fake, real=Law(3))
    assert sizes.tolist() == [40, 80, 120, 160, 200]
    whole = FrechetDistance()(fake=fake, real=Law(3)).value
    assert distances[-1] == pytest.approx(whole, rel=1e-12)
    slope, intercept = np.linalg.lstsq(np.stack([1 / sizes, np.ones(5)], 1), distances, rcond=None)[
        0
    ]
    assert one(fake=fake, real=Law(3)).value == pytest.approx(intercept, rel=1e-10)
    assert one(fake=fake, real=Law(3)) == one(fake=fake, real=Law(3))  # seeded
    assert one(fake=fake, real=Law(3)) != FIDInfinity(5, 0.2, 4)(fake=fake, real=Law(3))


def test_extrapolation_of_a_set_to_itself_is_about_zero() -> None:
    same = Rows(normal(2000, 4, 0))
    assert FIDInfinity()(fake=same, real=same).value == pytest.approx(0, abs=0.01)
    assert (FIDInfinity.name, FIDInfinity.higher_is_better) == ("fd_infinity", False)
    assert names.build("fd_infinity", room) == names.build("FIDInfinity(15)", room) == FIDInfinity()


def test_collapse_is_far_also_at_infinity() -> None:
    real = Rows(normal(500, 4, 0))
    collapsed = Rows(real.bank[:1] + 1e-3 * normal(400, 4, 1))
    near = FIDInfinity()(fake=Rows(normal(400, 4, 2)), real=real).value
    assert FIDInfinity()(fake=collapsed, real=real).value > 1 > near


@pytest.mark.parametrize("n", [0, 1, 12, 36])
def test_extrapolation_needs_parts_larger_than_their_dimensions(n: int) -> None:
    with pytest.raises(ValueError, match="keep about 44 features or raise smallest"):
        FIDInfinity()(fake=Rows(normal(n, 12, 0)), real=Law(12))


def test_bad_input_of_the_extrapolation() -> None:
    fake = normal(100, 4, 0)
    with pytest.raises(ValueError, match="fake features have NaN"):
        FIDInfinity()(fake=Rows(fake / 0), real=Law(4))
    with pytest.raises(ValueError, match="mu1 has 4 dimensions and mu2 5"):
        FIDInfinity()(fake=Rows(fake), real=Law(5))
    with pytest.raises(ValueError, match="points >= 2"):
        FIDInfinity(points=1)
    with pytest.raises(ValueError, match="smallest < 1"):
        FIDInfinity(smallest=1.0)


# ---------------------------------------------------------------- bootstrap


def test_interval_of_a_mean_is_the_textbook_one() -> None:
    fake = Rows(normal(400, 2, 0))
    low, high = interval(Mean(), fake, fake, replicates=4000, level=0.9)
    half = 1.645 * float(fake.bank[:, 0].std()) / 20
    assert (high - low) / 2 == pytest.approx(half, rel=0.06)
    assert (high + low) / 2 == pytest.approx(float(fake.mean[0]), abs=0.05 * half)
    assert interval(Mean(), fake, fake, 4000, level=0.9) == (low, high)  # seeded
    wide = interval(Mean(), fake, fake, replicates=4000)
    assert wide[0] < low < high < wide[1]


@pytest.mark.parametrize("level", [0.9, 0.95])
def test_interval_of_the_distance_covers_as_often_as_it_says(level: float) -> None:
    # of its mean over sets of 300 images, bias in N included
    dim, n, trials = 2, 300, 400
    real, shift = Law(dim), 0.5
    many = [FrechetDistance()(fake=Rows(normal(n, dim, i) + shift), real=real).value
            for i in range(10_000, 14_000)]  # fmt: skip
    truth = float(np.mean(many))
    hits = 0
    for i in range(trials):
        low, high = interval(
            FrechetDistance(), Rows(normal(n, dim, i) + shift), real, 120, seed=i, level=level
        )
        hits += low < truth < high
    error = (level * (1 - level) / trials) ** 0.5
    assert abs(hits / trials - level) < 3 * error + 0.02  # first order in n


def test_interval_holds_the_score_where_repeated_rows_shift_it() -> None:
    # many dimensions: plain percentiles lie wholly above the score
    fake, real = Rows(normal(60, 30, 0)), Law(30)
    score = FrechetDistance()(fake=fake, real=real).value
    draw = torch.Generator().manual_seed(0)
    again = [
        FrechetDistance()(fake=Rows(fake.bank[rows]), real=real).value
        for rows in (torch.randint(60, (60,), generator=draw) for _ in range(100))
    ]
    assert min(again) > score
    low, high = interval(FrechetDistance(), fake, real, 100)
    assert low < score < high


@pytest.mark.parametrize(
    "metric", [FrechetDistance(), KID(3, 50), Precision()], ids=lambda metric: metric.name
)
def test_pairs_shrink_the_interval_of_nearly_equal_cells(metric: Metric) -> None:
    real = Rows(normal(150, 3, 0))
    one = normal(120, 3, 1) + 0.5
    cells = Rows(one), Rows(one + 0.02 * normal(120, 3, 2))
    low, high = paired_interval(metric, *cells, real, replicates=60)
    alone = [interval(metric, cell, real, 60, seed) for seed, cell in enumerate(cells)]
    widths = [b - a for a, b in alone]
    assert high - low < 0.5 * float(np.hypot(*widths))
    first, second = (metric(fake=cell, real=real).value for cell in cells)
    assert low <= first - second <= high


def test_pairs_of_one_cell_differ_by_nothing() -> None:
    fake = Rows(normal(50, 3, 0))
    assert paired_interval(FrechetDistance(), fake, fake, Law(3), 20) == (0.0, 0.0)
    worse = Rows(fake.bank + 1)
    low, high = paired_interval(FrechetDistance(), worse, fake, Law(3), 50)
    assert 0 < low < high  # first less second
    back = paired_interval(FrechetDistance(), fake, worse, Law(3), 50)
    assert back == pytest.approx((-high, -low))


def test_bad_input_of_the_bootstrap() -> None:
    fake, real = Rows(normal(30, 3, 0)), Law(3)
    for few in (fake.bank[:0], fake.bank[:1]):
        with pytest.raises(ValueError, match="at least 2 features"):
            interval(FrechetDistance(), Rows(few), real)
    with pytest.raises(ValueError, match="2 replicates"):
        interval(FrechetDistance(), fake, real, 1)
    with pytest.raises(ValueError, match="level between 0 and 1"):
        interval(FrechetDistance(), fake, real, level=95)
    with pytest.raises(ValueError, match="NaN"):
        interval(FrechetDistance(), Rows(fake.bank / 0), real)
    with pytest.raises(ValueError, match="banks have 30 and 20 features"):
        paired_interval(FrechetDistance(), fake, Rows(fake.bank[:20]), real)
    with pytest.raises(ValueError, match="dimensions"):
        paired_interval(FrechetDistance(), fake, Rows(fake.bank[:, :2]), real)
