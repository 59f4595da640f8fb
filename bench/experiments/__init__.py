"""Experiments: functions of the models that return an `Experiment`.

A user's own experiment is a function in a module of their own: `crs-bench run mymodule:function`.
"""

from bench.experiments.cifar10 import cifar10, cifar10_latent, quick_colour
from bench.experiments.fashion_mnist import (
    ablation,
    fmnist,
    fmnist_latent,
    quick,
    samplers,
)
from bench.experiments.published import (
    Plan,
    cifar10_edm,
    imagenet_256_dit,
    lsun_bedroom_256,
    lsun_church_256_ldm,
    lsun_horse_256,
)

__all__ = [
    "Plan", "ablation", "cifar10", "cifar10_edm", "cifar10_latent", "fmnist", "fmnist_latent",
    "imagenet_256_dit", "lsun_bedroom_256", "lsun_church_256_ldm", "lsun_horse_256", "quick",
    "quick_colour", "samplers",
]  # fmt: skip
