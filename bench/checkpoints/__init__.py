"""Open a model folder: card, weights, network, and one denoiser at its edge."""

from bench.checkpoints.card import Card, read_card, write_card
from bench.checkpoints.model import MODELS, Checkpoint, compiled, folder, load, network, save

__all__ = [
    "MODELS", "Card", "Checkpoint", "compiled", "folder", "load", "network", "read_card", "save",
    "write_card",
]  # fmt: skip
