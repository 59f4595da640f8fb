"""The verb that lists all names."""

import dataclasses
import importlib
import inspect
import re
from collections.abc import Iterator
from typing import Annotated, Any

import typer

from bench.cli.experiments import experiments_here
from bench.cli.options import Models, app
from bench.cli.studies import studies_here

_END = re.compile(r"(?<!\bal)(?<!\bEq)(?<!\bsec)\. (?=[A-Z`])")  # of a sentence
_ROOMS = ("samplers", "schedules", "measures", "metrics")


@app.command("list")
def list_(
    kind: Annotated[
        str,
        typer.Argument(
            help="all, models, experiments, studies, samplers, schedules, measures, metrics, "
            "extractors"
        ),
    ] = "all",
    models: Models = None,
) -> None:
    """List the names that other verbs accept, with their parameters and a sentence for each.

    `list models` also lists the published presets.
    """
    from bench import checkpoints, features, judge, names

    where = checkpoints.models_of(models)
    extractors = judge.extractors()
    found = {
        "models": {name: _model(where, name) for name in where.names()},
        "experiments": {name: _sentence(one) for name, one in experiments_here().items()},
        "studies": {name: _sentence(one) for name, one in studies_here().items()},
    } | {room: _inhabitants(importlib.import_module(f"bench.{room}")) for room in _ROOMS}
    known = {name: kind for name, kind in names.public(features).items() if name in extractors}
    found["extractors"] = {_form(kind): extractors[name] and f"unavailable: {extractors[name]}"
                           or _sentence(kind) for name, kind in sorted(known.items())}  # fmt: skip
    if kind != "all" and kind not in found:
        raise ValueError(f"there is no list of {kind!r}{names.nearest(kind, found)}")
    for name, members in found.items():
        if kind in ("all", name):
            typer.echo(f"{name}:")
            for form, about in members.items():
                typer.echo(f"  {form}\n      {about}" if about else f"  {form}")
    if kind == "models":
        from bench.zoo.presets import preset_lines

        for line in preset_lines(where):
            typer.echo(line)


def _model(where: Any, name: str) -> str:
    """A model in a sentence. A card that cannot be read says why."""
    from bench import checkpoints

    try:
        card = checkpoints.read_card(where.folder(name))
    except (ValueError, OSError) as error:
        return f"cannot be read: {error}"
    space = "latent" if card.codec else "pixel"
    law = f", trained under {card.training['law']}" if "law" in card.training else ""
    return f"A {space} model of {card.data.name}{law}."


def _inhabitants(room: Any) -> dict[str, str]:
    from bench import names

    return {_form(kind): _sentence(kind) for _, kind in sorted(names.public(room).items())}


def _form(kind: type) -> str:
    """A dataclass as the command line writes it: `Karras(rho=7.0)`. Without a default: `rate`."""
    return f"{kind.__name__}({', '.join(_parameters(kind))})".removesuffix("()")


def _parameters(kind: Any) -> Iterator[str]:
    for one in dataclasses.fields(kind):
        default = one.default
        if one.default_factory is not dataclasses.MISSING:
            default = one.default_factory()
        if one.init and one.compare:  # not a device
            yield one.name if default is dataclasses.MISSING else f"{one.name}={_text(default)}"


def _text(value: Any) -> str:
    from bench.types import Described

    return value.label if isinstance(value, Described) else str(value) or "''"


def _sentence(kind: Any) -> str:
    """The title of a published plan, else the first sentence of a docstring. Empty: none."""
    from bench.experiments import Plan

    if isinstance(kind, Plan):
        return kind.title
    about = " ".join((inspect.getdoc(kind) or "").partition("\n\n")[0].split())
    return _END.split(about)[0].rstrip(".") + "." if about else ""
