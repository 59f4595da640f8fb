"""A checkpoint as a `Model`: weights loaded strictly, parameterisation behind one denoiser."""

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench import process as processes
from bench.checkpoints.card import Card, CodecCard, read_codec, write_card
from bench.checkpoints.codecs import Codec, Latents, Pixels, autoencoder, in_chunks
from bench.checkpoints.families import Shape, cast, open_network
from bench.checkpoints.pipelines import fetched, is_hub_id, is_pipeline, read_card
from bench.checkpoints.weights import WEIGHTS, read_strict, write_half
from bench.names import nearest
from bench.process import VE, Process
from bench.store import digest
from bench.types import Denoiser

MODELS = Path(__file__).resolve().parents[2] / "models"


@dataclass(frozen=True)
class Plain:
    """A denoiser. predict: (x, sigma) -> E[x0|x], and what else the network says."""

    predict: Callable[[Tensor, float], tuple[Tensor, Tensor]]

    def __call__(self, x: Tensor, sigma: float) -> Tensor:
        return self.predict(x, sigma)[0]


@dataclass(frozen=True)
class Varying(Plain):
    """A denoiser whose network also says the variance of the step, from -1 to 1."""

    def with_variance(self, x: Tensor, sigma: float) -> tuple[Tensor, Tensor]:
        """E[x0|x] and v, 0 at the posterior and 1 at the upper variance: see `VarianceDenoiser`."""
        x0, said = self.predict(x, sigma)
        return x0, (said + 1) / 2


@dataclass(frozen=True)
class Checkpoint:
    """A model: its network behind a denoiser, and the codec between its state and images."""

    name: str
    digest: str
    process: Process
    shape: Shape
    device: str
    card: Card
    net: Any  # as `families` says
    dtype: torch.dtype
    codec: Codec

    @property
    def classes(self) -> int:
        """Classes that it is conditioned on; 0 for none."""
        return self.card.classes

    @property
    def quantiser(self) -> str:
        """How its images become whole grey levels: round, or floor."""
        return self.card.quantiser

    def denoiser(self, labels: Tensor | None = None) -> Denoiser:
        """E[x0|x] of x = x0 + sigma eps; x float [n, c, h, w] on the model's device.

        labels: the class of each image, integers [n], for a class-conditional model alone. Without
        them one whose card says null_class gives its unconditional prediction.
        """
        of = self._classes(labels)
        sigma_data = self.process.sigma_data if isinstance(self.process, VE) else 1.0

        @torch.inference_mode()
        def predict(x: Tensor, sigma: float) -> tuple[Tensor, Tensor]:
            scaled, timestep = self._inputs(x, sigma)
            given = (scaled, timestep) if of is None else (scaled, timestep, of(len(x)))
            output = in_chunks(self._output, *given).to(x.dtype)
            said, rest = output[:, : x.shape[1]], output[:, x.shape[1] :]
            x0 = processes.denoised(self.card.prediction, said, x, sigma, sigma_data)
            return x0.clamp(-1, 1) if self.card.clip else x0, rest

        return Varying(predict) if self.card.learned_variance else Plain(predict)

    def _inputs(self, x: Tensor, sigma: float) -> tuple[Tensor, Tensor]:
        """What the network takes as x and timestep [n]; an oracle takes x and sigma themselves."""
        if self.card.family == "oracle":
            return x, torch.full((len(x),), sigma, dtype=torch.float64, device=x.device)
        index = float(self.process.timestep(torch.tensor(sigma)))
        timestep = torch.full((len(x),), index, device=x.device)
        scaled = (x * self.process.scale(sigma)).to(self.dtype)
        return scaled.contiguous(memory_format=torch.channels_last), timestep

    def _classes(self, labels: Tensor | None) -> Callable[[int], Tensor] | None:
        """Batch size -> classes that the network is given, None of an unconditional one; ValueError
        if the labels are not what the model takes."""
        classes = self.classes
        if not classes:
            if labels is not None:
                raise ValueError(f"{self.name} is unconditional: it takes no labels")
            return None
        if labels is None:
            if not self.card.null_class:
                raise ValueError(
                    f"{self.name} is class-conditional and predicts nothing without a class, as "
                    "measures ask: use the rates of another model (--rates), or a rate without a "
                    f"network (OfSchedule, GaussianW2); in Python denoiser(labels), each "
                    f"0..{classes - 1}"
                )
            return lambda n: torch.full((n,), classes, device=self.device)
        if labels.ndim != 1 or labels.dtype not in (torch.int32, torch.int64):
            raise ValueError(f"{self.name} takes integer labels [n], got {labels.dtype} "
                             f"{list(labels.shape)}")  # fmt: skip
        if len(labels) and not (0 <= int(labels.min()) <= int(labels.max()) < classes):
            raise ValueError(f"{self.name} has classes 0..{classes - 1}; a label lies outside")
        given = labels.to(self.device)

        def of(n: int) -> Tensor:
            if n != len(given):
                raise ValueError(f"{self.name}: {len(given)} labels for {n} images")
            return given

        return of

    def _output(self, x: Tensor, timestep: Tensor, classes: Tensor | None = None) -> Tensor:
        if classes is None:
            return self.net(x, timestep).sample
        return self.net(x, timestep, class_labels=classes).sample

    def encode(self, images: Tensor) -> Tensor:
        """uint8 [n, *image] -> float32 state on the model's device."""
        if images.dtype != torch.uint8 or tuple(images.shape[1:]) != self.codec.image:
            raise ValueError(
                f"{self.name} takes uint8 images {list(self.codec.image)}, got "
                f"{images.dtype} {list(images.shape[1:])}"
            )
        return self.codec.encode(images.to(self.device))

    def decode(self, x: Tensor) -> Tensor:
        """state -> uint8 [n, *image], by the card's quantiser.

        FloatingPointError if x is not finite: no image is better than a wrong one.
        """
        if not torch.isfinite(x).all():
            raise FloatingPointError(
                f"{self.name} made NaN or infinite states in {self.dtype}; try float32"
            )
        return self.codec.decode(x)


def folder(name: str | Path, models: Path = MODELS) -> Path:
    """Where a model lives: a path, a name in `models`, or a hub id, fetched to the hub's own cache.

    ValueError: none of them, with the nearest known name.
    """
    for path in (Path(name), models / name):
        if (path / "card.json").is_file() or is_pipeline(path):
            return path
    if is_hub_id(name):
        return fetched(str(name))
    known = sorted(path.parent.name for path in models.glob("*/card.json"))
    raise ValueError(f"no model {str(name)!r} in {models}{nearest(str(name), known)}")


def load(
    name: str | Path, device: str = "cpu", dtype: str = "float32", models: Path = MODELS
) -> Checkpoint:
    """Open a folder of `models`, a path to one or to a diffusers pipeline's, or a hub id, for
    sampling on `device`.

    Weights are safetensors, read strictly. ValueError: unknown name (with the nearest known), bad
    card, wrong SHA-256, missing or extra keys, unknown dtype.
    """
    if dtype not in ("float32", "float16", "bfloat16"):
        raise ValueError(f"unknown dtype {dtype!r}; known: float32, float16, bfloat16")
    home = folder(name, models)
    card = read_card(home)
    net, shape = open_network(home, card)
    kind = getattr(torch, dtype)
    codec = (
        replace(load_codec(home, card.codec, device, kind), quantiser=card.quantiser)
        if card.codec
        else Pixels(shape, card.quantiser)
    )
    return Checkpoint(
        card.name, digest(_identity(card)), card.process.build(), shape, device, card,
        cast(net, device, kind), kind, codec,
    )  # fmt: skip


def _identity(card: Card) -> dict[str, Any]:
    """What decides a model's images, for its digest."""
    what = {"weights": card.weights_sha256, "network": card.network, "clip": card.clip}
    what |= {"process": card.process.model_dump(exclude_none=True), "prediction": card.prediction}
    if card.learned_variance:
        what |= {"learned_variance": True}
    if card.family != "unet2d":
        what |= {"family": card.family}
    if card.quantiser != "round":
        what |= {"quantiser": card.quantiser}
    if card.codec:
        what |= {"codec": card.codec.model_dump(exclude={"file", "training"})}
    return what


def load_codec(home: Path, card: CodecCard, device: str, dtype: torch.dtype) -> Latents:
    """The autoencoder of a card whose file lies in, or is named from, the folder `home`."""
    net = autoencoder(card)
    net.load_state_dict(
        read_strict(home / card.file, home.name, card.weights_sha256, net.state_dict())
    )
    return Latents(card.image, card, cast(net, device, dtype), dtype)


def codec_for(out: Path, home: Path) -> CodecCard:
    """The codec of the folder `home` as a card of a model in the folder `out` names it."""
    card = read_codec(home)
    file = os.path.relpath((home / card.file).resolve(), out.resolve())
    return card.model_copy(update={"file": Path(file).as_posix()})


def save(out: Path, card: Card, weights: dict[str, Tensor]) -> Card:
    """Write a model folder: fp16 safetensors and the card with their digest, the card last."""
    sha256 = write_half(out / WEIGHTS, weights)
    card = card.model_copy(update={"weights_sha256": sha256})
    write_card(out, card)
    return card


def compiled(model: Checkpoint) -> Checkpoint:
    """The same checkpoint with its network through `torch.compile`: faster, equal within 1e-3.

    On a GPU as a CUDA graph too, so that small batches, which fit in its cache, cost no launches.
    """
    mode = "reduce-overhead" if model.device.startswith("cuda") else None
    return replace(model, net=torch.compile(model.net, dynamic=False, mode=mode))
