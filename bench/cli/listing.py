"""The verb that lists all names."""

from typing import Annotated

import typer

from bench.cli.experiments import experiments_here
from bench.cli.options import Models, app
from bench.cli.studies import studies_here


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
    """List the names that other verbs accept. `list models` also lists the published presets."""
    from bench import checkpoints, judge, names

    where = checkpoints.models_of(models)
    found = {
        "models": where.names(),
        "experiments": list(experiments_here()),
        "studies": list(studies_here()),
    } | {room: _inhabitants(room) for room in ("samplers", "schedules", "measures", "metrics")}
    extractors = judge.extractors()
    found["extractors"] = sorted(name for name, why in extractors.items() if not why)
    if kind != "all" and kind not in found:
        raise ValueError(f"there is no list of {kind!r}{names.nearest(kind, found)}")
    for name, members in found.items():
        if kind in ("all", name):
            typer.echo(f"{name}: {', '.join(members)}")
    if kind == "models":
        from bench.zoo.presets import preset_lines

        for line in preset_lines(where):
            typer.echo(line)
    if kind in ("all", "extractors"):
        for name, why in sorted(extractors.items()):
            if why:
                typer.echo(f"  unavailable: {name}: {why}")


def _inhabitants(room: str) -> list[str]:
    import importlib

    from bench import names

    return sorted(names.public(importlib.import_module(f"bench.{room}")))
