"""Datasets: uint8 images, from files on this machine. Nothing here touches a network."""

from bench.data.fashion import FashionMNIST
from bench.data.formats import has_own_format
from bench.data.manifest import MANIFEST, joined, read_manifest, write_manifest
from bench.data.preprocess import ADMLSUN, LDMLSUN, AsIs, CentreCrop, Preprocess
from bench.data.ready import Dataset, Ready
from bench.data.sets import ImageSet, natural, open_images, pickle_refusal, whole
from bench.data.tensors import digest, hashed
from bench.lazy import Tensor

__all__ = [
    "ADMLSUN", "LDMLSUN", "MANIFEST", "AsIs", "CentreCrop", "Dataset", "FashionMNIST", "ImageSet",
    "Preprocess", "Ready", "digest", "has_own_format", "hashed", "joined", "natural", "open_images",
    "pickle_refusal", "read_images", "read_manifest", "write_manifest",
]  # fmt: skip


def read_images(path: str) -> Tensor:
    """All images of a path at once, uint8 [n, c, h, w]; see `open_images`."""
    return whole(open_images(path).stream(256))
