"""The lines of a comparison: constant rate, and rivals that have as many tries."""

from bench import measures
from bench.checkpoints import Models, models_of, read_card
from bench.experiments.rates import SMOOTH, crs, rate_of
from bench.schedules import (
    AlignYourSteps,
    Beta,
    Between,
    CheapestPath,
    ConstantRate,
    Cosine,
    DMNonUniform,
    Karras,
    KLOptimal,
    Laplace,
    LogSNR,
    Native,
    Sigmoid,
    TimeUniform,
)
from bench.types import Rate, Schedule, Tuned

Lines = dict[str, Schedule | Tuned]
TRIES = 5  # of every tuned line, for each sampler and range of NFEs
XI = (0.25, 0.5, 0.75, 1.0, 1.25)
SMALL_XI = (0.1, 0.25, 0.5, 0.75, 1.0)  # of rates whose best xi is low
FEW_AND_MANY = ((5, 8), (9, 250))  # ranges of NFEs that are tuned separately
TUNED_AT = (5, 8, 10, 20)


def plain_rivals() -> Lines:
    """Baselines without a choice."""
    return {"native": Native(), "log-SNR": LogSNR(), "Karras(rho=7)": Karras(7.0)}


def tuned_rivals(models: Models, model: str) -> Lines:
    """Rivals with five tries each. The values that their authors publish are among them.

    The tries of Beta, Sigmoid, Laplace and rescaled entropic time were moved once, after a first
    choice at their edge. So were those of v_eps and v_fid in `ours`.

    A schedule without a number to choose is tried with other choices: Align Your Steps with its
    three tables, DM-NonUniform with both of its error models, and both with a lower sigma_max.
    """
    homes = models_of(models).homes(model)
    gits = measures.find(homes, "gits")
    v_score, v_entropy = (
        rate_of(models, model, name) for name in ("v_score", "v_entropy_rescaled")
    )
    pixel, latent, svd = DMNonUniform("pixel"), DMNonUniform("latent"), AlignYourSteps("svd")
    tables = (AlignYourSteps("sd15"), AlignYourSteps("sdxl"), svd)
    return {
        "Karras(rho tuned)": Tuned(tuple(Karras(rho) for rho in (3.0, 5.0, 7.0, 10.0, 20.0))),
        "KLOptimal(c tuned)": Tuned(tuple(KLOptimal(c) for c in (0.35, 0.7, 1.4, 2.8, 5.6))),
        "time-uniform(rho tuned)": Tuned(tuple(TimeUniform(r) for r in (1.0, 1.5, 2.0, 3.0, 5.0))),
        "Beta(a = b tuned)": Tuned(tuple(Beta(a, a) for a in (0.2, 0.3, 0.45, 0.6, 0.8))),
        "Sigmoid(tau tuned)": Tuned(tuple(Sigmoid(tau=t) for t in (0.2, 0.3, 0.4, 0.5, 0.9))),
        "Laplace(scale tuned)": Tuned(tuple(Laplace(scale=b) for b in (1.0, 2.0, 4.0, 8.0, 16.0))),
        "DM-NonUniform(tuned)": Tuned(
            (pixel, latent, *_lower(pixel, latent), *_lower(pixel, top=20.0))
        ),
        "Align Your Steps(table tuned)": Tuned((*tables, *_lower(tables[0], svd))),
        "GITS(coefficient tuned)": Tuned(
            tuple(CheapestPath(gits, g) for g in (0.9, 1.0, 1.1, 1.15, 1.2))
        ),
        "score-optimal(xi tuned)": _powers(v_score),
        "rescaled entropic(xi tuned)": _powers(v_entropy, (0.5, 0.75, 1.0, 1.25, 1.5)),
    }


def published_rates(models: Models, model: str) -> Lines:
    """Rivals from a measured rate, as their papers have them (xi = 1)."""
    names = {"score-optimal": "v_score", "entropic": "v_entropy",
             "rescaled entropic": "v_entropy_rescaled"}  # fmt: skip
    return {
        line: ConstantRate(rate_of(models, model, name), 1.0, smooth=SMOOTH)
        for line, name in names.items()
    }


def ours(models: Models, model: str) -> Lines:
    """Constant rate with five tries for each tuned line, and without a choice.

    v_fid with xi = 2 in alpha is the paper's own setting: the plain Frechet distance between levels
    that are uniform in alpha. It is the square of our rate.
    """
    v_x, v_eps, v_fid = (rate_of(models, model, name) for name in ("v_x", "v_eps", "v_fid"))
    process = read_card(models_of(models).folder(model)).process.build()
    mixed = measures.mix({v_x: 0.5, measures.of_schedule(Cosine(), process): 0.5})
    return {
        "CRS(v_x, xi=1)": crs(v_x, 1.0),
        "CRS(0.5 v_x + 0.5 v_cosine, xi=1)": crs(mixed, 1.0),
        "CRS(v_fid, xi=2, alpha)": crs(v_fid, 2.0, "alpha"),
        "CRS(v_x, xi tuned, angle)": _powers(v_x),
        "CRS(v_x, xi tuned, alpha)": Tuned(tuple(crs(v_x, xi, "alpha") for xi in XI)),
        "CRS(v_eps, xi tuned, angle)": _powers(v_eps, SMALL_XI),
        "CRS(v_fid, xi tuned, angle)": _powers(v_fid, SMALL_XI),
    }


def _powers(rate: Rate, tries: tuple[float, ...] = XI) -> Tuned:
    return Tuned(tuple(crs(rate, xi, "angle") for xi in tries))


def _lower(*schedules: Schedule, top: float = 40.0) -> tuple[Between, ...]:
    """The schedules with a lower sigma_max."""
    return tuple(Between(schedule, sigma_max=top) for schedule in schedules)
