"""Metrics against closed forms, 50-digit arithmetic, brute force, and a peer."""

from dataclasses import dataclass

import mpmath
import numpy as np
import pytest
import torch
from torch import Tensor

from bench import metrics
from bench.metrics import frechet_distance, precision_recall


@dataclass(frozen=True)
class Set:
    """Statistics of a feature matrix, without the features room."""

    bank: Tensor  # float32 [n, dim]

    @property
    def n(self) -> int:
        return len(self.bank)

    @property
    def mean(self) -> Tensor:
        return self.bank.double().mean(0)

    @property
    def cov(self) -> Tensor:
        return torch.cov(self.bank.double().T)


def normal(n: int, dim: int, seed: int) -> Tensor:
    return torch.randn(n, dim, generator=torch.Generator().manual_seed(seed))


def rotation(dim: int, seed: int) -> Tensor:
    return torch.linalg.qr(normal(dim, dim, seed).double())[0]


# ---------------------------------------------------------------- Frechet distance


@pytest.mark.parametrize("turn", [torch.eye(6).double(), rotation(6, 0)], ids=["axes", "turned"])
def test_commuting_covariances_have_a_closed_form(turn: Tensor) -> None:
    a, b = normal(6, 2, 1).double().square().unbind(1)
    mu1, mu2 = normal(6, 2, 2).double().unbind(1)
    expected = (mu1 - mu2).square().sum() + (a.sqrt() - b.sqrt()).square().sum()
    s1, s2 = (turn @ torch.diag(v) @ turn.T for v in (a, b))
    assert frechet_distance(mu1, s1, mu2, s2) == pytest.approx(float(expected), rel=1e-12)
    assert frechet_distance(mu1.numpy(), s1.numpy(), mu2, s2) == pytest.approx(float(expected))


def exact_moments(bank: Tensor) -> tuple[mpmath.matrix, mpmath.matrix]:
    """Mean and covariance in mpmath: rounding of a singular covariance would cost 1e-8."""
    x = mpmath.matrix(bank.double().tolist())
    n, ones = x.rows, mpmath.ones(1, x.rows)
    mean = ones * x / n  # [1, dim]
    centred = x - ones.T * mean
    return mean, centred.T * centred / (n - 1)


def exact_distance(one: Tensor, two: Tensor) -> float:
    """The definition in 50 digits: roots of the eigenvalues of S1^(1/2) S2 S1^(1/2)."""
    with mpmath.workdps(50):
        (mu1, a), (mu2, b) = exact_moments(one), exact_moments(two)
        values, vectors = mpmath.eigsy(a)
        root = vectors * mpmath.diag([mpmath.sqrt(max(v, 0)) for v in values]) * vectors.T
        inner = mpmath.eigsy(root * b * root, eigvals_only=True)
        trace = sum(a[i, i] + b[i, i] + (mu1[i] - mu2[i]) ** 2 for i in range(a.rows))
        return float(trace - 2 * sum(mpmath.sqrt(max(v, 0)) for v in inner))


@pytest.mark.parametrize(("n1", "n2"), [(40, 60), (6, 60), (60, 6), (5, 7)])
def test_equals_fifty_digits_also_with_fewer_samples_than_dimensions(n1: int, n2: int) -> None:
    one = Set(normal(n1, 12, 3) * torch.logspace(0, -3, 12))
    two = Set(normal(n2, 12, 4) + 0.3)
    exact = exact_distance(one.bank, two.bank)
    there = frechet_distance(one.mean, one.cov, two.mean, two.cov)
    back = frechet_distance(two.mean, two.cov, one.mean, one.cov)
    assert there == pytest.approx(exact, rel=1e-9)
    assert back == pytest.approx(exact, rel=1e-9)


def test_singular_covariances_of_few_images() -> None:
    # one direction each: (S1 S2)^(1/2) has trace |a.b| for S = a a^T, b b^T
    a, b = normal(50, 2, 5).double().unbind(1)
    zero = torch.zeros(50).double()
    expected = a @ a + b @ b - 2 * (a @ b).abs()
    value = frechet_distance(zero, torch.outer(a, a), zero, torch.outer(b, b))
    assert value == pytest.approx(float(expected), rel=1e-12)
    c = b - a * (a @ b) / (a @ a)  # orthogonal to a: nothing in common
    value = frechet_distance(zero, torch.outer(a, a), zero, torch.outer(c, c))
    assert value == pytest.approx(float(a @ a + c @ c), rel=1e-12)
    none = torch.zeros(50, 50).double()
    assert frechet_distance(zero, none, zero, torch.outer(b, b)) == pytest.approx(float(b @ b))


@pytest.mark.parametrize("n", [6, 12, 13, 14, 60])
def test_the_root_does_not_turn_rounding_into_rank(n: int) -> None:
    few = Set(normal(n, 12, 7) * torch.logspace(0, -3, 12) + 0.3)
    gaussian = metrics.Gaussian(few.mean, few.cov)
    assert gaussian.root.shape == (12, min(n - 1, 12))
    assert np.allclose(gaussian.root @ gaussian.root.T, gaussian.cov, rtol=1e-12, atol=1e-15)
    twice = torch.cat([few.bank, few.bank[:, :4]], 1)  # columns that repeat: rank 12 of 16
    assert metrics.Gaussian(Set(twice).mean, Set(twice).cov).root.shape == (16, min(n - 1, 12))


def test_equal_covariances_leave_the_shift() -> None:
    real = Set(normal(300, 40, 6))
    assert frechet_distance(real.mean, real.cov, real.mean, real.cov) == pytest.approx(0, abs=1e-10)
    shifted = frechet_distance(real.mean + 0.5, real.cov, real.mean, real.cov)
    assert shifted == pytest.approx(0.25 * 40, rel=1e-11)


def test_bad_moments_are_named() -> None:
    mu, cov = torch.zeros(3), torch.eye(3)
    with pytest.raises(ValueError, match="cov2 has NaN"):
        frechet_distance(mu, cov, mu, cov * float("nan"))
    with pytest.raises(ValueError, match="mu1 has NaN or infinite"):
        frechet_distance(mu + float("inf"), cov, mu, cov)
    with pytest.raises(ValueError, match="mu1 has 3 dimensions and mu2 4"):
        frechet_distance(mu, cov, torch.zeros(4), torch.eye(4))
    with pytest.raises(ValueError, match=r"cov1 \[4, 4\]"):
        frechet_distance(mu, torch.eye(4), mu, cov)


# ---------------------------------------------------------------- precision and recall


def brute(fake: Tensor, real: Tensor, k: int) -> tuple[float, float]:
    """The definition with whole float64 distance matrices."""

    def share(queries: Tensor, centres: Tensor) -> float:
        own = (centres[:, None] - centres).square().sum(-1)
        radii = own.sort(1).values[:, k]
        inside = (queries[:, None] - centres).square().sum(-1) <= radii * (1 + 1e-12)
        return int(inside.any(1).sum()) / len(queries)

    fake, real = fake.double(), real.double()
    return share(fake, real), share(real, fake)


def grid_points(n: int, seed: int) -> Tensor:
    """Whole numbers in two dimensions, far from 0: hundreds of duplicates and exact ties."""
    return torch.randint(0, 9, (n, 2), generator=torch.Generator().manual_seed(seed)) + 100.0


PAIRS = {
    "random": (normal(300, 8, 0) + 0.3, normal(250, 8, 1)),
    "wide": (normal(120, 300, 0) * 1.1, normal(140, 300, 1)),
    "duplicates": (normal(40, 5, 0).repeat(5, 1), normal(60, 5, 1).repeat(3, 1)),
    "shared": (normal(200, 5, 0), torch.cat([normal(200, 5, 0)[:90], normal(90, 5, 1)])),
    "ties": (grid_points(400, 0), grid_points(300, 1)),
    "scales": (normal(200, 6, 0) * torch.logspace(-4, 4, 6), normal(200, 6, 1)),
    "offset": (normal(200, 6, 0) + 3000, normal(200, 6, 1) + 3000),
    "outlier": (torch.cat([normal(200, 6, 0), normal(1, 6, 2) * 1e6]), normal(200, 6, 1)),
    "constant": (torch.ones(100, 4), normal(100, 4, 1)),
}


@pytest.mark.parametrize("k", [1, 3, 5])
@pytest.mark.parametrize("pair", PAIRS)
def test_equals_brute_force_float64(pair: str, k: int) -> None:
    fake, real = PAIRS[pair]
    assert precision_recall(fake=fake, real=real, k=k) == brute(fake, real, k)
    assert precision_recall(fake=real, real=fake, k=k) == brute(real, fake, k)


def test_blocks_do_not_change_the_outcome(monkeypatch: pytest.MonkeyPatch) -> None:
    fake, real = PAIRS["ties"]
    whole = precision_recall(fake=fake, real=real)
    monkeypatch.setattr(metrics.neighbours, "_PAIRS", 2000)
    monkeypatch.setattr(metrics.neighbours, "_EXTRA", 0)  # every row takes the slow way
    assert precision_recall(fake=fake, real=real) == whole
    assert precision_recall(fake=PAIRS["offset"][0], real=PAIRS["offset"][1]) == brute(
        *PAIRS["offset"], 3
    )


def test_equals_torch_fidelity() -> None:
    prc = pytest.importorskip("torch_fidelity.metric_prc")
    fake, real = normal(1200, 64, 0) * 0.95 + 0.02, normal(1000, 64, 1)
    peer = prc.calculate_precision_recall_full(fake.double(), real.double())
    precision, recall = precision_recall(fake=fake, real=real)
    assert round(precision * len(fake)) == round(peer[0] * len(fake))
    assert round(recall * len(real)) == round(peer[1] * len(real))


def test_mode_collapse_pins_the_order_of_arguments() -> None:
    real = normal(500, 4, 0)
    collapsed = Set(real[:1] + 1e-3 * normal(400, 4, 1))
    sets = {"fake": collapsed, "real": Set(real)}
    assert metrics.Precision()(**sets) == 1.0
    assert metrics.Recall()(**sets) < 0.05
    assert precision_recall(fake=collapsed.bank, real=real)[1] == metrics.Recall()(**sets)


def test_bad_banks_are_named() -> None:
    real = normal(10, 4, 0)
    with pytest.raises(ValueError, match="fake has 3"):
        precision_recall(fake=real[:3], real=real)
    with pytest.raises(ValueError, match="k >= 1"):
        precision_recall(fake=real, real=real, k=0)
    with pytest.raises(ValueError, match="fake features have 3 dimensions and real 4"):
        precision_recall(fake=real[:, :3], real=real)
    with pytest.raises(ValueError, match="real features have NaN"):
        precision_recall(fake=real, real=real / 0)
    with pytest.raises(ValueError, match=r"float \[n, dim\]"):
        precision_recall(fake=real.long(), real=real)
    with pytest.raises(ValueError, match="larger bank"):
        metrics.Recall(k=3)(fake=Set(real[:0]), real=Set(real))


# ---------------------------------------------------------------- metrics


@pytest.mark.parametrize(
    ("metric", "name", "rises"),
    [
        (metrics.FrechetDistance(), "fd", False),
        (metrics.Precision(k=2), "precision", True),
        (metrics.Recall(k=2), "recall", True),
    ],
)
def test_metrics_are_keyword_only_and_labelled(metric: object, name: str, rises: bool) -> None:
    real = Set(normal(200, 5, 0))
    assert (metric.name, metric.higher_is_better) == (name, rises)  # type: ignore[attr-defined]
    same = metric(fake=real, real=real)  # type: ignore[operator]
    assert same == pytest.approx(1.0 if rises else 0.0, abs=1e-10)
    with pytest.raises(TypeError):
        metric(real, real)  # type: ignore[operator]


def test_distance_sees_only_the_moments() -> None:
    fake, real = Set(normal(90, 5, 0)), Set(normal(80, 5, 1))
    expected = frechet_distance(np.asarray(fake.mean), fake.cov, real.mean, real.cov)
    assert metrics.FrechetDistance()(fake=fake, real=real) == expected
