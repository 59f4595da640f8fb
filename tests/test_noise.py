"""Known answers of Random123, and noise that depends on (seed, draw, pixel) alone."""

import math

import pytest
import torch

from bench.noise import normal, philox

ONES = 0xFFFFFFFF


def words(text: str) -> list[int]:
    return [int(word, 16) for word in text.split()]


@pytest.mark.parametrize(
    ("counter", "key", "want"),
    [
        ([0] * 4, [0] * 2, "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ([ONES] * 4, [ONES] * 2, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        (
            words("243f6a88 85a308d3 13198a2e 03707344"),
            words("a4093822 299f31d0"),
            "d16cfe09 94fdcceb 5001e420 24126ea1",
        ),
    ],
)
def test_known_answers(counter: list[int], key: list[int], want: str) -> None:
    c = [torch.tensor([word]) for word in counter]
    k0, k1 = (torch.tensor([word]) for word in key)
    assert [int(word) for word in philox(c, (k0, k1))] == words(want)


def test_words_stay_in_32_bits() -> None:
    counter = torch.randint(0, 2**32, (1000,), generator=torch.Generator().manual_seed(0))
    zero = torch.zeros_like(counter)
    for word in philox([counter, zero, zero, counter], (counter.flip(0), zero)):
        assert int(word.min()) >= 0 and int(word.max()) <= ONES
        assert abs(float(word.double().mean()) / 2**31 - 1) < 0.06


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 5, 7), (1, 1, 1)])
def test_an_image_does_not_depend_on_its_batch(shape: tuple[int, ...]) -> None:
    seeds = torch.tensor([5, 0, 2**40 + 3, 7, 1])
    together = normal(seeds, 2, shape)
    assert together.dtype == torch.float32 and together.shape == (5, *shape)
    for seed, image in zip(seeds, together, strict=True):
        assert torch.equal(normal(seed[None], 2, shape)[0], image)
    assert torch.equal(normal(seeds.flip(0), 2, shape), together.flip(0))


def test_a_pixel_depends_on_its_index_alone() -> None:
    seeds = torch.arange(3)
    big = normal(seeds, 0, (1, 8, 8)).flatten(1)
    assert torch.equal(normal(seeds, 0, (1, 3, 7)).flatten(1), big[:, :21])


def test_moments_and_tails() -> None:
    z = normal(torch.arange(200), 0, (1, 100, 100)).double().flatten()
    n = len(z)
    assert abs(float(z.mean())) < 5 / n**0.5
    assert abs(float(z.square().mean()) - 1) < 5 * (2 / n) ** 0.5
    assert abs(float(z.pow(3).mean())) < 5 * (15 / n) ** 0.5
    assert abs(float(z.pow(4).mean()) - 3) < 5 * (96 / n) ** 0.5
    for at in (1.0, 2.0, 3.0):
        p = math.erfc(at / 2**0.5)
        assert abs(float((z.abs() > at).double().mean()) - p) < 5 * (p / n) ** 0.5


def test_draws_seeds_and_neighbouring_pixels_are_uncorrelated() -> None:
    size = (1, 100, 100)
    drawn = [normal(torch.tensor([0, 1, 2**32, 2**33]), draw, size).flatten(1) for draw in range(3)]
    z = torch.cat(drawn).double()  # [12, 10000]
    correlation = torch.corrcoef(z) - torch.eye(len(z), dtype=torch.float64)
    assert correlation.abs().max() < 5 / 100
    for lag in (1, 2, 3, 4):
        assert abs(float((z[:, lag:] * z[:, :-lag]).mean())) < 5 / z.numel() ** 0.5


@pytest.mark.parametrize("seed", [0, 1, 2**31, 2**32 - 1, 2**32, 2**40 + 9, 2**62])
def test_seeds_of_any_size_are_different_and_finite(seed: int) -> None:
    z = normal(torch.tensor([seed, seed + 1, seed % 2**32, 12345]), 0, (1, 4, 4))
    assert torch.isfinite(z).all()
    assert not torch.equal(z[0], z[1]) and not torch.equal(z[0], z[3])
    assert torch.equal(z[0], z[2]) == (seed < 2**32)


def test_moments_over_seeds_at_one_pixel() -> None:
    z = normal(torch.arange(40_000), 0, (1, 1, 2)).double().flatten(1)
    assert (z.mean(0).abs() < 5 / 200).all()
    assert ((z.var(0) - 1).abs() < 5 * (2 / 40_000) ** 0.5).all()
