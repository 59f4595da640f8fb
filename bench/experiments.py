"""Experiments: functions of the models folder that return an `Experiment`; choices live here only.

A user's own is such a function in a module of theirs: `crs-bench run mymodule:function`.
"""

from pathlib import Path

from bench import rates
from bench.samplers import DDIM, DPMpp2M
from bench.schedules import ConstantRate, Karras, LogSNR, Native
from bench.types import Block, Experiment, Rate, Scoring, Tuned

XI = (0.25, 0.5, 0.75, 1.0)  # tries for ours ...
RHO = (3.0, 5.0, 7.0, 10.0)  # ... and as many for the rival


def _rate(models: Path, model: str, name: str) -> Rate:
    return rates.load_rate(models / model / "rates" / f"{name}.json")


def quick(models: Path) -> Experiment:
    """Minutes on a laptop: 500 images a cell of the small pixel model, four schedules."""
    v_x = _rate(models, "fmnist-pixel-small", "v_x")
    return Experiment(
        name="quick",
        title="Fashion-MNIST, small pixel model, 500 images a cell",
        note="500 images rank schedules that differ a lot and nothing else; claims need `fmnist`.",
        model="fmnist-pixel-small",
        lines={
            "native": Native(),
            "log-SNR": LogSNR(),
            "Karras(rho=7)": Karras(7.0),
            "CRS(v_x, xi=0.5)": ConstantRate(v_x, 0.5, "angle"),
        },
        samplers=(DDIM(), DPMpp2M()),
        blocks=(Block("1", range(500), (5, 10, 20)),),
        scoring=Scoring(bank=2_000, batch=64),
    )


def fmnist(models: Path) -> Experiment:
    """NFE 5 to 250 on a GPU: xi and rho tuned on one block of seeds, scored on two others."""
    model = "fmnist-pixel"
    v_x = _rate(models, model, "v_x")
    low = (5, 6, 8, 10, 15, 20, 25, 50)
    return Experiment(
        name="fmnist",
        title="Fashion-MNIST, pixel model",
        note="Tuned lines: four tries each, the lowest geometric mean FD over NFE 5, 10 and 20 on "
        "the tuning seeds, one choice a sampler; those seeds are scored nowhere.",
        model=model,
        lines={
            "native": Native(),
            "log-SNR": LogSNR(),
            "Karras(rho=7)": Karras(7.0),
            "Karras(rho tuned)": Tuned(tuple(Karras(rho) for rho in RHO)),
            "CRS(v_x, xi=1)": ConstantRate(v_x, 1.0, "angle"),
            "CRS(v_x, xi tuned)": Tuned(tuple(ConstantRate(v_x, xi, "angle") for xi in XI)),
        },
        samplers=(DDIM(), DPMpp2M()),
        tuning=Block("tuning", range(10_000), (5, 10, 20)),
        blocks=(
            Block("1", range(10_000, 20_000), low),
            Block("2", range(20_000, 30_000), low),
            Block("3, 50k", range(100_000, 150_000), (10,)),
            Block("1, high NFE", range(30_000, 40_000), (100, 250)),
        ),
        scoring=Scoring(dtype="float16", batch=2_500),
    )
