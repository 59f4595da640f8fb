"""Verbs of experiments: run, rescore, report, pack."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from bench.cli.options import Device, Models, Results, app, device_of, forms_of, numbers


@app.command()
def run(
    experiment: Annotated[str, typer.Argument(help="quick, fmnist, or module:function")],
    results: Results = Path("results"),
    models: Models = None,
    device: Device = "auto",
    compile: Annotated[bool, typer.Option(help="torch.compile the network (GPU)")] = False,
    batch: Annotated[int, typer.Option(help="images at once; 0 for the experiment's own")] = 0,
    share: Annotated[
        str, typer.Option(help="i/n: the i-th of n processes that work on one --results folder")
    ] = "1/1",
    keep: Annotated[
        str,
        typer.Option(help="features that stay on disk for further metrics: all, scored or none"),
    ] = "",
    model: Annotated[str, typer.Option(help="of a published plan: another model folder")] = "",
    reference: Annotated[str, typer.Option(help="of a published plan: a name, or an .npz")] = "",
    images: Annotated[int, typer.Option(help="of a published plan: fewer, for a trial")] = 0,
    nfe: Annotated[str, typer.Option(help="of a published plan: others, as 5,10")] = "",
    features: Annotated[
        str, typer.Option(help="of a published plan: inception-v3-compat(weights='FILE')")
    ] = "",
) -> None:
    """Every missing cell of an experiment, then its tables and figures."""
    from bench import checkpoints, experiments
    from bench.run import run as main_path
    from bench.types import Experiment

    where, made = checkpoints.models_of(models), _experiment(experiment)
    if isinstance(made, experiments.Plan):
        made = made.altered(
            model, reference, images, numbers(nfe, "--nfe") if nfe else (), features
        )
        made.prepare(where, device_of(device))
    elif model or reference or images or nfe or features:
        raise ValueError(f"{experiment} is of no published checkpoint: --model, --reference, "
                         "--images, --nfe and --features change those alone")  # fmt: skip
    plan = made(where) if callable(made) else made
    if not isinstance(plan, Experiment):
        raise ValueError(f"{experiment} is no experiment: a function of the models folder that "
                         "returns bench.Experiment(...)")  # fmt: skip
    changes: dict[str, Any] = {"batch": batch} if batch else {}
    changes |= {"keep": keep} if keep else {}
    plan = replace(plan, scoring=replace(plan.scoring, **changes))
    prepare = checkpoints.compiled if compile else _as_is
    for path in main_path(plan, results, where, device_of(device), prepare, _share(share)):
        typer.echo(path)


def _share(text: str) -> Any:
    from bench.share import Share

    try:
        index, total = text.split("/")
        return Share(int(index), int(total))
    except ValueError:
        raise ValueError(f"--share {text!r}: write i/n with 1 <= i <= n, as 1/2 and 2/2") from None


def _as_is(model: Any) -> Any:
    return model


def _experiment(name: str) -> Any:
    from bench import names

    if ":" in name:
        return names.attribute(name)
    known = experiments_here()
    if name not in known:
        raise ValueError(f"no experiment {name!r}{names.nearest(name, known)}")
    return known[name]


def experiments_here() -> dict[str, Any]:
    """The experiments of `bench.experiments`, as the command line writes them."""
    from bench import experiments

    found = {name: getattr(experiments, name) for name in experiments.__all__}
    return {name.replace("_", "-"): one for name, one in found.items() if not isinstance(one, type)}


@app.command("rescore")
def rescore_(
    experiment: Annotated[str, typer.Argument(help="an experiment that was run")],
    metrics: Annotated[str, typer.Option(help="metrics to add: kid,precision(k=5),module:Mine()")],
    bootstrap: Annotated[
        int, typer.Option(min=0, help="replicates of 95 % intervals; 0: no intervals")
    ] = 0,
    results: Results = Path("results"),
    device: Device = "auto",
) -> None:
    """Add metrics to an experiment that was run, from its features on disk; nothing is sampled."""
    from bench.report import report
    from bench.rescore import listed, rescore

    folder = _folder_of(experiment, results)
    done = rescore(folder, forms_of(metrics), device_of(device), bootstrap)
    typer.echo(f"{done.scored} cells scored; {done.had} had these scores", err=True)
    if done.missing:
        names = "\n  ".join(listed(done.missing))
        typer.echo(f"{len(done.missing)} cells have no features on disk. Only sampling them again "
                   f"would score them:\n  {names}", err=True)  # fmt: skip
    for path in report(folder):
        typer.echo(path)


@app.command("report")
def report_(
    experiment: Annotated[str, typer.Argument(help="an experiment that was run")],
    results: Results = Path("results"),
) -> None:
    """Tables and figures from the records alone."""
    from bench.report import report

    for path in report(_folder_of(experiment, results)):
        typer.echo(path)


def _folder_of(experiment: str, results: Path) -> Path:
    from bench import names

    known = sorted(path.parent.name for path in results.glob("*/plan.json*"))
    if experiment not in known:
        raise ValueError(f"no results of {experiment!r} in {results}"
                         f"{names.nearest(experiment, known)}")  # fmt: skip
    return results / experiment


@app.command()
def pack(
    experiment: Annotated[str, typer.Argument(help="an experiment that was run")],
    results: Results = Path("results"),
) -> None:
    """Gather an experiment's records in one compressed file, to be shipped; runs go on from it."""
    from bench import store

    typer.echo(store.pack_records(_folder_of(experiment, results)))
