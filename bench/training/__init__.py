"""Trains a denoiser under any law of noise levels, a fixed schedule or one estimated on the way."""

from bench.training.codec import CodecRecipe, train_codec
from bench.training.laws import OnlineConstantRate, clock, draw_sigmas, noise_law
from bench.training.loop import Recipe, train, unet
from bench.training.weighting import EDM, MinSNR, Unweighted

__all__ = [
    "EDM",
    "CodecRecipe",
    "MinSNR",
    "OnlineConstantRate",
    "Recipe",
    "Unweighted",
    "clock",
    "draw_sigmas",
    "noise_law",
    "train",
    "train_codec",
    "unet",
]
