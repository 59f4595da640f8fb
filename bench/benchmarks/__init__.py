"""What the bench itself costs: time beside the network's own, measured on one machine."""

from bench.benchmarks.sampling import Reading, Trial, measure, table, widest_batch
from bench.benchmarks.untrained import NETWORKS, untrained

__all__ = ["NETWORKS", "Reading", "Trial", "measure", "table", "untrained", "widest_batch"]
