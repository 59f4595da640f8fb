"""An experiment -> its cells with grids and keys, all checked before any sampling.

`cells` makes them; `outline` writes what the report reads beside the records.
"""

from bench.plan.cells import (
    Bench,
    Chosen,
    Planned,
    choose,
    converged,
    first_tries,
    open_bench,
    scored,
    tuning,
)
from bench.plan.outline import outline

__all__ = [
    "Bench", "Chosen", "Planned", "choose", "converged", "first_tries", "open_bench", "outline",
    "scored", "tuning",
]  # fmt: skip
