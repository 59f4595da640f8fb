"""Training of denoisers and codecs. The law of noise levels is a schedule, fixed or estimated."""

from bench.training.codec import CodecRecipe, train_codec
from bench.training.journal import Session
from bench.training.laws import OnlineConstantRate, clock, draw_sigmas, noise_law
from bench.training.loop import Recipe, train, unet
from bench.training.weighting import EDMWeighting, MinSNR, Unweighted

__all__ = [
    "EDMWeighting",
    "CodecRecipe",
    "MinSNR",
    "OnlineConstantRate",
    "Recipe",
    "Session",
    "Unweighted",
    "clock",
    "draw_sigmas",
    "noise_law",
    "train",
    "train_codec",
    "unet",
]
