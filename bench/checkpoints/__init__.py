"""Open a model folder: card, weights, network, and one denoiser at its edge."""

from bench.checkpoints.add import add, check_free, preset_lines
from bench.checkpoints.card import Card, read_codec, write_card
from bench.checkpoints.families import network
from bench.checkpoints.model import (
    MODELS,
    Checkpoint,
    codec_for,
    compiled,
    folder,
    load,
    load_codec,
    save,
)
from bench.checkpoints.pipelines import add_folder, read_card
from bench.checkpoints.presets import PRESETS, ADMPreset, Published, family_of

__all__ = [
    "MODELS", "PRESETS", "ADMPreset", "Card", "Checkpoint", "Published", "add", "add_folder",
    "check_free", "codec_for", "compiled", "family_of", "folder", "load", "load_codec", "network",
    "preset_lines", "read_card", "read_codec", "save", "write_card",
]  # fmt: skip
