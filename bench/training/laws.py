"""The law of noise levels in training: sigma(t) for a uniform time t in [0, 1].

Every `Schedule` is such a law. `OnlineConstantRate` is estimated while the network trains.
"""

import json
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from bench.measures import mix, of_schedule
from bench.process import Process
from bench.schedules import ConstantRate, Coordinate, Native
from bench.types import CostMeasure, Measure, Model, NoiseProcess, Rate, Schedule, rate_between

_LAW = 4097  # nodes of sigma(t); between them log sigma is linear in t


def noise_law(schedule: Schedule, process: Process) -> Tensor:
    """Tabulate a law.

    Returns:
        log sigma(t) at equally spaced t from 0 (noise) to 1 (data), float64 [nodes].

    Raises:
        ValueError: two nodes have one level, so that the law has no density.
    """
    law = torch.log(schedule(_LAW, process)[:-1])
    if not bool((law.diff() < 0).all()):
        raise ValueError(
            f"{schedule!r} is no law of noise levels: with {_LAW} levels, some are equal"
        )
    return law


def draw_sigmas(law: Tensor, n: int, generator: torch.Generator) -> Tensor:
    """Draw noise levels at stratified uniform times.

    Arguments:
        law: table of `noise_law`, float64 [nodes].
        n: number of noise levels.

    Returns:
        sigma, float32 [n, 1, 1, 1], on the device of the law.
    """
    offset = torch.rand(n, generator=generator, device=law.device)
    t = (torch.arange(n, device=law.device) + offset) / n * (len(law) - 1)
    low = t.floor().clamp(max=len(law) - 2)
    weight = (t - low).to(law.dtype)
    node = low.long()
    return (law[node].lerp(law[node + 1], weight)).exp().float()[:, None, None, None]


def law_density(law: Tensor, sigma: Tensor) -> Tensor:
    """The density of `draw_sigmas` per unit of log sigma: |dt / dlog sigma|.

    Arguments:
        law: table of `noise_law`, float64 [nodes].
        sigma: noise levels of any shape. A level beyond an end of the law counts as that end.

    Returns:
        float32, the shape of sigma. The integral over log sigma is 1.
    """
    right = torch.searchsorted(-law, -sigma.to(law.dtype).log()).clamp(1, len(law) - 1)
    return (1 / ((len(law) - 1) * (law[right - 1] - law[right]))).float()


@dataclass(frozen=True)
class Clock:
    """A table that converts sigma to the network's timestep on the device.

    `process.timestep` computes on the CPU, so the CPU would have to wait for the GPU.

    nodes: log sigma, float64 [k], increasing.
    steps: timesteps at the nodes, float64 [k].
    """

    nodes: Tensor
    steps: Tensor

    def __call__(self, sigma: Tensor) -> Tensor:
        """sigma, float32 [n, 1, 1, 1] -> timesteps, float32 [n]."""
        log_sigma = sigma.flatten().to(self.nodes.dtype).log()
        right = torch.searchsorted(self.nodes, log_sigma).clamp(1, len(self.nodes) - 1)
        low, high = self.nodes[right - 1], self.nodes[right]
        weight = ((log_sigma - low) / (high - low)).clamp(0, 1)
        return self.steps[right - 1].lerp(self.steps[right], weight).float()


def clock(process: Process, device: str) -> Clock:
    """The table for the whole range of a process."""
    ends = torch.tensor([process.sigma_min, process.sigma_max], dtype=torch.float64).log()
    nodes = torch.linspace(float(ends[0]), float(ends[1]), 4 * _LAW, dtype=torch.float64)
    return Clock(nodes.to(device), process.timestep(nodes.exp()).to(device))


@dataclass(frozen=True)
class OnlineConstantRate(Schedule):
    """A constant-rate law that is estimated while the network trains (arXiv 2411.12188).

    The range of log sigma is cut into equal bins. A probe predicts training images at both edges of
    each bin, with the same x0 and eps. The mean squared change of the prediction enters an
    exponential moving average, which is corrected for its start. After the warm-up the law is
    `ConstantRate(rate, xi, coordinate)` of that average. Called as a schedule, it gives `start`.

    measure: v_x, the change of the predicted image, or v_eps, the change of the predicted noise. Or
        a `Measure`, which a probe calls with the network in training, `images` training images and
        the edges of the bins.
    xi, coordinate: those of `ConstantRate`.
    mixed: a fixed rate that is mixed with the estimate (`measures.mix`), or a schedule, which
        stands for its own rate: `Cosine()` is v_cos. None: the estimate alone.
    share: weight of the estimate in the mix, within 0 .. 1. The rest is that of `mixed`.
    start: the law during the warm-up.
    warmup: step of the first update of the law.
    every: steps between two updates.
    probe: steps between two probes.
    images: training images in a probe.
    bins: number of bins.
    decay: decay of the average, for each probe.
    """

    measure: Literal["v_x", "v_eps"] | Measure = "v_x"
    xi: float = 1.0
    coordinate: Coordinate = "alpha"
    start: Schedule = field(default_factory=Native)
    warmup: int = 1000
    every: int = 250
    probe: int = 16
    images: int = 512
    bins: int = 64
    decay: float = 0.98
    mixed: Rate | Schedule | None = None
    share: float = 0.5

    def __post_init__(self) -> None:
        own = isinstance(self.measure, Measure) and not isinstance(self.measure, CostMeasure)
        if not own and self.measure not in ("v_x", "v_eps"):
            raise ValueError(f"unknown online measure {self.measure!r}; known: v_x, v_eps, or a "
                             "bench.Measure that gives a rate")  # fmt: skip
        estimated = isinstance(self.mixed, OnlineConstantRate)
        if estimated or not isinstance(self.mixed, Rate | Schedule | None):
            raise ValueError(f"mixed must be a rate or a schedule, not {self.mixed!r}")
        if not 0 < self.share < 1:
            raise ValueError(f"share must lie between 0 and 1, not {self.share}")
        if not 0 < self.decay < 1:
            raise ValueError(f"decay must lie between 0 and 1, not {self.decay}")
        if self.bins < 4 or self.images < self.bins:
            raise ValueError(
                f"an online rate needs at least 4 bins and an image a bin, but bins is {self.bins} "
                f"and images is {self.images}"
            )
        if self.probe < 1 or self.every < 1 or self.warmup < self.probe:
            raise ValueError(
                f"probe ({self.probe}) and every ({self.every}) must be at least 1, and warmup "
                f"({self.warmup}) at least probe: a law needs a measured rate"
            )
        if not isinstance(self.start, Schedule) or isinstance(self.start, OnlineConstantRate):
            raise ValueError(f"start must be a schedule that is not estimated, not {self.start!r}")
        # ConstantRate checks xi and the coordinate now, not after the warm-up
        ConstantRate(Rate(self.name, *np.arange(1.0, 9.0).reshape(2, 4)), self.xi, self.coordinate)

    @property
    def name(self) -> str:
        """The name of the rate that is estimated."""
        return self.measure.name if isinstance(self.measure, Measure) else self.measure

    @property
    def measured(self) -> tuple[Rate, ...]:
        """The fixed rate in the mix."""
        return (self.mixed,) if isinstance(self.mixed, Rate) else ()

    def __call__(self, steps: int, process: NoiseProcess) -> Tensor:
        """The grid of `start`, before the first update."""
        return self.start(steps, process)

    def constant(self, rate: Rate, process: NoiseProcess) -> ConstantRate:
        """The constant-rate schedule of an estimated rate, mixed with the fixed one."""
        fixed = of_schedule(self.mixed, process) if isinstance(self.mixed, Schedule) else self.mixed
        if fixed is not None:
            rate = mix({rate: self.share, fixed: 1 - self.share})
        return ConstantRate(rate, self.xi, self.coordinate)


class Law:
    """The table of the current law, on a device. Only an online law changes it."""

    def __init__(self, law: Schedule, process: Process, device: str, seed: int):
        self.process, self.device = process, device
        self.online = law if isinstance(law, OnlineConstantRate) else None
        self.spec = law.spec()
        self.table = noise_law(law, process).to(device)
        self.history: list[tuple[int, list[float]]] = []  # of each update: step, v of each bin
        bins = self.online.bins if self.online else 1
        ends = torch.tensor([process.sigma_min, process.sigma_max], dtype=torch.float64).log()
        self.edges = torch.linspace(
            float(ends[0]), float(ends[1]), bins + 1, dtype=ends.dtype
        ).exp()
        self.mean = torch.zeros(bins, dtype=torch.float64, device=device)
        self.probes = 0
        # A generator of its own: the law does not change which images and noise training draws.
        self.generator = torch.Generator(device).manual_seed(2**31 + seed)
        if self.online:  # a fixed rate that does not fit is refused now, not after the warm-up
            self._law(torch.ones(bins, dtype=torch.float64))

    def density(self, sigma: Tensor) -> Tensor:
        """The density of the current law per unit of log sigma; see `law_density`."""
        return law_density(self.table, sigma)

    def wants_probe(self, step: int) -> bool:
        """Whether a probe follows this step."""
        return self.online is not None and step % self.online.probe == 0

    def probe(self, predict: Any, images: Tensor) -> None:
        """Measure v_x or v_eps in every bin once.

        Arguments:
            predict: (x0, eps, sigma) -> (predicted x0, x = x0 + sigma eps), clipped as in sampling.
            images: all training images, float [N, c, h, w], on the device.
        """
        assert self.online is not None
        n, bins = self.online.images, self.online.bins
        pick = torch.randint(len(images), (n,), generator=self.generator, device=self.device)
        x0 = images[pick]
        eps = torch.randn(x0.shape, generator=self.generator, device=self.device)
        which = torch.arange(n, device=self.device) % bins
        edges = self.edges.to(self.device, torch.float32)
        sigma = torch.cat([edges[which], edges[which + 1]])[:, None, None, None]  # [2 n, 1, 1, 1]
        found, x = predict(torch.cat([x0, x0]), torch.cat([eps, eps]), sigma)
        if self.online.measure == "v_eps":
            found = (x - found) / sigma
        change = (found[n:] - found[:n]).double().square().mean((1, 2, 3))  # [n]
        total = torch.zeros_like(self.mean).index_add_(0, which, change)
        self._enter(total / torch.bincount(which, minlength=bins))

    def measure(self, model: Model, images: Tensor) -> None:
        """Call the user's measure once.

        Arguments:
            model: the network in training.
            images: all training images, uint8 [N, c, h, w].

        Raises:
            ValueError: what the measure refuses; a measure that gives no rate.
        """
        assert self.online is not None and isinstance(self.online.measure, Measure)
        pick = torch.randint(len(images), (self.online.images,), generator=self.generator,
                             device=self.device)  # fmt: skip
        given = images[pick.to(images.device)]
        rate = self.online.measure(model, given.split(256), self.edges)
        if not isinstance(rate, Rate):
            raise ValueError(f"{self.online.measure!r} gave {type(rate).__name__}, not a rate")
        middle = (self.edges[1:] * self.edges[:-1]).sqrt().log()
        at = np.isfinite(rate.v)
        level, log_v = (np.log(part[at]) for part in (rate.sigma, np.maximum(rate.v, 1e-300)))
        v = torch.as_tensor(np.exp(np.interp(middle.numpy(), level, log_v)))
        self._enter((v * self.edges.diff()).square().to(self.device))

    def _enter(self, square: Tensor) -> None:
        """Add the squared change across each bin, float64 [bins], to the average."""
        assert self.online is not None
        self.mean.lerp_(square, 1 - self.online.decay)
        self.probes += 1

    def wants_update(self, step: int) -> bool:
        """Whether an update of the law follows this step."""
        online = self.online
        return (
            online is not None
            and step >= online.warmup
            and (step - online.warmup) % online.every == 0
        )

    def update(self, step: int) -> None:
        """Replace the law by that of the current rate, and add the rate to the history.

        Raises:
            FloatingPointError: the rate is not finite, or 0 everywhere.
        """
        assert self.online is not None
        bias = 1 - self.online.decay**self.probes
        v = (self.mean.cpu() / bias).sqrt() / self.edges.diff()
        if not bool(torch.isfinite(v).all() and (v > 0).any()):
            raise FloatingPointError(
                f"training diverged before step {step}: the online rate is not finite, or 0 in all "
                "bins; lower --rate"
            )
        self.history.append((step, v.tolist()))
        self._follow(v)

    def _follow(self, v: Tensor) -> None:
        self.table.copy_(self._law(v))

    def _law(self, v: Tensor) -> Tensor:
        assert self.online is not None
        return noise_law(self.online.constant(self._rate(v), self.process), self.process)

    def _rate(self, v: Tensor) -> Rate:
        assert self.online is not None
        return rate_between(self.online.name, self.edges, v)

    def final(self) -> Rate | None:
        """The rate of the last update. None: the law is fixed, or the warm-up has not ended."""
        if self.online is None or not self.history:
            return None
        step, v = self.history[-1]
        rate = self._rate(torch.tensor(v, dtype=torch.float64))
        provenance = {
            "measure": repr(self.online), "training_steps": step, "levels": len(self.edges),
            "images": self.online.images * (step // self.online.probe),
        }  # fmt: skip
        return Rate(f"{rate.name}_online", rate.sigma, rate.v, provenance)

    def state(self) -> dict[str, Any]:
        """Everything that `load` restores."""
        return {"mean": self.mean, "probes": self.probes, "history": self.history,
                "generator": self.generator.get_state(), "spec": json.dumps(self.spec)}  # fmt: skip

    def load(self, state: dict[str, Any]) -> None:
        """Restore a state. ValueError: it is that of another law, such as one of another rate."""
        if state["spec"] != json.dumps(self.spec):
            raise ValueError(
                "the state is that of a law with another rate; delete state.pt to start again"
            )
        self.mean.copy_(state["mean"])
        self.probes = state["probes"]
        self.history = [(step, v) for step, v in state["history"]]
        self.generator.set_state(state["generator"].cpu())
        if self.history:
            self._follow(torch.tensor(self.history[-1][1], dtype=torch.float64))
