"""Inception Score in both of its forms, and the error of KID, against their definitions."""

import numpy as np
import pytest
import torch
from torch import Tensor

from bench import metrics, names
from bench.features import Features
from bench.metrics import KID, InceptionScore
from bench.metrics.banks import Rows


def logits(n: int, seed: int = 0, classes: int = 12) -> Tensor:
    return 3 * torch.randn(n, classes, generator=torch.Generator().manual_seed(seed))


def score(one: InceptionScore, rows: Tensor) -> float:
    return one(fake=Rows(rows), real=Rows(rows[:0])).value


def adm(rows: np.ndarray, split_size: int) -> float:
    """The ADM evaluator's: consecutive parts of one size, the rest a part like the others."""
    probability = np.exp(rows - rows.max(1, keepdims=True))
    probability /= probability.sum(1, keepdims=True)
    parts = []
    for first in range(0, len(rows), split_size):
        part = probability[first : first + split_size]
        divergence = part * (np.log(part) - np.log(part.mean(0, keepdims=True)))
        parts.append(np.exp(divergence.sum(1).mean()))
    return float(np.mean(parts))


@pytest.mark.parametrize(("splits", "seed"), [(10, 2020), (3, 7), (1, 0)])
def test_it_is_torch_fidelitys(splits: int, seed: int) -> None:
    peer = pytest.importorskip("torch_fidelity.metric_isc")
    rows = logits(107)  # splits of unequal sizes
    theirs = peer.isc_features_to_metric(rows, splits, True, seed)
    found = InceptionScore(splits, seed=seed)(fake=Rows(rows), real=Rows(rows))
    assert found.value == pytest.approx(theirs["inception_score_mean"], rel=1e-12)
    assert found.error == pytest.approx(theirs["inception_score_std"], abs=1e-12)
    in_order = peer.isc_features_to_metric(rows, splits, False, seed)["inception_score_mean"]
    assert score(InceptionScore(splits, seed=None), rows) == pytest.approx(in_order, rel=1e-12)
    assert InceptionScore() == InceptionScore(10, None, 2020, "logits_unbiased")  # theirs, too


@pytest.mark.parametrize("n", [100, 90, 61, 17])
def test_it_is_the_adm_evaluators(n: int) -> None:
    rows = logits(n) + torch.arange(n)[:, None] / n * torch.arange(12)  # the order matters
    one = InceptionScore(split_size=20, seed=None)
    assert score(one, rows) == pytest.approx(adm(rows.double().numpy(), 20), rel=1e-12)
    if n > 20:
        assert score(one, rows) != pytest.approx(score(InceptionScore(split_size=20), rows))


def test_its_range_is_one_to_the_number_of_classes() -> None:
    assert score(InceptionScore(2), logits(1).repeat(40, 1)) == pytest.approx(1, abs=1e-12)
    sure = 60 * torch.eye(12).repeat(30, 1)  # every class as often, without doubt
    assert score(InceptionScore(1), sure) == pytest.approx(12, rel=1e-9)
    assert score(InceptionScore(1), 1e4 * torch.eye(12)) == pytest.approx(12)  # no log of 0


def test_it_is_of_every_image_and_says_if_some_are_missing() -> None:
    rows = logits(60)
    with pytest.raises(ValueError, match="the bank holds 50 of 60; keep all of them"):
        InceptionScore()(fake=Features.of(rows, keep=50), real=Rows(rows))
    assert InceptionScore()(fake=Features.of(rows, keep=60), real=Rows(rows)).value > 1
    with pytest.raises(ValueError, match="needs at least 20 images for its splits, not 19"):
        score(InceptionScore(), rows[:19])
    with pytest.raises(ValueError, match="needs at least 2 images for its splits, not 1"):
        score(InceptionScore(split_size=5), rows[:1])
    with pytest.raises(ValueError, match="NaN"):
        score(InceptionScore(), rows / 0)
    for bad in ({"splits": 0}, {"split_size": 1}):
        with pytest.raises(ValueError, match="at least 1 split with at least 2 images"):
            InceptionScore(**bad)


def test_its_written_forms() -> None:
    assert names.build("is", metrics) == names.build("IS", metrics) == InceptionScore()
    text = "is(split_size=5000, seed=None)"
    assert names.build(text, metrics) == InceptionScore(split_size=5000, seed=None)
    assert names.build("is(5, layer='logits')", metrics).layer == "logits"


def test_the_error_of_kid_is_its_standard_error_over_subsets() -> None:
    fake, real = Rows(logits(90)), Rows(logits(80, 1) + 0.3)
    found = KID(7, 40, 3)(fake=fake, real=real)
    draw, subsets = np.random.RandomState(3), []
    for _ in range(7):
        parts = [one.bank[draw.choice(one.n, 40, replace=False)] for one in (fake, real)]
        subsets.append(KID(1, 40)(fake=Rows(parts[0]), real=Rows(parts[1])).value)
    assert found.value == pytest.approx(np.mean(subsets))
    assert found.error == pytest.approx(np.std(subsets, ddof=1) / 7**0.5)
    with pytest.raises(ValueError, match="but fake has 90"):
        KID()(fake=fake, real=real)


def test_more_subsets_have_a_smaller_error() -> None:
    fake, real = Rows(logits(400)), Rows(logits(400, 1))
    few, many = (KID(subsets, 50)(fake=fake, real=real).error for subsets in (20, 500))
    assert few is not None and many is not None
    assert few / many == pytest.approx(5, rel=0.5)  # as 1 / sqrt(subsets)
