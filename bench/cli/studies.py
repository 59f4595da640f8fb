"""The verb that trains networks to compare laws of noise levels."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from bench.cli.options import Device, Results, app, device_of


@app.command()
def study(
    name: Annotated[str, typer.Argument(help="name of `list studies`, or module:function")],
    data: Annotated[
        Path, typer.Option(help="images with the splits train and test, a file or a folder")
    ],
    state: Annotated[
        Path, typer.Option(help="folder for trainings that are not finished, and for weights")
    ] = Path("state"),
    results: Results = Path("results"),
    device: Device = "auto",
    compile: Annotated[
        bool, typer.Option(help="compile the network for sampling too (GPU)")
    ] = False,
    only: Annotated[
        list[str] | None, typer.Option(help="ARM, or ARM,SEED; it may be given several times")
    ] = None,
    steps: Annotated[int, typer.Option(help="steps of a training; 0: the study's own")] = 0,
    seeds: Annotated[int, typer.Option(help="number of training seeds; 0: the study's own")] = 0,
    codec: Annotated[
        Path | None, typer.Option(help="study of latents: folder of train-codec")
    ] = None,
) -> None:
    """Train, sample and score the trainings of a study that are missing, then report.

    Stop it at any moment: the same command goes on. Several processes may share --state and
    --results, one for each GPU: each takes trainings that no other has.
    """
    from bench import studies
    from bench.report import report_study

    made = _study(name)
    made = replace(made, steps=steps or made.steps, seeds=seeds or made.seeds)
    left = studies.run(made, data, state, results, device_of(device), compile, only or (), codec)
    if left:
        typer.echo(f"{len(left)} trainings have no record yet: {', '.join(left)}", err=True)
    if (results / made.name / "records").is_dir():
        for path in report_study(results / made.name):
            typer.echo(path)


def _study(name: str) -> Any:
    """The study of a name. ValueError: none, or a function that gives no study."""
    from bench import names, studies

    known = studies_here()
    if ":" not in name and name not in known:
        raise ValueError(f"no study {name!r}{names.nearest(name, known)}")
    function = names.attribute(name) if ":" in name else known[name]
    made = function() if callable(function) else function
    if not isinstance(made, studies.Study):
        raise ValueError(f"{name} gave a {type(made).__name__}: return a bench.studies.Study")
    return made


def studies_here() -> dict[str, Any]:
    """The studies of `bench.studies`, by their names on the command line."""
    from bench.studies import known

    return {one.__name__.replace("_", "-"): one
            for one in (known.cifar10_training, known.fmnist_training, known.cifar10_long,
                        known.cifar10_latent_training)}  # fmt: skip
