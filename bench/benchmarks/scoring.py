"""Time and memory of our metrics and of other tools, in one process and on the same input.

A tool that is not installed is left out. The weights are random, because time does not depend on
them.
"""

import importlib.util
import tempfile
import threading
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.benchmarks.record import Reading, Work, in_turns
from bench.features import REFERENCES, Features, InceptionV3Compat
from bench.metrics import frechet_distance, precision_recall


@dataclass(frozen=True)
class _Task:
    """Works on the same input: ours by name, and those of other tools by name, with package."""

    device: str  # where the memory is read
    ours: dict[str, Work]
    theirs: dict[tuple[str, str], Work]
    images: int


def time_metrics(
    tasks: tuple[str, ...], device: str, images: int, dim: int, repeats: int, peers: bool = True
) -> list[Reading]:
    """Time tasks. The fastest run counts.

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
    found: list[Reading] = []
    with tempfile.TemporaryDirectory() as folder:
        for task in tasks:
            found += _read(known[task](device, images, dim, Path(folder)), repeats, peers)
    return found


def _read(task: _Task, repeats: int, peers: bool) -> list[Reading]:
    """Our works, each beside all peers."""
    ours = {name: _Watched(work, task.device) for name, work in task.ours.items()}
    theirs = {key: _Watched(work, task.device) for key, work in task.theirs.items() if peers}
    runs = in_turns([*ours.values(), *theirs.values()], repeats, task.device)
    best = [min(each) for each in runs]
    found = []
    for (name, work), seconds, each in zip(ours.items(), best, runs, strict=False):
        one = Reading(name, seconds, {"images": task.images, **work.found, "runs": each})
        for (peer, package), at in zip(theirs, range(len(ours), len(best)), strict=True):
            more = theirs[peer, package].found | {"runs": runs[at]}
            one = one.beside(peer, best[at], package, **more)
        found.append(one)
    return found


def features_like(n: int, dim: int, seed: int) -> Tensor:
    """Features like an extractor's, float32 [n, dim]: not negative, of low effective dimension."""
    generator = torch.Generator().manual_seed(0)
    mixing = torch.randn(64, dim, generator=generator) / 8
    generator.manual_seed(seed + 1)
    common = torch.randn(n, 64, generator=generator) @ mixing
    return (common + 0.3 * torch.randn(n, dim, generator=generator)).relu() + 0.02 * seed


def _frechet(device: str, n: int, dim: int, folder: Path) -> _Task:
    """The distance between given statistics, always on the CPU."""
    n = max(n, 2 * dim)
    a, b = (Features.of(features_like(n, dim, seed), 0) for seed in (0, 1))
    one, two = ((x.mean.numpy(), x.cov.numpy()) for x in (a, b))
    theirs: dict[tuple[str, str], Work] = {}
    if has("torch_fidelity"):
        from torch_fidelity.metric_fid import fid_statistics_to_metric

        stats = [{"mu": mu, "sigma": sigma} for mu, sigma in (one, two)]
        theirs["torch-fidelity", "torch-fidelity"] = lambda: fid_statistics_to_metric(
            *stats, False
        )["frechet_inception_distance"]
    if has("cleanfid"):
        from cleanfid.fid import frechet_distance as clean

        theirs["clean-fid", "clean-fid"] = lambda: clean(*one, *two)
    return _Task("cpu", {"frechet": lambda: frechet_distance(*one, *two)}, theirs, n)


def _neighbours(device: str, n: int, dim: int, folder: Path) -> _Task:
    fake, real = (features_like(n, dim, seed).to(device) for seed in (0, 1))
    theirs: dict[tuple[str, str], Work] = {}
    if has("torch_fidelity"):
        from torch_fidelity import metric_prc as prc

        for name, work in (
            ("torch-fidelity", prc.calculate_precision_recall_full),
            ("torch-fidelity, saving memory", prc.calculate_precision_recall_part),
        ):
            theirs[name, "torch-fidelity"] = lambda work=work: work(fake, real)[0]  # type: ignore[misc]
    # clones, because results for a bank are cached
    ours = {"neighbours": lambda: precision_recall(fake=fake.clone(), real=real.clone())[0]}
    return _Task(device, ours, theirs, n)


def _inception(device: str, n: int, dim: int, folder: Path) -> _Task:
    """Features of uint8 images [n, 3, 256, 256] in memory, from the test set of Fashion-MNIST.

    The second half has noise, so that the distance between the halves is realistic.
    """
    if not has("torch_fidelity"):
        raise ValueError("the task inception needs torch-fidelity: pip install torch-fidelity")
    count = n if device.startswith("cuda") else max(8, n // 20)
    images = _pictures(count).to(device)
    file = str(random_inception(folder / "inception.pth"))
    theirs = _theirs(file).to(device)
    ours = {"inception": InceptionV3Compat(file, device)}
    if device.startswith("cuda"):
        ours |= {f"inception, {p}": InceptionV3Compat(file, device, p)  # type: ignore[arg-type]
                 for p in ("tf32", "float16")}  # fmt: skip

    def peer() -> Tensor:
        with torch.no_grad():
            return torch.cat([theirs(x)[0] for x in images.split(64)])  # its own batch

    works: dict[str, Work] = {name: partial(one, images) for name, one in ours.items()}
    return _Task(device, works, {("torch-fidelity", "torch-fidelity"): peer}, count)


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


def _found(made: Any) -> float:
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


def has(name: str) -> bool:
    """Whether a package is installed."""
    return importlib.util.find_spec(name) is not None


class _Watched:
    """A work that keeps its result, and the most memory that a run took after the first."""

    def __init__(self, work: Work, device: str) -> None:
        self.work, self.device, self.made = work, device, None
        self.mib: list[float] = []

    def __call__(self) -> None:
        with _Peak(self.device if self.device.startswith("cuda") else "") as peak:
            self.made = self.work()
        self.mib.append(peak.mib)

    @property
    def found(self) -> dict[str, float]:
        """The result shows a fast but wrong tool. Memory is above that before the run."""
        return {"memory_mib": max(self.mib[1:]), "value": _found(self.made)}


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
