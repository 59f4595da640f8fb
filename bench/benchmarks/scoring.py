"""Time and memory of our metrics and of other tools, in one process and on the same input.

A tool that is not installed has no line. The weights are random, because time does not depend on
them.
"""

import importlib.util
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tabulate import tabulate
from torch import Tensor

from bench.features import REFERENCES, Features, InceptionV3Compat
from bench.metrics import frechet_distance, precision_recall

Work = Callable[[], Any]


@dataclass(frozen=True)
class Line:
    """One tool at one task: its fastest run after a warm-up."""

    task: str
    by: str
    seconds: float
    memory_mib: float  # peak above the start, of the process or of the GPU
    value: float  # its result, which shows a fast but wrong tool


def score_lines(
    tasks: tuple[str, ...], device: str, images: int, dim: int, repeats: int, peers: bool = True
) -> list[Line]:
    """Time tasks.

    Arguments:
        tasks: among frechet, neighbours and inception.
        images: number of feature vectors, and of images of 256 x 256; a CPU takes 1/20 of the
            images.
        dim: dimension of the features.
        peers: whether other tools are timed too.

    Raises:
        ValueError: an unknown task, or a size below 16.
    """
    known = {"frechet": _frechet, "neighbours": _neighbours, "inception": _inception}
    if unknown := [task for task in tasks if task not in known]:
        raise ValueError(f"no task {unknown[0]!r}; known: {', '.join(known)}")
    if min(images, dim) < 16 or repeats < 1:
        raise ValueError("--images and --dim must be at least 16, and --repeats 1")
    lines = []
    with tempfile.TemporaryDirectory() as folder:
        for task in tasks:
            for by, work in known[task](device, images, dim, Path(folder)).items():
                if peers or by.startswith("crs-bench"):
                    lines.append(_timed(task, by, work, device, repeats))
    return lines


def features_like(n: int, dim: int, seed: int) -> Tensor:
    """Features like an extractor's, float32 [n, dim]: not negative, of low effective dimension."""
    generator = torch.Generator().manual_seed(0)
    mixing = torch.randn(64, dim, generator=generator) / 8
    generator.manual_seed(seed + 1)
    common = torch.randn(n, 64, generator=generator) @ mixing
    return (common + 0.3 * torch.randn(n, dim, generator=generator)).relu() + 0.02 * seed


def _frechet(device: str, n: int, dim: int, folder: Path) -> dict[str, Work]:
    """The distance between given statistics, always on the CPU."""
    a, b = (Features.of(features_like(max(n, 2 * dim), dim, seed), 0) for seed in (0, 1))
    one, two = ((x.mean.numpy(), x.cov.numpy()) for x in (a, b))
    works: dict[str, Work] = {"crs-bench": lambda: frechet_distance(*one, *two)}
    if _has("torch_fidelity"):
        from torch_fidelity.metric_fid import fid_statistics_to_metric

        stats = [{"mu": mu, "sigma": sigma} for mu, sigma in (one, two)]
        works["torch-fidelity"] = lambda: fid_statistics_to_metric(*stats, False)[
            "frechet_inception_distance"
        ]
    if _has("cleanfid"):
        from cleanfid.fid import frechet_distance as theirs

        works["clean-fid"] = lambda: theirs(*one, *two)
    works["pytorch-fid's formula (scipy sqrtm)"] = lambda: _by_sqrtm(*one, *two)
    return works


def _by_sqrtm(mu1: np.ndarray, cov1: np.ndarray, mu2: np.ndarray, cov2: np.ndarray) -> float:
    from scipy.linalg import sqrtm

    root = np.real(sqrtm(cov1 @ cov2))
    return float(((mu1 - mu2) ** 2).sum() + np.trace(cov1) + np.trace(cov2) - 2 * np.trace(root))


def _neighbours(device: str, n: int, dim: int, folder: Path) -> dict[str, Work]:
    fake, real = (features_like(n, dim, seed).to(device) for seed in (0, 1))
    # clones, because results for a bank are cached
    works: dict[str, Work] = {
        "crs-bench": lambda: precision_recall(fake=fake.clone(), real=real.clone())[0]
    }
    if _has("torch_fidelity"):
        from torch_fidelity import metric_prc

        works["torch-fidelity"] = lambda: metric_prc.calculate_precision_recall_full(fake, real)[0]
        works["torch-fidelity, saving memory"] = lambda: metric_prc.calculate_precision_recall_part(
            fake, real
        )[0]
    return works


def _inception(device: str, n: int, dim: int, folder: Path) -> dict[str, Work]:
    """Features of uint8 images [n, 3, 256, 256] in memory, from the test set of Fashion-MNIST.

    The second half has noise, so that the distance between the halves is realistic.
    """
    if not _has("torch_fidelity"):
        raise ValueError("the task inception needs torch-fidelity: pip install torch-fidelity")
    count = n if device.startswith("cuda") else max(8, n // 20)
    images = _pictures(count).to(device)
    file = str(random_inception(folder / "inception.pth"))
    theirs = _theirs(file).to(device)
    ours = {"crs-bench": InceptionV3Compat(file, device)}
    if device.startswith("cuda"):
        ours |= {f"crs-bench, {p}": InceptionV3Compat(file, device, p)  # type: ignore[arg-type]
                 for p in ("tf32", "float16")}  # fmt: skip

    def peer() -> Tensor:
        with torch.no_grad():
            return torch.cat([theirs(x)[0] for x in images.split(64)])  # its own batch

    works: dict[str, Work] = {by: partial(one, images) for by, one in ours.items()}
    return works | {"torch-fidelity": peer}


def _pictures(n: int) -> Tensor:
    """uint8 [n, 3, 256, 256]."""
    small = torch.cat([small_pictures(n)[: n // 2], small_pictures(n, 40.0)[n // 2 :]])
    large = torch.nn.functional.interpolate(small, 256)
    return large.expand(-1, 3, -1, -1).contiguous()


def small_pictures(n: int, noise: float = 0.0) -> Tensor:
    """Images of the test set of Fashion-MNIST, with noise of so many grey levels.

    Returns:
        uint8 [n, 1, 28, 28].
    """
    with np.load(REFERENCES / "fashion-mnist.images.npz") as file:
        clean = torch.from_numpy(file["images"][np.arange(n) % len(file["images"])]).float()
    draw = torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
    return (clean + noise * draw).clamp(0, 255).byte()


def _found(made: Tensor | float) -> float:
    """The result of a tool. For features: the Frechet distance between their halves."""
    if not isinstance(made, Tensor):
        return float(made)
    one, two = (Features.of(half, 0) for half in made.tensor_split(2))
    return frechet_distance(one.mean, one.cov, two.mean, two.cov)


def random_inception(path: Path) -> Path:
    """Write random weights in the format of torch-fidelity's Inception file."""
    from torch_fidelity import feature_extractor_inceptionv3 as room

    kind = room.FeatureExtractorInceptionV3
    kept = room.load_state_dict_from_url, kind.load_state_dict
    try:  # the class always reads a file
        room.load_state_dict_from_url = lambda *_, **__: {}
        kind.load_state_dict = lambda *_: None
        made = kind("inception-v3-compat", ["2048"])
    finally:
        room.load_state_dict_from_url, kind.load_state_dict = kept
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for module in made.modules():
            if isinstance(module, torch.nn.Conv2d):
                torch.nn.init.kaiming_normal_(module.weight)
    torch.save(made.state_dict(), path)
    return path


def _theirs(file: str) -> Any:
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    return FeatureExtractorInceptionV3(
        "inception-v3-compat", ["2048"], feature_extractor_weights_path=file
    )


def _has(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


def _timed(task: str, by: str, work: Work, device: str, repeats: int) -> Line:
    gpu = device.startswith("cuda") and task != "frechet"
    value, best = _found(work()), float("inf")
    with _Peak(device if gpu else "") as peak:
        for _ in range(repeats):
            start = time.perf_counter()
            work()
            if gpu:
                torch.cuda.synchronize(device)
            best = min(best, time.perf_counter() - start)
    return Line(task, by, best, peak.mib, value)


class _Peak:
    """Peak memory above the start, of the device or of the process.

    The memory of the process is read every 3 ms.
    """

    def __init__(self, device: str):
        self.device, self.mib, self.done = device, 0.0, threading.Event()

    def __enter__(self) -> "_Peak":
        self.base = self._held()
        if self.device:
            torch.cuda.reset_peak_memory_stats(self.device)
        else:
            self.thread = threading.Thread(target=self._watch, daemon=True)
            self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.device:
            self.mib = (torch.cuda.max_memory_allocated(self.device) - self.base) / 2**20
        else:
            self.done.set()
            self.thread.join()

    def _watch(self) -> None:
        while not self.done.wait(0.003):
            self.mib = max(self.mib, (self._held() - self.base) / 2**20)

    def _held(self) -> int:
        if self.device:
            return torch.cuda.memory_allocated(self.device)
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
        return 0


def score_table(lines: list[Line]) -> str:
    """A text table with a row for each line. `times ours`: its seconds divided by ours."""
    rows = []
    for line in lines:
        ours = next(one for one in lines if one.task == line.task)
        times = "" if line is ours else f"{line.seconds / ours.seconds:.2f}"
        rows.append((line.task, line.by, f"{line.seconds:.3g}", times,
                     f"{line.memory_mib:.0f}", f"{line.value:.9g}"))  # fmt: skip
    names = "task", "by", "seconds", "times ours", "MiB", "found"
    return tabulate(rows, names, disable_numparse=True)
