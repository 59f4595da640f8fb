"""Datasets: uint8 images, from files on this machine. Nothing here touches a network."""

from bench.data.fashion import FashionMNIST
from bench.data.preprocess import ADMLSUN, LDMLSUN, AsIs, Preprocess
from bench.data.reading import pickle_refusal, read_images, spaced, stream, survey
from bench.data.tensors import batches, digest, hashed

__all__ = [
    "ADMLSUN",
    "LDMLSUN",
    "AsIs",
    "FashionMNIST",
    "Preprocess",
    "batches",
    "digest",
    "hashed",
    "pickle_refusal",
    "read_images",
    "spaced",
    "stream",
    "survey",
]
