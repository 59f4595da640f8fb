"""The presets of all built-in families: look one up, and list them with the models made of them."""

from collections.abc import Collection
from pathlib import Path

from pydantic import ValidationError

from bench.checkpoints.card import complaint, read_card
from bench.checkpoints.family import find_family
from bench.checkpoints.files import read_json
from bench.checkpoints.places import Models
from bench.checkpoints.weights import WEIGHTS
from bench.names import nearest
from bench.zoo import FAMILIES
from bench.zoo.base import Preset, PublishedFamily


def published_family(name: str) -> PublishedFamily:
    """The family of a name of `FAMILIES`, or of module:Name of the user's own.

    ValueError: there is no such family, or it has no published files.
    """
    found = find_family(name)
    if not isinstance(found, PublishedFamily):
        raise ValueError(f"family {name} has no published files{nearest(name, FAMILIES)}")
    return found


def all_presets() -> dict[str, tuple[str, Preset]]:
    """The presets of all built-in families: name -> (family, preset)."""
    return {
        name: (family, preset)
        for family in FAMILIES
        for name, preset in published_family(family).presets.items()
    }


def find_preset(name: str, others: Collection[str] = ()) -> tuple[str, Preset]:
    """A preset of any built-in family, after the name of the family.

    ValueError: there is none. The message has the nearest name, which may be one of `others`.
    """
    known = all_presets()
    if name not in known:
        raise ValueError(f"no preset {name!r}{nearest(name, [*known, *others])}")
    return known[name]


def preset_of(name: str, family: str) -> Preset:
    """A preset of one family, or the one that a .json file of its fields describes.

    ValueError: there is no such family or preset (with the nearest name), or a bad file.
    """
    found = published_family(family)
    if name in found.presets:
        return found.presets[name]
    if not name.endswith(".json"):
        raise ValueError(f"no preset {name!r} of family {family}, nor a .json file"
                         f"{nearest(name, found.presets)}")  # fmt: skip
    try:
        return found.preset.model_validate(read_json(Path(name)))
    except (ValidationError, ValueError) as error:
        raise ValueError(
            f"{name} is not a valid preset of family {family}: {complaint(error)}"
        ) from error


def preset_lines(models: Models) -> list[str]:
    """A line for each model whose card cannot be read, then one for each preset: the models made of
    it, or how to get it."""
    made, lines = _made_of(models)
    for name, (family, chosen) in all_presets().items():
        keys = {name, chosen.file, chosen.given}
        found = sorted({home for key in keys for home in made.get((family, key), [])})
        if found:
            lines.append(f"preset {name}: present as {', '.join(found)}")
        elif chosen.file:
            lines.append(f"preset {name}: absent; {chosen.commands(family, name, name)}")
        else:
            lines.append(f"preset {name}: any file of these flags")
    return lines


def _made_of(models: Models) -> tuple[dict[tuple[str, str], list[str]], list[str]]:
    """(Family, preset or file) -> the models made of it; and a line for each broken card."""
    made: dict[tuple[str, str], list[str]] = {}
    broken = []
    for home in map(models.folder, models.names()):
        try:
            card = read_card(home)
        except ValueError as error:
            broken.append(f"model {home.name} cannot be used: {error}")
            continue
        family = card.training.get("family", card.family)
        for key in {card.training.get("preset"), card.training.get("file")} - {None}:
            if (home / WEIGHTS).is_file():
                made.setdefault((family, str(key)), []).append(home.name)
    return made, broken
