"""The verbs of experiments: run, rescore, report, page and pack."""

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any

import typer

from bench.cli.options import (
    Device,
    Models,
    Results,
    app,
    check_output,
    device_of,
    forms_of,
    numbers,
)


@app.command()
def run(
    experiment: Annotated[
        str, typer.Argument(help="name of `list experiments`, or module:function")
    ],
    results: Results = Path("results"),
    models: Models = None,
    device: Device = "auto",
    compile: Annotated[
        bool, typer.Option(help="compile the network with torch.compile (GPU)")
    ] = False,
    batch: Annotated[int, typer.Option(help="batch size; 0: the experiment's own")] = 0,
    share: Annotated[
        str, typer.Option(help="i/n: this is process i of n that share --results")
    ] = "1/1",
    keep: Annotated[
        str,
        typer.Option(help="features that stay on disk for later metrics: all, scored or none"),
    ] = "",
    model: Annotated[str, typer.Option(help="published plan: another model folder")] = "",
    reference: Annotated[
        str, typer.Option(help="published plan: another reference, a name or .npz")
    ] = "",
    images: Annotated[int, typer.Option(help="published plan: fewer images, for a trial")] = 0,
    nfe: Annotated[str, typer.Option(help="published plan: other NFEs, such as 5,10")] = "",
    features: Annotated[
        str, typer.Option(help="published plan: such as inception-v3-compat(weights='FILE')")
    ] = "",
) -> None:
    """Sample and score the missing cells of an experiment, then write its tables and figures."""
    from bench import checkpoints, experiments
    from bench.run import run as main_path

    where, made = checkpoints.models_of(models), _experiment(experiment)
    if isinstance(made, experiments.Plan):
        made = made.altered(
            model, reference, images, numbers(nfe, "--nfe") if nfe else (), features
        )
        made.prepare(where, device_of(device))
    elif model or reference or images or nfe or features:
        raise ValueError(f"{experiment} is not a published plan: leave out --model, --reference, "
                         "--images, --nfe and --features")  # fmt: skip
    plan = _made(made, where, experiment)
    changes: dict[str, Any] = {"batch": batch} if batch else {}
    changes |= {"keep": keep} if keep else {}
    plan = replace(plan, scoring=replace(plan.scoring, **changes))
    prepare = checkpoints.compiled if compile else _as_is
    for path in main_path(plan, results, where, device_of(device), prepare, _share(share)):
        typer.echo(path)


def _made(function: Any, where: Any, name: str) -> Any:
    """The experiment that a function of the user, or of this package, gives.

    Raises:
        ValueError: the function raises, in one line that says where; or gives something else.
    """
    from bench import names
    from bench.types import Experiment

    if not callable(function):
        raise ValueError(f"{name} is a {type(function).__name__}: write a function of the models "
                         "that returns a bench.Experiment")  # fmt: skip
    try:
        made = function(where)
    except Exception as error:
        if isinstance(error, ValueError) and names.from_here(error):
            raise
        raise ValueError(f"{name} raised {names.place_of(error)}") from error
    if not isinstance(made, Experiment):
        raise ValueError(f"{name} returned a {type(made).__name__}: return a bench.Experiment")
    return made


def _share(text: str) -> Any:
    from bench.share import Share

    try:
        index, total = text.split("/")
        return Share(int(index), int(total))
    except ValueError:
        raise ValueError(f"--share {text!r}: write i/n with 1 <= i <= n, such as 1/2") from None


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
    """The experiments of `bench.experiments`, by their names on the command line."""
    from bench import experiments

    found = {name: getattr(experiments, name) for name in experiments.__all__}
    return {name.replace("_", "-"): one for name, one in found.items() if not isinstance(one, type)}


@app.command("rescore")
def rescore_(
    experiment: Annotated[str, typer.Argument(help="an experiment that was run")],
    metrics: Annotated[
        str, typer.Option(help="metrics to add, such as kid,precision(k=5),module:Mine()")
    ],
    bootstrap: Annotated[
        int, typer.Option(min=0, help="bootstrap replicates for 95 % confidence intervals; 0: none")
    ] = 0,
    results: Results = Path("results"),
    device: Device = "auto",
) -> None:
    """Add metrics to an experiment. This reads the features on disk and samples nothing."""
    from bench.report import report
    from bench.rescore import listed, rescore

    folder = _folder_of(experiment, results)
    done = rescore(folder, forms_of(metrics), device_of(device), bootstrap)
    typer.echo(f"{done.scored} cells scored; {done.had} cells already had these scores", err=True)
    if done.missing:
        typer.echo(f"{len(done.missing)} cells have no features on disk, so they are not "
                   "scored:\n  " + "\n  ".join(listed(done.missing)), err=True)  # fmt: skip
    for path in report(folder):
        typer.echo(path)


@app.command("report")
def report_(
    experiment: Annotated[str, typer.Argument(help="an experiment that was run")],
    results: Results = Path("results"),
) -> None:
    """Write tables and figures from the records. This samples and scores nothing."""
    from bench.report import report

    for path in report(_folder_of(experiment, results)):
        typer.echo(path)


@app.command("page")
def page_(
    results: Results = Path("results"),
    out: Annotated[
        Path | None, typer.Option(help="the HTML file; default: page.html in --results")
    ] = None,
    models: Models = None,
) -> None:
    """Write one HTML file that shows all experiments. It works offline, from disk.

    The page reads space and training law of a model from its folder, if the folder is there.
    """
    from bench import checkpoints, page

    path = check_output(out or results / "page.html")
    _, left_out = page.write(results, path, _about(checkpoints.models_of(models)))
    typer.echo(f"{path} ({path.stat().st_size / 1e6:.1f} MB)")
    if left_out:
        typer.echo(f"{left_out} sample strips are left out: they do not fit in "
                   f"{page.MOST_STRIPS / 1e6:.0f} MB", err=True)  # fmt: skip


def _about(models: Any) -> Callable[[str, str], dict[str, str]]:
    """A function of a model's name and digest: its space, and the law of its training."""
    from bench import checkpoints, page

    @lru_cache
    def about(name: str, digest: str) -> dict[str, str]:
        if name not in models.names():
            return page.UNKNOWN
        card = checkpoints.read_card(models.folder(name))
        if checkpoints.identity(card) != digest:  # another model of the same name
            return page.UNKNOWN
        law = str(card.training.get("law", "not stated"))
        return {"space": "latent" if card.codec else "pixel", "law": law}

    return about


def _folder_of(experiment: str, results: Path) -> Path:
    from bench import names

    known = sorted(path.parent.name for path in results.glob("*/plan.json*"))
    if experiment not in known:
        raise ValueError(f"no results of {experiment!r} in --results {results}"
                         f"{names.nearest(experiment, known)}")  # fmt: skip
    return results / experiment


@app.command()
def pack(
    experiment: Annotated[str, typer.Argument(help="an experiment that was run")],
    results: Results = Path("results"),
) -> None:
    """Pack an experiment's records into one compressed file, which later runs read."""
    from bench import store

    typer.echo(store.pack_records(_folder_of(experiment, results)))
