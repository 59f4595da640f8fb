"""What the bench itself costs: time beside the network's own, measured on one machine."""

from bench.benchmarks import metrics
from bench.benchmarks.fitting import fitting
from bench.benchmarks.sampling import Reading, Trial, content, measure, table
from bench.benchmarks.untrained import NETWORKS, untrained

__all__ = [
    "NETWORKS",
    "Reading",
    "Trial",
    "content",
    "fitting",
    "measure",
    "metrics",
    "table",
    "untrained",
]
