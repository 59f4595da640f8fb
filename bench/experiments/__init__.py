"""Experiments: called with the models folder they give an `Experiment`; choices live here only.

A user's own is a function in a module of theirs: `crs-bench run mymodule:function`.
"""

from bench.experiments.fashion_mnist import (
    ablation,
    fmnist,
    fmnist_224,
    fmnist_latent,
    quick,
    samplers,
    training,
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
    "Plan", "ablation", "cifar10_edm", "fmnist", "fmnist_224", "fmnist_latent", "imagenet_256_dit",
    "lsun_bedroom_256", "lsun_church_256_ldm", "lsun_horse_256", "quick", "samplers", "training",
]  # fmt: skip
