"""Training studies: laws of noise levels, compared over training seeds.

A user's own study is a function in a module of their own:
`crs-bench study mymodule:function --data FILE`.
"""

from typing import TYPE_CHECKING, Any

from bench.studies.known import (
    cifar10_latent_training,
    cifar10_long,
    cifar10_training,
    fmnist_training,
)
from bench.studies.plan import Arm, Evaluation, Study

if TYPE_CHECKING:
    from bench.studies.queue import run

__all__ = [
    "Arm", "Evaluation", "Study", "cifar10_latent_training", "cifar10_long", "cifar10_training",
    "fmnist_training", "run",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    """`run` is loaded when it is used, because it needs the networks of training."""
    if name == "run":
        from bench.studies import queue

        return queue.run
    raise AttributeError(f"module 'bench.studies' has no attribute {name!r}")
