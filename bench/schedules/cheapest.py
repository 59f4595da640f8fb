"""The cheapest path through measured costs of single steps."""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from bench.schedules.ends import Grid, times, with_ends
from bench.types import Costs, NoiseProcess


@dataclass(frozen=True, repr=False)
class CheapestPath(Grid):
    """The path through the measured levels whose steps have the lowest total cost.

    Dynamic programming finds it, with the recursion of GITS (arXiv 2405.11326):
    V_1(i) = cost[i, n];  V_k(i) = min over j > i of cost[i, j] + g V_(k-1)(j). g is the costs'
    coefficient. With g = 1 the total cost is the plain sum.

    All levels of the path are measured levels. A path of `steps` levels has steps - 1 intervals.
    The last step, to 0, is common to all schedules and has no cost. The number of measured levels
    should be well above `steps`; else there are few paths to choose from.

    Arguments:
        costs: measured costs of single steps between levels.
        coefficient: g, at least 0. None: the costs' own, which GITS sets to 1.15. Its paper tries
            0.8 to 1.2.
    """

    costs: Costs
    coefficient: float | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.costs, Costs):
            raise ValueError(
                f"CheapestPath needs measured Costs, not {self.costs!r}; measure them with: "
                "crs-bench measure MODEL --measure GITS; then write their name without quotes: "
                "CheapestPath(gits)"
            )
        if self.coefficient is not None and not 0 <= self.coefficient < math.inf:
            raise ValueError(f"CheapestPath needs a coefficient >= 0, not {self.coefficient}")

    def __repr__(self) -> str:
        given = "" if self.coefficient is None else f", coefficient={self.coefficient:g}"
        return f"CheapestPath({self.costs!r}{given})"

    @property
    def measured(self) -> tuple[Costs]:
        return (self.costs,)

    def noise_levels(self, steps: int, process: NoiseProcess) -> np.ndarray:
        n = len(times(steps))
        sigma = self.costs.sigma
        if n > len(sigma):
            raise ValueError(
                f"{self!r}: the costs have {len(sigma)} levels, too few for {n} steps; measure "
                "them beside it: crs-bench measure MODEL --measure MEASURE "
                f"--levels {2 * n} --name NAME"
            )
        self._check_ends(process)
        path = [0] if n == 1 else self._path(n - 1)
        return with_ends(sigma[path], process)

    def _check_ends(self, process: NoiseProcess) -> None:
        high, low = self.costs.sigma[[0, -1]].tolist()
        for mine, wanted in ((high, process.sigma_max), (low, process.sigma_min)):
            if abs(math.log(mine / wanted)) > 1e-6:
                raise ValueError(
                    f"{self!r}: the costs were measured from sigma {high:.6g} to {low:.6g}, but "
                    f"the model needs {process.sigma_max:.6g} to {process.sigma_min:.6g}; "
                    "measure them of that model: crs-bench measure MODEL --measure MEASURE"
                )

    @lru_cache(maxsize=64)  # noqa: B019 - frozen and small
    def _path(self, intervals: int) -> list[int]:
        """Indices of the levels of the cheapest path with this number of intervals."""
        n = len(self.costs.sigma)
        cost = np.where(np.triu(np.ones((n, n), bool), 1), self.costs.cost, np.inf)
        value = cost[:, -1]  # V_1
        g = self.costs.coefficient if self.coefficient is None else self.coefficient
        choices = []
        for _ in range(intervals - 1):
            whole = cost + g * value[None, :]
            choices.append(whole.argmin(1))  # of equal costs the first
            value = whole.min(1)
        path = [0]
        for choice in reversed(choices):
            path.append(int(choice[path[-1]]))
        return [*path, n - 1]
