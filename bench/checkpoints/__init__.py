"""What every run needs to open a model: card, weights, network, and one denoiser."""

from bench.checkpoints.card import Card, read_codec, write_card
from bench.checkpoints.family import Family, Output, Shape, find_family, for_sampling
from bench.checkpoints.forward import Forward, forward, process_card
from bench.checkpoints.model import (
    Checkpoint,
    as_it_is,
    codec_for,
    compiled,
    find_card,
    identity,
    load,
    load_codec,
    open_network,
    placed,
    save,
    wrap,
)
from bench.checkpoints.pipelines import read_card
from bench.checkpoints.places import Models, models_of
from bench.checkpoints.unet2d import network

__all__ = [
    "Card", "Checkpoint", "Family", "Forward", "Models", "Output", "Shape", "as_it_is", "codec_for",
    "compiled", "find_card", "find_family", "for_sampling", "forward", "identity", "load",
    "load_codec", "models_of", "network", "open_network", "placed", "process_card", "read_card",
    "read_codec", "save", "wrap", "write_card",
]  # fmt: skip
