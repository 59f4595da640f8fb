"""The features of clean-fid (Parmar et al. 2022), by its own resize and inception."""

import functools
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench.features.images import check_images, full_float32, in_batches
from bench.features.weights import Published, PublishedExtractor
from bench.lazy import Tensor, torch

_FILE = "inception-2015-12-05.pt"


@dataclass(frozen=True)
class Clean(PublishedExtractor):
    """The 2048 pooled features of Inception after a resize without aliasing: clean-fid's `clean`.

    PIL resizes each channel to 299 x 299 by antialiased bicubic interpolation in float. The result
    is clipped to 0..255.

    weights: NVIDIA's TorchScript file, with its original name. Without it the file is searched in
        torch.hub's cache and in /tmp, where clean-fid downloads it.
    """

    written = "clean"
    published = Published(
        "clean",
        _FILE,
        "https://nvlabs-fi-cdn.nvidia.com/stylegan2-ada-pytorch/pretrained/metrics/" + _FILE,
        ("/tmp",),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not zipfile.is_zipfile(path := self.published.find(self.weights)):
            raise ValueError(
                f"{path} is not a complete TorchScript file; delete it and download it again"
            )
        if path.name != _FILE:
            raise ValueError(f"clean-fid reads only files with the name {_FILE}: rename {path}")

    def __call__(self, images: Tensor) -> Tensor:
        """uint8 [n, c, h, w], c 1 or 3 -> float32 [n, 2048] on `device`; grey is repeated."""
        check_images(images)
        network = _network(self.published.find(self.weights), self.device)
        batch = 16 if self.device == "cpu" else 256  # 299 x 299 pixels: 16 fit in caches
        with torch.no_grad(), full_float32():
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
        raise ValueError(
            f"{path} is not clean-fid's inception ({first}); delete it and download it again"
        ) from None
