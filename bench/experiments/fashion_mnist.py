"""Experiments on Fashion-MNIST. The package contains the checkpoints, rates and reference."""

from dataclasses import replace
from itertools import product

from bench.checkpoints import Models
from bench.experiments.rates import crs, rate_of
from bench.experiments.rivals import (
    FEW_AND_MANY,
    TRIES,
    TUNED_AT,
    ours,
    plain_rivals,
    published_rates,
    tuned_rivals,
)
from bench.samplers import (
    DDIM,
    DEIS,
    DPMpp2M,
    DPMpp2MSDE,
    DPMpp3M,
    Heun,
    UniPC,
)
from bench.schedules import Between, Coordinate, Karras, LogSNR, Native
from bench.types import Block, Converged, Experiment, On, Schedule, Scoring, Tuned

LOW = (5, 6, 8, 10, 15, 20)  # function evaluations
BLOCKS = {"1": range(10_000, 20_000), "2": range(20_000, 30_000), "3": range(40_000, 50_000)}
HEADLINE = (
    "native", "Karras(rho tuned)", "KLOptimal(c tuned)", "CRS(v_x, xi=1)",
    "CRS(v_x, xi tuned, angle)",
)  # fmt: skip
GPU = Scoring(
    dtype="float16", batch=2_500, converged=Converged(DPMpp2M(), Karras(7.0), 200, 10_000)
)
TUNING_NOTE = (
    f"A tuned line has {TRIES} tries for each sampler, at few evaluations (NFE 5 to 8) and at more "
    "(from NFE 9 on) separately. It keeps the try with the lowest geometric mean FD on the tuning "
    "seeds, over the tuning NFEs of that range. No table scores the tuning seeds."
)


def quick(models: Models) -> Experiment:
    """A first run, minutes on a laptop: 320 images a cell, or 128 of the latent model."""
    v_x, v_latent = (
        rate_of(models, name, "v_x") for name in ("fmnist-pixel-small", "fmnist-latent")
    )
    lines: dict[str, Schedule | Tuned | On] = {
        "native": Native(),
        "log-SNR": LogSNR(),
        "Karras(rho=7)": Karras(7.0),
        "CRS(v_x, xi=0.5)": crs(v_x, 0.5),
    }
    latent: dict[str, Schedule | Tuned | On] = {
        "latent, native": On("fmnist-latent", Native()),
        "latent, CRS(v_x, xi=0.5)": On("fmnist-latent", crs(v_latent, 0.5)),
    }
    return Experiment(
        name="quick",
        title="Fashion-MNIST, small pixel model and latent model, 320 and 128 images a cell",
        note="With so few images only large differences between schedules mean anything. For "
        "claims use `fmnist` and `fmnist-latent`. Compare cells of 128 images with each other "
        "only.",
        model="fmnist-pixel-small",
        lines={**lines, **latent},
        baselines=("native", "log-SNR", "Karras(rho=7)", "latent, native"),
        samplers=(DDIM(), DPMpp2M()),
        blocks=(
            Block("1", range(320), (5, 10, 20), tuple(lines)),
            Block("latent", range(500, 628), (5, 10), tuple(latent)),
        ),
        scoring=Scoring(bank=2_000, batch=256),
    )


def fmnist(models: Models) -> Experiment:
    """The pixel model at NFE 5 to 250: rivals and constant rate, with as many tries for each."""
    model = "fmnist-pixel"
    rivals = {**plain_rivals(), **published_rates(models, model), **tuned_rivals(models, model)}
    return Experiment(
        name="fmnist",
        title="Fashion-MNIST, pixel model",
        note=f"{TUNING_NOTE} Cells of 50,000 images use other seeds again. Cells at NFE 25 to 250 "
        "and cells of 50,000 images exist for some lines only. Those at NFE 100 and 250 have one "
        "block of seeds.",
        model=model,
        lines={**rivals, **ours(models, model)},
        baselines=tuple(rivals),
        samplers=(DDIM(), DPMpp2M()),
        tuning=Block("tuning", range(2_000), TUNED_AT),
        ranges=FEW_AND_MANY,
        blocks=(
            *(Block(name, seeds, LOW) for name, seeds in BLOCKS.items()),
            *(Block(name, seeds, (25, 50), HEADLINE) for name, seeds in BLOCKS.items()),
            Block("50k", range(100_000, 150_000), (10,), HEADLINE),
            Block("high NFE", range(30_000, 40_000), (100, 250), HEADLINE),
        ),
        scoring=GPU,
    )  # fmt: skip


def fmnist_latent(models: Models) -> Experiment:
    """The latent model: rivals and constant rate, with as many tries for each."""
    model = "fmnist-latent"
    left_out = ("time-uniform", "Beta", "Sigmoid", "Laplace", "Align Your Steps")
    mine = ours(models, model)
    tuned = tuned_rivals(models, model).items()
    rivals = {**plain_rivals(), **{k: v for k, v in tuned if not k.startswith(left_out)}}
    return Experiment(
        name="fmnist-latent",
        title="Fashion-MNIST, latent model",
        note=f"{TUNING_NOTE} The converged FD of this model is high (the table has it), and its "
        "codec allows about 6. So many cells are better than the converged samples of the model. "
        "Use `fmnist` to rank schedules.",
        model=model,
        lines={
            **rivals,
            **{line: one for line, one in mine.items() if line != "CRS(v_fid, xi=2, alpha)"},
        },
        baselines=tuple(rivals),
        samplers=(DDIM(), DPMpp2M()),
        tuning=Block("tuning", range(2_000), TUNED_AT),
        ranges=FEW_AND_MANY,
        blocks=tuple(Block(name, seeds, (5, 8, 10, 20)) for name, seeds in BLOCKS.items()),
        scoring=GPU,
    )


def ablation(models: Models) -> Experiment:
    """The effect of each part of a constant-rate schedule: rate, xi, coordinate and sigma_max."""
    model = "fmnist-pixel"
    whole: dict[str, Schedule] = {"native": Native(), "Karras(rho=7)": Karras(7.0)}
    for rate in (rate_of(models, model, name) for name in ("v_x", "v_eps", "v_fid")):
        whole[f"CRS({rate.name}, xi=1)"] = crs(rate, 1.0, "angle")  # the same in all coordinates
        coordinates: tuple[Coordinate, ...] = ("alpha", "angle", "logsnr")
        for xi, coordinate in product((0.25, 0.5, 0.75), coordinates):
            whole[f"CRS({rate.name}, xi={xi:g}, {coordinate})"] = crs(rate, xi, coordinate)
    lower = {
        f"{line}, sigma_max=40": Between(schedule, sigma_max=40.0)  # the process has 80
        for line, schedule in whole.items()
    }
    return Experiment(
        name="ablation",
        title="Fashion-MNIST, pixel model: the parts of a constant-rate schedule",
        note="The best of so many lines is partly the best by chance. Use this table to choose "
        "lines, not to claim results. For claims use `fmnist`, which tunes on other seeds than it "
        "scores.",
        model=model,
        lines={**whole, **lower},
        samplers=(DDIM(), DPMpp2M()),
        blocks=tuple(
            Block(f"{i + 1}", range(200_000 + 2_000 * i, 202_000 + 2_000 * i), (5, 10, 20))
            for i in range(3)
        ),
        scoring=replace(
            GPU, batch=2_000, strip=0, metrics=("fd",),
            converged=Converged(DPMpp2M(), Karras(7.0), 200, 2_000),
        ),
    )  # fmt: skip


def samplers(models: Models) -> Experiment:
    """Six more samplers, each with rivals and constant rate, tuned for each sampler."""
    model = "fmnist-pixel"
    mine = ours(models, model)
    kept = ("CRS(v_x, xi=1)", "CRS(v_x, xi tuned, angle)", "CRS(v_fid, xi tuned, angle)")
    rivals = {**plain_rivals(), **tuned_rivals(models, model)}
    return Experiment(
        name="samplers",
        title="Fashion-MNIST, pixel model: six more samplers",
        note=f"{TUNING_NOTE} Some samplers cannot use exactly the given NFE. They use fewer "
        "evaluations, and brackets show how many.",
        model=model,
        lines={**rivals, **{line: mine[line] for line in kept}},
        baselines=tuple(rivals),
        samplers=(
            UniPC(), DEIS(), DPMpp3M(), DPMpp3M(lower_order_final="never"), Heun(), DPMpp2MSDE(),
        ),
        tuning=Block("tuning", range(298_000, 298_500), (5, 10, 20)),
        ranges=FEW_AND_MANY,
        blocks=tuple(
            Block(f"{i + 1}", range(300_000 + 2_000 * i, 302_000 + 2_000 * i), (5, 10, 20))
            for i in range(3)
        ),
        scoring=replace(
            GPU, strip=0, metrics=("fd",), converged=Converged(DPMpp2M(), Karras(7.0), 200, 2_000)
        ),
    )  # fmt: skip
