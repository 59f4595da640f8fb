"""crs-bench: noise schedules for diffusion models, compared honestly.

    experiment -> plan: cells, grids, keys -> shards: images, features -> scores -> record -> report

Read `bench/run.py` first: it is that line as code. `crs-bench docs` lists the pages for users. The
rooms:

    types        base classes of parts, measurements, an experiment's choices
    noise        counter-based Gaussian noise: a function of (seed, draw, pixel) alone
    process      VP and VE: alpha, timestep <-> sigma; eps, v, x0 -> E[x0|x]
    curves       a measured rate as a smooth positive function
    schedules    Native, Karras, ConstantRate, ...: steps -> grid
    samplers     DDIM, DPMpp2M, ...: (denoise, x, grid, noise) -> x
    measures     DataPrediction, GITS, ...: model and images -> a Rate or Costs, kept in a file
    checkpoints  where models lie; a model folder -> a network behind one denoiser
    zoo          published formats: a file of weights -> a model folder
    data         files of images -> uint8 tensors
    generate     a cell -> a stream of uint8 images
    features     extractors, sums, references
    metrics      Frechet and kernel distance, nearest neighbours, bootstrap intervals
    judge        features of two sets -> scores with their protocol: the only scorer
    experiments  functions that list the choices of an experiment
    plan         an experiment -> its cells with grids and keys, checked before any sampling
    shards       fixed ranges of seeds -> features on disk, merged in seed order
    engines      where shards are made: one process, several, or a cluster
    records      what a cell's record holds, and which scores it lacks
    filling      the main path's order of work: missing shards, and threads that write and score
    run          the main path
    progress     the bar of a run
    price        what a run will take, before it starts
    rescore      further metrics from the features on disk
    store        keys, records and plans on disk
    report       records -> tables and figures
    page         records of all experiments -> one HTML file
    training     trains a denoiser under any schedule
    studies      compares training laws over training seeds
    benchmarks   what the bench itself costs
    fetch        downloads that continue after a break
    names        text -> objects; never evaluates code
    lazy         torch, imported when it is used
    machine      the hardware and the versions behind a number
    cli          one verb an action
    docs         the pages of the documentation, in Markdown
"""

import importlib
from typing import Any

_ROOMS = (
    "schedules", "samplers", "measures", "metrics", "features", "checkpoints",
    "process", "experiments", "report", "store", "studies", "training", "data", "zoo",
)  # fmt: skip
_ALIASES = {"rates": "measures", "costs": "measures"}  # earlier names of a room
_NAMES = {
    "load": "bench.checkpoints",
    "wrap": "bench.checkpoints",
    "sample": "bench.generate",
    "score": "bench.judge",
    **dict.fromkeys(
        ("Block", "Cell", "Converged", "CostMeasure", "Costs", "Experiment", "Extractor", "Measure",
         "Metric", "Model", "On", "Rate", "Sampler", "Schedule", "Score", "Scoring", "Tuned",
         "rate_between"),
        "bench.types",
    ),
}  # fmt: skip


def __getattr__(name: str) -> Any:
    """Rooms and public names load on first use, so that reports run without torch."""
    if name == "__version__":
        return _version()
    name = _ALIASES.get(name, name)
    if name in _ROOMS:
        return importlib.import_module(f"bench.{name}")
    if name in _NAMES:
        return getattr(importlib.import_module(_NAMES[name]), name)
    raise AttributeError(f"module 'bench' has no attribute {name!r}")


def _version() -> str:
    """The version of the installed package. pyproject.toml says it, and nothing else does."""
    from importlib import metadata

    try:
        return metadata.version("crs-bench")
    except metadata.PackageNotFoundError:
        return "unknown, not installed"


def __dir__() -> list[str]:
    return sorted([*_ROOMS, *_NAMES, "__version__"])
