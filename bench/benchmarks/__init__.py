"""Time the bench itself: samplers, networks, metrics and extractors, on one machine."""

from bench.benchmarks.cell import Part, cell_parts, cell_table
from bench.benchmarks.fitting import fitting
from bench.benchmarks.sampling import Reading, Trial, content, table, time_samplers
from bench.benchmarks.scoring import score_lines, score_table
from bench.benchmarks.throughput import throughput, throughput_table
from bench.benchmarks.untrained import NETWORKS, untrained

__all__ = [
    "NETWORKS", "Part", "Reading", "Trial", "cell_parts", "cell_table", "content", "fitting",
    "score_lines", "score_table", "table", "throughput", "throughput_table", "time_samplers",
    "untrained",
]  # fmt: skip
