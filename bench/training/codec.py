"""Train an autoencoder, the codec of latent models (Esser et al. 2021; Rombach et al. 2022).

The loss has a reconstruction error, a small KL divergence and a patch discriminator. It uses no
feature extractor, because feature extractors score the results. The state is saved every minute and
at the end. The exported weights are the exponential moving average.
"""

import platform
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench import data
from bench.checkpoints.card import CodecCard
from bench.checkpoints.codecs import autoencoder
from bench.checkpoints.weights import write_half
from bench.store import write_json
from bench.training.examples import Examples, kept
from bench.training.journal import Session, compiled
from bench.training.sizes import check_blocks, check_halving
from bench.training.state import Resumable


@dataclass(frozen=True)
class CodecRecipe:
    """How to train an autoencoder. Set either `steps` or `minutes`, the totals over all runs.

    flip: train on the images and on their mirror images, each as often.

    Loss: L1 + L2 + kl * KL + adversary * hinge loss of a patch discriminator. The hinge loss starts
    at the share `adversary_from` of the training.
    """

    name: str
    channels: tuple[int, ...]  # of the encoder, highest resolution first; the decoder reverses them
    latent_channels: int
    layers: int = 1
    steps: int = 0
    minutes: float = 0.0
    batch: int = 256
    rate: float = 1e-3  # learning rate at its highest
    kl: float = 1e-6
    adversary: float = 0.02
    adversary_from: float = 0.3
    ema: float = 0.999
    seed: int = 0
    flip: bool = False

    def __post_init__(self) -> None:
        if min(self.steps, self.minutes) < 0 or bool(self.steps) == bool(self.minutes):
            raise ValueError("give either steps or minutes, above 0")
        if not self.channels or self.latent_channels < 1:
            raise ValueError("an autoencoder needs channels and latent channels")
        check_blocks(self.channels, self.layers)

    def card(self, image: tuple[int, int, int]) -> CodecCard:
        """The codec's card before training. ValueError: the image cannot be halved so often."""
        c, h, w = image
        depth, cut = len(self.channels), check_halving("images", h, w, self.channels)
        if min(h, w) < 8 and self.adversary:
            raise ValueError(f"the discriminator takes images of 8 x 8 or more, not {h} x {w}: "
                             "give a larger --size, or --adversary 0")  # fmt: skip
        network = {
            "in_channels": c, "out_channels": c, "sample_size": h,
            "latent_channels": self.latent_channels, "layers_per_block": self.layers,
            "block_out_channels": list(self.channels), "norm_num_groups": 8,
            "down_block_types": ["DownEncoderBlock2D"] * depth,
            "up_block_types": ["UpDecoderBlock2D"] * depth,
        }  # fmt: skip
        state = (self.latent_channels, h // cut, w // cut)
        return CodecCard(
            kind="AutoencoderKL", network=network, image=image, state=state, weights_sha256=""
        )


def _critic(channels: int) -> nn.Module:
    """The patch discriminator: [n, channels, h, w] -> a logit for each patch of 22 x 22 pixels."""

    def stage(into: int, out: int, stride: int) -> list[nn.Module]:
        return [nn.Conv2d(into, out, 4, stride, 1), nn.GroupNorm(8, out), nn.LeakyReLU(0.2)]

    return nn.Sequential(
        nn.Conv2d(channels, 64, 4, 2, 1), nn.LeakyReLU(0.2), *stage(64, 128, 2),
        nn.Conv2d(128, 1, 4, 1, 1),
    )  # fmt: skip


class _Reconstruction(nn.Module):
    """x -> its reconstruction, and the loss L1 + L2 + kl * KL."""

    def __init__(self, net: Any, kl: float):
        super().__init__()
        self.net, self.kl = net, kl

    def forward(self, x: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        with torch.autocast(x.device.type, torch.bfloat16, enabled=x.device.type == "cuda"):
            found = self.net.encode(x).latent_dist
            back = self.net.decode(found.mean + found.std * noise).sample
        back, mean, log = back.float(), found.mean.float(), found.logvar.float()
        kl = (mean.square() + log.exp() - 1 - log).sum((1, 2, 3)).mean() / 2
        away = back - x
        return back, away.abs().mean() + away.square().mean() + self.kl * kl


class _Run(Resumable):
    """An autoencoder in training, and its discriminator."""

    parts = ("net", "critic", "optimizer", "critics")

    def __init__(self, recipe: CodecRecipe, image: tuple[int, int, int], device: str, data: str):
        torch.manual_seed(recipe.seed)
        super().__init__(recipe, autoencoder(recipe.card(image)), device)
        self.data = data
        self.critic = _critic(image[0]).to(device)
        fused = {"betas": (0.5, 0.99), "fused": device.startswith("cuda")}
        self.optimizer = torch.optim.Adam(self.parameters, recipe.rate, **fused)  # type: ignore
        self.critics = torch.optim.Adam(self.critic.parameters(), recipe.rate / 2, **fused)  # type: ignore

    def learning_rate(self) -> float:
        """Linear warm-up over 200 steps, times 1 less the square of the share that is done."""
        share, warm = min(1.0, self.progress()), min(1.0, (self.step + 1) / 200)
        return self.recipe.rate * warm * (1 - share**2)

    def update(self, back: Tensor, x: Tensor, loss: Tensor) -> None:
        """A step of the autoencoder and, after its start, of the discriminator."""
        share, shown = min(1.0, self.progress()), loss
        for group, part in ((self.optimizer, 1.0), (self.critics, 0.5)):
            group.param_groups[0]["lr"] = part * self.learning_rate()
        judged = self.recipe.adversary > 0 and share >= self.recipe.adversary_from
        if judged:
            self.critic.requires_grad_(False)
            loss = loss - self.recipe.adversary * self.critic(back).mean()
        loss.backward()
        nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if judged:
            self.critic.requires_grad_(True)
            real, fake = self.critic(torch.cat([x, back.detach()])).chunk(2)
            (F.relu(1 - real).mean() + F.relu(1 + fake).mean()).backward()
            self.critics.step()
            self.critics.zero_grad(set_to_none=True)
        self.advance(shown)


def train_codec(
    recipe: CodecRecipe,
    dataset: data.Dataset,
    out: Path,
    device: str = "cpu",
    session: Session | None = None,
) -> CodecCard:
    """Train the codec in the folder `out`. An interrupted training resumes.

    Writes `codec-state.pt` and `codec-loss.csv` every minute. At the end, writes
    `codec.safetensors` (moving average, float16) and `codec.json`.

    Arguments:
        session: how it runs on this machine, and what it shows; no samples.

    Returns:
        The card of the codec.

    Raises:
        ValueError: missing data, a state of another recipe or of other images, or an image size
            that cannot be halved so often.
        FloatingPointError: the loss is not finite.
    """
    session, images = session or Session(), dataset.images()
    image = (int(images.shape[1]), int(images.shape[2]), int(images.shape[3]))
    run = _Run(recipe, image, device, data.digest(images))
    state, losses = session.state or out / "codec-state.pt", out / "codec-loss.csv"
    out.mkdir(parents=True, exist_ok=True)
    run.begin(state, out / "codec.json", session.tensorboard)
    mode = session.mode(device, "default")
    reconstruct = compiled(_Reconstruction(run.net, recipe.kl), mode)
    x = kept(images, device, recipe.flip)
    for batch, noise in _steps(run, x, recipe.card(image).state, state, losses):
        back, loss = reconstruct(batch, noise)
        run.update(back, batch, loss)
    with run.end(state, losses):
        return _export(run, recipe.card(image), x, dataset, out)


def _steps(
    run: _Run, images: Examples, shape: tuple[int, ...], state: Path, losses: Path
) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches until the training is done: images x, and noise for their latents."""
    size, device = run.recipe.batch, run.device
    for _ in run.turns(f"train the codec of {run.recipe.name}", state, losses):
        pick = torch.randint(len(images), (size,), generator=run.generator, device=device)
        x = images[pick].contiguous(memory_format=torch.channels_last)
        torch.compiler.cudagraph_mark_step_begin()
        yield x, torch.randn((size, *shape), generator=run.generator, device=device)


@torch.inference_mode()
def _export(run: _Run, card: CodecCard, x: Examples, dataset: data.Dataset, out: Path) -> CodecCard:
    """Write weights and card. Scale and shift give the latents mean 0 and standard deviation 1."""
    for parameter, average in zip(run.parameters, run.ema, strict=True):
        parameter.copy_(average.half().float())
    run.net.eval()
    latents = torch.cat([run.net.encode(part).latent_dist.mode().double() for part in x.split(512)])
    device = torch.cuda.get_device_name() if run.device.startswith("cuda") else platform.machine()
    training = asdict(run.recipe) | {
        "steps": run.step, "seconds": round(run.elapsed, 1), "device": device,
        "optimizer": "Adam(betas=(0.5, 0.99)), gradient norm clipped at 1",
        "data": dataset.name, "data_digest": run.data, "preparation": dataset.preparation,
        "versions": {"torch": torch.__version__, "python": platform.python_version()},
    }  # fmt: skip
    sha256 = write_half(out / card.file, run.net.state_dict())
    card = card.model_copy(update={
        "scale": float(1 / latents.std()), "shift": float(latents.mean()), "training": training,
        "weights_sha256": sha256,
    })  # fmt: skip
    write_json(out / "codec.json", card.model_dump())
    return card
