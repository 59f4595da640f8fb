"""Costs: what one step between two noise levels costs, for any two levels of a fine grid.

Measured once on a checkpoint; `schedules.CheapestPath` then finds, for any number of steps, the
levels among them whose steps cost least in all. Exact, where the papers search.

A measure is one frozen dataclass `(model, images, sigmas) -> Costs` with a `coefficient` and a
`fine` grid. Here: `GITS`, the deviation of Euler's jump from a teacher's trajectory, and `KLUB`,
the bound that Align Your Steps minimises.
"""

from bench.costs.files import load_costs, measured, save_costs
from bench.costs.measure import measure
from bench.costs.measures import GITS, KLUB
from bench.types import CostMeasure, Costs

__all__ = [
    "GITS",
    "KLUB",
    "CostMeasure",
    "Costs",
    "load_costs",
    "measure",
    "measured",
    "save_costs",
]
