"""How a schedule line is drawn: one colour and one marker for a line, in every figure.

Both follow from the line's schedule (`plan.json`, "lines"). They do not depend on the line's place
in an experiment, nor on the model. Baselines are dashed and have cool colours. All other lines are
solid and have warm colours (after Okabe and Ito).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from bench import store

COOL = (
    "#333333", "#56B4E9", "#0072B2", "#999999", "#333399", "#7F9DB9", "#00838F", "#9575CD",
    "#004D40", "#4DB6AC", "#6A1B9A", "#2E7D32", "#546E7A", "#7CB342", "#5C6BC0", "#0D47A1",
)  # fmt: skip
WARM = (
    "#D55E00", "#E69F00", "#CC79A7", "#A50F15", "#8C6D00", "#F0027F", "#FF7043", "#795548",
    "#AD1457", "#E0B000",
)  # fmt: skip
MARKS = "osD^vP*X"
_FIRST = {  # well-known rivals, by class or by the rate that they use: index in COOL
    "Native": 0, "LogSNR": 1, "Karras": 2, "Cosine": 3, "TimeUniform": 4, "v_entropy": 5,
    "v_score": 6, "AlignYourSteps": 7, "Laplace": 8, "Sigmoid": 9, "KLOptimal": 10,
    "v_entropy_rescaled": 11, "Beta": 12, "CheapestPath": 13, "DMNonUniform": 14,
}  # fmt: skip

SAMPLERS = {  # class -> the name in its paper
    "DPMpp2M": "DPM-Solver++(2M)", "DPMpp2S": "DPM-Solver++(2S)", "DPMpp3M": "DPM-Solver++(3M)",
    "DPMpp2MSDE": "SDE-DPM-Solver++(2M)", "DPMSolver2": "DPM-Solver-2", "IPNDM": "iPNDM",
}  # fmt: skip


def paper_name(sampler: str) -> str:
    """A sampler as its paper writes it: `DPM-Solver++(3M)(lower_order_final=never)`, say."""
    name, bracket, rest = sampler.partition("(")
    return SAMPLERS.get(name, name) + bracket + rest


def folded_name(sampler: str) -> str:
    """`paper_name` for a narrow place: what a sampler is given has a line of its own."""
    return paper_name(sampler).replace(")(", ")\n(")


@dataclass(frozen=True)
class Look:
    """How a line is drawn."""

    color: str
    marker: str
    linestyle: str


def parts_of(spec: Any) -> Iterator[dict[str, Any]]:
    """A spec, and all specs that it contains."""
    if isinstance(spec, dict):
        if "class" in spec:
            yield spec
        for value in spec.values():
            yield from parts_of(value)
    elif isinstance(spec, list):
        for value in spec:
            yield from parts_of(value)


def is_baseline(line: dict[str, Any]) -> bool:
    """Whether a line of a plan is one that others are compared with.

    Plans of an older version do not say so. There it is a line without `ConstantRate`.
    """
    rated = any(part["class"] == "ConstantRate" for part in parts_of(line["schedule"]))
    return bool(line.get("baseline", not rated))


def uses_rate(spec: dict[str, Any], name: str) -> bool:
    """Whether the spec of a schedule contains the rate of this name."""
    return any(part["class"] == "Rate" and part["fields"]["name"] == name
               for part in parts_of(spec))  # fmt: skip


def kind(line: dict[str, Any]) -> Any:
    """What lines of several models share: the schedule without the digests of its rates."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: plain(part) for name, part in value.items() if name != "digest"}
        return [plain(part) for part in value] if isinstance(value, list) else value

    return plain(line["schedule"])


def _rival(line: dict[str, Any]) -> str:
    """The class of a line's schedule, or of its first try; of a constant rate the rate's name."""
    schedule = line["schedule"]
    if schedule["class"] == "Tuned":
        schedule = schedule["fields"]["tries"][0]
    if schedule["class"] == "ConstantRate":
        return next((str(part["fields"]["name"]) for part in parts_of(schedule)
                     if part["class"] == "Rate"), "")  # fmt: skip
    return str(schedule["class"])


def looks(lines: dict[str, dict[str, Any]]) -> dict[str, Look]:
    """Name of a line -> its look.

    The schedule of a line gives its preferred colour and marker, so that it looks the same in
    experiments on several models. If an earlier line of the same plan has that colour or marker,
    the line gets the next free one.

    Arguments:
        lines: "lines" of a plan. All of them, so that a figure of some has the same looks.
    """
    found: dict[str, Look] = {}
    for name, line in lines.items():
        ours, number = not is_baseline(line), int(store.digest(kind(line)), 16)
        palette = WARM if ours else COOL
        first = number % len(palette) if ours else _FIRST.get(_rival(line), number % len(palette))
        used = [look.color for look in found.values()]
        order = palette[first % len(palette) :] + palette[: first % len(palette)]
        color = min(order, key=used.count)  # of the least used colours the first
        marks = MARKS[number % len(MARKS) :] + MARKS[: number % len(MARKS)]
        taken, again = [look.marker for look in found.values()], color in used
        style = ("-.", "-") if ours else (":", "--")  # of a colour that is used again, and not
        found[name] = Look(color, min(marks, key=taken.count), style[not again])
    return found
