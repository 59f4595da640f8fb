"""The order of each step of a multistep sampler: it grows at the start and may fall at the end."""

from collections.abc import Iterator
from itertools import pairwise
from typing import Literal

from bench.lazy import Tensor
from bench.types import Sampler

LowerOrderFinal = Literal["below15", "always", "never"]


class Multistep(Sampler):
    """A sampler whose steps use the denoiser's outputs at several levels.

    A step has order k if it uses k levels. Step i of n, from 0, has order i + 1 at most, because
    no more levels are known. The step to sigma = 0 has order 1.

    Arguments:
        lower_order_final: in which runs the order also falls at the end. Step i then has order
            n - i at most: the last step has order 1, the step before has order 2. The last step is
            that of the grid, to 0 or above. "below15": in runs of fewer than 15 steps, as by
            default in diffusers. "always": in every run. "never": in no run. The default of each
            class is that of its published code.
    """

    lower_order_final: LowerOrderFinal

    def __post_init__(self) -> None:
        if self.lower_order_final not in ("below15", "always", "never"):
            raise ValueError(
                f"{type(self).__name__}: unknown lower_order_final {self.lower_order_final!r}; "
                "known: below15, always, never"
            )

    def _ordered(self, grid: Tensor, order: int) -> Iterator[tuple[float, float, int]]:
        """(sigma, sigma_next, order) of each step. order: the highest that a step may have."""
        steps, rule = len(grid) - 1, self.lower_order_final
        falls = rule == "always" or (rule == "below15" and steps < 15)
        for i, (sigma, sigma_next) in enumerate(pairwise(grid.tolist())):
            left = steps - i if falls else order
            yield sigma, sigma_next, min(order, i + 1, left) if sigma_next > 0 else 1
