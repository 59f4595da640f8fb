"""The training loop of a denoiser.

The state is saved every minute and at the end, so a training can be interrupted and resumed. The
exported weights are the exponential moving average. The images stay on the device as bytes.
"""

import platform
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from bench import checkpoints, data
from bench import process as processes
from bench.checkpoints.card import Card, CodecCard, Data, VECard, VPCard
from bench.checkpoints.codecs import Codec, Pixels
from bench.features import full_float32
from bench.measures import path_of, save
from bench.process import VE, Process
from bench.schedules import Native
from bench.store import write_json
from bench.training.examples import Examples, kept
from bench.training.gallery import Gallery
from bench.training.journal import Session, compiled
from bench.training.laws import Clock, Law, OnlineConstantRate, clock, draw_sigmas
from bench.training.sizes import check_blocks, check_halving
from bench.training.state import Resumable
from bench.training.weighting import NoiseLaw, Unweighted, Weighting
from bench.types import Measure, Schedule


@dataclass(frozen=True)
class Recipe:
    """How to train a checkpoint. Set either `steps` or `minutes`, the totals over all runs.

    flip: train on the images and on their mirror images, each as often.
    """

    name: str
    network: dict[str, Any]
    process: VPCard | VECard = field(
        default_factory=lambda: VPCard(
            kind="vp", betas="cosine", timesteps=1000, sigma_min=0.01, sigma_max=80
        )
    )
    prediction: processes.Prediction = "v"
    law: Schedule = field(default_factory=Native)
    weighting: Weighting = field(default_factory=Unweighted)
    steps: int = 0
    minutes: float = 0.0
    batch: int = 512
    rate: float = 1e-3  # highest learning rate
    decay: float = 0.5  # last share of the training, where the learning rate falls to 0
    warmup: int = 300  # steps
    ema: float = 0.9995
    seed: int = 0
    flip: bool = False
    codec: CodecCard | None = None  # None: the model works on pixels

    def __post_init__(self) -> None:
        if min(self.steps, self.minutes) < 0 or bool(self.steps) == bool(self.minutes):
            raise ValueError("give either steps or minutes, above 0")
        for what, kind in ((self.law, Schedule), (self.weighting, Weighting)):
            if not isinstance(what, kind):
                raise ValueError(f"{what!r} is no {kind.__name__.lower()}")
        first = self.law.warmup if isinstance(self.law, OnlineConstantRate) else 0
        if 0 < self.steps < first:
            raise ValueError(f"the law is first estimated at step {first:,}, but the training has "
                             f"{self.steps:,}: give more --steps, or the law a lower warmup, as in "
                             "OnlineConstantRate(warmup=100)")  # fmt: skip


def unet(
    channels: tuple[int, ...],
    layers: int,
    size: int | tuple[int, int] = 28,
    state: int = 1,
    attention: int = 1,
) -> dict[str, Any]:
    """Arguments of a diffusers `UNet2DModel` with attention at its lowest resolutions.

    Arguments:
        channels: highest resolution first.
        layers: residual layers in each block.
        size, state: the model's state is [state, size, size]; or [state, height, width].
        attention: number of resolutions with attention, the lowest first. The middle of the network
            has attention always.

    Raises:
        ValueError: channels that are no multiples of 8, a size that cannot be halved so often, or
            a number of resolutions that there is not.
    """
    height, width = (size, size) if isinstance(size, int) else size
    deep = len(channels) - attention
    check_blocks(channels, layers)
    if not 0 <= attention <= len(channels):
        raise ValueError(f"attention must be 0 to {len(channels)} resolutions, not {attention}")
    check_halving("states", height, width, channels)
    return {
        "sample_size": height if height == width else [height, width],
        "in_channels": state,
        "out_channels": state,
        "block_out_channels": list(channels),
        "layers_per_block": layers,
        "down_block_types": ["DownBlock2D"] * deep + ["AttnDownBlock2D"] * attention,
        "up_block_types": ["AttnUpBlock2D"] * attention + ["UpBlock2D"] * deep,
        "norm_num_groups": 8,
        "attention_head_dim": min(32, channels[-1]),
    }


class _Loss(nn.Module):
    """The loss of a batch. It is a module, so that `torch.compile` compiles all of it."""

    def __init__(self, net: nn.Module, recipe: Recipe, process: Process):
        super().__init__()
        self.net, self.prediction, self.weighting = net, recipe.prediction, recipe.weighting
        self.scale, self.clip = process.scale, recipe.codec is None
        self.sigma_data = process.sigma_data if isinstance(process, VE) else 1.0

    def output(self, x: Tensor, sigma: Tensor, timestep: Tensor) -> Tensor:
        """The network's output for x = x0 + sigma eps, float32."""
        x = (x * self.scale(sigma)).contiguous(memory_format=torch.channels_last)
        return self.net(x, timestep).sample.float()

    def weight(self, sigma: Tensor, law: NoiseLaw) -> Tensor:
        """The weighting at each sigma, [n, 1, 1, 1]. It stays outside the compiled part."""
        gain = processes.error_gain(self.prediction, sigma, self.sigma_data)
        return self.weighting(sigma, gain, law)

    def forward(
        self, x0: Tensor, eps: Tensor, sigma: Tensor, timestep: Tensor, weight: Tensor
    ) -> Tensor:
        want = processes.target(self.prediction, x0, eps, sigma, self.sigma_data)
        kind = x0.device.type
        with torch.autocast(kind, torch.bfloat16, enabled=kind == "cuda"):
            output = self.output(x0 + sigma * eps, sigma, timestep)
        return (weight * (output - want).square()).mean()

    @torch.no_grad()
    def predict(self, x0: Tensor, eps: Tensor, sigma: Tensor, timestep: Tensor) -> tuple:
        """(predicted x0, clipped to the range of pixels; x), without dropout, as in sampling.

        It computes in float32. The change between neighbouring noise levels is smaller than the
        rounding error of bfloat16 and TF32.
        """
        x = x0 + sigma * eps
        self.net.eval()
        with full_float32():
            output = self.output(x, sigma, timestep)
        self.net.train()
        x0_hat = processes.denoised(self.prediction, output, x, sigma, self.sigma_data)
        return x0_hat.clamp(-1, 1) if self.clip else x0_hat, x


class _Run(Resumable):
    """A denoiser in training, and the law of its noise levels."""

    def __init__(self, recipe: Recipe, device: str, data: str = ""):
        torch.manual_seed(recipe.seed)
        super().__init__(recipe, checkpoints.network(recipe.network), device)
        self.data = data
        self.optimizer = torch.optim.AdamW(
            self.parameters,
            lr=recipe.rate,
            betas=(0.9, 0.99),
            weight_decay=0.01,
            fused=device.startswith("cuda"),
        )
        self.law = Law(recipe.law, recipe.process.build(), device, recipe.seed)

    def state(self) -> dict[str, Any]:
        return super().state() | {"rng": torch.get_rng_state(), "law": self.law.state()}

    def load(self, path: Path) -> dict[str, Any]:
        state = super().load(path)
        torch.set_rng_state(state["rng"].cpu())
        self.law.load(state["law"])
        return state

    def learning_rate(self) -> float:
        """Linear warm-up, then constant, then a cosine to 0 over the last share `decay`."""
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
        self.advance(loss)


def train(
    recipe: Recipe,
    dataset: data.Dataset,
    out: Path,
    device: str = "cpu",
    session: Session | None = None,
) -> Card:
    """Train the model in the folder `out`. An interrupted training resumes.

    Writes the state and `loss.csv` every minute. At the end, writes `model.safetensors` (moving
    average, float16) and `card.json`.

    Arguments:
        session: how it runs on this machine, and what it shows.

    Returns:
        The card of the model.

    Raises:
        ValueError: missing data, images of another shape than the model's, or a state of another
            recipe or of other images.
        FloatingPointError: the loss is not finite.
    """
    session = session or Session()
    images = dataset.images()
    _check_images(recipe, images)
    process, state = recipe.process.build(), session.state or out / "state.pt"
    run = _Run(recipe, device, data.digest(images))
    out.mkdir(parents=True, exist_ok=True)
    run.begin(state, out / "card.json", session.tensorboard)
    plain = _Loss(run.net, recipe, process)
    # CUDA graphs: without them, the launch of a thousand small kernels takes most of a step
    loss_of = compiled(plain, session.mode(device))
    timestep, x = clock(process, device), cast(Any, _states(recipe, images, out, device))
    card = _card(run, dataset, images, session)
    gallery = Gallery(card, out, device, session.samples)
    probe = _prober(run, plain, x, timestep, card, images, out)
    for batch in _steps(run, x, timestep, state, out / "loss.csv"):
        run.update(loss_of(*batch, plain.weight(batch[2], run.law)))
        if run.law.wants_probe(run.step):
            probe()
        if run.law.wants_update(run.step):
            run.law.update(run.step)
        if gallery.wants(run.step):
            run.board.picture(gallery.show(run.net, run.ema, run.step), run.step)
            run.rest()
    with run.end(state, out / "loss.csv"):
        return _export(run, _card(run, dataset, images, session), out)


def _prober(
    run: _Run, plain: _Loss, x: Any, timestep: Clock, card: Card, images: Tensor, out: Path
) -> Callable[[], None]:
    """What measures the rate of an online law once. A user's measure gets the network in training
    as a model; its weights are not the average."""
    online, recipe = run.law.online, run.recipe
    if online is None or not isinstance(online.measure, Measure):
        return lambda: run.law.probe(lambda x0, eps, s: plain.predict(x0, eps, s, timestep(s)), x)
    shape = checkpoints.find_family(card.family).shape(card)
    codec: Codec = Pixels(shape)
    if recipe.codec:
        codec = checkpoints.load_codec(out, recipe.codec, run.device, torch.float32)
    live = checkpoints.Checkpoint(
        card.name, "in training", recipe.process.build(), shape, run.device, card, run.net,
        torch.float32, codec,
    )  # fmt: skip

    def probe() -> None:
        run.net.eval()
        with full_float32():
            run.law.measure(live, images)
        run.net.train()

    return probe


def _check_images(recipe: Recipe, images: Tensor) -> None:
    """ValueError: the images are not those of the recipe's network or codec."""
    size = recipe.network["sample_size"]
    sides = (size, size) if isinstance(size, int) else tuple(size)
    want = recipe.codec.image if recipe.codec else (recipe.network["in_channels"], *sides)
    if tuple(images.shape[1:]) != want:
        what = "codec" if recipe.codec else "network"
        raise ValueError(f"the {what} takes images {list(want)}, but the data are "
                         f"{list(images.shape[1:])}: give another --size")  # fmt: skip


def _states(recipe: Recipe, images: Tensor, out: Path, device: str) -> Examples:
    """The model's states of uint8 images [n, c, h, w], with those of their mirror images."""
    if recipe.codec is None:
        return kept(images, device, recipe.flip)
    codec = checkpoints.load_codec(out, recipe.codec, device, torch.float32)
    ways = (images, images.flip(-1)) if recipe.flip else (images,)
    with full_float32():
        parts = [codec.encode(part.to(device)) for way in ways for part in way.split(512)]
    return Examples(torch.cat(parts), device)


def _export(run: _Run, card: Card, out: Path) -> Card:
    """Write weights and card. An online law also writes its history and its last rate."""
    names = [name for name, _ in run.net.named_parameters()]
    weights = dict(zip(names, run.ema, strict=True))
    if rate := run.law.final():
        save(path_of(out, rate.name), rate)
        write_json(out / "law.json", {
            "law": repr(run.recipe.law), "sigma": run.law.edges.tolist(),
            "steps": [step for step, _ in run.law.history], "v": [v for _, v in run.law.history],
        })  # fmt: skip
    elif run.law.online:
        print(f"warning: the training ended at step {run.step:,}, in the warm-up of its law. All "
              f"its steps were under {run.law.online.start!r}", file=sys.stderr)  # fmt: skip
    return checkpoints.save(out, card, weights)


def _steps(
    run: _Run, images: Examples, timestep: Clock, state: Path, losses: Path
) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """Batches (x0, eps, sigma, timestep) until the training is done."""
    size = run.recipe.batch
    for _ in run.turns(f"train {run.recipe.name}", state, losses):
        pick = torch.randint(len(images), (size,), generator=run.generator, device=run.device)
        x0 = images[pick]
        eps = torch.randn(x0.shape, generator=run.generator, device=x0.device)
        sigma = draw_sigmas(run.law.table, size, run.generator)
        torch.compiler.cudagraph_mark_step_begin()
        yield x0, eps, sigma, timestep(sigma)


def _plain(recipe: Recipe) -> dict[str, Any]:
    """The fields of the recipe; law and weighting as text."""
    written: dict[str, Any] = {"law": repr(recipe.law), "weighting": repr(recipe.weighting)}
    written |= {"law_spec": recipe.law.spec(), "weighting_spec": recipe.weighting.spec()}
    return {one.name: getattr(recipe, one.name) for one in fields(recipe)} | written


def _card(run: _Run, dataset: data.Dataset, images: Tensor, session: Session) -> Card:
    recipe = run.recipe
    kept = _plain(recipe) | {"process": None, "network": None, "codec": None}
    device = torch.cuda.get_device_name() if run.device.startswith("cuda") else platform.machine()
    record = {key: value for key, value in kept.items() if value is not None} | {
        "optimizer": "AdamW(betas=(0.9, 0.99), weight_decay=0.01), gradient norm clipped at 1",
        "loss": f"mean squared error of {recipe.prediction}, times the weighting",
        "parameters": sum(one.numel() for one in run.parameters),
        "steps": run.step, "seconds": round(run.elapsed, 1), "device": device,
        "compile": session.mode(run.device),
        "versions": {"torch": torch.__version__, "python": platform.python_version()},
    }  # fmt: skip
    about = Data(name=dataset.name, digest=run.data, licence=dataset.licence,
                 preparation=dataset.preparation, images=len(images))  # fmt: skip
    return Card(
        name=recipe.name, network=recipe.network, process=recipe.process,
        prediction=recipe.prediction, training=record, weights_sha256="", codec=recipe.codec,
        clip=recipe.codec is None, data=about,
    )  # fmt: skip
