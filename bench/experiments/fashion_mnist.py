"""Experiments on Fashion-MNIST. The package contains the checkpoints, rates and reference."""

from dataclasses import replace
from itertools import product

from bench import measures
from bench.checkpoints import Models, models_of, read_card
from bench.experiments.rates import SMOOTH, crs, rate_of
from bench.samplers import (
    DDIM,
    DDPM,
    DEIS,
    IPNDM,
    PNDM,
    DPMpp2M,
    DPMpp2MSDE,
    DPMpp2S,
    DPMpp3M,
    DPMSolver2,
    EDMStochastic,
    Heun,
    UniPC,
)
from bench.schedules import (
    Between,
    CheapestPath,
    ConstantRate,
    Coordinate,
    Cosine,
    DMNonUniform,
    Karras,
    KLOptimal,
    LogSNR,
    Native,
)
from bench.types import Block, Converged, Experiment, On, Rate, Schedule, Scoring, Tuned

XI = (0.25, 0.5, 0.75, 1.0)  # a tuned constant-rate line chooses among these ...
RHO = (3.0, 5.0, 7.0, 10.0)  # ... and a tuned Karras line among as many
LOW = (5, 6, 8, 10, 15, 20, 25, 50)  # function evaluations
GPU = Scoring(
    dtype="float16", batch=2_500, converged=Converged(DPMpp2M(), Karras(7.0), 200, 10_000)
)


def quick(models: Models) -> Experiment:
    """A first run, minutes on a laptop: 500 images a cell, or 250 of the latent model."""
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
        title="Fashion-MNIST, small pixel model and latent model, 500 and 250 images a cell",
        note="With so few images only large differences between schedules mean anything. For "
        "claims use `fmnist` and `fmnist-latent`. Compare cells of 250 images with each other "
        "only.",
        model="fmnist-pixel-small",
        lines={**lines, **latent},
        samplers=(DDIM(), DPMpp2M()),
        blocks=(
            Block("1", range(500), (5, 10, 20), tuple(lines)),
            Block("latent", range(500, 750), (5, 10), tuple(latent)),
        ),
        scoring=Scoring(bank=2_000, batch=256),
    )


def fmnist(models: Models) -> Experiment:
    """The pixel model at NFE 5 to 250. One block of seeds tunes xi and rho, others score them."""
    model = "fmnist-pixel"
    v_x, v_eps = rate_of(models, model, "v_x"), rate_of(models, model, "v_eps")
    headline = ("native", "Karras(rho tuned)", "CRS(v_x, xi=1)", "CRS(v_x, xi tuned)")
    return Experiment(
        name="fmnist",
        title="Fashion-MNIST, pixel model",
        note="A tuned line has four tries. For each sampler it keeps the try with the lowest "
        "geometric mean FD over NFE 5, 10 and 20 on the tuning seeds. No table scores the tuning "
        "seeds. Cells of 50,000 images and cells at NFE 100 and 250 use other seeds again. They "
        "exist for four lines only.",
        model=model,
        lines={
            "native": Native(),
            "log-SNR": LogSNR(),
            "Karras(rho=7)": Karras(7.0),
            "Karras(rho tuned)": Tuned(tuple(Karras(rho) for rho in RHO)),
            "CRS(v_x, xi=1)": crs(v_x, 1.0),
            "CRS(v_x, xi tuned)": Tuned(tuple(crs(v_x, xi) for xi in XI)),
            "CRS(v_eps, xi tuned)": Tuned(tuple(crs(v_eps, xi) for xi in XI)),
        },
        samplers=(DDIM(), DPMpp2M()),
        tuning=Block("tuning", range(10_000), (5, 10, 20)),
        blocks=(
            Block("1", range(10_000, 20_000), LOW),
            Block("2", range(20_000, 30_000), LOW),
            Block("3, 50k", range(100_000, 150_000), (10,), headline),
            Block("1, high NFE", range(30_000, 40_000), (100, 250), headline),
        ),
        scoring=GPU,
    )


def fmnist_224(models: Models) -> Experiment:
    """Five lines of `fmnist`, with features of images that are resized to 224 pixels."""
    plan, v_x = fmnist(models), rate_of(models, "fmnist-pixel", "v_x")
    return replace(
        plan,
        name="fmnist-224",
        title="Fashion-MNIST, pixel model, features at 224 pixels",
        note="This experiment tunes nothing. `fmnist` chose rho = 10 and xi = 0.5, with features "
        "at 128 pixels, on seeds that no table scores.",
        lines={
            "native": Native(),
            "log-SNR": LogSNR(),
            "Karras(rho=10)": Karras(10.0),
            "CRS(v_x, xi=1)": crs(v_x, 1.0),
            "CRS(v_x, xi=0.5)": crs(v_x, 0.5),
        },
        tuning=None,
        blocks=(
            Block("1", range(10_000, 20_000), (5, 10, 20)),
            Block("2", range(20_000, 30_000), (5, 10, 20)),
        ),
        scoring=replace(GPU, features="EffNetLite0(size=224)", converged=None),
    )


def training(models: Models) -> Experiment:
    """Baseline and constant-rate training, each with baseline and constant-rate sampling."""
    lines: dict[str, Schedule | Tuned | On] = {}
    for trained, model in (("uniform-t", "fmnist-pixel"), ("CRS", "fmnist-pixel-crs")):
        lines[f"trained {trained}, native"] = On(model, Native())
        schedule = crs(rate_of(models, model, "v_x"), 0.5)
        lines[f"trained {trained}, CRS(v_x, xi=0.5)"] = On(model, schedule)
    return Experiment(
        name="training",
        title="Fashion-MNIST: training and sampling under constant rate",
        note="Both networks have the same architecture, the same number of training steps and the "
        "same seed. They see the same images and the same noise in the same order. Only the law of "
        "noise levels differs. For one network it is uniform in the timesteps. For the other it is "
        "the constant rate of v_x with xi = 1, which the training itself estimates. Each network "
        "is sampled with its own measured v_x. `fmnist` chose xi = 0.5 for the first network, on "
        "seeds that no table scores.",
        model="fmnist-pixel",
        lines=lines,
        samplers=(DDIM(), DPMpp2M()),
        blocks=(
            Block("1", range(10_000, 20_000), (5, 10, 20, 50)),
            Block("2", range(20_000, 30_000), (5, 10, 20, 50)),
            Block("1, high NFE", range(30_000, 40_000), (100, 250)),
        ),
        scoring=GPU,
    )


def fmnist_latent(models: Models) -> Experiment:
    """The latent model, and the same model trained under constant rate, at NFE 5 to 250."""
    model, twin = "fmnist-latent", "fmnist-latent-crs"
    v_x, v_twin = rate_of(models, model, "v_x"), rate_of(models, twin, "v_x")
    return Experiment(
        name="fmnist-latent",
        title="Fashion-MNIST, latent model",
        note="A tuned line has four tries. For each sampler it keeps the try with the lowest "
        "geometric mean FD over NFE 5, 10 and 20 on the tuning seeds. Both networks have the same "
        "codec, the same architecture, the same number of training steps and the same seed. Only "
        "the law of noise levels differs. For one network it is uniform in the timesteps. For the "
        "other it is the constant rate of v_x with xi = 1, which the training itself estimates.",
        model=model,
        lines={
            "native": Native(),
            "log-SNR": LogSNR(),
            "Karras(rho=7)": Karras(7.0),
            "Karras(rho tuned)": Tuned(tuple(Karras(rho) for rho in RHO)),
            "CRS(v_x, xi=1)": crs(v_x, 1.0),
            "CRS(v_x, xi tuned)": Tuned(tuple(crs(v_x, xi) for xi in XI)),
            "trained CRS, native": On(twin, Native()),
            "trained CRS, CRS(v_x, xi=1)": On(twin, crs(v_twin, 1.0)),
            "trained CRS, CRS(v_x, xi=0.5)": On(twin, crs(v_twin, 0.5)),
        },
        samplers=(DDIM(), DPMpp2M()),
        tuning=Block("tuning", range(10_000), (5, 10, 20)),
        blocks=(
            Block("1", range(10_000, 20_000), LOW),
            Block("2", range(20_000, 30_000), LOW),
            Block(
                "1, high NFE", range(30_000, 40_000), (100, 250),
                ("native", "CRS(v_x, xi=1)", "trained CRS, native", "trained CRS, CRS(v_x, xi=1)"),
            ),
        ),
        scoring=GPU,
    )  # fmt: skip


def ablation(models: Models) -> Experiment:
    """The effect of each part of a constant-rate schedule: rate, xi, coordinate and sigma_max."""
    model = "fmnist-pixel"
    v_x, v_eps, v_fid = (rate_of(models, model, name) for name in ("v_x", "v_eps", "v_fid"))
    process = read_card(models_of(models).folder(model)).process.build()
    v_cos = measures.of_schedule(Cosine(), process)
    whole: dict[str, Schedule] = {"native": Native(), "Karras(rho=7)": Karras(7.0)}
    for rate in (v_x, v_eps, v_fid):
        whole |= _variants(rate)
    lower = {
        f"{line}, sigma_max={top:g}": Between(schedule, top)
        for top in (40.0, 20.0)  # the process has 80
        for line, schedule in whole.items()
    }
    mixes = (measures.mix({v_x: 0.5, v_cos: 0.5}), measures.mix({v_x: 0.5, v_fid: 0.5}))
    whole |= {f"CRS({v.name}, xi={xi:g}, angle)": crs(v, xi) for v in mixes for xi in (0.5, 1.0)}
    return Experiment(
        name="ablation",
        title="Fashion-MNIST, pixel model: the parts of a constant-rate schedule",
        note="The best of so many lines is partly the best by chance. Use this table to choose "
        "lines, not to claim results. For claims use `fmnist`, which tunes on other seeds than it "
        "scores. Lines with a lower sigma_max and cells at NFE 50 have one block of seeds only.",
        model=model,
        lines={**whole, **lower},
        samplers=(DDIM(), DPMpp2M()),
        blocks=(
            Block("1", range(200_000, 202_000), (5, 10, 20, 50)),
            Block("2", range(202_000, 204_000), (5, 10, 20), tuple(whole)),
            Block("3", range(204_000, 206_000), (5, 10, 20), tuple(whole)),
        ),
        scoring=replace(
            GPU, batch=2_000, strip=0, metrics=("fd",),
            converged=Converged(DPMpp2M(), Karras(7.0), 200, 2_000),
        ),
    )  # fmt: skip


def _variants(rate: Rate) -> dict[str, ConstantRate]:
    """Every xi with every coordinate. With xi = 1 all coordinates give the same grid."""
    made = {f"CRS({rate.name}, xi=1)": crs(rate, 1.0, "angle")}
    coordinates: tuple[Coordinate, ...] = ("alpha", "angle", "logsnr")
    for xi, coordinate in product((0.25, 0.5, 0.75, 1.25), coordinates):
        made[f"CRS({rate.name}, xi={xi:g}, {coordinate})"] = crs(rate, xi, coordinate)
    return made


def samplers(models: Models) -> Experiment:
    """Sixteen samplers, each with nine schedules, at NFE 5 to 50."""
    model = "fmnist-pixel"
    v_x, v_score = rate_of(models, model, "v_x"), rate_of(models, model, "v_score")
    gits, klub = (
        CheapestPath(measures.find(models_of(models).homes(model), name))
        for name in ("gits", "klub")
    )
    return Experiment(
        name="samplers",
        title="Fashion-MNIST, pixel model: every sampler with every schedule",
        note="This experiment tunes nothing. `fmnist` chose rho = 10 and xi = 0.5 for DDIM and "
        "DPM-Solver++(2M), with four tries each, on other seeds. c = 0.7 is the standard deviation "
        "of the data. Some samplers cannot use exactly the given NFE. They use fewer evaluations, "
        "and brackets show how many. Cells at NFE 50 have one block of seeds only.",
        model=model,
        lines={
            "native": Native(),
            "log-SNR": LogSNR(),
            "Karras(rho=10)": Karras(10.0),
            "KLOptimal(c=0.7)": KLOptimal(0.7),
            "GITS": gits,
            "KLUB": klub,
            "DM-NonUniform": DMNonUniform(),
            "score-optimal": ConstantRate(v_score, 1.0, smooth=SMOOTH),
            "CRS(v_x, xi=0.5)": crs(v_x, 0.5),
        },
        samplers=(
            DDIM(), IPNDM(), IPNDM(steps="variable"), PNDM(), DEIS(), DPMSolver2(), Heun(),
            DPMpp2S(), DPMpp2M(), DPMpp3M(), UniPC(), UniPC(order=3),
            DDIM(eta=1.0), DDPM("upper"), DPMpp2MSDE(), EDMStochastic(),
        ),
        blocks=(
            Block("1", range(300_000, 302_000), (5, 8, 10, 15, 20, 50)),
            Block("2", range(302_000, 304_000), (5, 8, 10, 15, 20)),
        ),
        scoring=replace(
            GPU, strip=0, metrics=("fd",), converged=Converged(DPMpp2M(), Karras(7.0), 200, 2_000)
        ),
    )  # fmt: skip
