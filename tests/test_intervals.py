"""Intervals over seed blocks, against scipy.stats, tables and simulation."""

import numpy as np
import pytest
from scipy import stats

from bench.report.intervals import half_width, holm, p_value, ties


@pytest.mark.parametrize("blocks", [3, 4, 10])
def test_intervals_and_p_values_are_scipys(blocks: int) -> None:
    values = np.random.default_rng(blocks).normal(0.3, 2.0, blocks)
    theirs = stats.ttest_1samp(values, 0.0)
    low, high = theirs.confidence_interval(0.95)
    half = half_width(values)
    assert half == pytest.approx((high - low) / 2, rel=1e-12)
    assert p_value(values) == pytest.approx(theirs.pvalue, rel=1e-10)
    assert ties(values) == (low <= 0 <= high) == (theirs.pvalue >= 0.05)


def test_three_blocks_by_the_table() -> None:
    """t of 2 degrees of freedom at 97.5 % is 4.303; the standard error of 1, 2, 3 is 1/sqrt 3."""
    assert half_width(np.array([1.0, 2.0, 3.0])) == pytest.approx(4.303 / 3**0.5, abs=1e-3)


def test_few_blocks_have_no_interval_and_tie_only_exactly() -> None:
    for values in ([], [1.0], [0.0, 0.0], [1.0, 2.0]):
        assert half_width(np.array(values)) is None and p_value(np.array(values)) is None
    assert ties(np.zeros(1)) and ties(np.zeros(2))
    assert not ties(np.array([1e-9])) and not ties(np.array([-1.0, 1.0])) and not ties(np.array([]))


def test_blocks_that_agree_exactly_have_an_interval_of_no_width() -> None:
    one = np.full(3, 0.1)
    assert half_width(one) == 0 and not ties(one) and p_value(one) == 0
    assert ties(np.zeros(3)) and p_value(np.zeros(3)) == 1


@pytest.mark.parametrize("blocks", [3, 5])
def test_intervals_cover_the_mean_as_often_as_they_say(blocks: int) -> None:
    trials = 4_000  # the standard error of the share is 0.0034
    draws = np.random.default_rng(7).normal(5.0, 3.0, (trials, blocks))
    covered = np.mean([ties(row - 5.0) for row in draws])
    assert covered == pytest.approx(0.95, abs=0.014)
    wrong = np.mean([p_value(row - 5.0) < 0.05 for row in draws])
    assert wrong == pytest.approx(1 - covered, abs=1e-9)


def test_holm_by_hand() -> None:
    assert holm([]).tolist() == []
    assert holm([0.03, 0.01, 0.04]).tolist() == pytest.approx([0.06, 0.03, 0.06])
    assert holm([0.6, 0.7]).tolist() == [1.0, 1.0]


def test_holm_keeps_the_chance_of_any_false_win() -> None:
    draws = np.random.default_rng(3).normal(size=(1_000, 8, 3))  # families of eight null tests
    false = [holm([p_value(row) for row in family]).min() < 0.05 for family in draws]
    assert np.mean(false) < 0.07
