"""The verbs of one model: add, fetch, sample, measure and schedule."""

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from bench.cli.options import (
    JSON,
    Batch,
    Data,
    Device,
    ModelName,
    Models,
    Pictures,
    Preprocessing,
    RatesOf,
    Schedule,
    Seeds,
    Size,
    Split,
    app,
    check_output,
    device_of,
    homes_of,
    pictures,
    prepare_of,
    print_json,
    process_of,
    schedule_of,
    seeds_of,
)


@app.command()
def add(
    file: Annotated[
        Path,
        typer.Argument(help="published weights: .pt, .ckpt, .zip, .safetensors, or a folder"),
    ],
    name: Annotated[str, typer.Option(help="name of the new model folder")],
    preset: Annotated[
        str, typer.Option(help="name of `list models`, or a .json file; not for diffusers")
    ] = "",
    family: Annotated[
        str, typer.Option(help="adm, edm, dit, ldm, diffusers, or your own module:Name")
    ] = "adm",
    codec: Annotated[
        Path | None,
        typer.Option(help="autoencoder: diffusers folder, model folder, or Stable Diffusion file"),
    ] = None,
    weights_key: Annotated[
        str, typer.Option(help="key of the weights in a file of several, such as ema.shadow")
    ] = "",
    models: Models = None,
) -> None:
    """Convert a published checkpoint to a model folder. The file cannot run code.

    A pickle (.pkl, such as EDM's) is refused. The message shows the command that converts it.
    """
    from bench import checkpoints
    from bench.zoo.add import add as add_file
    from bench.zoo.folders import add_folder

    where = checkpoints.models_of(models).target
    if family == "diffusers":
        if preset:
            raise ValueError("a diffusers folder has its own configs; leave --preset out")
        if weights_key or codec:
            raise ValueError("--weights-key and --codec are not for diffusers; leave them out")
        typer.echo(add_folder(file, name, where))
        return
    typer.echo(add_file(file, preset, name, where, family, codec, weights_key))


@app.command()
def fetch(
    name: Annotated[str, typer.Argument(help="name of a preset, a reference or an extractor")],
    to: Annotated[Path | None, typer.Option(help="folder for the file; default: the cache")] = None,
    only_file: Annotated[
        bool, typer.Option(help="preset: download the file, make no model")
    ] = False,
    codec: Annotated[Path | None, typer.Option(help="autoencoder, if the preset needs one")] = None,
    models: Models = None,
) -> None:
    """Download a published checkpoint and make a model folder of it.

    The name can also be a reference batch or an extractor. An interrupted download resumes.
    """
    from bench import checkpoints, features
    from bench import fetch as downloads
    from bench.judge import extractor_classes
    from bench.zoo.add import add as add_file
    from bench.zoo.checks import check_codec, check_free
    from bench.zoo.presets import find_preset

    def get(address: str, usual: Path, sha256: str | None = None) -> Path:
        path = to / address.rpartition("/")[2] if to else usual
        found = downloads.download(address, path, sha256)
        typer.echo(f"{path}, SHA-256 {found}{'' if sha256 else '; the publisher gives no SHA-256'}")
        return path

    weights = {kind.published.extractor: kind.published for kind in extractor_classes().values()
               if kind.published}  # fmt: skip
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
        raise ValueError(
            f"preset {name} has no download, because several files fit it; choose another"
        )
    if not only_file:
        check_free(name, folder / name)
        if chosen.options and codec is None:
            raise ValueError(f"preset {name} needs{chosen.options}; add it, or add --only-file")
        check_codec(chosen, name, codec)
    usual = features.cache_folder() / "downloads" / chosen.file
    file = get(chosen.address, usual, chosen.sha256)
    if not only_file:
        typer.echo(add_file(file, name, name, folder, family, codec))


@app.command()
def sample(
    model: ModelName,
    out: Pictures,
    schedule: Schedule = "Native",
    sampler: Annotated[str, typer.Option(help="DDIM, DPMpp2M, ...")] = "DPMpp2M",
    nfe: Annotated[int, typer.Option(help="calls of the denoiser, at most")] = 20,
    seeds: Seeds = "0-63",
    batch: Batch = 64,
    dtype: Annotated[str, typer.Option(help="float32, float16 or bfloat16")] = "float32",
    guidance: Annotated[
        float | None, typer.Option(help="scale of classifier-free guidance; default: none")
    ] = None,
    rates_of: RatesOf = "",
    models: Models = None,
    device: Device = "auto",
) -> None:
    """Sample images: one PNG for each seed, or an .npz with arr_0.

    A class-conditional model takes the class seed mod (number of classes). A manifest of all
    choices lies beside the images. After an interruption, the same command makes the missing
    images.
    """
    from bench import checkpoints, generate, names, samplers
    from bench.data import writing
    from bench.lazy import torch
    from bench.plan.cells import manifest_of
    from bench.types import Cell, Sampler, grid_of

    where = checkpoints.models_of(models)
    walk = names.build(sampler, samplers, role=Sampler)
    if not isinstance(walk, Sampler):
        raise ValueError(f"{sampler} is no sampler: derive its class from bench.Sampler")
    checkpoint = checkpoints.load(model, device_of(device), dtype, where)
    law = schedule_of(schedule, homes_of(where, rates_of, model))
    wanted = seeds_of(seeds)
    cell = Cell(checkpoint.name, law, walk, nfe, range(wanted[0], wanted[-1] + 2), guidance)
    generate.check_fits(checkpoint, walk, guidance, law)
    grid = grid_of(cell, checkpoint.process)
    _warn_of_start(grid, checkpoint.process)
    choices = manifest_of(cell, grid, checkpoint, dtype)

    def made(of: list[int]) -> Iterator[Any]:
        parts = generate.images(checkpoint, walk, grid, of, batch, guidance)
        return (part.cpu() for part, _ in parts)

    if out.suffix.lower() == ".npz":
        whole = choices | {"seeds": writing.spans_of(wanted)}
        lost = writing.check_npz(out, whole)
        writing.write_npz(out, torch.cat(list(made(wanted))), whole)
        if lost:
            typer.echo(f"warning: {lost}", err=True)
    else:
        folder = writing.SampleFolder(out, choices)
        todo = folder.missing(wanted)
        for part in writing.in_parts(todo, made(todo) if todo else ()):
            folder.add(*part)
    typer.echo(out)


def _warn_of_start(grid: Any, process: Any) -> None:
    """A line on stderr where levels start low, as times between 0 and 1 do that are no levels."""
    if grid[0] < process.sigma_max / 10:
        typer.echo(f"warning: the levels start at sigma {grid[0]:g}, and the model's at "
                   f"{process.sigma_max:g}: sampling starts from pure noise, and the model takes "
                   "levels this low for noisy images", err=True)  # fmt: skip


@app.command()
def measure(
    measure: Annotated[
        str,
        typer.Option(help="DataPrediction, FeatureFrechet, GaussianW2, GITS, module:Mine(), ..."),
    ],
    model: Annotated[
        str | None,
        typer.Argument(help="name in --models, path, or Hugging Face id; none with --process"),
    ] = None,
    process: Annotated[
        str | None,
        typer.Option(
            help="in place of a model, for a measure that needs no network: cosine, linear, "
            "scaled_linear, edm, or 'VP(linear, timesteps=500)'"
        ),
    ] = None,
    codec: Annotated[
        Path | None,
        typer.Option(help="with --process: folder of train-codec, for the process of its latents"),
    ] = None,
    levels: Annotated[
        int | None,
        typer.Option(help="number of noise levels; default: 101 for rates, 61 for costs"),
    ] = None,
    images: Annotated[int, typer.Option(help="number of training images, evenly spaced")] = 1024,
    batch: Batch = 256,
    name: Annotated[
        str, typer.Option(help="name of the result; default: the name of the measure")
    ] = "",
    out: Annotated[
        Path | None,
        typer.Option(help=".json file to write; default: the file in the model's folder"),
    ] = None,
    data: Data = None,
    split: Split = None,
    size: Size = None,
    preprocess: Preprocessing = "none",
    models: Models = None,
    device: Device = "auto",
) -> None:
    """Measure a rate or step costs of a model, and write MODEL/measures/NAME.json.

    A measure that needs no network takes --process in place of a model, and --out.

    After an interruption, the same command resumes the measurement of a rate. A file of another
    measurement is not overwritten: choose another --name. Of a model that lies in the installed
    package, the file is written in the user's data folder.
    """
    from bench import checkpoints, features, measures, names, schedules
    from bench.store import digest
    from bench.types import Measure

    where = checkpoints.models_of(models)
    what = names.build(measure, (measures, features, schedules), role=Measure)
    _check_asked(what, model, process, codec, out, data)
    prepare = prepare_of(size, preprocess)

    def real() -> Any:
        return pictures(data, images, prepare, split)

    if model is None:
        pixels = real() if what.needs_images else None
        shape = (1, 1, 1) if pixels is None else tuple(pixels.shape[1:])
        target = _forward(process or "", codec, shape, device_of(device), where)
    else:
        pixels, target = None, checkpoints.load(model, device_of(device), models=where)
    planned = measures.planned(target, what, levels, images)
    name = name or what.name
    path = (measures.check_same(check_output(out), planned) if out else
            measures.check_free(where.writable(str(model)), name, planned))  # fmt: skip
    kept, start = path.with_name(f".{digest(planned)}.partial"), time.monotonic()
    found = measures.measure(target, what, real if pixels is None else pixels, levels, batch, kept)
    typer.echo(f"measured in {time.monotonic() - start:.1f} s", err=True)
    typer.echo(measures.save(path, replace(found, name=name)))
    for home in where.homes(model) if model and not out else ():
        if (old := measures.path_of(home, name)).is_file() and old != path:
            typer.echo(f"{name} of {model} is this file from now on, not {old}", err=True)


def _check_asked(
    what: Any, model: str | None, process: str | None, codec: Path | None, out: Path | None,
    data: Path | None,
) -> None:  # fmt: skip
    """ValueError: what the measure needs is missing, or what is given excludes each other."""
    from bench.types import Measure

    if not isinstance(what, Measure):
        raise ValueError(f"{what!r} is no measure: derive its class from bench.Measure")
    if model is None and what.needs_network:
        raise ValueError(f"{what!r} needs a network; name a model: crs-bench measure MODEL ...")
    if (model is None) == (process is None):
        have = "both" if model else "neither"
        raise ValueError(f"give a model or --process, not {have}; {what!r} "
                         f"needs {'a' if what.needs_network else 'no'} network")  # fmt: skip
    if codec and model:
        raise ValueError("--codec goes with --process; the model has a codec of its own")
    if model is None and out is None:
        raise ValueError("--process needs --out FILE.json, because there is no model folder")
    if out and out.suffix.lower() != ".json":
        raise ValueError(f"--out {out}: write a name that ends in .json")
    if model is None and what.needs_images and data is None:
        raise ValueError(f"{what!r} needs images; add --data")


def _forward(
    process: str, codec: Path | None, image: tuple[int, ...], device: str, models: Any
) -> Any:
    """The process alone, of images of this shape or of a codec's latents."""
    import torch

    from bench import checkpoints

    if codec is None:
        return checkpoints.forward(process_of(process), image, device)  # type: ignore[arg-type]
    home = codec if (codec / "codec.json").is_file() else models.folder(codec)
    latents = checkpoints.load_codec(home, checkpoints.read_codec(home), device, torch.float32)
    return checkpoints.forward(process_of(process), latents, device)


@app.command("schedule")
def schedule_(
    model: ModelName,
    schedule: Schedule,
    nfe: Annotated[int, typer.Option(help="number of steps")] = 10,
    json: JSON = False,
    format: Annotated[
        str, typer.Option(help="print levels as diffusers, k-diffusion or comfyui takes them")
    ] = "",
    rates_of: RatesOf = "",
    models: Models = None,
) -> None:
    """Print the grid of a schedule: sigma, alpha, lambda and the model's timestep.

    With --format, print the levels for another program.
    """
    import numpy as np

    from bench import checkpoints, generate, schedules
    from bench.process import alpha
    from bench.types import valid_grid

    if json and format:
        raise ValueError("--json and --format exclude each other; leave one out")
    where = checkpoints.models_of(models)
    card = checkpoints.find_card(model, where)
    process, law = card.process.build(), schedule_of(schedule, homes_of(where, rates_of, model))
    generate.check_measured(law, card.name, checkpoints.identity(card))
    grid = valid_grid(law, nfe, process)
    _warn_of_start(grid, process)
    if format:
        levels, note = schedules.export(format, grid, process)
        typer.echo(levels)
        typer.echo(note, err=True)
        return
    with np.errstate(divide="ignore"):  # lambda of 0 is infinite
        columns = {
            "sigma": grid, "alpha": alpha(grid), "lambda": -np.log(grid),
            "timestep": process.timestep(np.maximum(grid, process.sigma_min)),
        }  # fmt: skip
    if json:
        listed = {
            k: [v if v < float("inf") else None for v in c.tolist()] for k, c in columns.items()
        }
        print_json({"model": model, "schedule": schedule, **listed})
        return
    typer.echo("  ".join(f"{name:>12}" for name in columns))
    for row in zip(*(column.tolist() for column in columns.values()), strict=True):
        typer.echo("  ".join(f"{value:12.6g}" for value in row))
