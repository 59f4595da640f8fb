"""Seconds and memory of metrics and of an extractor: ours, and the peers' own functions.

All on one machine, in one process and in turns. A peer that is not installed has no line.
"""

import ctypes
import importlib.util
import re
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tabulate import tabulate
from torch import Tensor, nn

Work = Callable[[], Any]  # what it returns tells what it found
OURS = "crs-bench"


@dataclass(frozen=True)
class Sizes:
    """How much there is to do. ValueError: too little to do it with."""

    images: int = 64  # for the network
    pixels: int = 256  # height and width of an image
    bank: int = 10_000  # features in either set of neighbours
    dim: int = 2048
    repeats: int = 3

    def __post_init__(self) -> None:
        least = {"images": 4, "pixels": 2, "bank": 8, "dim": 1, "repeats": 1}
        for name, low in least.items():
            if (value := getattr(self, name)) < low:
                raise ValueError(f"--{name} must be at least {low}, not {value}")


@dataclass(frozen=True)
class Line:
    """What one tool took for one part: the best of all turns, and the memory of the first."""

    part: str
    by: str
    seconds: float
    megabytes: float | None  # beyond what was there before; None where it cannot be told
    value: float  # what it found: tools that agree find the same
    ratio: float | None = None  # its seconds over ours; None for ours


def _installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def _features(n: int, dim: int, seed: int) -> Tensor:
    """Float32 [n, dim]: not negative and of falling variance, as pooled features are."""
    draw = torch.randn(n, dim, generator=torch.Generator().manual_seed(seed))
    return draw.relu() * torch.logspace(0, -1.5, dim)


def frechet(sizes: Sizes, device: str, folder: Path) -> dict[str, Work]:
    """The distance of two sets of moments, on the CPU whatever the device."""
    from scipy.linalg import sqrtm

    from bench.metrics import frechet_distance
    from bench.metrics.banks import Rows

    sets = [Rows(_features(2 * sizes.dim + 2, sizes.dim, seed)) for seed in (0, 1)]
    (mu1, cov1), (mu2, cov2) = ((x.mean.numpy(), x.cov.numpy()) for x in sets)

    def formula() -> float:
        root = float(np.trace(np.real(sqrtm(cov1 @ cov2))))
        return float(np.square(mu1 - mu2).sum() + np.trace(cov1) + np.trace(cov2) - 2 * root)

    found: dict[str, Work] = {
        OURS: lambda: frechet_distance(mu1, cov1, mu2, cov2),
        "scipy sqrtm, pytorch-fid's formula": formula,
    }
    if _installed("torch_fidelity"):
        from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_statistics_to_metric

        one, two = {"mu": mu1, "sigma": cov1}, {"mu": mu2, "sigma": cov2}
        found["torch-fidelity"] = lambda: fid_statistics_to_metric(one, two, False)[KEY_METRIC_FID]
    if _installed("cleanfid"):
        from cleanfid import fid

        found["clean-fid"] = lambda: float(fid.frechet_distance(mu1, cov1, mu2, cov2))
    return found


def neighbours(sizes: Sizes, device: str, folder: Path) -> dict[str, Work]:
    """Precision and recall, k = 3, of two banks on the device: their sum."""
    from bench.metrics import precision_recall

    fake, real = (_features(sizes.bank, sizes.dim, seed).to(device) for seed in (0, 1))
    found: dict[str, Work] = {OURS: lambda: sum(precision_recall(fake=fake, real=real))}
    if _installed("torch_fidelity"):
        from torch_fidelity.metric_prc import calculate_precision_recall_full as theirs

        found["torch-fidelity"] = lambda: sum(theirs(fake, real))
    return found


def inception(sizes: Sizes, device: str, folder: Path) -> dict[str, Work]:
    """Features of uint8 images on the device through weights of random values: the Frechet distance
    of the first half of the images and the second, which is not in the time."""
    if not _installed("torch_fidelity"):
        return {}  # its classes are how ours knows the layers
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    from bench.features import InceptionV3Compat, InceptionV3CompatHalf

    path = str(untrained_inception(folder / "untrained.pth"))
    images = _pictures(sizes).to(device)
    network = FeatureExtractorInceptionV3(
        "inception-v3-compat", ["2048"], feature_extractor_weights_path=path
    ).to(device)
    batches = images.split(16 if device == "cpu" else 256)
    ours, half = InceptionV3Compat(path, device), InceptionV3CompatHalf(path, device)
    return {
        OURS: lambda: ours(images),
        f"{OURS}, {half.name}": lambda: half(images),
        "torch-fidelity": torch.no_grad()(lambda: torch.cat([network(x)[0] for x in batches])),
    }


PARTS = {part.__name__: part for part in (frechet, neighbours, inception)}


def _pictures(sizes: Sizes) -> Tensor:
    """Seeded images, each smooth and of its own contrast: uint8 [n, 3, pixels, pixels]."""
    draw = torch.Generator().manual_seed(0)
    coarse = torch.rand(sizes.images, 3, 6, 6, generator=draw)
    coarse = coarse * 255 * torch.rand(sizes.images, 1, 1, 1, generator=draw)
    shape = (sizes.pixels, sizes.pixels)
    return torch.cat([nn.functional.interpolate(x, shape, mode="bilinear").byte()
                      for x in coarse.split(64)])  # fmt: skip


def untrained_inception(path: Path) -> Path:
    """Weights of seeded random values in torch-fidelity's file format, and its path."""
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    class Untrained(FeatureExtractorInceptionV3):
        def load_state_dict(self, *_: Any, **__: Any) -> Any:
            """Leaves them as they are."""

    torch.save({}, path)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = Untrained("inception-v3-compat", ["2048"], feature_extractor_weights_path=str(path))
        for module in net.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)
    torch.save(net.state_dict(), path)
    return path


def measure(part: str, sizes: Sizes, device: str, folder: Path) -> list[Line]:
    """Every tool that is here, in turns. folder: for weights. ValueError: an unknown part."""
    from bench.names import nearest

    if part not in PARTS:
        raise ValueError(f"no part {part!r}{nearest(part, PARTS)}")
    works = PARTS[part](sizes, device, folder)
    memory = {by: _memory(work, device) for by, work in works.items()}
    best = dict.fromkeys(works, float("inf"))
    for _ in range(sizes.repeats):
        for by, work in works.items():
            best[by] = min(best[by], _seconds(work, device))
    return [
        Line(part, by, best[by], *memory[by], None if by == OURS else best[by] / best[OURS])
        for by in works
    ]


def _wait(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


def _seconds(work: Work, device: str) -> float:
    _wait(device)
    start = time.perf_counter()
    work()
    _wait(device)
    return time.perf_counter() - start


def _memory(work: Any, device: str) -> tuple[float | None, float]:
    """Megabytes at the peak of a first run, beyond those before it, and what it found."""
    gpu = device.startswith("cuda")
    if gpu:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        before: float | None = torch.cuda.memory_allocated(device) / 1e6
    else:
        before = _resident("VmRSS") if _reset_peak() else None
    found = work()
    peak = torch.cuda.max_memory_allocated(device) / 1e6 if gpu else _resident("VmHWM")
    return None if before is None or peak is None else peak - before, _value(found)


def _value(found: Any) -> float:
    if not isinstance(found, Tensor):
        return float(found)
    from bench.metrics import FrechetDistance
    from bench.metrics.banks import Rows

    one, two = found.cpu().tensor_split(2)
    return FrechetDistance()(fake=Rows(one), real=Rows(two))


def _reset_peak() -> bool:
    """Gives free memory back and starts the peak anew; false where the system does not do it."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
    except (OSError, AttributeError):
        return False
    return True


def _resident(what: str) -> float | None:
    """VmRSS or VmHWM of this process in megabytes."""
    found = re.search(rf"{what}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(found[1]) * 1024 / 1e6 if found else None


def content(sizes: Sizes, lines: list[Line]) -> dict[str, Any]:
    """What a comparison was and found, for JSON."""
    return {"sizes": asdict(sizes), "lines": [asdict(line) for line in lines]}


def table(lines: list[Line]) -> str:
    """One row a line; ratio is their seconds over ours."""
    rows = [
        (line.part, line.by, f"{line.seconds:.4g}",
         "" if line.megabytes is None else f"{line.megabytes:.0f}",
         f"{line.value:.10g}", "" if line.ratio is None else f"{line.ratio:.2f}")
        for line in lines
    ]  # fmt: skip
    names = "part", "by", "seconds", "MB", "finds", "over ours"
    return tabulate(rows, names, disable_numparse=True)
