"""The loader: a model folder becomes a `Model` with one denoiser, whatever its network predicts."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bench import process as processes
from bench.checkpoints.card import Card, CodecCard, complaint, read_codec, write_card
from bench.checkpoints.codecs import Codec, Latents, Pixels, autoencoder, in_chunks
from bench.checkpoints.family import Shape, find_family, for_sampling
from bench.checkpoints.pipelines import bare, read_card
from bench.checkpoints.places import Models, is_object, models_of
from bench.checkpoints.weights import WEIGHTS, read_strict, write_half
from bench.checkpoints.wrapped import (
    check_gives,
    found_object,
    given_process,
    wrapped_card,
)
from bench.lazy import Tensor, torch
from bench.process import VE, Process
from bench.store import digest
from bench.types import Denoiser, Model, VarianceDenoiser


@dataclass(frozen=True)
class Plain:
    """A denoiser. predict: (x, sigma) -> E[x0|x], and the network's other channels."""

    predict: Callable[[Tensor, float], tuple[Tensor, Tensor]]

    def __call__(self, x: Tensor, sigma: float) -> Tensor:
        return self.predict(x, sigma)[0]


@dataclass(frozen=True)
class Varying(Plain, VarianceDenoiser):
    """A denoiser whose network also predicts the variance of a step, from -1 to 1."""

    def with_variance(self, x: Tensor, sigma: float) -> tuple[Tensor, Tensor]:
        """E[x0|x] and v, as `VarianceDenoiser` defines v: 0 is the posterior's variance, 1 the
        upper bound."""
        x0, variance = self.predict(x, sigma)
        return x0, (variance + 1) / 2


@dataclass(frozen=True)
class Checkpoint(Model):
    """A model: its network behind a denoiser, and the codec between its state and images."""

    name: str
    digest: str
    process: Process
    shape: Shape
    device: str
    card: Card
    net: Any  # called as `Family` says
    dtype: torch.dtype
    codec: Codec

    @property
    def classes(self) -> int:
        """Number of classes. 0: the model is unconditional."""
        return self.card.classes

    @property
    def quantiser(self) -> str:
        """How grey levels become whole numbers: round, or floor."""
        return self.card.quantiser

    @property
    def predicts_variance(self) -> bool:
        """Whether the network predicts the variance of a step."""
        return self.card.learned_variance

    def denoiser(self, labels: Tensor | None = None) -> Denoiser:
        """Make the denoiser: E[x0|x] of x = x0 + sigma eps, x [n, c, h, w] on the model's device.

        Arguments:
            labels: the class of each image, integers [n], for a class-conditional model alone.
                Without labels, a model with null_class gives its unconditional prediction.
        Raises:
            ValueError: the model cannot take these labels, or needs labels.
        """
        family, classes = find_family(self.card.family), self._classes(labels)
        sigma_data = self.process.sigma_data if isinstance(self.process, VE) else 1.0

        @torch.inference_mode()
        def predict(x: Tensor, sigma: float) -> tuple[Tensor, Tensor]:
            given = family.inputs(x, sigma, self.process, self.dtype)
            labelled = given if classes is None else (*given, classes(len(x)))
            output = in_chunks(self._output, *labelled).to(x.dtype)
            predicted, rest = output[:, : x.shape[1]], output[:, x.shape[1] :]
            x0 = processes.denoised(self.card.prediction, predicted, x, sigma, sigma_data)
            return x0.clamp(-1, 1) if self.card.clip else x0, rest

        return Varying(predict) if self.card.learned_variance else Plain(predict)

    def _classes(self, labels: Tensor | None) -> Callable[[int], Tensor] | None:
        """Batch size -> classes for the network. None: the model is unconditional. ValueError: the
        model cannot take these labels."""
        classes = self.classes
        if not classes:
            if labels is not None:
                raise ValueError(f"{self.name} is unconditional: it takes no labels")
            return None
        if labels is None:
            if not self.card.null_class:
                raise ValueError(
                    f"{self.name} is class-conditional and predicts nothing without a class, but a "
                    "measure gives no classes: use the rates of another model (--rates), or a rate "
                    "that needs no network (OfSchedule, GaussianW2); in Python call "
                    f"denoiser(labels), each 0..{classes - 1}"
                )
            return lambda n: torch.full((n,), classes, device=self.device)
        if labels.ndim != 1 or labels.dtype not in (torch.int32, torch.int64):
            raise ValueError(f"{self.name} takes integer labels [n], got {labels.dtype} "
                             f"{list(labels.shape)}")  # fmt: skip
        if len(labels) and not (0 <= int(labels.min()) <= int(labels.max()) < classes):
            raise ValueError(f"{self.name} has classes 0..{classes - 1}; a label lies outside")
        given = labels.to(self.device)

        def check(n: int) -> Tensor:
            if n != len(given):
                raise ValueError(f"{self.name}: {len(given)} labels for {n} images")
            return given

        return check

    def _output(self, x: Tensor, timestep: Tensor, classes: Tensor | None = None) -> Tensor:
        if classes is None:
            return self.net(x, timestep).sample
        return self.net(x, timestep, class_labels=classes).sample

    def encode(self, images: Tensor) -> Tensor:
        """uint8 [n, *image] -> float32 state on the model's device."""
        if images.dtype != torch.uint8 or tuple(images.shape[1:]) != self.codec.image:
            raise ValueError(
                f"{self.name} takes uint8 images {list(self.codec.image)}, got "
                f"{images.dtype} {list(images.shape[1:])}; give such images: --data, --size"
            )
        return self.codec.encode(images.to(self.device))

    def decode(self, x: Tensor) -> Tensor:
        """Decode a state to uint8 [n, *image], by the card's quantiser.

        FloatingPointError: x is not finite. No image is better than a wrong image.
        """
        if not torch.isfinite(x).all():
            way = (
                "try more steps, another sampler or less guidance"
                if self.dtype == torch.float32
                else "try --dtype float32"
            )
            raise FloatingPointError(
                f"{self.name} made NaN or infinite states in {self.dtype}, but its weights are "
                f"finite; {way}"
            )
        return self.codec.decode(x)


def load(
    name: str | Path,
    device: str = "cpu",
    dtype: str = "float32",
    models: Models | Path | None = None,
) -> Checkpoint:
    """Open a model for sampling. Weights are safetensors and are read strictly.

    Arguments:
        name: a name in `models`, a path to a model folder or a diffusers pipeline, a hub id, or
            `module:name` of a model that `wrap` made (or of a function that returns one).
        device: a name that torch knows.
        dtype: float32, float16 or bfloat16.
        models: the folder that holds one folder a model.
    Raises:
        ValueError: an unknown name (with the nearest known name), a bad card, a wrong SHA-256,
            missing or extra keys, an unknown dtype.
    """
    if dtype not in ("float32", "float16", "bfloat16"):
        raise ValueError(f"unknown dtype {dtype!r}; known: float32, float16, bfloat16")
    if is_object(name):
        return placed(found_object(str(name)), device, dtype)
    home = models_of(models).folder(name)
    return _opened(home, read_card(home), device, dtype)


def _opened(home: Path, card: Card, device: str, dtype: str) -> Checkpoint:
    """The model of a folder."""
    net, shape = open_network(home, card)
    kind = getattr(torch, dtype)
    codec = (
        replace(load_codec(home, card.codec, device, kind), quantiser=card.quantiser)
        if card.codec
        else Pixels(shape, card.quantiser)
    )
    net = find_family(card.family).cast(net, kind)
    _check_cast(card.name, net, dtype)
    if isinstance(codec, Latents):
        _check_cast(f"the codec of {card.name}", codec.net, dtype)
    return Checkpoint(
        card.name, identity(card), card.process.build(), shape, device, card,
        for_sampling(net, device), kind, codec,
    )  # fmt: skip


def wrap(
    net: torch.nn.Module | str | Path,
    *,
    process: Process,
    prediction: processes.Prediction,
    shape: Shape | None = None,
    name: str = "",
    classes: int = 0,
    null_class: bool = False,
    clip: bool = True,
    version: int = 1,
) -> Checkpoint:
    """Make a model of a PyTorch network of your own, for images of -1 to 1.

    The network is called as net(x, timestep), or net(x, timestep, labels) if it has classes. x is
    float [n, c, h, w]: the noisy image, as the process scales it. timestep is float32 [n]: the
    process's own, 0 to 999 for VP, ln(sigma) / 4 for VE. It gives a tensor like x, a tuple that
    begins with one, or an output of diffusers.

    The digest that records keep holds the weights, the class's name and `version`, but not the
    code.

    Arguments:
        net: the network; or a folder of diffusers that holds a network without a scheduler.
        process: `bench.process.VP` or `VE`, as it was trained.
        prediction: eps, v, x0 or edm.
        shape: channels, height and width. Of a folder its config says them.
        name: what tables call it; default: the name of the class, or of the folder.
        classes: number of classes; 0: unconditional.
        null_class: class number `classes` means no class.
        clip: clip E[x0|x] to -1 to 1.
        version: raise it when the code of the network computes something else.
    Returns:
        The model on the CPU, in float32. A run copies it to its own device and dtype.
    Raises:
        ValueError: an argument that does not fit, or a network that cannot be called so.
    """
    if isinstance(net, str | Path):
        home = Path(net)
        card = bare(home, given_process(process), prediction, clip)
        return _opened(home, card.model_copy(update={"name": name or card.name}), "cpu", "float32")
    if shape is None:
        raise ValueError("wrap needs shape=(channels, height, width) of one image")
    card = wrapped_card(
        net, process=process, prediction=prediction, shape=shape, name=name, classes=classes,
        null_class=null_class, clip=clip, version=version,
    )  # fmt: skip
    from bench.checkpoints.adapter import Adapter

    own = for_sampling(Adapter(copy.deepcopy(net)).float(), "cpu")
    check_gives(own, card, shape)
    return Checkpoint(
        card.name, identity(card), process, shape, "cpu", card, own, torch.float32, Pixels(shape)
    )


def placed(model: Model, device: str, dtype: str) -> Checkpoint:
    """A copy of a model in Python, on a device and in a dtype.

    Raises:
        ValueError: no model that `wrap` made, or weights that do not fit the dtype.
    """
    if not isinstance(model, Checkpoint) or isinstance(model.codec, Latents):
        raise ValueError(f"{model.name} is no model of bench.wrap, so it cannot be copied to "
                         f"{device} in {dtype}; wrap it, or give a model folder")  # fmt: skip
    kind = getattr(torch, dtype)
    if (model.device, model.dtype) == (device, kind):
        return model
    net = find_family(model.card.family).cast(copy.deepcopy(model.net), kind)
    _check_cast(model.name, net, dtype)
    return replace(model, net=for_sampling(net, device), device=device, dtype=kind)


def _check_cast(name: str, net: torch.nn.Module, dtype: str) -> None:
    """Raise ValueError, with its name, if a weight became infinite in a half precision."""
    for key, value in net.state_dict().items():
        if value.dtype in (torch.float16, torch.bfloat16) and not torch.isfinite(value).all():
            raise ValueError(f"{name}: {key} does not fit {dtype}: it becomes infinite; use "
                             "--dtype bfloat16 or float32")  # fmt: skip


def find_card(name: str | Path, models: Models) -> Card:
    """The card of a model by any name that `load` takes. The weights are not read."""
    if is_object(name):
        return placed(found_object(str(name)), "cpu", "float32").card
    return read_card(models.folder(name))


def open_network(home: Path, card: Card) -> tuple[torch.nn.Module, Shape]:
    """The network of a model folder, float32 on the CPU, and the shape of its state, [c, h, w].

    ValueError: the card makes no network, or its weights are missing, damaged or of another one.
    """
    path = home / "card.json"
    try:
        family = find_family(card.family)
        net, shape = family.network(card), family.shape(card)
        if card.codec and card.codec.state != shape:
            raise ValueError(
                f"the codec's state {list(card.codec.state)} is not the network's {list(shape)}"
            )
    except ValueError as error:
        where = f"{path} is not a valid card" if path.is_file() else f"{home} cannot be opened"
        raise ValueError(f"{where}: {complaint(error)}") from error
    if family.has_weights:
        weights = read_strict(home / card.file, card.name, card.weights_sha256, net.state_dict())
        net.load_state_dict(weights, assign=True)
    return net, shape


def identity(card: Card) -> str:
    """The digest of a model: of the parts of its card that decide the model's images."""
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
    return digest(what)


def load_codec(home: Path, card: CodecCard, device: str, dtype: torch.dtype) -> Latents:
    """Open the autoencoder of a card. The card gives its file as a path from the folder `home`."""
    net = autoencoder(card)
    net.load_state_dict(
        read_strict(home / card.file, home.name, card.weights_sha256, net.state_dict())
    )
    return Latents(card.image, card, for_sampling(torch.nn.Module.to(net, dtype), device), dtype)


def codec_for(out: Path, home: Path) -> CodecCard:
    """The codec of the folder `home`, for the card of a model in the folder `out`."""
    card = read_codec(home)
    file = os.path.relpath((home / card.file).resolve(), out.resolve())
    return card.model_copy(update={"file": Path(file).as_posix()})


def save(out: Path, card: Card, weights: dict[str, Tensor]) -> Card:
    """Write a model folder: first fp16 safetensors, then the card with their digest."""
    sha256 = write_half(out / WEIGHTS, weights)
    card = card.model_copy(update={"weights_sha256": sha256})
    write_card(out, card)
    return card


def as_it_is(model: Checkpoint) -> Checkpoint:
    """The same model, where another call would compile it."""
    return model


def compiled(model: Checkpoint) -> Checkpoint:
    """Compile the network with `torch.compile`. It is then faster, and equal within 1e-3.

    On a GPU it also becomes a CUDA graph, so that a small batch costs no launches of kernels. cuDNN
    times its kernels and takes the fastest: its own guess was slow for networks of 48 channels. In
    half precision, some layers also take a quicker form (`Family.quick`). A test allows its rms
    distance from float32 to be 1.1 times that of the plain form.
    """
    if not model.device.startswith("cuda"):
        return replace(model, net=torch.compile(model.net, dynamic=False))
    torch.backends.cudnn.benchmark = True
    net = model.net
    if model.dtype != torch.float32:
        net = find_family(model.card.family).quick(net)
    return replace(model, net=torch.compile(net, dynamic=False, mode="reduce-overhead"))
