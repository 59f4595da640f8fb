"""Checkpoints with random weights, to time networks of known sizes."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bench import checkpoints
from bench.checkpoints import Card, Checkpoint, find_family, for_sampling
from bench.checkpoints.card import Data, VPCard
from bench.checkpoints.codecs import Pixels
from bench.names import nearest
from bench.zoo import adm


def _unet(size: int, state: int, channels: list[int], attention: int, **other: Any) -> dict:
    """Arguments of UNet2DModel, with attention at its `attention` lowest resolutions."""
    plain = len(channels) - attention
    return {
        "sample_size": size, "in_channels": state, "out_channels": state,
        "block_out_channels": channels, "layers_per_block": 2,
        "down_block_types": ["DownBlock2D"] * plain + ["AttnDownBlock2D"] * attention,
        "up_block_types": ["AttnUpBlock2D"] * attention + ["UpBlock2D"] * plain,
    } | other  # fmt: skip


# latent: LDM's network of LSUN bedrooms (Rombach et al. 2022). tiny: a small network.
# adm-256, which is no UNet2DModel: ADM's network of LSUN 256 (Dhariwal and Nichol 2021), without
# the output channels of the variance.
_DIFFUSERS = {
    "latent": _unet(32, 4, [224, 448, 672, 896], 3, attention_head_dim=32),
    "tiny": _unet(8, 3, [8, 16], 1, attention_head_dim=8, norm_num_groups=8),
}
NETWORKS = ("adm-256", *_DIFFUSERS)


def card_of(name: str) -> Card:
    """The card of a network of `NETWORKS`. ValueError: an unknown network."""
    if name not in NETWORKS:
        raise ValueError(f"no network {name!r}{nearest(name, NETWORKS)}")
    if name == "adm-256":
        flags = adm.PRESETS["lsun-256"].flags.model_copy(update={"learn_sigma": False})
        family, network = "adm", flags.model_dump(mode="json")
    else:
        family, network = "unet2d", _DIFFUSERS[name]
    return Card(
        name=name, family=family, network=network, prediction="v", training={}, weights_sha256="",
        process=VPCard.model_validate({"kind": "vp"}),
        data=Data(name="none", digest="", licence="none"),
    )  # fmt: skip


def network_of(name: str) -> tuple[nn.Module, tuple[int, int, int]]:
    """A network of `NETWORKS` with random weights, and the shape of its state."""
    card = card_of(name)
    net = (
        adm.ADMNet(card.arguments(adm.ADMFlags))  # the family's own has no weights
        if card.family == "adm"
        else checkpoints.network(card.network)
    )
    return net, find_family(card.family).shape(card)


def _seeded(name: str) -> nn.Module:
    """A network of `NETWORKS` with seeded random weights, on the CPU."""
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.manual_seed(0)
        return network_of(name)[0]


def write_untrained(name: str, models: Path) -> None:
    """Write a network of `NETWORKS` with seeded random weights as a model folder in `models`."""
    card = card_of(name)
    checkpoints.save(models / name, card, _seeded(name).state_dict())


@dataclass(frozen=True)
class _States(Checkpoint):
    """A checkpoint whose images are the final states of the sampler, float32."""

    def decode(self, x: Tensor) -> Tensor:
        """The state itself. FloatingPointError: x is not finite; images have the same check."""
        if not torch.isfinite(x).all():
            raise FloatingPointError(
                f"{self.name} made NaN or infinite states in {self.dtype}; try another --dtype"
            )
        return x


def untrained(network: str, device: str = "cpu", dtype: str = "float32") -> Checkpoint:
    """A checkpoint with seeded random weights. Its decoder does not quantise.

    It predicts v on the linear VP process. A random prediction of eps would be multiplied by 157,
    and nearly all states would end at -1 or 1.

    Arguments:
        network: one of `NETWORKS`.

    Raises:
        ValueError: an unknown network or dtype.
    """
    card = card_of(network)
    if dtype not in ("float32", "float16", "bfloat16"):
        raise ValueError(f"unknown dtype {dtype!r}; known: float32, float16, bfloat16")
    kind, family = getattr(torch, dtype), find_family(card.family)
    net, shape = for_sampling(family.cast(_seeded(network), kind), device), family.shape(card)
    return _States(
        network, network, card.process.build(), shape, device, card, net, kind, Pixels(shape)
    )
