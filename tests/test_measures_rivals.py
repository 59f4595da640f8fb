"""Rivals that come from a measured curve, on Gaussian data where the curve is known."""

import numpy as np
import pytest
import torch
from oracles import Gaussian

from bench import measures
from bench.measures import Entropy, RescaledEntropy, ScoreDifference
from bench.process import VP
from bench.schedules import ConstantRate

PROCESS = VP("cosine", 1000, 0.01, 80.0)


def setting(c: float) -> tuple[Gaussian, torch.Tensor]:
    oracle = Gaussian(c, process=PROCESS, shape=(1, 8, 8))
    z = torch.randn(400, 1, 8, 8, generator=torch.Generator().manual_seed(3))
    return oracle, oracle.decode(c * z)


@pytest.mark.parametrize("c", [0.1, 0.25])
def test_score_difference_of_a_gaussian(c: float) -> None:
    """score = -x / s^2, s^2 = c^2 + sigma^2, x of standard deviation s at the noisier level."""
    oracle, images = setting(c)
    found = measures.measure(oracle, ScoreDifference(), images, levels=41)
    sigma = torch.as_tensor(np.geomspace(0.01, 80.0, 41))
    low, high = sigma[:-1], sigma[1:]
    s2_low, s2_high = c**2 + low**2, c**2 + high**2
    want = low * s2_high.sqrt() * (1 / s2_low - 1 / s2_high) / (high - low)
    np.testing.assert_allclose(found.v[1:-1], want, rtol=0.02, atol=0)
    assert found.replicates.shape == (32, 42)


@pytest.mark.parametrize("c", [0.1, 0.25])
def test_entropy_of_a_gaussian(c: float) -> None:
    """E|x0 - x0_hat|^2 = c^2 sigma^2 / s^2 a pixel; the grid has equal steps of
    H = log(c sigma / s) + const, the entropy of N(., c^2 sigma^2 / s^2)."""
    oracle, images = setting(c)
    found = measures.measure(oracle, Entropy(), images, levels=41)
    sigma = torch.as_tensor(np.geomspace(0.01, 80.0, 41))
    np.testing.assert_allclose(found.sigma, sigma)
    want = c**2 / (sigma * (c**2 + sigma**2))
    np.testing.assert_allclose(found.v[3:], want[3:], rtol=0.03, atol=0)  # rounding of pixels below
    grid = ConstantRate(found, 1.0)(10, PROCESS)[:-1]
    entropy = (c * grid / (c**2 + grid**2).sqrt()).log().diff()
    torch.testing.assert_close(entropy, entropy.mean().expand(9), rtol=0.05, atol=0)


def test_rescaled_entropy_is_sigma_times_the_rate_of_entropy() -> None:
    oracle, images = setting(0.25)
    plain = measures.measure(oracle, Entropy(), images, levels=21)
    found = measures.measure(oracle, RescaledEntropy(), images, levels=21)
    assert found.name == "v_entropy_rescaled"
    np.testing.assert_allclose(found.v, plain.v * plain.sigma)
    np.testing.assert_allclose(found.replicates, plain.replicates * plain.sigma)
