"""The uncertainty of a score, and of the difference of two, by bootstrap over generated images."""

from collections.abc import Callable

import numpy as np

from bench.lazy import Tensor, torch
from bench.metrics.banks import Rows, check_banks
from bench.types import FeatureStatistics, Metric


def interval(
    metric: Metric,
    fake: FeatureStatistics,
    real: FeatureStatistics,
    replicates: int = 200,
    seed: int = 0,
    level: float = 0.95,
) -> tuple[float, float]:
    """A confidence interval for the mean of a metric over fresh sets of as many generated images.

    This is the bootstrap (Efron 1979). It draws the rows of `fake.bank` again with replacement. The
    real set stays fixed, because all cells share it. Repeated rows shift every metric that has a
    bias in the number of images or that looks at neighbours. Plain percentiles would then miss the
    score itself, so the spread is taken around the mean of the replicates (Davison and Hinkley
    1997, sec. 5.2).

    The interval holds the chance of the seeds of one network. It does not hold the chance of
    another training. It holds to first order. For the Frechet distance in 4 dimensions, 90 %
    intervals contained the mean in 85 % of trials with 200 images, and in 88 % with 1500. With only
    about 5 images a dimension it is conservative: with 100 images in 20 dimensions, 90 % intervals
    contained the mean in 98 % of 120 trials, and those of paired differences in 89 %. Intervals of
    Recall are about twice as wide as necessary, because repeated fake rows shrink its balls.

    Arguments:
        fake: the generated set. Every score is computed from its bank, also the Frechet distance,
            so that the bank must hold all images for an interval at their number.
        replicates: number of resamples, at least 2.
        level: probability that the interval contains the mean, between 0 and 1.

    Returns:
        (low, high), in the unit of the metric.

    Raises:
        ValueError: fewer than 2 rows, a bad `replicates` or `level`, or what the metric refuses.
    """
    check_banks(fake.bank, fake.bank)

    def value(rows: Tensor) -> float:
        return metric(fake=Rows(fake.bank[rows]), real=real).value

    return _pivot(value, len(fake.bank), replicates, seed, level)


def paired_interval(
    metric: Metric,
    fake1: FeatureStatistics,
    fake2: FeatureStatistics,
    real: FeatureStatistics,
    replicates: int = 200,
    seed: int = 0,
    level: float = 0.95,
) -> tuple[float, float]:
    """A confidence interval for metric(fake1) - metric(fake2), for two cells of the same seeds.

    Row i of both banks comes from the same seed. Each resample takes the same rows from both, so
    that the variation which the cells share cancels. Otherwise it works like `interval`.

    Raises:
        ValueError: as `interval`, and where the shapes of the two banks differ.
    """
    check_banks(fake1.bank, fake2.bank)
    if len(fake1.bank) != len(fake2.bank):
        raise ValueError(
            f"paired cells need the same seeds, but their banks have {len(fake1.bank)} and "
            f"{len(fake2.bank)} features; score both on the same range of seeds"
        )

    def value(rows: Tensor) -> float:
        one = metric(fake=Rows(fake1.bank[rows]), real=real).value
        return one - metric(fake=Rows(fake2.bank[rows]), real=real).value

    return _pivot(value, len(fake1.bank), replicates, seed, level)


def _pivot(
    value: Callable[[Tensor], float], n: int, replicates: int, seed: int, level: float
) -> tuple[float, float]:
    """The interval around value(all rows). `value` maps row numbers, int64 [n], to a score."""
    if n < 2 or replicates < 2 or not 0 < level < 1:
        raise ValueError(
            "a bootstrap needs at least 2 features, 2 replicates and a level between 0 and 1, not "
            f"{n}, {replicates} and {level}"
        )
    draw = torch.Generator().manual_seed(seed)
    found = np.array([value(torch.randint(n, (n,), generator=draw)) for _ in range(replicates)])
    tail = (1 - level) / 2
    low, high = np.quantile(found - found.mean(), [tail, 1 - tail])
    centre = value(torch.arange(n))
    return float(centre - high), float(centre - low)
