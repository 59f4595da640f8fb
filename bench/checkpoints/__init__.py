"""Open a model folder: card, weights, network, and one denoiser at its edge."""

from bench.checkpoints.add import add, preset_lines
from bench.checkpoints.card import Card, read_card, write_card
from bench.checkpoints.families import network
from bench.checkpoints.model import MODELS, Checkpoint, compiled, folder, load, save
from bench.checkpoints.presets import PRESETS, Preset

__all__ = [
    "MODELS", "PRESETS", "Card", "Checkpoint", "Preset", "add", "compiled", "folder", "load",
    "network", "preset_lines", "read_card", "save", "write_card",
]  # fmt: skip
