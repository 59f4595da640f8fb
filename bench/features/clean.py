"""clean-fid's features (Parmar et al. 2022): PIL's resize and its inception, by its functions."""

import functools
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from bench.features.images import check_images, full_float32, in_batches
from bench.features.weights import Published

_FILE = "inception-2015-12-05.pt"
_INCEPTION = Published(
    "clean",
    _FILE,
    "https://nvlabs-fi-cdn.nvidia.com/stylegan2-ada-pytorch/pretrained/metrics/" + _FILE,
    ("/tmp",),  # where clean-fid itself downloads it to
)


@dataclass(frozen=True)
class Clean:
    """The 2048 pooled features of Inception behind a resize that is free of aliasing.

    Each channel is resized to 299 by PIL's antialiased bicubic in float and clipped to 0..255;
    clean-fid's mode `clean`.
    weights: NVIDIA's TorchScript file, under its own name; without one, the file in torch.hub's
    cache or where clean-fid downloads it.
    """

    weights: str = ""
    device: str = "cpu"
    published: ClassVar[Published] = _INCEPTION

    def __post_init__(self) -> None:
        _ = self.digest  # missing weights are found now, not after sampling
        if not zipfile.is_zipfile(path := _INCEPTION.find(self.weights)):
            raise ValueError(
                f"{path} is not a whole TorchScript file; delete it and download it again"
            )
        if path.name != _FILE:
            raise ValueError(f"clean-fid reads only files called {_FILE}: rename {path}")

    @property
    def name(self) -> str:
        return _INCEPTION.extractor

    @property
    def digest(self) -> str:
        return _INCEPTION.digest(self.weights)  # SHA-256 of the weights file

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """uint8 [n, c, h, w], c 1 or 3 -> float32 [n, 2048] on `device`; grey is repeated."""
        check_images(images)
        network = _network(_INCEPTION.find(self.weights), self.device)
        batch = 16 if self.device == "cpu" else 256  # of 299 x 299: fits in caches, or in 8 GiB
        with full_float32():
            parts = in_batches(lambda x: network(_resize(x).to(self.device)), images, batch, "cpu")
        return torch.cat(parts)


def _resize(images: Tensor) -> Tensor:
    """uint8 [n, c, h, w] -> float32 [n, 3, 299, 299] in 0..255, on the CPU."""
    from cleanfid.resize import build_resizer

    resizer = build_resizer("clean")
    pixels = images.cpu().expand(-1, 3, -1, -1).permute(0, 2, 3, 1).numpy()  # [n, h, w, 3]
    resized = np.stack([resizer(image) for image in pixels])
    return torch.from_numpy(resized).permute(0, 3, 1, 2).contiguous()


@functools.lru_cache(maxsize=2)
def _network(path: Path, device: str) -> Any:
    from cleanfid.inception_torchscript import InceptionV3W

    try:
        return InceptionV3W(str(path.parent), download=False).to(device).eval()
    except (RuntimeError, AttributeError) as error:
        first = str(error).splitlines()[0]
        raise ValueError(f"{path} holds no inception of clean-fid's ({first}); delete it "
                         "and download it again"
                         ) from None  # fmt: skip
