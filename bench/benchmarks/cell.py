"""Seconds of each part of scoring a cell, on a device and on the CPU, and whether the two agree."""

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from bench.benchmarks.record import Reading, in_turns, table
from bench.benchmarks.scoring import features_like, has, small_pictures
from bench.features import EffNetLite0, Features, extract
from bench.machine import beside_sampling
from bench.metrics import FrechetDistance, Precision, Recall, interval
from bench.metrics.banks import Rows

Work = Callable[[str], Any]  # of a torch device
_CPU_SHARE = 20  # the CPU extracts features of so small a share of the images; time is scaled


@dataclass(frozen=True)
class Part:
    """One part of scoring.

    seconds: on the device, the fastest of several runs after a warm-up.
    cpu: on the CPU, once; None if the device is the CPU.
    off: largest difference of the two results, relative to the largest entry; most: the bound.
    peers: seconds of other packages, in turn with the device.
    """

    what: str
    seconds: float
    cpu: float | None = None
    off: float = 0.0
    most: float = 0.0
    peers: dict[str, float] = field(default_factory=dict)

    @property
    def agrees(self) -> bool:
        """Whether the device's result is the CPU's within the bound."""
        return self.off <= self.most  # not where it is NaN


def cell_parts(
    device: str, images: int, dims: tuple[int, ...], replicates: int, repeats: int
) -> list[Part]:
    """Time all parts.

    Arguments:
        images: in a cell.
        dims: dimensions. 1280 are features of EfficientNet-Lite0; others are random.
        replicates: of the bootstrap.

    Raises:
        ValueError: a size that is too small.
    """
    if min(images, *dims) < 16 or replicates < 2 or repeats < 1:
        raise ValueError("--images and --dims must be at least 16, --replicates 2 and --repeats 1")
    found = list(_extraction(device, images, repeats))
    for dim in dims:
        rows = [_rows(device, images, dim, seed) for seed in (0, 1)]
        found += list(_scores(device, dim, rows[0], rows[1], replicates, repeats))
    return found


def _extraction(device: str, n: int, repeats: int) -> Iterator[Part]:
    """Features of grey images of 28 x 28 by EfficientNet-Lite0, in groups of two sizes."""
    pictures = small_pictures(n)
    few = pictures[: max(16, n // _CPU_SHARE)]

    def work(where: str, images: Tensor, group: int) -> Tensor:
        extractor, images = EffNetLite0().on(where), images.to(where)
        parts = images.split(group)
        return torch.cat([extract(extractor, part, ("features",))["features"] for part in parts])

    # float32 sums in another order; TF32 would be off by 1e-3
    one = _part("features, by 256", partial(work, images=few, group=256), device, 1, 2e-4)
    for group in (256, 2048):
        whole = partial(work, images=pictures, group=group)
        seconds = _fastest(whole, device, repeats)
        cpu = None if one.cpu is None else one.cpu * n / len(few)
        yield Part(f"features, by {group}", seconds, cpu, one.off, one.most)


def _rows(device: str, n: int, dim: int, seed: int) -> Tensor:
    """Features of a set, float32 [n, dim] on the CPU. Set 1 is set 0 with noise."""
    if dim != 1280:
        return features_like(n, dim, seed)
    pictures, extractor = small_pictures(n, 40.0 * seed), EffNetLite0().on(device)
    return torch.cat([extractor(part).cpu() for part in pictures.split(2048)])


def _scores(
    device: str, dim: int, fake: Tensor, real: Tensor, replicates: int, repeats: int
) -> Iterator[Part]:
    """Moments, distances, precision and recall of features on the CPU."""
    held = {where: (fake.to(where), Features.of(real.to(where), len(real)))
            for where in (device, "cpu")}  # fmt: skip
    sums = {where: Features.of(rows, 0) for where, (rows, _) in held.items()}
    few = {where: Features.of(rows[: dim // 2], 0) for where, (rows, _) in held.items()}
    frechet, precision, recall = FrechetDistance(), Precision(), Recall()

    def again(of: dict[str, Features], where: str) -> Features:  # else its Gaussian is kept
        return Features(of[where].n, of[where].sum, of[where].outer, of[where].bank)

    def metric(one: Any, where: str, of: dict[str, Features] | None = None) -> float:
        made = again(of, where) if of else Rows(held[where][0])
        return float(one(fake=made, real=held[where][1]).value)

    parts: dict[str, tuple[Work, float]] = {
        "moments": (lambda where: Features.of(held[where][0], 0).cov, 1e-12),
        "frechet": (lambda where: metric(frechet, where, sums), 1e-9),
        "frechet, half as many images": (lambda where: metric(frechet, where, few), 1e-9),
        "precision": (lambda where: metric(precision, where), 0.0),
        "recall": (lambda where: metric(recall, where), 0.0),
        f"bootstrap of frechet, {replicates} replicates": (
            lambda where: interval(
                frechet, Rows(held[where][0]), held[where][1], replicates
            ), 1e-9,
        ),
    }  # fmt: skip
    theirs = _torch_fidelity(fake, real)
    for what, (work, most) in parts.items():
        yield _part(f"{what}, {dim}", work, device, repeats, most, theirs.get(what))
    # which of its two ways a distance took shows beside the time that either takes
    for size in (dim, 2 * dim):
        square = Features.of(features_like(2 * size, size, 0).to(device), 0).cov
        solve = partial(lambda square, where: torch.linalg.eigvalsh(square), square)
        yield Part(f"eigenvalues of {size} x {size}", _fastest(solve, device, repeats))
    if device.startswith("cuda"):
        whole = partial(_three, (frechet, precision, recall), metric, sums)
        yield Part(f"frechet, precision and recall, {dim}", _fastest(whole, device, repeats))
        yield Part(f"the same beside a busy GPU, {dim}", _beside(whole, device))


def _three(metrics: tuple[Any, ...], metric: Any, sums: Any, where: str) -> None:
    metric(metrics[0], where, sums)
    for one in metrics[1:]:
        metric(one, where)


def _torch_fidelity(fake: Tensor, real: Tensor) -> dict[str, Callable[[], Any]]:
    """torch-fidelity's way of some parts, on the CPU. Nothing, where it is not installed."""
    if not has("torch_fidelity"):
        return {}
    from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric

    stats = [fid_features_to_statistics(rows) for rows in (fake, real)]
    return {
        "moments": lambda: fid_features_to_statistics(fake),
        "frechet": lambda: fid_statistics_to_metric(*stats, False),
    }


def _part(
    what: str, work: Work, device: str, repeats: int, most: float,
    theirs: Callable[[], Any] | None = None,
) -> Part:  # fmt: skip
    works = [lambda: work(device), *([theirs] if theirs else [])]
    seconds, *other = map(min, in_turns(works, repeats, device))
    peers = {"torch-fidelity": other[0]} if other else {}
    if device == "cpu":
        return Part(what, seconds, peers=peers)
    found, start = _tensor(work(device)), time.perf_counter()
    want = _tensor(work("cpu"))
    cpu = time.perf_counter() - start
    off = float((found - want).abs().max() / want.abs().max())
    return Part(what, seconds, cpu, off, most, peers)


def _tensor(found: Any) -> Tensor:
    return torch.as_tensor(found, device="cpu").double()


def _fastest(work: Work, device: str, repeats: int) -> float:
    return min(in_turns([lambda: work(device)], repeats, device)[0])


def _beside(work: Work, device: str) -> float:
    """Seconds of work in a thread, while this one keeps the GPU busy as a sampler does.

    Without a stream of its own the thread would wait for a queue of products at each number that
    it reads.
    """
    took: list[float] = []

    def scorer() -> None:
        start = time.perf_counter()
        with beside_sampling(device):
            work(device)
        took.append(time.perf_counter() - start)

    x = torch.randn(8192, 8192, device=device, dtype=torch.float16) / 100
    thread = threading.Thread(target=scorer)
    thread.start()
    while thread.is_alive():
        for _ in range(100):  # 0.2 s on an H100
            x @ x
        torch.cuda.default_stream(device).synchronize()
    thread.join()
    return took[0]


def cell_readings(parts: list[Part]) -> list[Reading]:
    """Parts as readings: the CPU is a peer where there is another device."""
    found = []
    for part in parts:
        one = Reading(part.what, part.seconds)
        if part.cpu is not None:
            one = one.beside(
                "crs-bench, CPU", part.cpu, difference=part.off, most=part.most, agrees=part.agrees
            )
        for name, seconds in part.peers.items():
            one = one.beside(name, seconds, name)
        found.append(one)
    return found


def cell_table(parts: list[Part]) -> str:
    """A text table with a row for each part and each peer."""
    text = table(cell_readings(parts), difference=".1e")
    wrong = [f"{part.what}: NO, more than {part.most:g}" for part in parts if not part.agrees]
    return "\n".join([text, *wrong])
