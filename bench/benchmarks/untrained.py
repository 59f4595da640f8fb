"""Checkpoints with random weights: networks of known sizes whose time, not images, is wanted."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from bench import checkpoints
from bench.checkpoints import Card, Checkpoint
from bench.checkpoints.card import Data, VPCard
from bench.checkpoints.codecs import Pixels
from bench.names import nearest


def _unet(size: int, state: int, channels: list[int], attention: int, **other: Any) -> dict:
    """Arguments of UNet2DModel: attention in the lowest `attention` of its resolutions."""
    plain = len(channels) - attention
    return {
        "sample_size": size, "in_channels": state, "out_channels": state,
        "block_out_channels": channels, "layers_per_block": 2,
        "down_block_types": ["DownBlock2D"] * plain + ["AttnDownBlock2D"] * attention,
        "up_block_types": ["AttnUpBlock2D"] * attention + ["UpBlock2D"] * plain,
    } | other  # fmt: skip


# ADM, LSUN 256 (Dhariwal and Nichol 2021): attention at 32, 16 and 8; LDM (Rombach et al. 2022)
NETWORKS = {
    "adm-256": _unet(
        256, 3, [256, 256, 512, 512, 1024, 1024], 3, attention_head_dim=64,
        resnet_time_scale_shift="scale_shift", attn_norm_num_groups=32,
        downsample_type="resnet", upsample_type="resnet",
    ),
    "latent": _unet(32, 4, [224, 448, 672, 896], 3, attention_head_dim=32),
    "tiny": _unet(8, 3, [8, 16], 1, attention_head_dim=8, norm_num_groups=8),
}  # fmt: skip


@dataclass(frozen=True)
class _States(Checkpoint):
    """A checkpoint whose images are its final states, float32 as the sampler leaves them."""

    def decode(self, x: Tensor) -> Tensor:
        """FloatingPointError if x is not finite, looked at once a batch as for real images."""
        if not torch.isfinite(x).all():
            raise FloatingPointError(
                f"{self.name} made NaN or infinite states in {self.dtype}; try another --dtype"
            )
        return x


def untrained(network: str, device: str = "cpu", dtype: str = "float32") -> Checkpoint:
    """One of `NETWORKS` with seeded random weights, as if it predicted v on the linear VP process:
    eps of random weights, times 157, would leave nearly all states at the ends of [-1, 1].

    Its decoder quantises nothing. ValueError: an unknown network, with the nearest, or dtype.
    """
    if network not in NETWORKS:
        raise ValueError(f"no network {network!r}{nearest(network, NETWORKS)}")
    if dtype not in ("float32", "float16", "bfloat16"):
        raise ValueError(f"unknown dtype {dtype!r}; known: float32, float16, bfloat16")
    config, kind = NETWORKS[network], getattr(torch, dtype)
    card = Card(
        name=network, network=config, prediction="v", training={}, weights_sha256="",
        process=VPCard.model_validate({"kind": "vp"}),
        data=Data(name="none", digest="", licence="none"),
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.manual_seed(0)
        net = checkpoints.network(config)
    net = nn.Module.to(net, device=device, dtype=kind).to(memory_format=torch.channels_last)
    net = net.eval().requires_grad_(False)
    size = config["sample_size"]
    shape = (config["in_channels"], size, size)
    return _States(
        network, network, card.process.build(), shape, device, card, net, kind, Pixels(shape)
    )
