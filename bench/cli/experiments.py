"""The verbs of experiments: run, rank, rescore, report, compare, page and pack."""

import importlib.util
import time
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any

import typer

from bench.cli.options import (
    Device,
    ModelName,
    Models,
    RatesOf,
    Results,
    Seeds,
    app,
    check_output,
    device_of,
    forms_of,
    homes_of,
    numbers,
    say_paths,
    schedule_of,
    seeds_of,
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
    engine: Annotated[
        str,
        typer.Option(
            help="where shards are made: in-process, processes (of this machine) or ray; "
            "auto: in-process on one device, else ray if it is installed"
        ),
    ] = "auto",
    address: Annotated[
        str, typer.Option(help="ray: a running cluster, auto or HOST:PORT; default: this machine")
    ] = "",
    workers: Annotated[
        int, typer.Option(min=0, help="workers; 0: one for each GPU, or one for each core")
    ] = 0,
    keep: Annotated[
        str,
        typer.Option(help="features that stay on disk for later metrics: all, scored or none"),
    ] = "",
    model: Annotated[str, typer.Option(help="published plan: another model folder")] = "",
    reference: Annotated[
        str, typer.Option(help="published plan: another reference, a name or .npz")
    ] = "",
    images: Annotated[
        int,
        typer.Option(
            help="a trial: fewer images of each block; the results have a folder "
            "of their own, as with --nfe and --lines"
        ),
    ] = 0,
    nfe: Annotated[str, typer.Option(help="a trial: some NFEs, such as 5,10")] = "",
    lines: Annotated[str, typer.Option(help="a trial: some lines, by their names in tables")] = "",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="print what the run will take, and run nothing")
    ] = False,
    features: Annotated[
        str, typer.Option(help="published plan: such as inception-v3-compat(weights='FILE')")
    ] = "",
) -> None:
    """Sample and score the missing cells of an experiment, then write its tables and figures."""
    from bench import checkpoints, experiments
    from bench.types import Limit

    where, made = checkpoints.models_of(models), _experiment(experiment)
    limit = Limit(
        images, numbers(nfe, "--nfe") if nfe else (), tuple(forms_of(lines)) if lines else ()
    )
    chosen = engine_of(engine, device, address, workers)
    if isinstance(made, experiments.Plan):
        made = made.altered(model, reference, features, images)
    elif model or reference or features:
        raise ValueError(f"{experiment} is not a published plan: leave out --model, --reference "
                         "and --features")  # fmt: skip
    if isinstance(made, experiments.Plan) and not dry_run:
        made.prepare(where, device_of(device))
    sketched = isinstance(made, experiments.Plan) and dry_run
    plan = limit.of(made.sketch(where) if sketched else _made(made, where, experiment))
    changes: dict[str, Any] = {"batch": batch} if batch else {}
    changes |= {"keep": keep} if keep else {}
    plan = replace(plan, scoring=replace(plan.scoring, **changes))
    prepare = checkpoints.compiled if compile else checkpoints.as_it_is
    if dry_run:
        typer.echo(_outlook(plan, results, where, device_of(device), prepare, workers))
        return
    _run(plan, results, where, device_of(device), prepare, chosen)


@app.command()
def rank(
    model: ModelName,
    reference: Annotated[str, typer.Argument(help="of `reference`: a name, or an .npz")],
    schedules: Annotated[str, typer.Option(help="schedules, with commas")] = "Native,Karras(rho=7)",
    samplers: Annotated[str, typer.Option(help="samplers, with commas")] = "DDIM,DPMpp2M",
    nfe: Annotated[str, typer.Option(help="calls of the denoiser, with commas")] = "5,10,20",
    seeds: Seeds = "0-999",
    metrics: Annotated[str, typer.Option(help="metrics, with commas")] = "fd,precision,recall",
    features: Annotated[str, typer.Option(help="feature extractor")] = "effnet-lite0",
    name: Annotated[str, typer.Option(help="folder in --results; default: rank-MODEL")] = "",
    rates_of: RatesOf = "",
    results: Results = Path("results"),
    models: Models = None,
    device: Device = "auto",
) -> None:
    """Rank schedules on a model of yours: sample, score, and write tables and figures.

    After an interruption, the same command continues. An experiment with tuned lines or several
    blocks of seeds is a Python function instead: see `crs-bench run`.
    """
    from bench import checkpoints, names
    from bench import samplers as loops
    from bench.types import Block, Experiment, Sampler, Scoring

    where, spread = checkpoints.models_of(models), seeds_of(seeds)
    homes, who = homes_of(where, rates_of, model), where.writable(model).resolve().name
    plan = Experiment(
        name=name or f"rank-{who}", title=f"Schedules on {who}", model=model,
        lines={form: schedule_of(form, homes) for form in forms_of(schedules)},
        samplers=tuple(names.build(form, loops, role=Sampler) for form in forms_of(samplers)),
        blocks=(Block("1", range(spread[0], spread[-1] + 1), numbers(nfe, "--nfe")),),
        scoring=Scoring(features, reference, tuple(forms_of(metrics))),
    )  # fmt: skip
    _run(plan, results, where, device_of(device))


def _run(plan: Any, results: Path, *how: Any) -> None:
    """The main path, and what there is to say at its end."""
    from bench import talk
    from bench.run import run as main_path

    start = time.monotonic()
    main_path(plan, results, *how)
    typer.echo(talk.end(results / plan.name, time.monotonic() - start))


def _outlook(plan: Any, results: Path, where: Any, device: str, prepare: Any, workers: int) -> str:
    """What a run will take, in lines."""
    import torch

    from bench import checkpoints
    from bench.price import outlook

    gpus = torch.cuda.device_count()
    devices = min(workers or gpus, gpus) if device == "cuda" else 1
    compiled = prepare is not checkpoints.as_it_is
    return outlook(plan, results, where, device, prepare, compiled, max(1, devices)).text


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


def engine_of(name: str, device: str, address: str, workers: int) -> Any:
    """The engine of a name. `auto` uses all GPUs of this machine, unless --device names one.

    Raises:
        ValueError: no such engine, or one that does not take an option.
    """
    import torch

    from bench import engines, names

    if name == "auto":
        several = device in ("auto", "cuda") and torch.cuda.device_count() > 1
        spread = "ray" if importlib.util.find_spec("ray") else "processes"
        name = "ray" if address else spread if several or workers > 1 else "in-process"
    if address and name != "ray":
        raise ValueError(f"--address {address} is for --engine ray")
    if name == "ray":
        return engines.Ray(address, workers, device)
    if name == "processes":
        return engines.Processes(device_of(device), workers)
    if name == "in-process":
        if workers > 1:
            raise ValueError(f"--workers {workers} needs --engine processes or ray")
        return engines.InProcess()
    known = ("auto", "in-process", "processes", "ray")
    raise ValueError(f"no engine {name!r}{names.nearest(name, known)}")


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

    folder = folder_of(experiment, results)
    done = rescore(folder, forms_of(metrics), device_of(device), bootstrap)
    typer.echo(f"{done.scored} cells scored; {done.had} cells already had these scores", err=True)
    if done.missing:
        typer.echo(f"{len(done.missing)} cells have no features on disk, so they are not "
                   "scored:\n  " + "\n  ".join(listed(done.missing)), err=True)  # fmt: skip
    say_paths(report(folder))


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


def experiments_in(results: Path) -> list[str]:
    """Names of the experiments that a folder of results holds."""
    return sorted(path.parent.name for path in results.glob("*/plan.json*"))


def folder_of(experiment: str, results: Path) -> Path:
    """The results folder of an experiment. ValueError: there is none."""
    from bench import names

    known = experiments_in(results)
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

    typer.echo(store.pack_records(folder_of(experiment, results)))
