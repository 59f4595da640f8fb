"""Feature extractors, sums of features, and the reference sets that scores compare with."""

from bench.features.clean import Clean
from bench.features.dinov2 import DINOv2ViTB14, DINOv2ViTG14, DINOv2ViTL14, DINOv2ViTS14
from bench.features.effnet import (
    EffNetLite0,
    EffNetLite2,
    EffNetLites,
    fold_norms,
    load_effnet_lite,
)
from bench.features.embedding import embedded
from bench.features.fidelity import VGG16, InceptionV3Compat
from bench.features.flatten import Flatten
from bench.features.images import full_float32
from bench.features.known import (
    PUBLISHED,
    REFERENCES,
    cache_folder,
    known_references,
    reference_path,
)
from bench.features.references import (
    Reference,
    barred,
    first_images,
    identity_of,
    load_reference,
    reference_images,
    reference_of,
    reference_shape,
    save_reference,
)
from bench.features.sums import Features, check_layers, extract, fold, fold_layers, fold_rows

__all__ = [
    "PUBLISHED", "REFERENCES", "VGG16", "Clean", "DINOv2ViTB14", "DINOv2ViTG14", "DINOv2ViTL14",
    "DINOv2ViTS14", "EffNetLite0", "EffNetLite2", "EffNetLites", "Features", "Flatten",
    "InceptionV3Compat", "Reference", "barred", "cache_folder", "check_layers", "embedded",
    "extract", "first_images", "fold", "fold_layers", "fold_norms", "fold_rows", "full_float32",
    "identity_of", "known_references", "load_effnet_lite", "load_reference", "reference_images",
    "reference_of", "reference_path", "reference_shape", "save_reference",
]  # fmt: skip
