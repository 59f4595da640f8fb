"""Datasets: uint8 images of local files. No function here uses the internet."""

from bench.data.fashion import FashionMNIST
from bench.data.preprocess import ADMLSUN, LDMLSUN, AsIs, Preprocess
from bench.data.reading import pickle_refusal, read_images, spaced, stream, survey
from bench.data.tensors import digest, hashed

__all__ = [
    "ADMLSUN",
    "LDMLSUN",
    "AsIs",
    "FashionMNIST",
    "Preprocess",
    "digest",
    "hashed",
    "pickle_refusal",
    "read_images",
    "spaced",
    "stream",
    "survey",
]
