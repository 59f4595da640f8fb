"""The interpolation of a measured rate: what it passes exactly, what it floors and bridges."""

import math

import numpy as np
import pytest
import torch

from bench import curves
from bench.types import Rate

LOW, HIGH = 0.02, 80.0
LEVELS = np.geomspace(LOW, HIGH, 41)
FINE = np.linspace(math.log(LOW), math.log(HIGH), 1001)
SPACING = math.log(HIGH / LOW) / 40


def rate_of(v: np.ndarray, sigma: np.ndarray = LEVELS) -> Rate:
    return Rate("mine", torch.as_tensor(sigma), torch.as_tensor(v))


@pytest.mark.parametrize("smooth", [0.0, 0.01, 0.3, 2.0])
@pytest.mark.parametrize("power", [-2.0, -1.0, 0.0, 0.7])
def test_power_laws_are_exact_up_to_the_ends(power: float, smooth: float) -> None:
    found = curves.log_rate(rate_of(3 * LEVELS**power), FINE, 1e-12, smooth)
    np.testing.assert_allclose(found, math.log(3) + power * FINE, rtol=0, atol=1e-9)


def test_uneven_levels_do_not_matter_to_a_power_law() -> None:
    sigma = np.sort(np.random.default_rng(0).uniform(LOW, HIGH, 30))
    at = np.linspace(math.log(sigma[0]), math.log(sigma[-1]), 99)
    for smooth in (0.0, 0.3):
        found = curves.log_rate(rate_of(sigma**-1.5, sigma), at, 1e-12, smooth)
        np.testing.assert_allclose(found, -1.5 * at, rtol=0, atol=1e-9)


def test_measured_levels_are_met_and_never_overshot() -> None:
    """PCHIP: between two levels log v, per unit sigma, stays between its values there."""
    v = np.exp(2 * np.random.default_rng(1).standard_normal(41))
    rate = rate_of(v)
    np.testing.assert_allclose(curves.log_rate(rate, np.log(LEVELS), 1e-12, 0.0), np.log(v))
    found = curves.log_rate(rate, FINE, 1e-12, 0.0)
    left = np.searchsorted(np.log(LEVELS), FINE[1:-1]) - 1
    ends = np.log(np.stack([v[left], v[left + 1]]))
    assert (found[1:-1] >= ends.min(0) - 1e-12).all()
    assert (found[1:-1] <= ends.max(0) + 1e-12).all()


@pytest.mark.parametrize("smooth", [0.0, 0.3])
@pytest.mark.parametrize("floor", [1e-6, 1e-2])
def test_zeros_are_raised_to_the_floor(floor: float, smooth: float) -> None:
    """v sigma is 1 where it is not 0, so its floor is `floor` itself; corners are off by 4 %."""
    v = np.where((LEVELS > 0.1) & (LEVELS < 10), 0.0, 1 / LEVELS)
    per_log = np.exp(curves.log_rate(rate_of(v), FINE, floor, smooth) + FINE)
    assert np.isfinite(per_log).all()
    assert per_log.min() > 0.96 * floor
    inside = abs(FINE) < math.log(10) - 5 * smooth - 2 * SPACING
    np.testing.assert_allclose(per_log[inside], floor, rtol=1e-2)


@pytest.mark.parametrize("smooth", [0.0, 0.3])
@pytest.mark.parametrize("lost", [[0], [40], [7], [20, 21, 22], [0, 1, 20, 39, 40]], ids=str)
def test_infinite_levels_are_bridged_from_their_neighbours(lost: list[int], smooth: float) -> None:
    """As if the level had not been measured; a power law goes on through a gap."""
    v = LEVELS**-1.0
    v[lost] = math.inf
    kept = np.delete(LEVELS, lost)
    without = rate_of(kept**-1.0, kept)
    found = curves.log_rate(rate_of(v), FINE, 1e-12, smooth)
    np.testing.assert_array_equal(found, curves.log_rate(without, FINE, 1e-12, smooth))
    within = (math.log(kept[0]) <= FINE) & (math.log(kept[-1]) >= FINE)
    np.testing.assert_allclose(found[within], -FINE[within], rtol=0, atol=1e-9)


def test_v_is_held_beyond_the_measured_levels() -> None:
    found = curves.log_rate(rate_of(LEVELS**-1.0), np.log([LOW / 3, LOW, HIGH, 3 * HIGH]), 1e-9, 0)
    np.testing.assert_allclose(found, -np.log([LOW, LOW, HIGH, HIGH]))


@pytest.mark.parametrize("width", [1e-6, 1e-3, 0.1, 0.3, 2.0])
@pytest.mark.parametrize("spacing", ["even", "uneven"])
def test_smoothing_passes_straight_lines(width: float, spacing: str) -> None:
    """Also a width so small against the spacing that a point sees itself alone."""
    x = np.linspace(-4, 4.4, 41)
    if spacing == "uneven":
        x = np.sort(np.random.default_rng(2).uniform(-4, 4.4, 41))
    y = 0.3 - 1.7 * x
    np.testing.assert_allclose(curves.smoothed(x, y, width), y, rtol=0, atol=1e-9)


def test_smoothing_takes_noise_away() -> None:
    """White noise keeps (2 sqrt(pi) width / spacing)^-1/2 of its deviation, that of a Gaussian
    kernel; at the very ends, where a line is fitted from one side, 2.46 times as much."""
    x = np.linspace(-4, 4, 801)
    kernel = curves.smoothed(x, np.eye(801), 0.2)  # [at, from]
    kept = np.sqrt((kernel**2).sum(1))
    want = (2 * math.sqrt(math.pi) * 0.2 / 0.01) ** -0.5
    np.testing.assert_allclose(kept[100:-100], want, rtol=1e-3)
    np.testing.assert_allclose(kept[[0, -1]], 2.46 * want, rtol=0.01)


def test_smoothing_keeps_what_is_wider_than_the_kernel() -> None:
    """A sine of wavelength 8 loses exp(-(2 pi w / 8)^2 / 2): 1.2 % at w = 0.2."""
    x = np.linspace(-8, 8, 161)
    y = np.sin(2 * math.pi * x / 8)
    inner = abs(x) < 7
    found = curves.smoothed(x, y, 0.2)[inner]
    want = math.exp(-((2 * math.pi * 0.2 / 8) ** 2) / 2)
    np.testing.assert_allclose(found, want * y[inner], rtol=0, atol=1e-3)


@pytest.mark.parametrize("ends", [(LOW, HIGH), (0.985 * LOW, 1.015 * HIGH), (0.1, 10.0)])
def test_a_range_within_the_levels_or_2_percent_beyond_passes(ends: tuple[float, float]) -> None:
    curves.check_range(rate_of(1 / LEVELS), *ends)


@pytest.mark.parametrize("ends", [(0.97 * LOW, HIGH), (LOW, 1.03 * HIGH), (1e-3, 1e3)])
def test_a_range_beyond_the_levels_is_refused(ends: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="mine was measured for sigma 0.02 .. 80, .* measure it"):
        curves.check_range(rate_of(1 / LEVELS), *ends)


@pytest.mark.parametrize(
    ("coordinate", "u"),
    [
        ("sigma", lambda sigma: sigma),
        ("alpha", lambda sigma: 1 / (1 + sigma**2)),
        ("angle", np.arctan),
        ("logsnr", lambda sigma: -2 * np.log(sigma)),
    ],
)
def test_jacobians_are_derivatives(coordinate: str, u) -> None:
    sigma = np.geomspace(0.01, 100, 50)
    slope = (u(sigma * (1 + 1e-5)) - u(sigma * (1 - 1e-5))) / (2e-5 * sigma)
    found = curves.log_dsigma_du(coordinate, sigma)
    np.testing.assert_allclose(found, -np.log(abs(slope)), rtol=0, atol=1e-5)
