"""Costs of single steps against closed forms, and the cheapest path against every path."""

import json
import math
import struct
from dataclasses import dataclass, replace
from itertools import combinations, pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from console import crs
from oracles import Gaussian
from scipy.integrate import quad
from torch import Tensor

from bench import checkpoints, measures, names, schedules, training
from bench.checkpoints.card import Card, Data, VPCard
from bench.checkpoints.places import shipped
from bench.measures import (
    GITS,
    KLUB,
    DataPrediction,
    Entropy,
    FeatureFrechet,
    NoisePrediction,
    RescaledEntropy,
    ScoreDifference,
)
from bench.measures import steps as room
from bench.process import VE
from bench.schedules import Between, CheapestPath, Karras, KLOptimal, LogSNR, Native
from bench.types import CostMeasure, Costs, Denoiser, NoiseProcess, Rate, Schedule


def made(sigma: Tensor, seed: int = 0, coefficient: float = 1.0) -> Costs:
    """Random costs, some below 0, over given levels."""
    generator = torch.Generator().manual_seed(seed)
    cost = torch.randn(len(sigma), len(sigma), generator=generator, dtype=torch.float64)
    return Costs("made", sigma, cost, coefficient, {"model": "any"})


def fine(process: NoiseProcess, levels: int) -> Tensor:
    return LogSNR()(levels, process)[:-1]


@pytest.mark.parametrize("coefficient", [0.8, 1.0, 1.15])
@pytest.mark.parametrize("seed", range(3))
def test_no_other_path_is_cheaper(seed: int, coefficient: float) -> None:
    process, n = VE(0.1, 10.0), 9
    found = made(fine(process, n), seed, coefficient)

    def total(path: tuple[int, ...]) -> float:
        steps = enumerate(pairwise(path))
        return sum(coefficient**k * float(found.cost[i, j]) for k, (i, j) in steps)

    for steps in range(2, n + 1):
        paths = [(0, *inner, n - 1) for inner in combinations(range(1, n - 1), steps - 2)]
        grid = CheapestPath(found)(steps, process)
        assert grid[:-1].tolist() == found.sigma[list(min(paths, key=total))].tolist()


def test_one_step_starts_at_the_noise_end() -> None:
    process = VE(0.1, 10.0)
    assert CheapestPath(made(fine(process, 5)))(1, process).tolist() == [10.0, 0.0]


def test_requests_that_the_costs_cannot_meet_are_refused() -> None:
    process = VE(0.1, 10.0)
    cheapest = CheapestPath(made(fine(process, 5)))
    with pytest.raises(ValueError, match="at least 1 step"):
        cheapest(0, process)
    with pytest.raises(ValueError, match="made.*5 levels, too few for 6.*--levels"):
        cheapest(6, process)
    with pytest.raises(ValueError, match="measured from sigma 10 to 0.1, but .* needs 20 to"):
        cheapest(3, VE(0.1, 20.0))
    with pytest.raises(ValueError, match="measure them of that model"):
        Between(cheapest, 5.0)(3, process)
    with pytest.raises(ValueError, match="needs measured Costs"):
        CheapestPath("gits")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"sigma": torch.tensor([3.0, 2.0])}, r"must be \[n\]"),
        ({"sigma": torch.tensor([3.0]), "cost": torch.zeros(1, 1)}, "at least 2"),
        ({"sigma": torch.tensor([1.0, 2.0, 3.0])}, "strictly decreasing"),
        ({"sigma": torch.tensor([3.0, 2.0, 0.0])}, "positive"),
        ({"sigma": torch.tensor([math.inf, 2.0, 1.0])}, "infinite"),
        ({"cost": torch.full((3, 3), math.nan)}, "NaN"),
        ({"coefficient": 0.0}, "coefficient"),
        ({"coefficient": math.nan}, "coefficient"),
    ],
)
def test_bad_costs_are_refused_by_name(change: dict, says: str) -> None:
    with pytest.raises(ValueError, match=f"costs made.*{says}"):
        replace(made(torch.tensor([3.0, 2.0, 1.0])), **change)


def test_what_lies_below_the_diagonal_is_ignored() -> None:
    cost = torch.full((3, 3), math.nan).tril() + torch.ones(3, 3).triu(1)
    found = Costs("made", torch.tensor([3.0, 2.0, 1.0]), cost)
    assert found.cost.tolist() == [[0, 1, 1], [0, 0, 1], [0, 0, 0]]
    assert repr(CheapestPath(found)) == "CheapestPath(made)"


def test_a_coefficient_of_ones_own() -> None:
    cost = torch.tensor([[0, 1.0, 1.5], [0, 0, 1.0], [0, 0, 0]])
    found = Costs("made", torch.tensor([3.0, 2.0, 1.0]), cost)
    again = CheapestPath(found, coefficient=0.3)
    assert repr(again) == "CheapestPath(made, coefficient=0.3)"
    assert again._path(2) == CheapestPath(replace(found, coefficient=0.3))._path(2)
    assert again.label == "CheapestPath(made, coefficient=0.3)"
    with pytest.raises(ValueError, match="coefficient"):
        CheapestPath(found, coefficient=-1.0)


# KLUB: for data N(0, c^2) the change of x0_hat is that of m = c^2 sigma^2 / (c^2 + sigma^2)


def exact_klub(sigma: Tensor, c: float) -> Tensor:
    """Integral of (m_i - m) / sigma^3 in closed form; q is the share of noise in x."""
    q = sigma**2 / (c**2 + sigma**2)
    ratio = q[:, None] / q[None, :]
    return ((ratio - 1 - ratio.log()) / 2).triu(1)


@pytest.mark.parametrize("pair", [(0, 5), (3, 4), (2, 6)])
def test_the_closed_form_is_the_integral(pair: tuple[int, int]) -> None:
    sigma, c = fine(VE(0.1, 10.0), 7), 0.4
    (i, j), m = pair, lambda s: c**2 * s**2 / (c**2 + s**2)
    want = quad(lambda s: (m(float(sigma[i])) - m(s)) / s**3, float(sigma[j]), float(sigma[i]))[0]
    assert float(exact_klub(sigma, c)[i, j]) == pytest.approx(want, rel=1e-6)


def pictures(c: float, n: int) -> Tensor:
    z = torch.randn(n, 1, 8, 8, generator=torch.Generator().manual_seed(3))
    return Gaussian(c).decode(c * z)


@pytest.mark.parametrize("c", [0.1, 0.25])
def test_klub_of_a_gaussian(c: float) -> None:
    oracle = Gaussian(c, process=VE(0.05, 20.0), shape=(1, 8, 8))
    found = measures.measure(oracle, KLUB(), pictures(c, 500), 41, batch=100)
    want = exact_klub(torch.as_tensor(found.sigma), c)
    for reach, rtol in ((8, 0.03), (1, 0.15)):  # 32,000 pixels: 1 to 2 %; and m bends
        ahead = torch.ones_like(want, dtype=torch.bool).triu(reach)
        np.testing.assert_allclose(found.cost[ahead], want[ahead], rtol=rtol, atol=0)
    assert found.coefficient == 1 and found.name == "klub"
    np.testing.assert_allclose(found.sigma, fine(oracle.process, 41))


def test_integrals_are_exact_where_the_change_is_linear_in_the_square() -> None:
    sigma = fine(VE(0.1, 10.0), 7)
    change = sigma[:, None] ** 2 - sigma[None, :] ** 2  # of d sigma^2 / sigma^3
    want = (sigma[:, None] ** 2 / sigma[None, :] ** 2 - 1) / 2 - (
        sigma[:, None].log() - sigma[None, :].log()
    )
    torch.testing.assert_close(room._integrals(sigma, change).triu(1), want.triu(1))


@pytest.mark.parametrize("steps", [5, 10, 20])
@pytest.mark.parametrize("c", [0.3, 1.0])
def test_the_best_klub_of_a_gaussian_is_entropic_time(c: float, steps: int) -> None:
    """A step costs f(log q_i - log q_j), f convex: equal steps of log q are best. Section 3.1 of
    Align Your Steps speaks of Euler's steps of the probability flow, whose best grid is another."""
    process = VE(0.02, 80.0)
    sigma = fine(process, 801)

    def places(schedule: Schedule) -> Tensor:  # 0 .. steps - 1, by log q
        square = schedule(steps, process)[:-1] ** 2
        at = (square / (c**2 + square)).log()
        return (at[0] - at) / (at[0] - at[-1]) * (steps - 1)

    best = places(CheapestPath(Costs("klub", sigma, exact_klub(sigma, c))))
    even = torch.arange(steps, dtype=torch.float64)
    assert (best - even).abs().max() < 0.05  # levels are the fine grid's
    assert (places(KLOptimal(c)) - even).abs().max() > 0.5


# GITS


@dataclass(frozen=True)
class Diagonal(Gaussian):
    """Data N(0, diag(c_k^2)) with deviations from 0.05 to 1 over the pixels."""

    def deviations(self) -> Tensor:
        return torch.logspace(math.log10(0.05), 0, 16).view(1, 4, 4)

    def denoiser(self, labels: Tensor | None = None) -> Denoiser:
        c2 = self.deviations() ** 2
        return lambda x, sigma: c2 / (c2 + sigma**2) * x


def deviation(y: Tensor, start: Tensor, end: Tensor) -> Tensor:
    """Distance of y from the line through start and end, each [n, pixels]."""
    line = (end - start) / (end - start).norm(dim=1, keepdim=True)
    away = end - y
    return (away - (away * line).sum(1, keepdim=True) * line).norm(dim=1)


def test_gits_of_a_gaussian_with_a_spectrum() -> None:
    """The flow scales every pixel by s / s_max, s^2 = c^2 + sigma^2; slopes are sigma x / s^2."""
    oracle = Diagonal(process=VE(0.02, 10.0))
    found = measures.measure(oracle, GITS(trajectories=40), levels=121)
    sigma, c = torch.as_tensor(found.sigma), oracle.deviations().flatten().double()
    s = (c**2 + sigma[:, None] ** 2).sqrt()  # [levels, pixels]
    seeds = torch.arange(40) + 2**40
    start = 10 * room.normal(seeds, 0, (16,)).double()
    x = start * (s / s[0])[:, None]  # [levels, n, pixels]
    for i, j in ((0, 30), (20, 60), (50, 51), (40, 119), (90, 120)):
        jump = x[i] + (sigma[j] - sigma[i]) * x[i] * sigma[i] / s[i] ** 2
        want = deviation(jump, x[0], x[-1]) - deviation(x[j], x[0], x[-1])
        assert found.cost[i, j] == pytest.approx(float(want.mean()), rel=0.02, abs=2e-3)
    assert found.coefficient == 1.15
    torch.testing.assert_close(sigma, Karras()(121, oracle.process)[:-1])


def test_gits_of_straight_trajectories_is_nothing() -> None:
    """Of isotropic data every state lies on the line through the ends."""
    found = measures.measure(Gaussian(0.5), GITS(trajectories=5), levels=11)
    assert np.abs(found.cost).max() < 1e-3  # of states of norm 300, float32


def test_deviations_are_those_of_the_definition() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(6, 9, generator=generator, dtype=torch.float64)
    d = torch.randn(5, 9, generator=generator, dtype=torch.float64)
    sigma = fine(VE(0.1, 10.0), 6)
    found = room._deviations(x, d, sigma)
    for i, j in combinations(range(6), 2):
        ys = torch.stack([x[i] + (sigma[j] - sigma[i]) * d[i], x[j]])
        jump, teacher = deviation(ys, x[:1].expand(2, -1), x[-1:].expand(2, -1))
        assert float(found[i, j]) == pytest.approx(float(jump - teacher), abs=1e-12)


# Files, names, the command line


def card(name: str) -> Card:
    return Card(
        name=name, network=training.unet((8, 16), 1), prediction="v", training={},
        process=VPCard(kind="vp", betas="cosine", timesteps=1000, sigma_min=0.01, sigma_max=80),
        data=Data(name="none", digest="", licence="none"), weights_sha256="",
    )  # fmt: skip


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A models folder with one random checkpoint, and Fashion-MNIST of 12 random pictures."""
    folder = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    net = checkpoints.network(training.unet((8, 16), 1))
    checkpoints.save(folder / "tiny", card("tiny"), net.state_dict())
    pixels = np.random.default_rng(0).integers(0, 256, (12, 28, 28), dtype=np.uint8)
    (folder / "train-images-idx3-ubyte").write_bytes(
        struct.pack(">IIII", 0x803, *pixels.shape) + pixels.tobytes()
    )
    return folder


def test_results_do_not_depend_on_the_batch(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = checkpoints.load("tiny", models=models)
    images = torch.randint(0, 256, (7, 1, 28, 28), dtype=torch.uint8)
    klub = [measures.measure(model, KLUB(), images, 6, batch=k) for k in (7, 7, 3, 1)]
    gits = []
    for at_once in (64, 64, 2):
        monkeypatch.setattr(room, "_AT_ONCE", at_once)
        gits.append(measures.measure(model, GITS(trajectories=5), levels=6))
    for one, *others in (klub, gits):
        assert np.abs(one.cost).max() > 0
        for other in others:
            assert np.array_equal(one.cost, other.cost) and one.provenance == other.provenance


def test_provenance_says_what_they_were_measured_from() -> None:
    oracle, images = Gaussian(0.2, shape=(1, 8, 8)), pictures(0.2, 5)
    found = measures.measure(oracle, KLUB(), images, 5, batch=2).provenance
    assert found["images"] == 5 and found["levels"] == 5 and len(found["data_digest"]) == 64
    assert found["model_digest"] == oracle.digest and found["first_seed"] == 2**40
    assert found["measure"] == {"class": "KLUB", "fields": {}}
    digest = measures.measure(oracle, DataPrediction(), images, 5).provenance["data_digest"]
    assert found["data_digest"] == digest
    found = measures.measure(oracle, GITS(3), levels=5).provenance
    assert found["trajectories"] == 3 and "images" not in found


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: GITS(trajectories=0), "at least 1 trajectory"),
        (lambda: GITS(coefficient=0.0), "coefficient > 0"),
        (lambda: GITS(coefficient=math.nan), "coefficient > 0"),
        (lambda: measures.measure(Gaussian(), KLUB(), levels=5), "KLUB.* no images"),
        (lambda: measures.measure(Gaussian(), GITS(), levels=2), "at least 3 levels"),
    ],
)
def test_bad_requests_are_refused(make, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        make()


def test_files_keep_levels_exactly_and_six_digits_of_costs(tmp_path: Path) -> None:
    found = made(fine(VE(), 61), coefficient=1.15)
    path = measures.save(measures.path_of(tmp_path / "m", "made"), found)
    again = measures.load_costs(path)
    assert np.array_equal(again.sigma, found.sigma) and again.coefficient == 1.15
    np.testing.assert_allclose(again.cost, found.cost, rtol=1e-5, atol=0)
    assert again.provenance == found.provenance and again.name == "made"
    assert path.stat().st_size < 40_000
    text = path.read_text()
    assert measures.save(path, again).read_text() == text
    assert json.loads(text)["cost"][-1] == [pytest.approx(float(found.cost[-2, -1]), rel=1e-5)]
    assert list(measures.measured(tmp_path / "m")) == ["made"]
    assert measures.measured(tmp_path) == {}


@pytest.mark.parametrize(
    "text",
    ["{", "[]", '{"name": "made"}', '{"name": "made", "coefficient": 1, "sigma": [3, 2, 1], '
     '"cost": [[1, 2]], "provenance": {}}'],
)  # fmt: skip
def test_broken_files_are_named(text: str, tmp_path: Path) -> None:
    path = tmp_path / "made.json"
    path.write_text(text)
    with pytest.raises(ValueError, match="made.json"):
        measures.load_costs(path)


def test_a_missing_file_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="crs-bench measure mine --measure MEASURE --name gits"):
        measures.load_costs(measures.path_of(tmp_path / "mine", "gits"))


def test_files_of_both_kinds_are_told_apart(tmp_path: Path) -> None:
    levels = fine(VE(), 5)
    rate = Rate("v", levels.flip(0), torch.ones(5))
    paths = [measures.save(measures.path_of(tmp_path, x.name), x) for x in (made(levels), rate)]
    assert {name: type(x) for name, x in measures.measured(tmp_path).items()} == {
        "made": Costs, "v": Rate,
    }  # fmt: skip
    with pytest.raises(ValueError, match="v.json holds a rate, not costs"):
        measures.load_costs(paths[1])
    with pytest.raises(ValueError, match="made.json holds costs, not a rate"):
        measures.load_rate(paths[0])
    measures.save(measures.path_of(tmp_path, "other"), replace(rate, name="made"))
    with pytest.raises(ValueError, match="other.json holds 'made', and so does another file"):
        measures.measured(tmp_path)


def test_files_without_a_kind_are_known_by_their_fields(tmp_path: Path) -> None:
    """Earlier files have none, and the measure's text in place of its spec."""
    levels = fine(VE(), 5)
    for found in (made(levels), Rate("v", levels.flip(0), torch.ones(5), {"measure": "Mine()"})):
        path = measures.save(tmp_path / f"{found.name}.json", found)
        content = json.loads(path.read_text())
        assert content.pop("kind") == type(found).__name__.lower()
        path.write_text(json.dumps(content))
        again = measures.load(path)
        assert type(again) is type(found) and again.provenance == found.provenance
        path.write_text(json.dumps(content | {"kind": "score"}))
        with pytest.raises(ValueError, match="unknown kind 'score'"):
            measures.load(path)


SHIPPED = sorted(shipped().glob("*/measures/*.json"))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: f"{path.parts[-3]}-{path.stem}")
def test_shipped_files_name_their_measure_as_it_would_be_written_now(path: Path) -> None:
    """So that `check_free` knows them."""
    found = measures.load(path)
    assert found.name == path.stem and path.stem in measures.measured(path.parents[1])
    known = [
        (one.name, one.spec()) for one in (
            DataPrediction(), NoisePrediction(), ScoreDifference(), FeatureFrechet(bootstrap=8),
            FeatureFrechet(), GITS(), KLUB(), Entropy(), RescaledEntropy(),
        )
    ]  # fmt: skip
    if not path.stem.endswith("_online"):
        assert (found.name, found.provenance["measure"]) in known


@dataclass(frozen=True)
class Ratio(CostMeasure):
    """A user's own costs, at the default levels."""

    name = "ratio"
    needs_images = False

    def __call__(self, model, images, sigmas: Tensor) -> Costs:
        return Costs("any", sigmas, sigmas[:, None] / sigmas[None, :])


def test_costs_of_ones_own() -> None:
    found = measures.measure(Gaussian(), Ratio())
    assert found.name == "ratio" and isinstance(found, Costs) and len(found.sigma) == 61
    assert len(CheapestPath(found)(10, Gaussian().process)) == 11


def test_measures_of_costs_are_told_from_those_of_rates() -> None:
    rooms = (measures, schedules)
    assert names.build("gits", rooms) == GITS() and names.build("KLUB()", rooms) == KLUB()
    assert names.build("GITS(64, fine=LogSNR())", rooms) == GITS(64, fine=LogSNR())
    assert isinstance(GITS(), CostMeasure) and isinstance(KLUB(), CostMeasure)
    assert not isinstance(names.build("v_x", rooms), CostMeasure)


def test_costs_of_other_weights_are_refused() -> None:
    from bench.generate import check_measured

    stale = {"model": "gaussian", "model_digest": "another", "measure": KLUB().spec()}
    found = replace(made(fine(VE(0.02, 80.0), 5)), provenance=stale)
    says = "made was measured on other weights of gaussian; .* measure MODEL --measure KLUB"
    with pytest.raises(ValueError, match=says):
        check_measured(CheapestPath(found), "gaussian", Gaussian().digest)
    check_measured(CheapestPath(found), "another model", Gaussian().digest)
    assert CheapestPath(found).measured == (found,)


def test_from_the_command_line(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    where = ["--models", str(models)]
    how = ["--levels", "7", *where, "--device", "cpu"]
    # GITS asks for no pictures: a folder without any is no matter
    gits = "GITS(trajectories=3, coefficient=1)"
    assert crs(monkeypatch, "measure", "tiny", "--measure", gits, "--data", "no", *how) == 0
    data = ["--data", str(models), "--images", "5", "--batch", "2"]
    assert crs(monkeypatch, "measure", "tiny", "--measure", "klub", *data, *how) == 0
    capsys.readouterr()
    found = measures.measured(models / "tiny")
    assert sorted(found) == ["gits", "klub"] and found["klub"].provenance["images"] == 5
    for name in found:
        form = f"CheapestPath({name})"
        assert crs(monkeypatch, "schedule", "tiny", "--schedule", form, "--nfe", "5", *where) == 0
        assert len(capsys.readouterr().out.strip().splitlines()) == 7
    form = ["--schedule", "Snapped(CheapestPath(gits))", "--nfe", "3", "--seeds", "0-1"]
    out = str(tmp_path / "out.npz")
    assert crs(monkeypatch, "sample", "tiny", out, *form, *where, "--device", "cpu") == 0
    form = ["--schedule", "CheapestPath(gits)", "--nfe", "8"]
    assert crs(monkeypatch, "schedule", "tiny", *form, *where) == 2
    assert "--levels" in capsys.readouterr().err
    none = ["--data", "no", *how, "--name", "none"]
    assert crs(monkeypatch, "measure", "tiny", "--measure", "klub", *none) == 2
    assert "dataset-fashion-mnist" in capsys.readouterr().err
    file = measures.path_of(models / "tiny", "klub")
    kept, data[3] = file.read_bytes(), "6"
    klub = ["measure", "tiny", "--measure", "klub", *data, *how]
    assert crs(monkeypatch, *klub) == 2
    assert "images is 5, not 6" in capsys.readouterr().err and file.read_bytes() == kept
    assert crs(monkeypatch, *klub, "--name", "k6") == 0
    assert measures.measured(models / "tiny")["k6"].provenance["images"] == 6
    uniform = ["measure", "tiny", "--measure", "Uniform", *how, "--name", "k6"]
    assert crs(monkeypatch, *uniform) == 2  # costs are not overwritten by a rate
    assert "--name NAME" in capsys.readouterr().err


def test_measures_are_listed_with_parameters_and_a_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    assert crs(monkeypatch, "list", "measures") == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "measures:"
    names = [line.strip().partition("(")[0] for line in said[1::2]]
    assert names == [
        "DataPrediction", "Entropy", "FeatureFrechet", "GITS", "GaussianW2", "KLUB",
        "NoisePrediction", "OfSchedule", "RescaledEntropy", "ScoreDifference", "Uniform",
    ]  # fmt: skip
    assert said[said.index("  Uniform(coordinate=angle)") + 1] == (
        "      A rate that is constant in a coordinate u: v = |du / dsigma|."
    )
    assert all(line.startswith("      ") and line.endswith(".") for line in said[2::2])


def test_a_grid_of_a_checkpoints_own_clock() -> None:
    """`fine` may be any schedule."""
    found = measures.measure(Gaussian(0.2), GITS(2, fine=Native()), levels=9)
    np.testing.assert_allclose(found.sigma, Native()(9, Gaussian().process)[:-1])
