"""Metrics against closed forms, 50-digit arithmetic, brute force, and a peer."""

import math
from dataclasses import dataclass

import mpmath
import numpy as np
import prdc
import pytest
import torch
from torch import Tensor

from bench import metrics, names
from bench.metrics import KID, density_coverage, frechet_distance, precision_recall
from bench.metrics.banks import Rows
from bench.types import Metric


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


@pytest.mark.parametrize(("scales", "quick"), [((0, -2), True), ((0, -4), True), ((-4, 0), False)])
def test_small_variances_are_not_lost_to_rounding(
    scales: tuple[int, int], quick: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Roots of eigenvalues are taken only where their product shows them to be exact."""
    taken: list[bool] = []
    values = metrics.frechet._singular_values

    def watched(*roots: np.ndarray) -> np.ndarray | None:
        taken.append((found := values(*roots)) is not None)
        return found

    monkeypatch.setattr(metrics.frechet, "_singular_values", watched)
    columns = torch.logspace(*scales, 12)
    one, two = (
        Set(normal(40, 12, 3) * columns + 0.01 * normal(40, 1, 5)),
        Set(normal(60, 12, 4) * columns),
    )
    exact = exact_distance(one.bank, two.bank)
    assert frechet_distance(one.mean, one.cov, two.mean, two.cov) == pytest.approx(exact, rel=1e-9)
    assert taken == [quick]


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
    monkeypatch.setattr(metrics.points, "_PAIRS", 2000)
    monkeypatch.setattr(metrics.radii, "_EXTRA", 0)  # every row takes the slow way
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
    assert metrics.Precision()(**sets).value == 1.0
    assert metrics.Recall()(**sets).value < 0.05
    assert metrics.Density()(**sets).value > 0.9
    assert metrics.Coverage()(**sets).value < 0.05
    assert precision_recall(fake=collapsed.bank, real=real)[1] == metrics.Recall()(**sets).value


def test_bad_banks_are_named() -> None:
    real = normal(10, 4, 0)
    with pytest.raises(ValueError, match="fake has 3"):
        precision_recall(fake=real[:3], real=real)
    with pytest.raises(ValueError, match="k >= 1"):
        precision_recall(fake=real, real=real, k=0)
    with pytest.raises(ValueError, match="fake features have 3 dimensions and real features 4"):
        precision_recall(fake=real[:, :3], real=real)
    with pytest.raises(ValueError, match="real features have NaN"):
        precision_recall(fake=real, real=real / 0)
    with pytest.raises(ValueError, match=r"float \[n, dim\]"):
        precision_recall(fake=real.long(), real=real)
    with pytest.raises(ValueError, match="larger bank"):
        metrics.Recall(k=3)(fake=Set(real[:0]), real=Set(real))


# ---------------------------------------------------------------- density and coverage


def brute_density(fake: Tensor, real: Tensor, k: int) -> tuple[float, float]:
    """The definition with whole float64 distance matrices, ties at the border left out."""
    fake, real = fake.double(), real.double()
    own = (real[:, None] - real).square().sum(-1)
    radii = own.sort(1).values[:, k]
    inside = (fake[:, None] - real).square().sum(-1) < radii * (1 - 1e-12)  # [fake, real]
    return int(inside.sum()) / (k * len(fake)), int(inside.any(0).sum()) / len(real)


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("pair", PAIRS)
def test_quick_distances_of_any_precision_do_not_change_the_outcome(
    pair: str, kind: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    for room in (metrics.points, metrics.radii):
        monkeypatch.setattr(room, "kinds", lambda device: (kind,))
    monkeypatch.setattr(metrics.points, "_PAIRS", 90**2)  # several tiles, the last ones smaller
    monkeypatch.setattr(metrics.neighbours, "_PENDING", 100)
    fake, real = PAIRS[pair]
    assert precision_recall(fake=fake, real=real) == brute(fake, real, 3)
    assert density_coverage(fake=fake, real=real) == brute_density(fake, real, 5)
    sets = {"fake": Set(fake), "real": Set(real)}
    assert metrics.Precision()(**sets).value == brute(fake, real, 3)[0]
    assert metrics.Recall()(**sets).value == brute(fake, real, 3)[1]


@pytest.mark.parametrize("limit", ["_BUDGET", "_OPEN"])
def test_too_many_ties_do_not_change_the_outcome(
    limit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics.radii, limit, 0)
    for fake, real in (PAIRS["random"], PAIRS["ties"]):
        assert precision_recall(fake=fake, real=real) == brute(fake, real, 3)


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_quick_distances_are_within_their_bound(kind: torch.dtype) -> None:
    a, b = (x.float() * 3 + 7 for x in PAIRS["wide"])
    centre = metrics.points.centre_of(b)
    points = [metrics.points.Points.of(x, centre, kind) for x in (a, b)]
    quick, error = metrics.points.bounds_of(torch.arange(len(a)), *points)
    off = (quick.double() - metrics.points.distances(a[:, None], b)).abs()
    assert (off < error).all() and float(off.max()) > 1e-3 * float(error.max())


@pytest.mark.parametrize("k", [1, 3, 5])
@pytest.mark.parametrize("pair", PAIRS)
def test_density_and_coverage_equal_brute_force(pair: str, k: int) -> None:
    fake, real = PAIRS[pair]
    assert density_coverage(fake=fake, real=real, k=k) == brute_density(fake, real, k)
    assert density_coverage(fake=real, real=fake, k=k) == brute_density(real, fake, k)


def test_density_and_coverage_equal_prdc() -> None:
    fake, real = normal(700, 16, 0) * 0.9, normal(600, 16, 1)
    peer = prdc.compute_prdc(real.double().numpy(), fake.double().numpy(), nearest_k=5)
    found = density_coverage(fake=fake, real=real)
    assert found == pytest.approx((peer["density"], peer["coverage"]), abs=1e-9)


def test_blocks_do_not_change_density(monkeypatch: pytest.MonkeyPatch) -> None:
    fake, real = PAIRS["ties"]
    monkeypatch.setattr(metrics.points, "_PAIRS", 2000)
    assert density_coverage(fake=fake, real=real) == brute_density(fake, real, 5)


def test_density_and_coverage_of_one_law_have_a_closed_form() -> None:
    k, n, m = 3, 30, 20
    draws = [
        density_coverage(fake=normal(m, 4, 2 * i), real=normal(n, 4, 2 * i + 1), k=k)
        for i in range(400)
    ]
    expected = 1.0, 1 - math.comb(n - 1, k) / math.comb(n + m - 1, k)
    found, error = np.mean(draws, 0), np.std(draws, 0) / 20
    assert (np.abs(found - expected) < 4 * error).all() and (error < 0.02).all()


def test_density_is_not_fooled_by_a_real_outlier() -> None:
    # one real outlier makes a huge ball: precision is fooled by it, density hardly
    real = torch.cat([normal(400, 4, 0), torch.full((1, 4), 60.0)])
    sets = {"fake": Set(normal(300, 4, 1) + 30), "real": Set(real)}
    assert metrics.Precision()(**sets).value > 0.99
    assert metrics.Density()(**sets).value < 0.25


# ---------------------------------------------------------------- kernel distance


def brute_mmd(x: np.ndarray, y: np.ndarray) -> float:
    """The definition, pair by pair."""

    def kernel(a: np.ndarray, b: np.ndarray) -> float:
        return (float(a @ b) / len(a) + 1) ** 3

    n, m = len(x), len(y)
    own_x = sum(kernel(x[i], x[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    own_y = sum(kernel(y[i], y[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    return own_x + own_y - 2 * sum(kernel(a, b) for a in x for b in y) / (n * m)


def test_kernel_distance_equals_double_loops() -> None:
    fake, real = normal(25, 6, 0) * 1.2 + 0.3, normal(25, 6, 1)
    expected = brute_mmd(fake.double().numpy(), real.double().numpy())
    one = KID(subsets=3, subset_size=25)  # every subset is the whole set
    found = one(fake=Set(fake), real=Set(real))
    assert found.value == pytest.approx(expected, rel=1e-12)
    assert found.error is not None and found.error < 1e-14


def test_kernel_distance_equals_torch_fidelity() -> None:
    peer = pytest.importorskip("torch_fidelity.metric_kid")
    fake, real = normal(400, 20, 0) + 0.2, normal(300, 20, 1)
    mine = KID(subsets=20, subset_size=100)
    for features, close in ((fake.double(), 1e-12), (fake, 1e-6)):  # theirs computes in float32
        same = real.to(features.dtype)
        theirs = peer.kid_features_to_metric(
            features, same, kid_subsets=20, kid_subset_size=100, verbose=False
        )
        found = mine(fake=Set(features), real=Set(same))
        assert found.value == pytest.approx(theirs["kernel_inception_distance_mean"], abs=close)
        spread = theirs["kernel_inception_distance_std"]  # over n, not n - 1
        assert found.error == pytest.approx(spread / 19**0.5, abs=close)
    assert KID() == KID(subsets=100, subset_size=1000, seed=2020)  # theirs, too


def test_kernel_distance_is_unbiased() -> None:
    # dim 1, N(mu, 1) against N(0, 1): E k(x, x') - 2 E k(x, y) + E k(y, y') by moments of (t + 1)^3
    mu = 0.5
    m2, m3 = 1 + mu**2, mu**3 + 3 * mu  # second and third moments of x; those of y are 1 and 0
    expected = (m3**2 + 3 * m2**2 + 3 * mu**2 + 1) - 2 * (3 * m2 + 1) + (3 + 1)
    draws = [
        KID(1, 20)(fake=Set(normal(20, 1, 2 * i) + mu), real=Set(normal(20, 1, 2 * i + 1))).value
        for i in range(2000)
    ]
    assert abs(np.mean(draws) - expected) < 4 * np.std(draws) / 2000**0.5
    same = [KID(1, 20)(fake=Set(normal(20, 3, 2 * i)), real=Set(normal(20, 3, 2 * i + 1))).value
            for i in range(500)]  # fmt: skip
    assert min(same) < 0 and abs(np.mean(same)) < 4 * np.std(same) / 500**0.5


def test_kernel_distance_needs_enough_features() -> None:
    real = Set(normal(50, 4, 0))
    with pytest.raises(ValueError, match="of 1000 features, but fake has 50; .*subset_size=50"):
        KID()(fake=real, real=real)
    with pytest.raises(ValueError, match="but real has 40"):
        KID(subset_size=50)(fake=real, real=Set(real.bank[:40]))
    with pytest.raises(ValueError, match="at least 1 subset with at least 2"):
        KID(subset_size=1)
    assert KID(1, 50)(fake=real, real=real).error is None  # one subset has no standard error


# ---------------------------------------------------------------- metrics


@pytest.mark.parametrize(
    ("metric", "name", "rises"),
    [
        (metrics.FrechetDistance(), "fd", False),
        (metrics.Precision(k=2), "precision", True),
        (metrics.Recall(k=2), "recall", True),
        (metrics.Density(k=2), "density", True),
        (metrics.Coverage(k=2), "coverage", True),
    ],
)
def test_metrics_are_keyword_only_and_labelled(metric: Metric, name: str, rises: bool) -> None:
    real = Set(normal(200, 5, 0))
    assert (metric.name, metric.higher_is_better) == (name, rises)
    same = metric(fake=real, real=real)
    assert same.value == pytest.approx(1.0 if rises else 0.0, abs=1e-10)
    with pytest.raises(TypeError):
        metric(real, real)  # type: ignore[misc]


def test_distance_sees_only_the_moments() -> None:
    fake, real = Set(normal(90, 5, 0)), Set(normal(80, 5, 1))
    expected = frechet_distance(np.asarray(fake.mean), fake.cov, real.mean, real.cov)
    assert metrics.FrechetDistance()(fake=fake, real=real).value == expected


def test_specs_hold_what_differs_from_the_default() -> None:
    assert metrics.FrechetDistance().spec() == {"class": "FrechetDistance", "fields": {}}
    assert metrics.Recall(k=3).spec() == {"class": "Recall", "fields": {}}
    assert metrics.Recall(k=5).spec() == {"class": "Recall", "fields": {"k": 5}}
    assert metrics.SFID().spec() == {"class": "SFID", "fields": {}}


def test_metrics_say_what_they_read() -> None:
    kinds = names.public(metrics).values()
    by_rows = {kind.name for kind in kinds if kind.reads_rows}  # type: ignore[attr-defined]
    neighbours = {"precision", "recall", "precision_adm", "recall_adm", "density", "coverage"}
    neighbours |= {"precision2", "recall2"}
    assert by_rows == {"kid", "is", "fd_infinity"} | neighbours
    whole = {kind.name for kind in kinds if kind.whole_bank}  # type: ignore[attr-defined]
    assert whole == {"is", "precision_adm", "recall_adm"}
    assert metrics.SFID().reads_layer == "spatial" and KID().reads_layer == "features"
    assert metrics.InceptionScore(layer="logits").reads_layer == "logits"
    second = (metrics.SecondFrechet(), metrics.SecondPrecision(), metrics.SecondRecall())
    assert {one.reads_layer for one in second} == {"second"}
    assert not metrics.InceptionScore().needs_real and KID().needs_real
    rows = [one.least_rows for one in (KID(2, 70), metrics.Recall(k=4), metrics.FIDInfinity())]
    assert rows == [70, 5, 0]


ALL = [
    metrics.FrechetDistance(),
    metrics.Precision(),
    metrics.Recall(),
    metrics.Density(),
    metrics.Coverage(),
    KID(2, 20),
]


@pytest.mark.parametrize("metric", ALL, ids=lambda metric: metric.name)
def test_bad_input_is_one_clear_line(metric: Metric) -> None:
    real = normal(40, 4, 0)
    broken = {
        "none": real[:0],
        "one": real[:1],
        "nan": torch.cat([real[:39], real[:1] / 0]),
        "width": real[:, :3],
    }
    for what, bank in broken.items():
        with pytest.raises(ValueError) as caught:
            metric(fake=Rows(bank), real=Rows(real))
        assert "\n" not in str(caught.value) and len(str(caught.value)) < 200, what
        with pytest.raises(ValueError):
            metric(fake=Rows(real), real=Rows(bank))


@pytest.mark.parametrize("metric", ALL, ids=lambda metric: metric.name)
def test_a_metric_does_not_know_the_order_of_images(metric: Metric) -> None:
    fake, real = normal(40, 4, 0), normal(60, 4, 1)
    if isinstance(metric, KID):  # its subsets are of rows
        metric = KID(2, 40)
        real = real[:40]
    there = metric(fake=Rows(fake), real=Rows(real)).value
    assert metric(fake=Rows(fake.flip(0)), real=Rows(real.flip(0))).value == pytest.approx(there)


def test_a_metric_says_whether_it_rises() -> None:
    kinds = names.public(metrics).values()
    rising = {kind.name for kind in kinds if kind.higher_is_better}  # type: ignore[attr-defined]
    shares = {"precision", "recall", "precision_adm", "recall_adm", "density", "coverage"}
    assert rising == shares | {"is", "precision2", "recall2"}


@pytest.mark.parametrize(
    ("cov", "says"),
    [
        ([[1.0, 3.0], [3.0, 1.0]], "eigenvalue of -2"),
        ([[1.0, 3.0], [0.0, 1.0]], "not symmetric"),
        ([[1.0, 2e-4], [0.0, 1.0]], "not symmetric"),
        ([[1.0, 0.0], [0.0, -1.0]], "eigenvalue of -1"),
        ([[1.0, 1j], [-1j, 1.0]], "complex"),
        ([[1.0, np.inf], [np.inf, 1.0]], "NaN or infinite"),
    ],
)
def test_what_is_no_covariance_is_refused(cov: list, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        frechet_distance([0, 0], np.eye(2), [0, 0], np.array(cov))


def test_a_covariance_within_rounding_is_none_the_worse() -> None:
    """What float32 leaves of a singular covariance has eigenvalues just below 0."""
    rows = np.random.default_rng(0).standard_normal((20, 64))
    cov = np.cov(rows, rowvar=False).astype(np.float32)
    assert np.linalg.eigvalsh(cov.astype(float))[0] < 0
    assert frechet_distance(np.zeros(64), cov, np.zeros(64), cov) == pytest.approx(0, abs=1e-4)


def test_every_metric_answers_to_its_label() -> None:
    labels = {"fd", "precision", "recall", "density", "coverage", "kid", "fd_infinity"}
    labels |= {"is", "sfid", "precision_adm", "recall_adm", "fd2", "precision2", "recall2"}
    assert labels == {kind.name for kind in names.public(metrics).values()}  # type: ignore[attr-defined]
    assert {type(names.build(label, metrics)).name for label in labels} == labels


def test_frechet_distance_of_2048_dimensions_equals_its_closed_form() -> None:
    """Covariances of one eigenbasis: |mu|^2 + sum (sqrt a_i - sqrt b_i)^2."""
    dim = 2048
    draw = np.random.default_rng(0)
    v = draw.standard_normal(dim)
    v /= np.linalg.norm(v)
    a, b = 10 ** draw.uniform(-3, 1, dim), 10 ** draw.uniform(-3, 1, dim)

    def turned(spectrum: np.ndarray) -> np.ndarray:
        """H diag(spectrum) H of the reflection H = 1 - 2 v v^T."""
        half = np.diag(spectrum) - 2 * np.outer(v, v * spectrum)
        return half - 2 * np.outer(half @ v, v)

    mu = draw.standard_normal(dim) / 10
    found = frechet_distance(mu, turned(a), np.zeros(dim), turned(b))
    want = (mu**2).sum() + ((np.sqrt(a) - np.sqrt(b)) ** 2).sum()
    assert found == pytest.approx(want, rel=1e-9)
