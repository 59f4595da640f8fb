"""Experiments on cifar10-q75: CIFAR-10's images as JPEGs of quality 75.

The package contains the checkpoints, their rates and the results. It contains the reference of
effnet-lite0, without images, which `quick-colour` reads. The reference of the other experiments
must be made from the images: `crs-bench reference cifar10-q75 --features effnet-lites --data
cifar10-q75.npz`.
"""

from dataclasses import replace

from bench.checkpoints import Models
from bench.experiments.fashion_mnist import BLOCKS, GPU, TUNING_NOTE
from bench.experiments.rates import crs, rate_of
from bench.experiments.rivals import (
    FEW_AND_MANY,
    TUNED_AT,
    Lines,
    ours,
    plain_rivals,
    tuned_rivals,
)
from bench.samplers import DDIM, DPMpp2M, Heun, UniPC
from bench.schedules import Native
from bench.types import Block, Experiment, On, Schedule, Scoring, Tuned

# rivals and constant-rate schedules of the comparison of training with sampling
RIVALS = (
    "Karras(rho tuned)", "KLOptimal(c tuned)", "GITS(coefficient tuned)", "score-optimal(xi tuned)",
)  # fmt: skip
OURS = (
    "CRS(v_x, xi=1)", "CRS(0.5 v_x + 0.5 v_cosine, xi=1)", "CRS(v_fid, xi=2, alpha)",
    "CRS(v_x, xi tuned, angle)", "CRS(v_eps, xi tuned, angle)", "CRS(v_fid, xi tuned, angle)",
)  # fmt: skip
HEADLINE = ("native", "Karras(rho tuned)", "CRS(v_x, xi tuned, angle)")
ON_TRAINED = (  # lines of the network that was trained under constant rate
    "native", "Karras(rho tuned)", "KLOptimal(c tuned)", "CRS(v_x, xi=1)",
    "CRS(0.5 v_x + 0.5 v_cosine, xi=1)", "CRS(v_x, xi tuned, angle)", "CRS(v_fid, xi tuned, angle)",
)  # fmt: skip
# A pixel cell takes ten times as long as a latent one, so fewer are planned.
WHOLE = {"pixel": ("1",), "latent": tuple(BLOCKS)}  # blocks that have all lines at NFE 5 to 20
AT_50 = {"pixel": ("1", "2"), "latent": tuple(BLOCKS)}  # blocks that have the headline at NFE 50
SEEDS = {
    "pixel": "At NFE 5 to 20, native, Karras(rho tuned) and CRS(v_x, xi tuned) have three blocks "
    "of seeds, and other lines one. Cells at NFE 50 have two.",
    "latent": "Cells at NFE 5 to 50 have three blocks of seeds.",
}
TRAINED = "CRS-trained, "  # begins the names of these lines
IMAGES = (
    "The images are CIFAR-10's as JPEGs of quality 75 (cifar10-q75): no number here compares with "
    "one of CIFAR-10."
)
NOTE = (
    f"{IMAGES} FD-EffNet2 is the second feature space; it measured no schedule. Both "
    "networks have the same architecture, steps, seed, images and noise. One was trained uniformly "
    "in timesteps, the other under the constant rate of v_fid with xi = 0.5 in the angle, measured "
    "before training. Each network is sampled with rates that were measured on it."
)


def _lines(models: Models, model: str) -> Lines:
    """The lines of one network."""
    tuned, mine = tuned_rivals(models, model), ours(models, model)
    return plain_rivals() | {name: tuned[name] for name in RIVALS} | {
        name: mine[name] for name in OURS
    }  # fmt: skip


def _two_by_two(models: Models, space: str) -> Experiment:
    """{cosine, constant-rate} training times all sampling schedules, of one space."""
    native, trained = f"cifar-{space}", f"cifar-{space}-crs"
    own = _lines(models, native)
    other = _lines(models, trained)
    lines: dict[str, Schedule | Tuned | On] = {
        **own, **{TRAINED + name: On(trained, other[name]) for name in ON_TRAINED}
    }  # fmt: skip
    headline = tuple(start + name for start in ("", TRAINED) for name in HEADLINE)
    ends = tuple(name for name in headline if "Karras" not in name)
    return Experiment(
        name="cifar10" if space == "pixel" else f"cifar10-{space}",
        title=f"cifar10-q75, {space} models",
        note=f"{NOTE} {TUNING_NOTE} Cells at NFE 50 to 250 and cells of 50,000 images are planned "
        f"for some lines only. {SEEDS[space]} Those at NFE 100 and 250 have one.",
        model=native,
        lines=lines,
        baselines=tuple(name for name in own if not name.startswith("CRS")),
        samplers=(DDIM(), DPMpp2M(), UniPC(), Heun()),
        tuning=Block("tuning", range(2_000), TUNED_AT),
        ranges=FEW_AND_MANY,
        blocks=(
            *(Block(name, seeds, (5, 10, 20), () if name in WHOLE[space] else headline)
              for name, seeds in BLOCKS.items()),
            *(Block(name, BLOCKS[name], (50,), headline) for name in AT_50[space]),
            Block("50k", range(100_000, 150_000), (10,), headline),
            Block("high NFE", range(30_000, 40_000), (100, 250), ends),
        ),
        scoring=replace(
            GPU, features="effnet-lites", reference="cifar10-q75",
            metrics=("fd", "fd2", "precision", "recall"),
        ),
    )  # fmt: skip


def cifar10(models: Models) -> Experiment:
    """Pixel models of cifar10-q75: training and sampling under constant rate, and rivals."""
    return _two_by_two(models, "pixel")


def cifar10_latent(models: Models) -> Experiment:
    """Latent models of cifar10-q75: training and sampling under constant rate, and rivals."""
    return _two_by_two(models, "latent")


def quick_colour(models: Models) -> Experiment:
    """A first run in colour, a minute on a laptop: latent models of cifar10-q75."""
    model, trained = "cifar-latent", "cifar-latent-crs"
    v_x, v_trained = (rate_of(models, name, "v_x") for name in (model, trained))
    return Experiment(
        name="quick-colour",
        title="cifar10-q75, latent models, 128 images a cell",
        note=f"{IMAGES} With so few images only large differences between schedules mean anything. "
        "For claims use `cifar10` and `cifar10-latent`.",
        model=model,
        lines={
            "native": Native(),
            "CRS(v_x, xi=0.5)": crs(v_x, 0.5),
            TRAINED + "CRS(v_x, xi=0.5)": On(trained, crs(v_trained, 0.5)),
        },
        baselines=("native",),
        samplers=(DDIM(), DPMpp2M()),
        blocks=(Block("1", range(128), (5, 10)),),
        scoring=Scoring(reference="cifar10-q75", bank=500, batch=128),
    )
