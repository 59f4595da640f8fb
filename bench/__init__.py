"""crs-bench: noise schedules for diffusion models, compared honestly.

    experiment -> cells -> grid -> images -> features -> sums -> metrics -> record -> table, figure

Read `bench/run.py` first: it is that line as code. The rooms:

    types        protocols and frozen dataclasses, shape and dtype conventions
    noise        counter-based Gaussian noise: a function of (seed, draw, pixel) alone
    process      VP / VE: alpha, timestep <-> sigma; eps / v / x0 -> E[x0|x]
    schedules    Native, LogSNR, Karras, ConstantRate: steps -> grid
    curves       a measured rate as a smooth positive function
    measures     DataPrediction, FeatureFrechet, GITS, ... -> a Rate or Costs, kept in a file
    samplers     DDIM, DPMpp2M: (denoise, x, grid, noise) -> x
    checkpoints  a model folder -> a network behind one Denoiser
    zoo          published formats: a file of weights -> a model folder
    data         a dataset -> uint8 images
    generate     a cell -> a stream of uint8 images
    features     extractors, sums, references
    metrics      Frechet and kernel distance, nearest neighbours, intervals
    experiments  functions that list the choices
    judge        images of any kind against a reference
    lab          an experiment's cells with their grids and keys
    run          the main path
    store        records on disk
    report       records -> tables and figures
    training     trains a denoiser under any schedule
"""

import importlib
from typing import Any

_ROOMS = (
    "schedules", "samplers", "measures", "metrics", "features", "checkpoints",
    "process", "experiments", "report", "store", "training", "data", "zoo",
)  # fmt: skip
_ALIASES = {"rates": "measures", "costs": "measures"}  # earlier names of a room
_NAMES = {
    "load": "bench.checkpoints",
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
