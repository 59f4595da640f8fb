"""Time the bench itself: samplers, networks, metrics and extractors, on one machine."""

from bench.benchmarks.cell import Part, cell_parts, cell_readings, cell_table
from bench.benchmarks.fitting import fitting
from bench.benchmarks.profiling import profiled
from bench.benchmarks.record import Reading, content, table
from bench.benchmarks.sampling import Trial, sampler_table, time_samplers
from bench.benchmarks.scoring import time_metrics
from bench.benchmarks.throughput import ceiling, throughput
from bench.benchmarks.untrained import NETWORKS, untrained
from bench.benchmarks.whole import cells_of, time_cells

__all__ = [
    "NETWORKS", "Part", "Reading", "Trial", "ceiling", "cell_parts", "cell_readings", "cell_table",
    "cells_of", "content", "fitting", "profiled", "sampler_table", "table", "throughput",
    "time_cells", "time_metrics", "time_samplers", "untrained",
]  # fmt: skip
