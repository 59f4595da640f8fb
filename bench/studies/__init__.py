"""Training studies: laws of noise levels, compared over training seeds.

A user's own study is a function in a module of their own: `crs-bench study mymodule:function`.
"""

from bench.studies.known import cifar10_training, fmnist_training
from bench.studies.plan import Arm, Evaluation, Study
from bench.studies.queue import run

__all__ = ["Arm", "Evaluation", "Study", "cifar10_training", "fmnist_training", "run"]
