"""Samples of a network in training: a grid of pictures every so many steps."""

import copy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench import checkpoints, generate
from bench.checkpoints import Card, Checkpoint
from bench.checkpoints.codecs import Codec, Pixels
from bench.data.writing import write_png
from bench.samplers import DPMpp2M
from bench.schedules import Karras

_SIDE, _NFE = 8, 20  # a grid of 8 x 8 pictures


class Gallery:
    """Grids of the samples of seeds 0 to 63: DPM-Solver++(2M), Karras' levels, 20 evaluations.

    The weights are the moving average. Training's random numbers are not touched.
    """

    def __init__(self, card: Card, folder: Path, device: str, every: int) -> None:
        """
        Arguments:
            card: of the model in training.
            folder: of the model; the grids are samples/STEP.png in it.
            every: steps between two grids; 0: none.
        """
        self.card, self.folder, self.device, self.every = card, folder, device, every
        self.codec: Codec | None = None
        if every and card.codec:
            self.codec = checkpoints.load_codec(folder, card.codec, device, torch.float32)

    def wants(self, step: int) -> bool:
        """Whether a grid follows this step."""
        return self.every > 0 and step % self.every == 0

    def show(self, net: Any, average: list[Tensor], step: int) -> Tensor:
        """Write a grid, and return it: uint8 [c, 8 h, 8 w].

        Arguments:
            net: the network; it is not changed.
            average: the moving average of its parameters.
        """
        model = self._model(net, average)
        made = generate.sample(model, DPMpp2M(), Karras(), _NFE, range(_SIDE**2))  # [64, c, h, w]
        c, h, w = made.shape[1:]
        grid = made.view(_SIDE, _SIDE, c, h, w).permute(2, 0, 3, 1, 4).reshape(c, _SIDE * h, -1)
        write_png(self.folder / "samples" / f"{step:06d}.png", grid)
        return grid

    def _model(self, net: Any, average: list[Tensor]) -> Checkpoint:
        network = copy.deepcopy(net)
        with torch.no_grad():
            for parameter, value in zip(network.parameters(), average, strict=True):
                parameter.copy_(value)
        network = checkpoints.for_sampling(network, self.device)
        card = self.card
        shape = checkpoints.find_family(card.family).shape(card)
        codec = self.codec or Pixels(shape)
        return Checkpoint(card.name, "", card.process.build(), shape, self.device, card, network,
                          torch.float32, codec)  # fmt: skip
