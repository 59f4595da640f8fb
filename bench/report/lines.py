"""How a line is drawn, from its identity: the same colour and marker in every figure.

A line's identity is made of its schedule and model (`plan.json`, "lines"), not of its place in an
experiment. Lines that place levels at a constant rate are warm and solid, others cool and dashed
(palette after Okabe and Ito).
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

COOL = ("#333333", "#56B4E9", "#0072B2", "#999999", "#333399", "#7F9DB9", "#00838F", "#9575CD")
WARM = ("#D55E00", "#E69F00", "#CC79A7", "#A50F15", "#8C6D00", "#F0027F")
MARKS = "osD^vP*X"
_FIRST = {"Native": 0, "LogSNR": 1, "Karras": 2, "Cosine": 3}  # places in COOL of well-known rivals


@dataclass(frozen=True)
class Look:
    """How a line is drawn."""

    color: str
    marker: str
    linestyle: str


def parts_of(spec: Any) -> Iterator[dict[str, Any]]:
    """A spec and every spec inside it."""
    if isinstance(spec, dict):
        if "class" in spec:
            yield spec
        for value in spec.values():
            yield from parts_of(value)
    elif isinstance(spec, list):
        for value in spec:
            yield from parts_of(value)


def constant_rate(line: dict[str, Any]) -> bool:
    """Whether a line of a plan has a constant-rate grid."""
    return any(part["class"] == "ConstantRate" for part in parts_of(line["schedule"]))


def uses_rate(spec: dict[str, Any], name: str) -> bool:
    """Whether a schedule is made of the rate of that name."""
    return any(part["class"] == "Rate" and part["fields"]["name"] == name
               for part in parts_of(spec))  # fmt: skip


def looks(lines: dict[str, dict[str, Any]], shown: Iterable[str]) -> dict[str, Look]:
    """Name of a line -> its look.

    Each line has a colour of choice, which follows from its identity. A line whose colour is taken
    by an earlier line of the same plan gets the next free one.

    Arguments:
        lines: of a plan.
        shown: names of the lines that are scored, in plan order.
    """
    found: dict[str, Look] = {}
    for name in shown:
        line = lines[name]
        ours, number = constant_rate(line), int(line["identity"], 16)
        palette = WARM if ours else COOL
        first = _FIRST.get(line["schedule"]["class"], number % len(palette))
        used = [look.color for look in found.values()]
        order = palette[first % len(palette) :] + palette[: first % len(palette)]
        color = min(order, key=used.count)  # the first of those that are used least
        marks = MARKS[number % len(MARKS) :] + MARKS[: number % len(MARKS)]
        taken = [look.marker for look in found.values()]
        found[name] = Look(color, min(marks, key=taken.count), "-" if ours else "--")
    return found
