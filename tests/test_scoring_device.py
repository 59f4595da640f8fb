"""Scoring on a device: its formula against the CPU's, its streams, and what a record says of it.

The formula runs here on a CPU, and with `-m gpu` on a GPU. Such a test fails without a GPU.
"""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from test_shards import no_figures  # noqa: F401 - a fixture
from torch import Tensor

from bench import benchmarks, filling, machine, metrics, records, rescore, run, shards, store
from bench.benchmarks.scoring import features_like
from bench.features import Features
from bench.judge import Judge, score
from bench.metrics import FrechetDistance, frechet, frechet_distance, paired_interval
from bench.metrics.frechet import Gaussian, GPUGaussian

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
METRICS = ["fd", "precision", "recall", "kid(subsets=3, subset_size=50)", "density", "coverage",
           "fd_infinity(points=3)"]  # fmt: skip

Moments = tuple[Tensor, Tensor]


def drawn(n: int, dim: int, seed: int, columns: Tensor | float = 1.0) -> Tensor:
    """Features that are mixed, so that their covariance is not diagonal: float64 [n, dim]."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(dim, dim, generator=generator, dtype=torch.float64) / dim**0.5
    return torch.randn(n, dim, generator=generator, dtype=torch.float64) @ mixing * columns + seed


def moments(rows: Tensor) -> Moments:
    sums = Features.of(rows, 0)
    return sums.mean, sums.cov


def graded(dim: int) -> Tensor:
    return torch.logspace(0, -6, dim, dtype=torch.float64)


def dead(dim: int) -> Tensor:
    """A scale that makes every fourth feature constant."""
    return (torch.arange(dim) % 4 > 0).double()


CASES: dict[str, Callable[[int], tuple[Tensor, Tensor]]] = {
    "regular": lambda d: (drawn(4 * d, d, 0), drawn(5 * d, d, 1)),
    "graded": lambda d: (drawn(4 * d, d, 0, graded(d)), drawn(5 * d, d, 1, graded(d))),
    "graded apart": lambda d: (drawn(4 * d, d, 0, graded(d)), drawn(5 * d, d, 1, 1 / graded(d))),
    "few fake images": lambda d: (drawn(d // 3, d, 0), drawn(5 * d, d, 1)),
    "few images of both": lambda d: (drawn(d // 3, d, 0), drawn(d // 2, d, 1)),
    "as many images as dimensions": lambda d: (drawn(d, d, 0), drawn(d + 1, d, 1)),
    "equal ranks": lambda d: (drawn(d // 3, d, 0), drawn(d // 3, d, 1)),
    "dead features": lambda d: (drawn(4 * d, d, 0, dead(d)), drawn(4 * d, d, 1, dead(d))),
    "dead in one": lambda d: (drawn(4 * d, d, 0, dead(d)), drawn(4 * d, d, 1)),
    "one direction": lambda d: (drawn(2, d, 0), drawn(2, d, 1)),
    "no variance": lambda d: (drawn(4, d, 0, 0.0), drawn(4 * d, d, 1)),
    "like a network's": lambda d: (features_like(4 * d, d, 0), features_like(4 * d, d, 1)),
}  # fmt: skip


def check(device: str, one: Moments, two: Moments) -> None:
    want = Gaussian(*one).distance(Gaussian(*two))
    a, b = (GPUGaussian(mean.to(device), cov.to(device)) for mean, cov in (one, two))
    assert a.root.device.type == b.cov.device.type == device
    assert a.distance(b) == pytest.approx(want, rel=1e-9)
    assert b.distance(a) == pytest.approx(want, rel=1e-9)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dim", [12, 96])
@pytest.mark.parametrize("case", CASES)
def test_the_formula_of_a_gpu_gives_the_distance_of_the_cpu(
    case: str, dim: int, device: str
) -> None:
    one, two = CASES[case](dim)
    check(device, moments(one), moments(two))


@pytest.mark.gpu
@pytest.mark.parametrize("dim", [1280, 2048])
@pytest.mark.parametrize("n", ["four times", "half"])
def test_the_distance_of_large_features_is_that_of_the_cpu(n: str, dim: int) -> None:
    count = 4 * dim if n == "four times" else dim // 2
    sets = [features_like(count, dim, seed) for seed in (0, 1)]
    check("cuda", *map(moments, sets))
    there = [Features.of(rows.cuda(), 0) for rows in sets]  # moments of the GPU too
    want = frechet_distance(*moments(sets[0]), *moments(sets[1]))
    found = FrechetDistance()(fake=there[0], real=there[1]).value
    assert found == pytest.approx(want, rel=1e-9)


def test_both_ways_to_the_eigenvalues_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes, known = [], torch.linalg.eigvalsh

    def watched(x: Tensor) -> Tensor:
        sizes.append(len(x))
        return known(x)

    monkeypatch.setattr(torch.linalg, "eigvalsh", watched)
    for case, want in (("regular", [32]), ("few images of both", [10 - 1 + 16 - 1])):
        sets = [GPUGaussian(*moments(rows)) for rows in CASES[case](32)]
        sizes.clear()
        sets[0].distance(sets[1])
        assert sizes == want


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    "harm",
    [
        lambda mean, cov: (mean * torch.nan, cov),
        lambda mean, cov: (mean, cov * torch.inf),
        lambda mean, cov: (mean, cov + torch.nan * (cov == cov[0, 0])),
        lambda mean, cov: (mean, cov.triu()),
        lambda mean, cov: (mean, cov - 2 * cov.diagonal().diag()),
        lambda mean, cov: (mean, cov[:-1]),
        lambda mean, cov: (mean[:-1], cov),
        lambda mean, cov: (mean[None], cov),
        lambda mean, cov: (mean, cov.to(torch.complex128)),
    ],
)
def test_a_gpu_refuses_what_the_cpu_refuses(harm: Any, device: str) -> None:
    mean, cov = harm(*moments(drawn(40, 6, 0)))
    with pytest.raises(ValueError) as said:
        _ = Gaussian(mean, cov, "1").root
    with pytest.raises(ValueError) as found:
        GPUGaussian(mean.to(device), cov.to(device), "1")
    assert str(found.value) == str(said.value)


@pytest.mark.parametrize("device", DEVICES)
def test_sets_of_other_sizes_are_refused(device: str) -> None:
    one, two = (GPUGaussian(*(x.to(device) for x in moments(drawn(40, d, 0)))) for d in (5, 6))
    with pytest.raises(ValueError, match="mu1 has 5 dimensions and mu2 6"):
        one.distance(two)


def judged(device: str, images: Tensor, real: Tensor) -> tuple[Judge, dict[str, Features]]:
    judge = Judge.open(real, "flatten", METRICS, device, resampled=True)
    return judge, judge.fold(images.split(64), len(images))


def pictures(n: int, seed: int) -> Tensor:
    """Images of 4 x 4, so that features have few dimensions: uint8 [n, 1, 4, 4]."""
    draw = torch.Generator().manual_seed(seed)
    return torch.randint(0, 200 + 20 * seed, (n, 1, 4, 4), dtype=torch.uint8, generator=draw)


@pytest.mark.parametrize("device", DEVICES)
def test_a_judge_scores_on_its_device(device: str) -> None:
    images, other, real = (pictures(200, seed) for seed in (0, 1, 2))
    judge, fake = judged(device, images, real)
    kept = [*fake["features"].to(device).__dict__.values(), judge.real["features"].cov]
    assert {x.device.type for x in kept if isinstance(x, Tensor)} == {device}
    here, mine = judged("cpu", images, real)
    assert {n: s.value for n, s in judge.scores(fake).items()} == pytest.approx(
        {n: s.value for n, s in here.scores(mine).items()}, rel=1e-9
    )
    for metric in judge.metrics:
        assert judge.identity(metric) == here.identity(metric)
        assert judge.protocol(metric) == here.protocol(metric)
    fd = judge.metrics[0]
    assert judge.interval(fd, fake, 5) == pytest.approx(here.interval(fd, mine, 5), rel=1e-9)
    found = paired_interval(
        fd, fake["features"], judge.fold([other])["features"], judge.real["features"], 5
    )
    assert found == pytest.approx(here.differences(mine, here.fold([other]), 5)["fd"], rel=1e-9)


@pytest.mark.gpu
def test_sets_on_two_devices_are_refused() -> None:
    sets = [Features.of(drawn(40, 6, seed), 0) for seed in (0, 1)]
    with pytest.raises(ValueError, match="on a GPU and the other is not"):
        FrechetDistance()(fake=sets[0].to("cuda"), real=sets[1])


@pytest.mark.gpu
def test_statistics_on_a_gpu_are_compared_there(monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = (moments(drawn(40, 6, seed)) for seed in (0, 1))
    want = frechet_distance(*one, *two)
    monkeypatch.setattr(frechet, "Gaussian", lambda *_: pytest.fail("the CPU was asked"))
    found = frechet_distance(*(x.cuda() for x in (*one, *two)))
    assert found == pytest.approx(want, rel=1e-9)


# ---------------------------------------------------------------- beside the sampler


@pytest.mark.gpu
def test_a_scoring_thread_does_not_wait_for_the_sampler() -> None:
    one, two = (Features.of(drawn(400, 32, seed).cuda(), 400) for seed in (0, 1))
    three = (FrechetDistance(), metrics.Precision(), metrics.Recall())

    def scored() -> list[float]:
        with machine.beside_sampling("cuda"):
            assert torch.cuda.current_stream() != torch.cuda.default_stream()
            fresh = replace(one)
            return [metric(fake=fresh, real=two).value for metric in three]

    with ThreadPoolExecutor(1) as pool:
        want = pool.submit(scored).result()  # loads the libraries
        torch.cuda.synchronize()
        torch.cuda._sleep(8_000_000_000)  # about 4 s
        found = pool.submit(scored).result()
        assert not torch.cuda.default_stream().query()  # the sampler is not done yet
    torch.cuda.synchronize()
    assert found == want


@pytest.mark.gpu
def test_two_scoring_threads_read_one_reference() -> None:
    judge = Judge.open(pictures(3000, 2), "flatten", ["fd", "precision", "recall"], "cuda")
    fakes = [judge.fold([pictures(2000, seed)]) for seed in (0, 1) for _ in range(8)]

    def scored(fake: dict[str, Features]) -> list[float]:
        with machine.beside_sampling("cuda"):
            return [one.value for one in judge.scores(fake).values()]

    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(scored, fakes))
    assert found[:8] == [found[0]] * 8 and found[8:] == [found[8]] * 8


def test_on_a_cpu_nothing_changes_beside_the_sampler() -> None:
    with machine.beside_sampling("cpu"):
        x = torch.ones(3)
    assert machine.settled(x) is x
    assert machine.scoring_threads("cpu") == 1


@pytest.mark.usefixtures("no_figures")
def test_shards_that_are_at_hand_are_not_read_again(
    undisturbed: Path, tiny_models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    load = shards.Shelf.load

    def watched(shelf: shards.Shelf, key: str, *rest: Any) -> Any:
        if threading.current_thread() is not threading.main_thread():
            read.append(key)
        return load(shelf, key, *rest)

    monkeypatch.setattr(shards.Shelf, "load", watched)
    found = {}
    for most in (filling._AT_HAND, 5 * 4 * 16 * 4, 0):  # of all shards, of some and of none
        monkeypatch.setattr(filling, "_AT_HAND", most)
        read.clear()
        run.run(tiny.pooled(tiny_models), tmp_path / str(most), tiny_models)
        found[most] = len(read)
        made = store.load_records(tmp_path / str(most) / "tiny")
        want = store.load_records(undisturbed)
        assert made.keys() == want.keys()
        assert all(made[key]["scores"] == want[key]["scores"] for key in want)
    most, some, none = found.values()
    assert most <= some <= none and most < none


@pytest.mark.usefixtures("no_figures")
def test_a_shard_that_cannot_be_written_stops_the_run(
    tiny_models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []

    def full(shelf: shards.Shelf, key: str, *_: Any) -> Path:
        made.append(key)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shards.Shelf, "save", full)
    with pytest.raises(OSError, match="No space left"):
        run.run(tiny.pooled(tiny_models), tmp_path, tiny_models)
    assert len(made) <= 3 and not store.load_records(tmp_path / "tiny")


@pytest.mark.gpu
@pytest.mark.usefixtures("no_figures")
def test_a_run_on_a_gpu_has_the_keys_of_a_run_on_a_cpu(
    undisturbed: Path, tiny_models: Path, tmp_path: Path
) -> None:
    for name in ("one", "two"):
        run.run(tiny.pooled(tiny_models), tmp_path / name, tiny_models, "cuda")
    want = store.load_records(undisturbed)
    one, two = (store.load_records(tmp_path / name / "tiny") for name in ("one", "two"))
    fixed = [key for key in one if key in want]  # a tuned line may have another winner
    assert len(fixed) >= len(want) / 2
    for key in fixed:
        assert one[key]["scores"].keys() == want[key]["scores"].keys()
    for key in one.keys() & two.keys():
        for which, found in one[key]["scores"].items():
            assert two[key]["scores"][which]["value"] == pytest.approx(found["value"], rel=1e-3)
        assert one[key]["device"] == machine.device_name("cuda")


@pytest.mark.gpu
def test_images_are_scored_on_a_gpu() -> None:
    images, real = pictures(300, 0), pictures(300, 1)
    names = ("fd", "precision", "recall")
    here = score(images, real, "flatten", names)
    assert score(images, real, "flatten", names, "cuda") == pytest.approx(here, rel=1e-9)


@pytest.mark.gpu
def test_every_part_of_a_cell_agrees_on_a_gpu() -> None:
    parts = benchmarks.cell_parts("cuda", 3000, (1280,), 2, 1)
    assert [part.what for part in parts if not part.agrees] == []
    assert any("busy" in part.what for part in parts)


# ---------------------------------------------------------------- what a record says of it


def elsewhere(patch: pytest.MonkeyPatch) -> dict[str, Any]:
    """From now on this is another machine."""
    there = {"device": "Abacus", "versions": {"torch": "9"}}
    patch.setattr(machine, "device_name", lambda _: there["device"])
    patch.setattr(machine, "versions", lambda: there["versions"])
    patch.setattr(records, "device_name", lambda _: there["device"])
    patch.setattr(records, "versions", lambda: there["versions"])
    return there


def about_images(record: dict[str, Any]) -> dict[str, Any]:
    kept = "cell", "grid", "nfe", "device", "versions", "date", "shard"
    return {name: record[name] for name in kept}


@pytest.mark.parametrize("how", ["run", "rescore"])
@pytest.mark.usefixtures("no_figures")
def test_a_score_of_another_machine_names_it(
    how: str, tiny_models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "tiny"
    run.run(tiny.pooled(tiny_models, keep="all"), tmp_path, tiny_models)
    old = store.load_records(folder)
    assert not any("device" in one for r in old.values() for one in r["scores"].values())
    there = elsewhere(monkeypatch)
    if how == "run":
        more = ("fd", "precision", "recall", "precision(k=5)")
        run.run(tiny.pooled(tiny_models, keep="all", metrics=more), tmp_path, tiny_models)
    else:
        rescore.rescore(folder, ["precision(k=5)"])
    added = 0
    for key, record in store.load_records(folder).items():
        assert about_images(record) == about_images(old[key])
        assert record["seconds"]["sample"] == old[key]["seconds"]["sample"]
        for which, found in record["scores"].items():
            if which in old[key]["scores"]:
                assert found == old[key]["scores"][which]
            else:
                assert {name: found[name] for name in there} == there
                added += 1
    assert added >= 4


def test_a_score_of_the_same_machine_names_none(monkeypatch: pytest.MonkeyPatch) -> None:
    there = elsewhere(monkeypatch)
    assert machine.made_on("cpu", there) == {}
    assert machine.made_on("cpu", there | {"device": "Rule"}) == {"device": "Abacus"}


# ---------------------------------------------------------------- the harness


def test_parts_of_a_cell_are_timed_and_compared() -> None:
    parts = benchmarks.cell_parts("cpu:0", 32, (24,), 2, 1)  # not "cpu": both columns
    names = [part.what for part in parts]
    assert names[:2] == ["features, by 256", "features, by 2048"] and "recall, 24" in names
    assert all(part.seconds > 0 and part.agrees for part in parts)
    assert {part.what for part in parts if not part.cpu} == {
        "eigenvalues of 24 x 24", "eigenvalues of 48 x 48"
    }  # fmt: skip
    (one,) = (part for part in parts if "bootstrap" in part.what)
    wrong = replace(one, off=1e-8), replace(one, off=float("nan"))
    assert not any(part.agrees for part in wrong)
    assert "NO, more than 1e-09" in benchmarks.cell_table(list(wrong))
    one, two = (one for one in benchmarks.cell_readings(parts) if one.what.startswith(
        ("moments", "frechet, 24")))  # fmt: skip
    for reading in (one, two):
        assert [peer.name for peer in reading.peers] == ["crs-bench, CPU", "torch-fidelity"]
        assert reading.peers[0].more["agrees"] is True
    alone = benchmarks.cell_parts("cpu", 32, (24,), 2, 1)
    assert all(part.cpu is None and part.agrees for part in alone)
