"""Metrics against torch-fidelity's functions and prdc's published definition, ties included."""

import pytest
import torch
from torch import Tensor

from bench import metrics
from bench.metrics import density_coverage, frechet_distance, precision_recall
from bench.metrics.banks import Rows


def normal(n: int, dim: int, seed: int) -> Tensor:
    return torch.randn(n, dim, generator=torch.Generator().manual_seed(seed)).double()


def lattice(n: int, seed: int) -> Tensor:
    """Whole numbers: squared distances are exact, and hundreds of them tie with a radius."""
    draw = torch.Generator().manual_seed(seed)
    return torch.randint(0, 7, (n, 3), generator=draw).double()


def prdc(real: Tensor, fake: Tensor, k: int) -> tuple[float, float, float, float]:
    """Naeem et al. 2020, eq. 3-6, as their package computes them: strict at every border."""

    def radii(x: Tensor) -> Tensor:
        return torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist").sort(1).values[:, k]

    distance = torch.cdist(real, fake, compute_mode="donot_use_mm_for_euclid_dist")  # [real, fake]
    of_real, of_fake = radii(real)[:, None], radii(fake)[None]
    within = distance < of_real
    precision = within.any(0).double().mean()
    recall = (distance < of_fake).any(1).double().mean()
    density = within.sum(0).double().mean() / k
    coverage = (distance.min(1).values < of_real[:, 0]).double().mean()
    return float(precision), float(recall), float(density), float(coverage)


@pytest.mark.parametrize(("n1", "n2", "close"), [(2000, 1500, 1e-9), (150, 120, 1e-4)])
def test_distance_equals_torch_fidelitys(n1: int, n2: int, close: float) -> None:
    """N above and below the dimensions; there, their root of a singular product is off."""
    peer = pytest.importorskip("torch_fidelity.metric_fid")
    scale = torch.logspace(0, -2, 200)
    fake, real = normal(n1, 200, 0) * scale + 0.02, normal(n2, 200, 1) * scale * 1.1
    theirs = peer.fid_statistics_to_metric(
        peer.fid_features_to_statistics(fake), peer.fid_features_to_statistics(real), verbose=False
    )["frechet_inception_distance"]
    found = metrics.FrechetDistance()(fake=Rows(fake), real=Rows(real))
    assert found.value == pytest.approx(theirs, rel=close)
    one, two = Rows(fake), Rows(real)
    assert frechet_distance(one.mean, one.cov, two.mean, two.cov) == pytest.approx(
        theirs, rel=close
    )


@pytest.mark.parametrize("k", [1, 3, 5])
def test_ties_are_within_as_in_torch_fidelity(k: int) -> None:
    peer = pytest.importorskip("torch_fidelity.metric_prc")
    fake, real = lattice(400, 0) + torch.tensor([2.0, 0, 0]), lattice(300, 1)
    theirs = peer.calculate_precision_recall_full(fake, real, neighborhood=k)
    found = precision_recall(fake=fake, real=real, k=k)
    assert [round(share * n) for share, n in zip(found, (400, 300), strict=True)] == [
        round(share * n) for share, n in zip(theirs, (400, 300), strict=True)
    ]
    strict = prdc(real, fake, k)
    assert found[0] > strict[0] and found[1] > strict[1]  # so the border is what decides here


@pytest.mark.parametrize("k", [1, 3, 5])
def test_prdcs_definition(k: int) -> None:
    fake, real = normal(500, 12, 0) * 0.9, normal(400, 12, 1)
    precision, recall, density, coverage = prdc(real, fake, k)
    assert precision_recall(fake=fake, real=real, k=k) == pytest.approx((precision, recall))
    assert density_coverage(fake=fake, real=real, k=k) == pytest.approx((density, coverage))
    fake, real = lattice(400, 0) + torch.tensor([2.0, 0, 0]), lattice(300, 1)
    assert density_coverage(fake=fake, real=real, k=k) == pytest.approx(prdc(real, fake, k)[2:])


def test_prdcs_package() -> None:
    import prdc as package

    for fake, real in ((normal(500, 12, 0), normal(400, 12, 1)), (lattice(90, 0), lattice(80, 1))):
        theirs = package.compute_prdc(real.numpy(), fake.numpy(), nearest_k=5)
        assert prdc(real, fake, 5) == pytest.approx(
            tuple(theirs[name] for name in ("precision", "recall", "density", "coverage"))
        )


def rounded_share(queries: Tensor, centres: Tensor, k: int) -> float:
    """The share within the k-NN balls by expanded squares in float16, as the ADM evaluator's."""

    def distances(a: Tensor, b: Tensor) -> Tensor:
        a, b = a.half(), b.half()
        return a.square().sum(1)[:, None] - 2 * (a @ b.T) + b.square().sum(1)

    radii = distances(centres, centres).float().sort(1).values[:, k]
    return float((distances(queries, centres).float() <= radii).any(1).double().mean())


def test_float16_is_not_our_precision() -> None:
    """Ours are float64's to the last image, whatever the features' offset."""
    fake, real = normal(600, 64, 0) + 3, normal(500, 64, 1) + 3
    exact = prdc(real, fake, 3)[:2]  # no ties: the border does not matter
    assert precision_recall(fake=fake, real=real) == pytest.approx(exact)
    assert precision_recall(fake=fake.float(), real=real.float()) == pytest.approx(exact)
    assert rounded_share(fake, real, 3) != pytest.approx(exact[0], abs=0.005)
