"""The verbs that time the bench itself: `crs-bench bench`."""

import math
import os
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bench.cli.options import Device, Models, device_of, numbers
from bench.cli.options import benchmarks as app

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from bench.benchmarks import Reading
    from bench.checkpoints import Checkpoint

Record = Annotated[Path | None, typer.Option("--json", help="JSON file for the record")]
Repeats = Annotated[int, typer.Option(help="runs after a warm-up; the fastest one counts")]
Dtype = Annotated[
    str, typer.Option(help="float32, float16 or bfloat16; default: float16 on a GPU, else float32")
]
Peers = Annotated[bool, typer.Option(help="time other tools too, in turn with ours")]


def _without_folders(value: object) -> object:
    """Of a path the last part. An id of the hub is no path."""
    path = isinstance(value, Path) or (
        isinstance(value, str) and os.sep in value and Path(value).exists()
    )
    return Path(str(value)).name if path else value


def _write(asked: typer.Context, counts: str, readings: "Sequence[Reading]") -> None:
    """Write a record (`bench.benchmarks.record`), if --json asks for it. Of paths it has the last
    part alone: a record is for others, who have other folders."""
    from bench import benchmarks, store
    from bench.machine import device_name, versions

    given = dict(asked.params)
    path, device = given.pop("record"), device_of(given.pop("device"))
    content = {
        "verb": asked.command.name,
        "arguments": {name: _without_folders(x) for name, x in given.items()},
        "device": device_name(device), "versions": versions(), "counts": counts,
        "readings": benchmarks.content(readings),
    }  # fmt: skip
    if path:
        typer.echo(store.write_json(path, content))


@app.command("sampler")
def bench_sampler(
    asked: typer.Context,
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
    dtype: Dtype = "",
    compile: Annotated[bool, typer.Option(help="time our samplers with torch.compile too")] = False,
    record: Record = None,
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
    found: list[Reading] = []
    typer.echo(device_name(where))
    for name in todo:
        start = time.monotonic()
        model = benchmarks.untrained(name, where, dtype or ("float16" if gpu else "float32"))
        left = start + seconds / len(todo) - time.monotonic() if seconds else math.inf
        trial = benchmarks.fitting(model, nfe, batch, repeats, compile, left)
        read = benchmarks.time_samplers(trial, checkpoints.compiled if compile else None)
        typer.echo(benchmarks.sampler_table(trial, read))
        found += read
    _write(asked, f"the median of {repeats}, in turn, after a warm-up", found)


def _network(model: str, models: Path | None) -> "Callable[[str, str], Checkpoint]":
    """(device, dtype) -> the network of `bench network`. ValueError: nothing has the name."""
    from bench import benchmarks, checkpoints
    from bench.checkpoints.pipelines import is_hub_id
    from bench.checkpoints.places import is_object
    from bench.names import nearest
    from bench.price.standin import of_card
    from bench.zoo.presets import all_presets

    places, presets = checkpoints.models_of(models), all_presets()
    if model in benchmarks.NETWORKS:
        return partial(benchmarks.untrained, model)
    if is_object(model) or is_hub_id(model) or places.present(model):
        return lambda device, dtype: checkpoints.load(model, device, dtype, models)
    if model not in presets:
        known = [*benchmarks.NETWORKS, *places.names(), *presets]
        raise ValueError(f"no network or model {model!r}{nearest(model, known)}")
    card = presets[model][1].draft(model).model_copy(update={"codec": None})
    return partial(of_card, card)


@app.command("network")
def bench_network(
    asked: typer.Context,
    model: Annotated[
        str, typer.Argument(help="name in --models, path, preset, adm-256, latent or tiny")
    ],
    batches: Annotated[
        str, typer.Option(help="batch sizes, tried in ascending order until one does not fit")
    ] = ("1,2,4,8,16,32,64,128,256,384,512"),
    seconds: Annotated[float, typer.Option(help="seconds for each batch size")] = 2.0,
    dtype: Dtype = "",
    compile: Annotated[bool, typer.Option(help="use torch.compile")] = False,
    profile: Annotated[
        bool, typer.Option(help="split the time of the largest batch by class of kernel")
    ] = False,
    peers: Annotated[
        bool, typer.Option(help="time it as published code runs it too, and a matrix product")
    ] = True,
    models: Models = None,
    record: Record = None,
    device: Device = "auto",
) -> None:
    """Time a network's forward pass for each batch size: images per second and memory.

    The network is a model folder. That of adm-256, latent or tiny has random weights, and so has
    that of a preset of which there is no folder. Published code calls it without torch.compile and
    channels last, in float16 on a GPU and in float32 on a CPU. A product of matrices shows what the
    device can do.
    """
    from bench import benchmarks, checkpoints
    from bench.machine import device_name

    where, sizes = device_of(device), numbers(batches, "--batches")
    usual, opened = "float16" if where.startswith("cuda") else "float32", _network(model, models)
    ours = opened(where, dtype or usual)
    published = opened(where, usual) if peers else None
    product = [benchmarks.ceiling(ours)] if peers or profile else []
    made = checkpoints.compiled(ours) if compile else ours
    found = list(benchmarks.throughput(made, sizes, seconds, published))
    parts = benchmarks.profiled(made, found[-1].more["batch"]) if profile else []
    known = ours.card.weights_sha256 or not checkpoints.find_family(ours.card.family).has_weights
    weights = "" if known else ", random weights"
    typer.echo(f"{device_name(where)}{', compiled' if compile else ''}{weights}")
    typer.echo(benchmarks.table(
        [*product, *found, *parts], images_a_second=".4g", memory_gib=".1f", network_tflop=".4g",
        share=".1%", busy=".1%", kernels=".0f",
    ))  # fmt: skip
    if len(found) < len(sizes):
        typer.echo(f"batch {sorted(sizes)[len(found)]} does not fit in memory")
    _write(asked, "the fastest of 3 rounds, in turn, after a warm-up", [*product, *found, *parts])


@app.command("metrics")
def bench_metrics(
    asked: typer.Context,
    only: Annotated[str, typer.Option(help="tasks among frechet,neighbours,inception")] = (
        "frechet,neighbours,inception"
    ),
    images: Annotated[
        int,
        typer.Option(help="number of feature vectors and images; a CPU takes 1/20 of the images"),
    ] = 10_000,
    dim: Annotated[int, typer.Option(help="dimension of the features")] = 2048,
    repeats: Repeats = 2,
    peers: Peers = True,
    record: Record = None,
    device: Device = "auto",
) -> None:
    """Time our metrics and extractor beside torch-fidelity's and clean-fid's."""
    from bench import benchmarks
    from bench.machine import device_name

    where = device_of(device)
    found = benchmarks.time_metrics(tuple(only.split(",")), where, images, dim, repeats, peers)
    typer.echo(f"{device_name(where)}; {images} images, {dim} dimensions")
    typer.echo(benchmarks.table(found, memory_mib=".0f", value=".9g"))
    _write(asked, f"the fastest of {repeats}, in turn, after a warm-up", found)


@app.command("cell")
def bench_cell(
    asked: typer.Context,
    images: Annotated[int, typer.Option(help="images in the cell")] = 10_000,
    dims: Annotated[
        str, typer.Option(help="dimensions; 1280 are of effnet-lite0, others are random features")
    ] = "1280,2048",
    replicates: Annotated[int, typer.Option(help="replicates of the bootstrap")] = 10,
    repeats: Repeats = 2,
    record: Record = None,
    device: Device = "auto",
) -> None:
    """Time each part of scoring a cell, on a GPU and on the CPU, and compare the results.

    The exit status is 1 if a part does not agree. The CPU extracts features of 1/20 of the images,
    and its time is scaled.
    """
    from bench import benchmarks
    from bench.machine import device_name

    where, sizes = device_of(device), tuple(numbers(dims, "--dims"))
    parts = benchmarks.cell_parts(where, images, sizes, replicates, repeats)
    typer.echo(f"{device_name(where)}; {images} images\n{benchmarks.cell_table(parts)}")
    counts = f"the fastest of {repeats}, in turn, after a warm-up; the CPU as a peer ran once"
    _write(asked, counts, benchmarks.cell_readings(parts))
    if wrong := [part.what for part in parts if not part.agrees]:
        typer.echo(f"the GPU and the CPU do not agree: {'; '.join(wrong)}", err=True)
        raise typer.Exit(1)


@app.command("run")
def bench_run(
    asked: typer.Context,
    model: Annotated[str, typer.Argument(help="name in --models, path, adm-256, latent or tiny")],
    nfe: Annotated[int, typer.Option(help="calls of the network for each image")] = 10,
    images: Annotated[int, typer.Option(help="images in each cell")] = 1_000,
    cells: Annotated[int, typer.Option(help="cells, one after the other")] = 1,
    workers: Annotated[str, typer.Option(help="numbers of workers, each timed in turn")] = "1",
    engine: Annotated[
        str, typer.Option(help="of the workers: processes or ray; in-process: no workers")
    ] = "processes",
    features: Annotated[
        str, typer.Option(help="feature extractor; inception: random weights, if it has none")
    ] = "effnet-lite0",
    reference: Annotated[
        str, typer.Option(help="default: fashion-mnist; random features for random weights")
    ] = "",
    batch: Annotated[int, typer.Option(min=1, help="batch size")] = 64,
    seconds: Annotated[
        float, typer.Option(min=0.1, help="of the network alone, before the cells and after them")
    ] = 4.0,
    dtype: Dtype = "",
    compile: Annotated[bool, typer.Option(help="use torch.compile")] = False,
    models: Models = None,
    record: Record = None,
    device: Device = "auto",
) -> None:
    """Time whole cells: sampling, decoding, features, statistics and scores.

    The cells run in this process, then with each number of workers. Start-up and compilation are
    not timed. The efficiency is the rate of evaluations over that of the network alone, which is
    timed in the same call.
    """
    from bench import benchmarks, checkpoints
    from bench.cli.experiments import engine_of
    from bench.machine import device_name
    from bench.types import Scoring

    where, counts = device_of(device), numbers(workers, "--workers")
    engines = [(engine, count, engine_of(engine, device, "", count)) for count in counts]
    usual = "float16" if where.startswith("cuda") else "float32"
    scoring = Scoring(
        features, reference or ("" if model in benchmarks.NETWORKS else "fashion-mnist"),
        dtype=dtype or usual, batch=batch,
    )  # fmt: skip
    prepare = checkpoints.compiled if compile else checkpoints.as_it_is
    how = scoring, checkpoints.models_of(models), where, prepare
    with benchmarks.cells_of(model, nfe, images, cells, max(counts), *how) as made:
        found = benchmarks.time_cells(made, [] if engine == "in-process" else engines, seconds)
    typer.echo(f"{device_name(where)}{', compiled' if compile else ''}; {model}, NFE {nfe}, "
               f"{cells} x {images} images, {features}")  # fmt: skip
    typer.echo(benchmarks.table(
        found, images_a_second=".4g", speedup=".2f", efficiency=".1%", sampling_speedup=".2f",
        sampling=".1%", in_shards=".1%", after_shards=".2f",
    ))  # fmt: skip
    _write(asked, "one run, after a warm-up of each worker", found)
