"""The cheapest path through measured costs of single steps."""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from torch import Tensor

from bench.schedules.ends import times, with_ends
from bench.types import Costs, NoiseProcess, Schedule


@dataclass(frozen=True, repr=False)
class CheapestPath(Schedule):
    """The levels of a fine grid whose steps cost least in all, by dynamic programming.

    V_1(i) = cost[i, n]; V_k(i) = min over j > i of cost[i, j] + g V_(k-1)(j), g the costs'
    coefficient: the recursion of GITS (arXiv 2405.11326), and with g = 1 the least sum. `steps`
    levels have steps - 1 such intervals; the last step, to 0, is common to all schedules and has no
    cost. Levels are always levels of the fine grid. A schedule of nearly as many steps as the grid
    has levels has few grids to choose from; one of more steps is refused.
    """

    costs: Costs

    def __post_init__(self) -> None:
        if not isinstance(self.costs, Costs):
            raise ValueError(f"CheapestPath needs measured Costs, not {self.costs!r}")

    def __repr__(self) -> str:
        return f"CheapestPath({self.costs!r})"

    @property
    def measured(self) -> tuple[Costs]:
        """The costs."""
        return (self.costs,)

    def __call__(self, steps: int, process: NoiseProcess) -> Tensor:
        n = len(times(steps))
        sigma = self.costs.sigma
        if n > len(sigma):
            raise ValueError(
                f"{self!r} was measured at {len(sigma)} levels, too few for {n} steps; measure "
                f"again with --levels {2 * n} or so"
            )
        for mine, wanted in zip(sigma[[0, -1]].tolist(), (process.sigma_max, process.sigma_min),
                                strict=True):  # fmt: skip
            if abs(math.log(mine / wanted)) > 1e-6:
                raise ValueError(
                    f"{self!r} was measured from sigma {sigma[0]:.6g} to {sigma[-1]:.6g}, the "
                    f"process needs {process.sigma_max:.6g} to {process.sigma_min:.6g}; measure it "
                    "over that range"
                )
        path = [0] if n == 1 else self._path(n - 1)
        return with_ends(sigma[path], process)

    @lru_cache(maxsize=64)  # noqa: B019 - frozen and small
    def _path(self, intervals: int) -> list[int]:
        """The cheapest way from the first level to the last in so many intervals: their ends."""
        n = len(self.costs.sigma)
        cost = np.where(np.triu(np.ones((n, n), bool), 1), self.costs.cost.numpy(), np.inf)
        value = cost[:, -1]  # one interval to the last level
        choices = []
        for _ in range(intervals - 1):
            whole = cost + self.costs.coefficient * value[None, :]
            choices.append(whole.argmin(1))  # the first of equals
            value = whole.min(1)
        path = [0]
        for choice in reversed(choices):
            path.append(int(choice[path[-1]]))
        return [*path, n - 1]
