"""Feature extractors, sums of features, and the reference sets that a score is taken against."""

from bench.features.clean import Clean
from bench.features.effnet import EffNetLite0, fold_norms, load_effnet_lite0
from bench.features.fidelity import VGG16, InceptionV3Compat, InceptionV3CompatHalf
from bench.features.flatten import Flatten
from bench.features.images import full_float32
from bench.features.references import (
    REFERENCES,
    Reference,
    known_references,
    load_reference,
    reference_path,
    save_reference,
)
from bench.features.sums import Features, fold

__all__ = [
    "REFERENCES",
    "VGG16",
    "Clean",
    "EffNetLite0",
    "Features",
    "Flatten",
    "InceptionV3Compat",
    "InceptionV3CompatHalf",
    "Reference",
    "fold",
    "fold_norms",
    "full_float32",
    "known_references",
    "load_effnet_lite0",
    "load_reference",
    "reference_path",
    "save_reference",
]
