"""Verbs of one model: add, fetch, sample, measure, schedule."""

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from bench.cli.options import (
    JSON,
    Device,
    ModelName,
    Models,
    RatesOf,
    Seeds,
    app,
    check_output,
    device_of,
    pictures,
    print_json,
    schedule_of,
    seeds_of,
)


@app.command()
def add(
    file: Annotated[
        Path,
        typer.Argument(help="weights as published: .pt, .ckpt, .zip, .safetensors; or a folder"),
    ],
    name: Annotated[str, typer.Option(help="of the model folder to make")],
    preset: Annotated[
        str, typer.Option(help="lsun-256, dit-xl-2-256, ..., or a .json file; diffusers needs none")
    ] = "",
    family: Annotated[
        str, typer.Option(help="adm, edm, dit, ldm, diffusers, or module:Name of your own")
    ] = "adm",
    codec: Annotated[
        Path | None,
        typer.Option(help="autoencoder: a diffusers folder, a model folder, or SD's file"),
    ] = None,
    models: Models = None,
) -> None:
    """Make a model of a published checkpoint. No code of the file runs. Every key is checked.

    A pickle (.pkl, such as EDM's) is refused. The message has the command that converts it to
    .safetensors in its publisher's environment.
    """
    from bench import checkpoints
    from bench.zoo.add import add as add_file
    from bench.zoo.folders import add_folder

    where = checkpoints.models_of(models).target
    if family == "diffusers":
        if preset:
            raise ValueError("--preset is not for diffusers: its folder has configs; leave it out")
        typer.echo(add_folder(file, name, where))
        return
    typer.echo(add_file(file, preset, name, where, family, codec))


@app.command()
def fetch(
    name: Annotated[str, typer.Argument(help="a preset, a reference or an extractor")],
    to: Annotated[Path | None, typer.Option(help="folder, in place of the usual one")] = None,
    only_file: Annotated[bool, typer.Option(help="of a preset: make no model of it")] = False,
    codec: Annotated[
        Path | None, typer.Option(help="autoencoder, of a preset that needs it")
    ] = None,
    models: Models = None,
) -> None:
    """Download a published checkpoint and make a model folder of it; or a reference batch, or an
    extractor's weights. A download that was interrupted continues."""
    from bench import checkpoints, features
    from bench import fetch as downloads
    from bench.zoo.add import add as add_file
    from bench.zoo.add import check_free
    from bench.zoo.presets import find_preset

    def get(address: str, usual: Path, sha256: str | None = None) -> Path:
        path = to / address.rpartition("/")[2] if to else usual
        found = downloads.download(address, path, sha256)
        typer.echo(f"{path}, SHA-256 {found}{'' if sha256 else ', which its maker does not say'}")
        return path

    weights = _weights()
    if name in features.PUBLISHED:
        inception = features.InceptionV3Compat.published.extractor
        get(features.PUBLISHED[name], features.reference_path(name, inception))
        return
    if name in weights:
        weights[name].digest(str(get(weights[name].url, weights[name].cached)))
        return
    family, chosen = find_preset(name, [*features.PUBLISHED, *weights])
    folder = checkpoints.models_of(models).target
    if not chosen.address:
        raise ValueError(f"preset {name} fits several files; fetch the preset of one file")
    if not only_file:
        check_free(name, folder / name)
        if chosen.options and codec is None:
            raise ValueError(f"preset {name} needs{chosen.options}; or fetch it with --only-file")
    usual = features.cache_folder() / "downloads" / chosen.file
    file = get(chosen.address, usual, chosen.sha256)
    if not only_file:
        typer.echo(add_file(file, name, name, folder, family, codec))


def _weights() -> dict[str, Any]:
    """Extractor -> its published weights, of those that have some."""
    from bench import features, names

    kinds = names.public(features).values()
    found = [kind.published for kind in kinds if hasattr(kind, "published")]
    return {one.extractor: one for one in found}


@app.command()
def sample(
    model: ModelName,
    out: Annotated[Path, typer.Argument(help="folder for PNGs, or a file ending in .npz")],
    schedule: Annotated[str, typer.Option(help="Native, Karras(rho=7), grid.json, ...")] = "Native",
    sampler: Annotated[str, typer.Option(help="DDIM, DPMpp2M, ...")] = "DPMpp2M",
    nfe: Annotated[int, typer.Option(help="function evaluations")] = 20,
    seeds: Seeds = "0-63",
    batch: Annotated[int, typer.Option(help="images at once")] = 64,
    dtype: Annotated[str, typer.Option(help="float32, float16, bfloat16")] = "float32",
    guidance: Annotated[
        float | None, typer.Option(help="scale of classifier-free guidance; classes are seed mod n")
    ] = None,
    rates_of: RatesOf = "",
    models: Models = None,
    device: Device = "auto",
) -> None:
    """Sample a model under a schedule and write one PNG for each seed, or an .npz with arr_0.

    A manifest of all choices lies beside the images. A stopped command that is started again makes
    the missing images only.
    """
    import torch

    from bench import checkpoints, generate, names, samplers
    from bench.data import writing
    from bench.plan.cells import manifest_of
    from bench.types import Cell, grid_of

    where = checkpoints.models_of(models)
    walk = names.build(sampler, samplers)
    checkpoint = checkpoints.load(model, device_of(device), dtype, where)
    law = schedule_of(schedule, where.homes(rates_of or model))
    wanted = seeds_of(seeds)
    cell = Cell(checkpoint.name, law, walk, nfe, range(wanted[0], wanted[-1] + 2), guidance)
    generate.check_fits(checkpoint, walk, guidance)
    grid = grid_of(cell, checkpoint.process)
    choices = manifest_of(cell, grid, checkpoint, dtype)

    def made(of: list[int]) -> Iterator[Any]:
        parts = generate.images(checkpoint, walk, grid, of, batch, guidance)
        return (part.cpu() for part, _ in parts)

    if out.suffix.lower() == ".npz":
        check_output(out)
        spans = {"seeds": writing.spans_of(wanted)}
        writing.write_npz(out, torch.cat(list(made(wanted))), choices | spans)
    else:
        folder = writing.SampleFolder(out, choices)
        todo = folder.missing(wanted)
        for part in writing.in_parts(todo, made(todo) if todo else ()):
            folder.add(*part)
    typer.echo(out)


@app.command()
def measure(
    model: ModelName,
    measure: Annotated[
        str, typer.Option(help="DataPrediction, NoisePrediction, GITS, KLUB, module:Mine()")
    ],
    levels: Annotated[
        int | None, typer.Option(help="number of noise levels; default: 101, of costs 61")
    ] = None,
    images: Annotated[int, typer.Option(help="number of training images, evenly spaced")] = 1024,
    batch: Annotated[int, typer.Option(help="images at once", min=1)] = 256,
    name: Annotated[
        str, typer.Option(help="name of the result and its file; default: the measure's name")
    ] = "",
    data: Annotated[
        Path | None,
        typer.Option(help="IDX files of Fashion-MNIST; or a folder, zip or array of images"),
    ] = None,
    preprocess: Annotated[
        str, typer.Option(help="how --data is prepared: none, adm-lsun, ldm, 'ldm(size=128)'")
    ] = "none",
    models: Models = None,
    device: Device = "auto",
) -> None:
    """Measure a rate, or costs of steps, and write MODEL/measures/NAME.json.

    Of a model that lies in the installed package, the file is written in the user's data folder.
    The same command after a stop continues where a rate was stopped. A file that was measured
    otherwise is not overwritten: give another --name.
    """
    from bench import checkpoints, features, measures, names, schedules
    from bench.store import digest

    where = checkpoints.models_of(models)
    what = names.build(measure, (measures, features, schedules))
    checkpoint = checkpoints.load(model, device_of(device), models=where)
    planned = measures.planned(checkpoint, what, levels, images)
    name = name or what.name
    path = measures.check_free(where.writable(model), name, planned)
    hidden = [old for home in where.homes(model)
              if (old := measures.path_of(home, name)).is_file() and old != path]  # fmt: skip
    kept, start = path.with_name(f".{digest(planned)}.partial"), time.monotonic()
    found = measures.measure(
        checkpoint, what, lambda: pictures(data, images, preprocess), levels, batch, kept
    )
    typer.echo(f"measured in {time.monotonic() - start:.1f} s", err=True)
    typer.echo(measures.save(path, replace(found, name=name)))
    for old in hidden:
        typer.echo(f"{name} of {model} is this file from now on, not {old}", err=True)


@app.command("schedule")
def schedule_(
    model: ModelName,
    schedule: Annotated[
        str,
        typer.Option(
            help="Karras(rho=7), ConstantRate(v_x, xi=0.5), CheapestPath(gits), grid.json"
        ),
    ],
    nfe: Annotated[int, typer.Option(help="number of steps; each evaluates the network once")] = 10,
    json: JSON = False,
    rates_of: RatesOf = "",
    models: Models = None,
) -> None:
    """Print a grid: sigma, alpha, lambda and the model's timestep."""
    import torch

    from bench import checkpoints
    from bench.process import alpha

    where = checkpoints.models_of(models)
    card = checkpoints.read_card(where.folder(model))
    process = card.process.build()
    grid = schedule_of(schedule, where.homes(rates_of or model))(nfe, process)
    columns = {
        "sigma": grid, "alpha": alpha(grid), "lambda": -torch.log(grid),
        "timestep": process.timestep(grid.clamp(min=process.sigma_min)),
    }  # fmt: skip
    if json:
        levels = {
            k: [v if v < float("inf") else None for v in c.tolist()] for k, c in columns.items()
        }
        print_json({"model": model, "schedule": schedule, **levels})
        return
    typer.echo("  ".join(f"{name:>12}" for name in columns))
    for row in zip(*(column.tolist() for column in columns.values()), strict=True):
        typer.echo("  ".join(f"{value:12.6g}" for value in row))
