"""Models of the user's own Python: a network with its process becomes a `Checkpoint`."""

from __future__ import annotations

import hashlib

from pydantic import ValidationError

from bench import names
from bench.checkpoints.card import Card, Data, VECard, VPCard, complaint
from bench.checkpoints.family import Family, Shape
from bench.checkpoints.forward import process_card
from bench.lazy import Tensor, torch
from bench.process import VE, VP, Prediction, Process
from bench.types import Model


class _Wrapped(Family):
    """The family of networks that exist in Python alone."""

    def network(self, card: Card) -> torch.nn.Module:
        raise ValueError(f"{card.name} is a network in Python; give module:name of the model")

    def shape(self, card: Card) -> Shape:
        channels, height, width = card.network["shape"]
        return channels, height, width


FAMILY = _Wrapped()


def wrapped_card(
    net: torch.nn.Module,
    *,
    process: Process,
    prediction: Prediction,
    shape: Shape,
    name: str = "",
    classes: int = 0,
    null_class: bool = False,
    clip: bool = True,
    version: int = 1,
) -> Card:
    """The card of a network in Python. Its digest holds weights, class and version, not the code.

    Raises:
        ValueError: an argument that does not fit.
    """
    if not isinstance(net, torch.nn.Module):
        raise ValueError(f"wrap needs a torch.nn.Module or a folder of diffusers, not a "
                         f"{type(net).__name__}")  # fmt: skip
    kind = type(net)
    what = {"class": f"{kind.__module__}:{kind.__qualname__}", "shape": list(shape)}
    try:
        return Card.model_validate({
            "name": name or kind.__name__, "family": "wrapped", "classes": classes,
            "null_class": null_class, "clip": clip, "weights_sha256": _digest(net),
            "network": what | ({} if version == 1 else {"version": version}),
            "process": given_process(process), "prediction": prediction, "licence": "unknown",
            "training": {}, "data": Data(name="unknown", digest="", licence="unknown"),
        })  # fmt: skip
    except ValidationError as error:
        raise ValueError(f"wrap: {complaint(error)}") from error


def given_process(process: Process) -> VPCard | VECard:
    """A process as a user's card writes it: an end of its table is 0.

    ValueError: it is no process.
    """
    if not isinstance(process, VP | VE):
        raise ValueError(f"process must be a bench.process.VP or VE, not {process!r}")
    card = process_card(process)
    if isinstance(process, VE):
        return card
    ends = {"sigma_min": process.table[0], "sigma_max": process.table[-1]}
    usual = {name: 0.0 for name, end in ends.items() if getattr(process, name) == end}
    return card.model_copy(update=usual)


def _digest(net: torch.nn.Module) -> str:
    """SHA-256 of all weights: name, dtype, shape and bytes."""
    whole = hashlib.sha256()
    for key, value in sorted(net.state_dict().items()):
        if isinstance(value, Tensor):
            whole.update(f"{key} {value.dtype} {list(value.shape)}\n".encode())
            whole.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return whole.hexdigest()


def check_gives(net: torch.nn.Module, card: Card, shape: Shape) -> None:
    """Try the network on one state of zeros.

    Raises:
        ValueError: it cannot be called as `Adapter` does, or gives another shape.
    """
    first = next(iter(net.parameters()), torch.zeros(()))
    x, timestep = first.new_zeros(1, *shape), torch.zeros(1, device=first.device)
    labels = torch.zeros(1, dtype=torch.int64, device=first.device) if card.classes else None
    call = f"net(x, timestep{', labels' if card.classes else ''})"
    try:
        with torch.inference_mode():
            found = net(x, timestep, labels).sample.shape
    except Exception as error:  # a network of the user's may raise anything
        raise ValueError(
            f"{card.name}: {call} with x {list(x.shape)} raised {names.place_of(error)}"
        ) from error
    if found != x.shape:
        raise ValueError(f"{card.name}: {call} must give {list(x.shape)}, not {list(found)}")


def found_object(text: str) -> Model:
    """The model that `module:name` names; a function of that name is called.

    Raises:
        ValueError: there is none, or it is something else.
    """
    found = names.attribute(text)
    if callable(found) and not isinstance(found, type | torch.nn.Module | Model):
        try:
            found = found()
        except Exception as error:
            if isinstance(error, ValueError) and names.from_here(error):
                raise
            raise ValueError(f"{text} raised {names.place_of(error)}") from error
    if not isinstance(found, Model):
        raise ValueError(f"{text} is a {type(found).__name__}, which is no model: make one with "
                         "bench.wrap(net, process=..., prediction=..., shape=...)")  # fmt: skip
    return found
