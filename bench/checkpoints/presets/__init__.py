"""The published checkpoints, a file a family: networks, source, licence and score of each.

Weights are not shipped. A checkpoint of the same code that is not among them has its preset in a
JSON file of the same fields, those of the family's preset class.
"""

import json
from collections.abc import Collection, Mapping
from pathlib import Path

from pydantic import ValidationError

from bench.checkpoints.card import complaint
from bench.checkpoints.presets import adm, dit, edm, ldm
from bench.checkpoints.presets.adm import ADMPreset
from bench.checkpoints.presets.dit import DiTPreset
from bench.checkpoints.presets.edm import EDMPreset
from bench.checkpoints.presets.ldm import LDMPreset
from bench.checkpoints.presets.published import Made, Published
from bench.names import nearest

__all__ = ["FAMILIES", "PRESETS", "ADMPreset", "Made", "Published", "family_of", "preset"]

FAMILIES: dict[str, tuple[type[Published], Mapping[str, Published]]] = {
    "adm": (ADMPreset, adm.PRESETS),
    "edm": (EDMPreset, edm.PRESETS),
    "dit": (DiTPreset, dit.PRESETS),
    "ldm": (LDMPreset, ldm.PRESETS),
}
PRESETS: dict[str, Published] = {
    name: one for _, of in FAMILIES.values() for name, one in of.items()
}


def preset(name: str, family: str) -> Published:
    """One of the family's presets, or a .json file of its fields.

    ValueError: neither (with the nearest known), a bad file, an unknown family.
    """
    if family not in FAMILIES:
        raise ValueError(f"no family {family!r} of published files{nearest(family, FAMILIES)}")
    kind, known = FAMILIES[family]
    if name in known:
        return known[name]
    if not name.endswith(".json"):
        raise ValueError(f"no preset {name!r} of family {family}, nor a .json file"
                         f"{nearest(name, known)}")  # fmt: skip
    try:
        return kind.model_validate(json.loads(Path(name).read_text()))
    except OSError as error:
        raise ValueError(f"{name} is not a valid preset: {error.strerror}") from error
    except (ValidationError, ValueError) as error:
        raise ValueError(
            f"{name} is not a valid preset of family {family}: {complaint(error)}"
        ) from error


def family_of(name: str, others: Collection[str] = ()) -> str:
    """The family that a preset's file is added as; ValueError: no such preset, with the nearest of
    theirs and `others`."""
    for family, (_, known) in FAMILIES.items():
        if name in known:
            return family
    raise ValueError(f"no preset {name!r}{nearest(name, [*PRESETS, *others])}")
