"""A checkpoint as a `Model`: weights loaded strictly, parameterisation behind one denoiser."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from bench import process as processes
from bench.checkpoints.adm import ADM
from bench.checkpoints.card import Card, read_card, write_card
from bench.names import nearest
from bench.process import VE, Process
from bench.store import digest, file_digest
from bench.types import Denoiser

MODELS = Path(__file__).resolve().parents[2] / "models"
_WEIGHTS = "model.safetensors"
CPU_CHUNK = 32  # images a forward pass on a CPU


def network(config: dict[str, Any]) -> nn.Module:
    """A diffusers `UNet2DModel` of the card's arguments; ValueError if it refuses them."""
    from diffusers.models.unets.unet_2d import UNet2DModel  # seconds to import

    try:
        return UNet2DModel(**config)
    except (TypeError, ValueError) as error:
        raise ValueError(f"UNet2DModel refuses the card's network: {error}") from error


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
    """A pixel-space model: state [c, h, w] is the image itself, uint8 0..255 <-> -1..1."""

    name: str
    digest: str
    process: Process
    shape: tuple[int, int, int]
    device: str
    card: Card
    net: Any  # (x, timestep [n]), and class_labels [n] if it has classes -> object with .sample
    dtype: torch.dtype

    def denoiser(self, labels: Tensor | None = None) -> Denoiser:
        """E[x0|x] of x = x0 + sigma eps; x float [n, c, h, w] on the model's device.

        labels: the class of each image, integers [n], for a class-conditional model alone.
        """
        classes = self._classes(labels)
        sigma_data = self.process.sigma_data if isinstance(self.process, VE) else 1.0

        @torch.inference_mode()
        def predict(x: Tensor, sigma: float) -> tuple[Tensor, Tensor]:
            index = float(self.process.timestep(torch.tensor(sigma)))
            timestep = torch.full((len(x),), index, device=x.device)
            scaled = (x * self.process.scale(sigma)).to(self.dtype)
            scaled = scaled.contiguous(memory_format=torch.channels_last)
            if classes is not None and len(classes) != len(x):
                raise ValueError(f"{self.name}: {len(classes)} labels for {len(x)} images")
            output = self._predict(scaled, timestep, classes).to(x.dtype)
            said, rest = output[:, : x.shape[1]], output[:, x.shape[1] :]
            x0 = processes.denoised(self.card.prediction, said, x, sigma, sigma_data)
            return x0.clamp(-1, 1) if self.card.clip else x0, rest

        return Varying(predict) if self.card.learned_variance else Plain(predict)

    def _classes(self, labels: Tensor | None) -> Tensor | None:
        """`labels` on the model's device; ValueError if they are not what the model takes."""
        classes = self.card.classes
        if not classes:
            if labels is not None:
                raise ValueError(f"{self.name} is unconditional: it takes no labels")
            return None
        if labels is None:
            raise ValueError(
                f"{self.name} is class-conditional: call denoiser(labels) with a class of "
                f"0..{classes - 1} for each image; crs-bench sample takes unconditional models"
            )
        if labels.ndim != 1 or labels.dtype not in (torch.int32, torch.int64):
            raise ValueError(f"{self.name} takes integer labels [n], got {labels.dtype} "
                             f"{list(labels.shape)}")  # fmt: skip
        if len(labels) and not (0 <= int(labels.min()) <= int(labels.max()) < classes):
            raise ValueError(f"{self.name} has classes 0..{classes - 1}; a label lies outside")
        return labels.to(self.device)

    def _predict(self, x: Tensor, timestep: Tensor, classes: Tensor | None) -> Tensor:
        """The network's output. On a CPU in chunks of one size, padded: its kernels depend on the
        batch, and a seed's image must not."""
        if x.device.type != "cpu":
            return self._output(x, timestep, classes)
        padding = -len(x) % CPU_CHUNK
        full = torch.cat([x, x[:1].expand(padding, -1, -1, -1)])
        full = full.contiguous(memory_format=torch.channels_last)
        step = timestep[:1].expand(CPU_CHUNK)
        parts = full.split(CPU_CHUNK)
        of: tuple[Tensor | None, ...] = (None,) * len(parts)
        if classes is not None:
            of = torch.cat([classes, classes[:1].expand(padding)]).split(CPU_CHUNK)
        outputs = [self._output(part, step, c) for part, c in zip(parts, of, strict=True)]
        return torch.cat(outputs)[: len(x)]

    def _output(self, x: Tensor, timestep: Tensor, classes: Tensor | None) -> Tensor:
        if classes is None:
            return self.net(x, timestep).sample
        return self.net(x, timestep, class_labels=classes).sample

    def encode(self, images: Tensor) -> Tensor:
        """uint8 [n, c, h, w] -> float32 in [-1, 1] on the model's device."""
        if images.dtype != torch.uint8 or tuple(images.shape[1:]) != self.shape:
            raise ValueError(
                f"{self.name} takes uint8 images {list(self.shape)}, got "
                f"{images.dtype} {list(images.shape[1:])}"
            )
        return images.to(self.device).float() / 127.5 - 1

    def decode(self, x: Tensor) -> Tensor:
        """float in [-1, 1] -> uint8, rounded to nearest (EDM's quantiser).

        FloatingPointError if x is not finite: no image is better than a wrong one.
        """
        if not torch.isfinite(x).all():
            raise FloatingPointError(
                f"{self.name} made NaN or infinite pixels in {self.dtype}; try float32"
            )
        return (x.float() * 127.5 + 127.5).round().clamp(0, 255).to(torch.uint8)


def folder(name: str | Path, models: Path = MODELS) -> Path:
    """Where a model lives: a path, or a name in `models`; ValueError with the nearest known."""
    for path in (Path(name), models / name):
        if (path / "card.json").is_file():
            return path
    known = sorted(path.parent.name for path in models.glob("*/card.json"))
    raise ValueError(f"no model {str(name)!r} in {models}{nearest(str(name), known)}")


def load(
    name: str | Path, device: str = "cpu", dtype: str = "float32", models: Path = MODELS
) -> Checkpoint:
    """Open a folder of `models`, or a path to one, for sampling on `device`.

    Weights are safetensors, read strictly. ValueError: unknown name (with the nearest known), bad
    card, wrong SHA-256, missing or extra keys, unknown dtype.
    """
    if dtype not in ("float32", "float16", "bfloat16"):
        raise ValueError(f"unknown dtype {dtype!r}; known: float32, float16, bfloat16")
    home = folder(name, models)
    card = read_card(home)
    net, shape = _adm(home, card) if card.family == "adm" else _unet2d(home, card)
    kind = getattr(torch, dtype)
    if isinstance(net, ADM):
        net = net.to(device).cast(kind)
    else:
        net = nn.Module.to(net, device=device, dtype=kind)
    net = nn.Module.to(net, memory_format=torch.channels_last).eval().requires_grad_(False)
    return Checkpoint(
        card.name, digest(_identity(card)), card.process.build(), shape, device, card, net, kind
    )


def _identity(card: Card) -> dict[str, Any]:
    """What decides a model's images, for its digest."""
    what = {"weights": card.weights_sha256, "network": card.network, "clip": card.clip}
    what |= {"process": card.process.model_dump(), "prediction": card.prediction}
    if card.learned_variance:
        what |= {"learned_variance": True}
    if card.family != "unet2d":
        what |= {"family": card.family}
    return what


def _adm(home: Path, card: Card) -> tuple[nn.Module, tuple[int, int, int]]:
    """The network, loaded, and the image's shape."""
    flags = card.flags
    with torch.device("meta"):
        net = ADM(flags)
    net.load_state_dict(_weights(home / _WEIGHTS, card, net.state_dict()), assign=True)
    return net, (flags.in_channels, flags.image_size, flags.image_size)


def _unet2d(home: Path, card: Card) -> tuple[nn.Module, tuple[int, int, int]]:
    """The network, loaded, and the image's shape."""
    net = network(card.network)
    net.load_state_dict(_weights(home / _WEIGHTS, card, net.state_dict()))
    missing = {"sample_size", "in_channels"} - card.network.keys()
    if missing:
        raise ValueError(f"{home}/card.json: network must say {', '.join(sorted(missing))}")
    size = card.network["sample_size"]
    height, width = (size, size) if isinstance(size, int) else size
    shape = (card.network["in_channels"], height, width)
    outputs = shape[0] * (2 if card.learned_variance else 1)
    if card.network.get("out_channels", 3) != outputs:
        raise ValueError(
            f"{home}/card.json: a network of {shape[0]} channels "
            f"{'with' if card.learned_variance else 'without'} learned_variance has {outputs} "
            f"out_channels, not {card.network.get('out_channels', 3)}"
        )
    return net, shape


def _weights(path: Path, card: Card, want: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state dict of `path`, float32, after its digest, keys and shapes have been checked."""
    if not path.is_file():
        raise ValueError(f"{card.name}: weights {path} are missing")
    if file_digest(path) != card.weights_sha256:
        raise ValueError(
            f"{card.name}: {path} is not the file its card names (SHA-256 differs); fetch it again"
        )
    try:
        have = load_file(path)
    except safetensors.SafetensorError as error:
        raise ValueError(f"{card.name}: {path} is not a safetensors file ({error})") from error
    wrong = sorted(
        key
        for key in want.keys() | have.keys()
        if key not in want or key not in have or want[key].shape != have[key].shape
    )
    if wrong:
        listed = ", ".join(wrong[:5]) + (", ..." if len(wrong) > 5 else "")
        raise ValueError(
            f"{card.name}: {len(wrong)} keys are missing, extra or mis-shaped: {listed}"
        )
    return {key: value.float() for key, value in have.items()}


def save(out: Path, card: Card, weights: dict[str, Tensor]) -> Card:
    """Write a model folder: fp16 safetensors and the card with their digest, the card last."""
    out.mkdir(parents=True, exist_ok=True)
    half = {key: value.detach().cpu().half().contiguous() for key, value in weights.items()}
    temporary = out / f".{_WEIGHTS}"
    save_file(half, temporary)
    temporary.chmod(0o644)  # safetensors writes files that only their owner can read
    temporary.replace(out / _WEIGHTS)
    card = card.model_copy(update={"weights_sha256": file_digest(out / _WEIGHTS)})
    write_card(out, card)
    return card


def compiled(model: Checkpoint) -> Checkpoint:
    """The same checkpoint with its network through `torch.compile`: faster, equal within 1e-3.

    On a GPU as a CUDA graph too, so that small batches, which fit in its cache, cost no launches.
    """
    mode = "reduce-overhead" if model.device.startswith("cuda") else None
    return replace(model, net=torch.compile(model.net, dynamic=False, mode=mode))
