"""Student t intervals of means over seed blocks, paired tests, and Holm's correction.

A seed block gives one number. The interval therefore holds the chance of the seeds. It does not
hold the chance of another training, nor that of the choice of a tuned parameter.
"""

from collections.abc import Sequence

import numpy as np
from scipy import special

LEVEL = 0.95  # of every interval; wins are tested at 1 - LEVEL
LEAST = 3  # blocks: the interval of two is 12.7 standard errors to either side


def half_width(values: np.ndarray) -> float | None:
    """Half the width of the t interval of the mean of values [blocks]. None: below `LEAST`."""
    if len(values) < LEAST:
        return None
    return float(special.stdtrit(len(values) - 1, (1 + LEVEL) / 2) * _error(values))


def ties(differences: np.ndarray) -> bool:
    """Whether paired differences [blocks] do not tell two lines apart: their interval holds 0.

    With fewer than `LEAST` blocks they must all be 0. No difference at all is no tie.
    """
    if not len(differences):
        return False
    half = half_width(differences)
    if half is None:
        return not differences.any()
    return abs(float(differences.mean())) <= half


def p_value(differences: np.ndarray) -> float | None:
    """The two-sided p of paired differences [blocks] against a mean of 0. None: below `LEAST`."""
    if len(differences) < LEAST:
        return None
    mean, error = abs(float(differences.mean())), _error(differences)
    if not error:
        return float(not mean)
    return float(2 * special.stdtr(len(differences) - 1, -mean / error))


def holm(p: Sequence[float]) -> np.ndarray:
    """p values, corrected for their number (Holm 1979) [tests].

    The chance that one or more of those below 0.05 is wrong is then at most 5 %. NaN stays NaN, and
    counts as a test.
    """
    order = np.argsort(p, kind="stable")
    scaled = np.asarray(p, float)[order] * np.arange(len(order), 0, -1)
    out = np.empty(len(order))
    out[order] = np.minimum(np.maximum.accumulate(scaled), 1)
    return out


def _error(values: np.ndarray) -> float:
    """The standard error of the mean. Equal values have exactly 0."""
    return float(np.std(values, ddof=1) / len(values) ** 0.5) if np.ptp(values) else 0.0
