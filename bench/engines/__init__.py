"""Where shards are made: in the run's own process, in several of this machine, or in a cluster.

All engines have the same workers and the same order of work. A new engine is a subclass of `Engine`
and one of `Crew`.
"""

from bench.engines.cluster import Ray
from bench.engines.crew import Crew, Engine, Job, Result
from bench.engines.local import InProcess, Processes
from bench.engines.worker import Kit, Order, Worker

__all__ = [
    "Crew", "Engine", "InProcess", "Job", "Kit", "Order", "Processes", "Ray", "Result", "Worker",
]  # fmt: skip
