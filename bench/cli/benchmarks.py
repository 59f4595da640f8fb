"""What the bench itself benchmarks: `crs-bench bench`."""

import math
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from bench.cli.options import Device, Models, benchmarks, device_of, numbers


@benchmarks.command("sampler")
def bench_sampler(
    network: Annotated[
        list[str] | None,
        typer.Option(help="adm-256, latent or tiny, may be repeated; the first two on a GPU"),
    ] = None,
    batch: Annotated[int, typer.Option(help="images at once; 0: what fits of 500, 4 on a CPU")] = 0,
    nfe: Annotated[int, typer.Option(help="function evaluations")] = 10,
    repeats: Annotated[int, typer.Option(help="times a line is read, after a warm-up")] = 3,
    seconds: Annotated[
        float, typer.Option(help="halve the batch until all takes about this long; 0: any time")
    ] = 0.0,
    dtype: Annotated[
        str, typer.Option(help="float32, float16, bfloat16; float16 on a GPU, else float32")
    ] = "",
    compile: Annotated[bool, typer.Option(help="ours with torch.compile too")] = False,
    json: Annotated[Path | None, typer.Option(help="file for all readings")] = None,
    device: Device = "auto",
) -> None:
    """Seconds of our samplers and of diffusers' loop, beside the network's calls alone, on networks
    of random weights. --seconds leaves out what torch.compile takes to compile."""
    from bench import benchmarks, checkpoints, store
    from bench.machine import device_name, versions

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
    if json:
        about = {"device": device_name(where), "versions": versions()}
        typer.echo(store.write_json(json, about | {"networks": found}))


@benchmarks.command("network")
def bench_network(
    model: Annotated[str, typer.Argument(help="a folder in --models, a path, adm-256, latent")],
    batches: Annotated[str, typer.Option(help="images at once, ascending until one fails")] = (
        "1,2,4,8,16,32,64,128,256,384,512"
    ),
    seconds: Annotated[float, typer.Option(help="of calls for each batch")] = 2.0,
    dtype: Annotated[str, typer.Option(help="float32, float16 or bfloat16")] = "float16",
    compile: Annotated[bool, typer.Option(help="with torch.compile")] = False,
    models: Models = None,
    json: Annotated[Path | None, typer.Option(help="file for all readings")] = None,
    device: Device = "auto",
) -> None:
    """Images a second and memory of a network's forward pass, by batch, and the largest that fits;
    of a model folder, or of random weights."""
    import dataclasses

    from bench import benchmarks, checkpoints, store
    from bench.machine import device_name, versions

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
        typer.echo(f"batch {sorted(sizes)[len(rates)]} does not fit")
    if json:
        content = {"network": opened.name, "dtype": dtype, "compiled": compile,
                   "device": device_name(where), "versions": versions(),
                   "rates": [dataclasses.asdict(rate) for rate in rates]}  # fmt: skip
        typer.echo(store.write_json(json, content))


@benchmarks.command("metrics")
def bench_metrics(
    only: Annotated[str, typer.Option(help="of frechet,neighbours,inception")] = (
        "frechet,neighbours,inception"
    ),
    images: Annotated[
        int, typer.Option(help="feature vectors; pictures, of which a CPU takes a twentieth")
    ] = 10_000,
    dim: Annotated[int, typer.Option(help="of features")] = 2048,
    repeats: Annotated[int, typer.Option(help="runs after a warm-up, of which the best")] = 2,
    peers: Annotated[bool, typer.Option(help="other tools too")] = True,
    json: Annotated[Path | None, typer.Option(help="file for all readings")] = None,
    device: Device = "auto",
) -> None:
    """Seconds and memory of our metrics and extractors beside torch-fidelity's and clean-fid's."""
    import dataclasses

    from bench import benchmarks, store
    from bench.machine import device_name, versions

    where = device_of(device)
    lines = benchmarks.score_lines(tuple(only.split(",")), where, images, dim, repeats, peers)
    typer.echo(f"{device_name(where)}; {images} images, {dim} dimensions")
    typer.echo(benchmarks.score_table(lines))
    if json:
        content = {"device": device_name(where), "versions": versions(), "images": images,
                   "dim": dim, "lines": [dataclasses.asdict(line) for line in lines]}  # fmt: skip
        typer.echo(store.write_json(json, content))
