"""On Fashion-MNIST, whose checkpoints, rates and reference are shipped."""

from dataclasses import replace
from itertools import product

from bench import measures
from bench.checkpoints import Models, models_of, read_card
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

XI = (0.25, 0.5, 0.75, 1.0)  # tries for ours ...
RHO = (3.0, 5.0, 7.0, 10.0)  # ... and as many for the rival
LOW = (5, 6, 8, 10, 15, 20, 25, 50)
SMOOTH = 0.3  # nats of sigma: networks jitter between neighbouring timesteps
GPU = Scoring(
    dtype="float16", batch=2_500, converged=Converged(DPMpp2M(), Karras(7.0), 200, 10_000)
)


def _rate(models: Models, model: str, name: str) -> Rate:
    return measures.find(models_of(models).homes(model), name)


def _crs(rate: Rate, xi: float, coordinate: Coordinate = "angle") -> ConstantRate:
    return ConstantRate(rate, xi, coordinate, smooth=SMOOTH)


def quick(models: Models) -> Experiment:
    """Minutes on a laptop: 500 images a cell of the small pixel model, four schedules; 250 of the
    latent model, two."""
    v_x, v_latent = (_rate(models, name, "v_x") for name in ("fmnist-pixel-small", "fmnist-latent"))
    lines: dict[str, Schedule | Tuned | On] = {
        "native": Native(),
        "log-SNR": LogSNR(),
        "Karras(rho=7)": Karras(7.0),
        "CRS(v_x, xi=0.5)": _crs(v_x, 0.5),
    }
    latent: dict[str, Schedule | Tuned | On] = {
        "latent, native": On("fmnist-latent", Native()),
        "latent, CRS(v_x, xi=0.5)": On("fmnist-latent", _crs(v_latent, 0.5)),
    }
    return Experiment(
        name="quick",
        title="Fashion-MNIST, small pixel model and latent model, 500 and 250 images a cell",
        note="So few images rank schedules that differ a lot and nothing else; claims need "
        "`fmnist` and `fmnist-latent`. The cells of 250 images compare with each other only.",
        model="fmnist-pixel-small",
        lines={**lines, **latent},
        samplers=(DDIM(), DPMpp2M()),
        blocks=(
            Block("1", range(500), (5, 10, 20), tuple(lines)),
            Block("latent", range(500, 750), (5, 10), tuple(latent)),
        ),
        scoring=Scoring(bank=2_000, batch=64),
    )


def fmnist(models: Models) -> Experiment:
    """NFE 5 to 250 on a GPU: xi and rho tuned on one block of seeds, scored on others."""
    model = "fmnist-pixel"
    v_x, v_eps = _rate(models, model, "v_x"), _rate(models, model, "v_eps")
    headline = ("native", "Karras(rho tuned)", "CRS(v_x, xi=1)", "CRS(v_x, xi tuned)")
    return Experiment(
        name="fmnist",
        title="Fashion-MNIST, pixel model",
        note="Tuned lines: four tries each, the lowest geometric mean FD over NFE 5, 10 and 20 on "
        "the tuning seeds, one choice a sampler; those seeds are scored nowhere. 50,000 images and "
        "NFE 100 and 250 are run for the headline lines only, on seeds of their own.",
        model=model,
        lines={
            "native": Native(),
            "log-SNR": LogSNR(),
            "Karras(rho=7)": Karras(7.0),
            "Karras(rho tuned)": Tuned(tuple(Karras(rho) for rho in RHO)),
            "CRS(v_x, xi=1)": _crs(v_x, 1.0),
            "CRS(v_x, xi tuned)": Tuned(tuple(_crs(v_x, xi) for xi in XI)),
            "CRS(v_eps, xi tuned)": Tuned(tuple(_crs(v_eps, xi) for xi in XI)),
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
    """Headline rows of `fmnist` again, scored on features of images resized to 224 px."""
    plan, v_x = fmnist(models), _rate(models, "fmnist-pixel", "v_x")
    return replace(
        plan,
        name="fmnist-224",
        title="Fashion-MNIST, pixel model, features at 224 px",
        note="Nothing is tuned here: rho = 10 and xi = 0.5 are what `fmnist` chose, at 128 px and "
        "on seeds that are scored nowhere.",
        lines={
            "native": Native(),
            "log-SNR": LogSNR(),
            "Karras(rho=10)": Karras(10.0),
            "CRS(v_x, xi=1)": _crs(v_x, 1.0),
            "CRS(v_x, xi=0.5)": _crs(v_x, 0.5),
        },
        tuning=None,
        blocks=(
            Block("1", range(10_000, 20_000), (5, 10, 20)),
            Block("2", range(20_000, 30_000), (5, 10, 20)),
        ),
        scoring=replace(GPU, features="EffNetLite0(size=224)", converged=None),
    )


def training(models: Models) -> Experiment:
    """The 2 x 2: {baseline, constant-rate} training x {baseline, constant-rate} sampling."""
    lines: dict[str, Schedule | Tuned | On] = {}
    for trained, model in (("uniform-t", "fmnist-pixel"), ("CRS", "fmnist-pixel-crs")):
        lines[f"trained {trained}, native"] = On(model, Native())
        crs = _crs(_rate(models, model, "v_x"), 0.5)
        lines[f"trained {trained}, CRS(v_x, xi=0.5)"] = On(model, crs)
    return Experiment(
        name="training",
        title="Fashion-MNIST: training and sampling under constant rate",
        note="Both networks have one architecture, one number of steps, one seed, so the same "
        "images and noise in the same order; the law of noise levels alone differs: uniform in the "
        "model's timesteps, or constant rate of v_x at xi = 1, estimated while training. Each is "
        "sampled under its own measured v_x, at the xi that `fmnist` chose for the first of them "
        "on seeds that are scored nowhere.",
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
    """The latent model and its twin that was trained under constant rate, NFE 5 to 250."""
    model, twin = "fmnist-latent", "fmnist-latent-crs"
    v_x, v_twin = _rate(models, model, "v_x"), _rate(models, twin, "v_x")
    return Experiment(
        name="fmnist-latent",
        title="Fashion-MNIST, latent model",
        note="Tuned lines: four tries each on the tuning seeds, as in `fmnist`, one choice a "
        "sampler. Both networks have one codec, one architecture, one number of steps, one seed; "
        "the law of noise levels alone differs: uniform in the model's timesteps, or constant rate "
        "of v_x at xi = 1, estimated while training.",
        model=model,
        lines={
            "native": Native(),
            "log-SNR": LogSNR(),
            "Karras(rho=7)": Karras(7.0),
            "Karras(rho tuned)": Tuned(tuple(Karras(rho) for rho in RHO)),
            "CRS(v_x, xi=1)": _crs(v_x, 1.0),
            "CRS(v_x, xi tuned)": Tuned(tuple(_crs(v_x, xi) for xi in XI)),
            "trained CRS, native": On(twin, Native()),
            "trained CRS, CRS(v_x, xi=1)": On(twin, _crs(v_twin, 1.0)),
            "trained CRS, CRS(v_x, xi=0.5)": On(twin, _crs(v_twin, 0.5)),
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
    """Measure x xi x coordinate x sigma_max, and mixes: what a constant-rate grid owes to each."""
    model = "fmnist-pixel"
    v_x, v_eps, v_fid = (_rate(models, model, name) for name in ("v_x", "v_eps", "v_fid"))
    process = read_card(models_of(models).folder(model)).process.build()
    v_cos = measures.of_schedule(Cosine(), process)
    whole: dict[str, Schedule] = {"native": Native(), "Karras(rho=7)": Karras(7.0)}
    for rate in (v_x, v_eps, v_fid):
        whole |= _variants(rate)
    lower = {
        f"{line}, sigma_max={top:g}": Between(schedule, top)
        for top in (40.0, 20.0)  # of the process's 80
        for line, schedule in whole.items()
    }
    mixes = (measures.mix({v_x: 0.5, v_cos: 0.5}), measures.mix({v_x: 0.5, v_fid: 0.5}))
    whole |= {f"CRS({v.name}, xi={xi:g}, angle)": _crs(v, xi) for v in mixes for xi in (0.5, 1.0)}
    return Experiment(
        name="ablation",
        title="Fashion-MNIST, pixel model: what a constant-rate grid owes to its parts",
        note="A sweep, so the best of many lines is best by luck too: choose here, claim from "
        "`fmnist`, whose tuned lines were chosen on other seeds. Lines that start below the "
        "process's sigma_max, and NFE 50, have one block of seeds.",
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
    """xi x coordinate of one rate; at xi = 1 the coordinate does not matter."""
    made = {f"CRS({rate.name}, xi=1)": _crs(rate, 1.0, "angle")}
    coordinates: tuple[Coordinate, ...] = ("alpha", "angle", "logsnr")
    for xi, coordinate in product((0.25, 0.5, 0.75, 1.25), coordinates):
        made[f"CRS({rate.name}, xi={xi:g}, {coordinate})"] = _crs(rate, xi, coordinate)
    return made


def samplers(models: Models) -> Experiment:
    """Every sampler crossed with ours and the rival schedules, NFE 5 to 50."""
    model = "fmnist-pixel"
    v_x, v_score = _rate(models, model, "v_x"), _rate(models, model, "v_score")
    gits, klub = (
        CheapestPath(measures.find(models_of(models).homes(model), name))
        for name in ("gits", "klub")
    )
    return Experiment(
        name="samplers",
        title="Fashion-MNIST, pixel model: samplers crossed with schedules",
        note="Nothing is tuned here. rho = 10 and xi = 0.5 are what `fmnist` chose for DDIM and "
        "DPM-Solver++(2M), four tries each, on other seeds; c = 0.7 is the data's standard "
        "deviation. A budget that a sampler cannot meet is spent as far as it goes: the count "
        "stands in brackets. NFE 50 has one block of seeds.",
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
            "CRS(v_x, xi=0.5)": _crs(v_x, 0.5),
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
