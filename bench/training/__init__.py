"""Training of denoisers and codecs. The law of noise levels is a schedule, fixed or estimated."""

from bench.training.codec import CodecRecipe, train_codec
from bench.training.journal import Session
from bench.training.laws import OnlineConstantRate, clock, draw_sigmas, law_density, noise_law
from bench.training.loop import Recipe, train, unet
from bench.training.weighting import EDMWeighting, Importance, MinSNR, Unweighted, Weighting

__all__ = [
    "EDMWeighting", "CodecRecipe", "Importance", "MinSNR", "OnlineConstantRate", "Recipe",
    "Session", "Unweighted", "Weighting", "clock", "draw_sigmas", "law_density", "noise_law",
    "train", "train_codec", "unet",
]  # fmt: skip
