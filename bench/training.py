"""Trains a denoiser under any schedule: the schedule is the law of noise levels, sigma(t), t ~ U.

Loss: mean squared error of what the network predicts (`process.target`), unweighted. Its state is
saved whole every minute and at the end, so a run may be stopped and started at any moment and
several runs add up. The exported weights are the exponential moving average.
"""

import platform
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from bench import checkpoints, data
from bench import process as processes
from bench.checkpoints.card import Card, Data, VECard, VPCard
from bench.process import VE, Process
from bench.schedules import Native
from bench.types import Schedule

_LAW = 4097  # nodes of sigma(t); between them log sigma is linear in t


@dataclass(frozen=True)
class Recipe:
    """How a checkpoint is trained. Either `steps` or `minutes` (of all runs together) ends it."""

    name: str
    network: dict[str, Any]
    process: VPCard | VECard = field(
        default_factory=lambda: VPCard(
            kind="vp", betas="cosine", timesteps=1000, sigma_min=0.01, sigma_max=80
        )
    )
    prediction: processes.Prediction = "v"
    law: Schedule = field(default_factory=Native)
    steps: int = 0
    minutes: float = 0.0
    batch: int = 512
    rate: float = 1e-3  # learning rate at its highest
    decay: float = 0.5  # last share of training, over which it falls to 0 (cosine)
    warmup: int = 300  # steps
    ema: float = 0.9995
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.steps, self.minutes) < 0 or bool(self.steps) == bool(self.minutes):
            raise ValueError("give either steps or minutes, above 0, to say when training ends")


def unet(channels: tuple[int, ...], layers: int, size: int = 28) -> dict[str, Any]:
    """Arguments of a diffusers `UNet2DModel` with attention at its lowest resolution."""
    deep = len(channels) - 1
    return {
        "sample_size": size,
        "in_channels": 1,
        "out_channels": 1,
        "block_out_channels": list(channels),
        "layers_per_block": layers,
        "down_block_types": ["DownBlock2D"] * deep + ["AttnDownBlock2D"],
        "up_block_types": ["AttnUpBlock2D"] + ["UpBlock2D"] * deep,
        "norm_num_groups": 8,
        "attention_head_dim": min(32, channels[-1]),
    }


def noise_law(schedule: Schedule, process: Process) -> Tensor:
    """log sigma(t) at equal t from 0 (noise) to 1 (data): float64 [nodes]."""
    return torch.log(schedule(_LAW, process)[:-1])


def draw_sigmas(law: Tensor, n: int, generator: torch.Generator) -> Tensor:
    """sigma(t) float32 [n, 1, 1, 1] for stratified uniform t, on the law's device."""
    offset = torch.rand(n, generator=generator, device=law.device)
    t = (torch.arange(n, device=law.device) + offset) / n * (len(law) - 1)
    low = t.floor().clamp(max=len(law) - 2)
    weight = (t - low).to(law.dtype)
    node = low.long()
    return (law[node].lerp(law[node + 1], weight)).exp().float()[:, None, None, None]


@dataclass(frozen=True)
class Clock:
    """The network's timestep of any sigma, in tensor operations: a table over log sigma.

    A device is never waited for, as `process.timestep` would.
    """

    nodes: Tensor  # log sigma, float64, increasing
    steps: Tensor  # timesteps there, float64

    def __call__(self, sigma: Tensor) -> Tensor:  # float32 [n, 1, 1, 1] -> float32 [n]
        log_sigma = sigma.flatten().to(self.nodes.dtype).log()
        right = torch.searchsorted(self.nodes, log_sigma).clamp(1, len(self.nodes) - 1)
        low, high = self.nodes[right - 1], self.nodes[right]
        weight = ((log_sigma - low) / (high - low)).clamp(0, 1)
        return self.steps[right - 1].lerp(self.steps[right], weight).float()


def clock(process: Process, device: str) -> Clock:
    """The table for all of a process's range."""
    ends = torch.tensor([process.sigma_min, process.sigma_max], dtype=torch.float64).log()
    nodes = torch.linspace(float(ends[0]), float(ends[1]), 4 * _LAW, dtype=torch.float64)
    return Clock(nodes.to(device), process.timestep(nodes.exp()).to(device))


class _Loss(nn.Module):
    """One batch's loss: a module, so that `torch.compile` takes it whole."""

    def __init__(self, net: nn.Module, prediction: processes.Prediction, process: Process):
        super().__init__()
        self.net, self.prediction, self.process = net, prediction, process

    def forward(self, x0: Tensor, eps: Tensor, sigma: Tensor, timestep: Tensor) -> Tensor:
        sigma_data = self.process.sigma_data if isinstance(self.process, VE) else 1.0
        want = processes.target(self.prediction, x0, eps, sigma, sigma_data)
        x = ((x0 + sigma * eps) * self.process.scale(sigma)).contiguous(
            memory_format=torch.channels_last
        )
        kind = x.device.type
        with torch.autocast(kind, torch.bfloat16, enabled=kind == "cuda"):
            output = self.net(x, timestep).sample
        return (output.float() - want).square().mean()


class _Run:
    """Everything that training changes, with saving and loading of all of it."""

    def __init__(self, recipe: Recipe, device: str):
        torch.manual_seed(recipe.seed)
        self.recipe, self.device = recipe, device
        self.net = checkpoints.network(recipe.network).to(device)
        self.net = self.net.to(memory_format=torch.channels_last)
        self.parameters = list(self.net.parameters())
        self.ema = [p.detach().clone() for p in self.parameters]
        self.optimizer = torch.optim.AdamW(
            self.parameters,
            lr=recipe.rate,
            betas=(0.9, 0.99),
            weight_decay=0.01,
            fused=device.startswith("cuda"),
        )
        self.generator = torch.Generator(device).manual_seed(recipe.seed)
        self.step, self.elapsed = 0, 0.0

    def state(self) -> dict[str, Any]:
        return {
            "net": self.net.state_dict(), "ema": self.ema,
            "optimizer": self.optimizer.state_dict(), "generator": self.generator.get_state(),
            "rng": torch.get_rng_state(), "step": self.step, "elapsed": self.elapsed,
            "recipe": repr(self.recipe),
        }  # fmt: skip

    def save(self, path: Path) -> None:
        """Write all of it, whole; refuses weights that are not finite, so the last good stays."""
        if not all(bool(torch.isfinite(p).all()) for p in self.ema):
            raise FloatingPointError(
                f"training diverged before step {self.step}: lower --rate; {path} is still good"
            )
        temporary = path.with_suffix(".tmp")
        torch.save(self.state(), temporary)
        temporary.replace(path)

    def load(self, path: Path) -> None:
        state = torch.load(path, map_location=self.device, weights_only=True)
        if state["recipe"] != repr(self.recipe):
            raise ValueError(
                f"{path} is the state of another recipe; repeat the options it was started with, "
                "or delete it to start anew"
            )
        self.net.load_state_dict(state["net"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.generator.set_state(state["generator"].cpu())
        torch.set_rng_state(state["rng"].cpu())
        torch._foreach_copy_(self.ema, state["ema"])
        self.step, self.elapsed = state["step"], state["elapsed"]

    def progress(self) -> float:
        """Share of training done, 0 .. 1."""
        if self.recipe.steps:
            return self.step / self.recipe.steps
        return self.elapsed / (60 * self.recipe.minutes)

    def learning_rate(self) -> float:
        """Linear warm-up, constant, then cosine to 0 over the last `decay` of training."""
        recipe = self.recipe
        fall = max(0.0, (self.progress() - 1 + recipe.decay) / recipe.decay)
        warm = min(1.0, (self.step + 1) / recipe.warmup)
        return recipe.rate * warm * (1 + float(np.cos(np.pi * min(1.0, fall)))) / 2

    def update(self, loss: Tensor) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate()
        loss.backward()
        nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        decay = min(self.recipe.ema, (1 + self.step) / (10 + self.step))
        torch._foreach_lerp_(self.ema, [p.detach() for p in self.parameters], 1 - decay)
        self.step += 1


def train(recipe: Recipe, dataset: data.FashionMNIST, out: Path, device: str = "cpu") -> Card:
    """Train (or go on training) the model folder `out`; returns the card of what was written.

    Writes `state.pt` every minute, then `model.safetensors` (EMA, fp16) and `card.json`.
    ValueError: missing data, a state of another recipe. FloatingPointError: the loss became NaN.
    """
    images = dataset.images()
    process = recipe.process.build()
    law = noise_law(recipe.law, process).to(device)
    run = _Run(recipe, device)
    out.mkdir(parents=True, exist_ok=True)
    if (out / "state.pt").is_file():
        run.load(out / "state.pt")
    loss_of: Any = _Loss(run.net, recipe.prediction, process)
    if device.startswith("cuda"):
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
        loss_of = torch.compile(loss_of, dynamic=False)
    x = (images.float() / 127.5 - 1).to(device)
    for batch in _steps(run, x, law, clock(process, device), out):
        run.update(loss_of(*batch))
    run.save(out / "state.pt")
    card = _card(run, dataset, images)
    names = [name for name, _ in run.net.named_parameters()]
    return checkpoints.save(out, card, dict(zip(names, run.ema, strict=True)))


def _steps(
    run: _Run, images: Tensor, law: Tensor, timestep: Clock, out: Path
) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """Batches (x0, eps, sigma, timestep) until training is done; keeps time, log and state."""
    bar = tqdm(total=100, unit="%", disable=None, desc=f"train {run.recipe.name}")
    size, saved = run.recipe.batch, time.monotonic()
    begin = last = time.monotonic()
    while run.progress() < 1:
        pick = torch.randint(len(images), (size,), generator=run.generator, device=images.device)
        x0 = images[pick]
        eps = torch.randn(x0.shape, generator=run.generator, device=x0.device)
        sigma = draw_sigmas(law, size, run.generator)
        yield x0, eps, sigma, timestep(sigma)
        if run.step % 20 == 1 and run.ema[0].isnan().any():  # waits for the device, only here
            raise FloatingPointError(f"training diverged at step {run.step}: lower --rate")
        now = time.monotonic()
        if run.step > 1:  # the first step compiles; minutes are minutes of training
            run.elapsed += now - last
        last = now
        bar.n = int(100 * min(1.0, run.progress()))
        bar.set_postfix_str(f"step {run.step}, {run.step / (now - begin):.1f}/s", refresh=False)
        bar.update(0)
        if now - saved > 60:
            run.save(out / "state.pt")
            saved = now
    bar.close()


def _card(run: _Run, dataset: data.FashionMNIST, images: Tensor) -> Card:
    recipe = run.recipe
    kept = asdict(recipe) | {"law": repr(recipe.law), "process": None, "network": None}
    device = torch.cuda.get_device_name() if run.device.startswith("cuda") else platform.machine()
    record = {key: value for key, value in kept.items() if value is not None} | {
        "optimizer": "AdamW(betas=(0.9, 0.99), weight_decay=0.01), gradient norm clipped at 1",
        "loss": f"mean squared error of {recipe.prediction}, unweighted",
        "steps": run.step, "seconds": round(run.elapsed, 1), "device": device,
        "versions": {"torch": torch.__version__, "python": platform.python_version()},
    }  # fmt: skip
    return Card(
        name=recipe.name, network=recipe.network, process=recipe.process,
        prediction=recipe.prediction, training=record, weights_sha256="",
        data=Data(name=dataset.name, digest=data.digest(images), licence="MIT"),
    )  # fmt: skip
