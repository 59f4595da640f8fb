"""The verbs that time the bench itself: `crs-bench bench`."""

import math
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from bench.cli.options import Device, Models, device_of, numbers
from bench.cli.options import benchmarks as app

Readings = Annotated[Path | None, typer.Option(help="JSON file for all readings")]
Repeats = Annotated[int, typer.Option(help="runs after a warm-up; the fastest one counts")]


def _write(path: Path | None, device: str, content: dict[str, Any]) -> None:
    """Write readings with the machine that they are of, if they are to be written."""
    from bench import store
    from bench.machine import device_name, versions

    if path:
        about = {"device": device_name(device), "versions": versions()}
        typer.echo(store.write_json(path, about | content))


@app.command("sampler")
def bench_sampler(
    network: Annotated[
        list[str] | None,
        typer.Option(
            help="adm-256, latent or tiny; repeatable; default: the first two on a GPU, else tiny"
        ),
    ] = None,
    batch: Annotated[int, typer.Option(help="batch size; 0: up to 500 on a GPU, 4 on a CPU")] = 0,
    nfe: Annotated[int, typer.Option(help="calls of the network")] = 10,
    repeats: Annotated[int, typer.Option(help="readings of each line, after a warm-up")] = 3,
    seconds: Annotated[
        float, typer.Option(help="time limit; the batch is halved until it holds; 0: no limit")
    ] = 0.0,
    dtype: Annotated[
        str,
        typer.Option(help="float32, float16 or bfloat16; default: float16 on a GPU, else float32"),
    ] = "",
    compile: Annotated[bool, typer.Option(help="time our samplers with torch.compile too")] = False,
    json: Readings = None,
    device: Device = "auto",
) -> None:
    """Time our samplers, diffusers' samplers and the network alone, with random weights.

    --seconds does not include the compilation.
    """
    from bench import benchmarks, checkpoints
    from bench.machine import device_name

    where = device_of(device)
    gpu = where.startswith("cuda")
    todo = network or (["adm-256", "latent"] if gpu else ["tiny"])
    found: list[dict[str, Any]] = []
    typer.echo(device_name(where))
    for name in todo:
        start = time.monotonic()
        model = benchmarks.untrained(name, where, dtype or ("float16" if gpu else "float32"))
        left = start + seconds / len(todo) - time.monotonic() if seconds else math.inf
        trial = benchmarks.fitting(model, nfe, batch, repeats, compile, left)
        lines = benchmarks.time_samplers(trial, checkpoints.compiled if compile else None)
        typer.echo(benchmarks.table(trial, lines))
        found.append(benchmarks.content(trial, lines))
    _write(json, where, {"networks": found})


@app.command("network")
def bench_network(
    model: Annotated[str, typer.Argument(help="name in --models, path, adm-256, latent or tiny")],
    batches: Annotated[
        str, typer.Option(help="batch sizes, tried in ascending order until one does not fit")
    ] = ("1,2,4,8,16,32,64,128,256,384,512"),
    seconds: Annotated[float, typer.Option(help="seconds for each batch size")] = 2.0,
    dtype: Annotated[str, typer.Option(help="float32, float16 or bfloat16")] = "float16",
    compile: Annotated[bool, typer.Option(help="use torch.compile")] = False,
    models: Models = None,
    json: Readings = None,
    device: Device = "auto",
) -> None:
    """Time a network's forward pass for each batch size: images per second and memory.

    The network is a model folder, or has random weights.
    """
    import dataclasses

    from bench import benchmarks, checkpoints
    from bench.machine import device_name

    where, sizes = device_of(device), numbers(batches, "--batches")
    opened = (
        benchmarks.untrained(model, where, dtype)
        if model in benchmarks.NETWORKS
        else checkpoints.load(model, where, dtype, models)
    )
    made = checkpoints.compiled if compile else None
    rates = list(benchmarks.throughput(opened, sizes, seconds, made))
    about = f"{opened.name}, {dtype}{', compiled' if compile else ''}, {device_name(where)}"
    typer.echo(f"{about}\n{benchmarks.throughput_table(rates)}")
    if len(rates) < len(sizes):
        typer.echo(f"batch {sorted(sizes)[len(rates)]} does not fit in memory")
    content = {"network": opened.name, "dtype": dtype, "compiled": compile}
    _write(json, where, content | {"rates": [dataclasses.asdict(rate) for rate in rates]})


@app.command("metrics")
def bench_metrics(
    only: Annotated[str, typer.Option(help="tasks among frechet,neighbours,inception")] = (
        "frechet,neighbours,inception"
    ),
    images: Annotated[
        int,
        typer.Option(help="number of feature vectors and images; a CPU takes 1/20 of the images"),
    ] = 10_000,
    dim: Annotated[int, typer.Option(help="dimension of the features")] = 2048,
    repeats: Repeats = 2,
    peers: Annotated[bool, typer.Option(help="time other tools too")] = True,
    json: Readings = None,
    device: Device = "auto",
) -> None:
    """Time our metrics and extractor beside torch-fidelity's and clean-fid's."""
    import dataclasses

    from bench import benchmarks
    from bench.machine import device_name

    where = device_of(device)
    lines = benchmarks.score_lines(tuple(only.split(",")), where, images, dim, repeats, peers)
    typer.echo(f"{device_name(where)}; {images} images, {dim} dimensions")
    typer.echo(benchmarks.score_table(lines))
    content = {"images": images, "dim": dim}
    _write(json, where, content | {"lines": [dataclasses.asdict(line) for line in lines]})


@app.command("cell")
def bench_cell(
    images: Annotated[int, typer.Option(help="images in the cell")] = 10_000,
    dims: Annotated[
        str, typer.Option(help="dimensions; 1280 are of effnet-lite0, others are random features")
    ] = "1280,2048",
    replicates: Annotated[int, typer.Option(help="replicates of the bootstrap")] = 10,
    repeats: Repeats = 2,
    json: Readings = None,
    device: Device = "auto",
) -> None:
    """Time each part of scoring a cell, on a GPU and on the CPU, and compare the results.

    The exit status is 1 if a part does not agree. The CPU extracts features of 1/20 of the images,
    and its time is scaled.
    """
    import dataclasses

    from bench import benchmarks
    from bench.machine import device_name

    where, sizes = device_of(device), tuple(numbers(dims, "--dims"))
    parts = benchmarks.cell_parts(where, images, sizes, replicates, repeats)
    typer.echo(f"{device_name(where)}; {images} images\n{benchmarks.cell_table(parts)}")
    content = {"cpu": device_name("cpu"), "images": images}
    _write(json, where, content | {"parts": [dataclasses.asdict(part) for part in parts]})
    if wrong := [part.what for part in parts if not part.agrees]:
        typer.echo(f"the GPU and the CPU do not agree: {'; '.join(wrong)}", err=True)
        raise typer.Exit(1)
