"""Choose the tensors of one network in a file that may hold several, such as a moving average.

Every choice is said. A file that leaves a doubt is refused with the keys to choose from.
"""

import re
import sys
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from bench.store import some
from bench.zoo.torch_files import Contents

_WORDS = re.compile(r"[A-Z]+(?=[A-Z][a-z])|[A-Z]?[a-z]+|[A-Z]+")
_AVERAGE = {"averaged", "average", "avg", "swa", "polyak", "shadow", "moving", "smoothed"}
_RAW = {"online", "raw", "collected", "backup"}  # the weights themselves, beside an average
_TRAINERS = {"optimizer", "optimizers", "optim", "opt", "scheduler", "schedulers", "scaler", "adam",
             "loops", "rng"}  # fmt: skip
_INNER = re.compile(
    r"(?:^|(?<=\.))(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module|_forward_module)\."
)
_COUNTERS = {"decay", "num_updates", "n_averaged", "initted", "step", "steps", "updates",
             "optimization_step", "epoch", "global_step"}  # fmt: skip
_ENDS = ("_ema", ".ema", "_avg", "_averaged", "_shadow")  # of the names of averaged tensors
_NO_DOTS = "no dots"


@dataclass(frozen=True)
class Attempt:
    """What tensors become: anything, with the state dict that it has and the one it must have."""

    made: Any
    have: Mapping[str, Tensor]
    want: Mapping[str, Tensor]

    @property
    def fits(self) -> bool:
        """Whether all keys are there and no others."""
        return self.have.keys() == self.want.keys()


@dataclass(frozen=True)
class View:
    """Some tensors of a file. prefix and form: what the names had that their keys lack."""

    prefix: str
    form: str
    tensors: dict[str, Tensor]

    @property
    def key(self) -> str:
        """What --weights-key takes for it."""
        end = "" if self.form == _NO_DOTS else self.form
        return (self.prefix + ("*" + end if end else "")).removesuffix(".")

    def averaged(self, names: Collection[str]) -> bool:
        """Whether the tensors are a moving average, by their prefix or by a counter beside them."""
        beside = self.prefix.removesuffix("module.") + "n_averaged"
        return self.form != "" or beside in names or is_average(self.prefix)


@dataclass(frozen=True)
class Picked:
    """The choice. line: what to say of it; record: for the card; hint: why nothing fits."""

    attempt: Attempt
    view: View
    line: str = ""
    record: dict[str, object] = field(default_factory=dict)
    hint: str = ""

    def tell(self) -> None:
        """Say on stderr what was chosen, if there was a choice."""
        if self.line:
            print(self.line, file=sys.stderr)


def _words(path: str) -> list[str]:
    return [word.lower() for word in _WORDS.findall(path)]


def is_average(path: str) -> bool:
    """Whether a path of keys names a moving average. The last word that tells decides."""
    for word in reversed(_words(path)):
        if word in _RAW:
            return False
        if word in _AVERAGE or word.startswith("ema") or word.endswith("ema") != (word == "schema"):
            return True
    return False


def _of_trainer(path: str) -> bool:
    return "exp_avg" in path or bool(_TRAINERS & set(_words(path)))


def pick(
    contents: Contents,
    key: str,
    attempt: Callable[[dict[str, Tensor]], Attempt],
    want: Collection[str] = (),
) -> Picked:
    """Choose the tensors that make a network.

    Arguments:
        contents: the tensors of the file.
        key: the user's choice, a path of keys joined by dots. Empty: a moving average is taken.
        attempt: makes the network's state dict of tensors. It may raise ValueError.
        want: the network's keys, if they are known before.
    Returns:
        The choice. If nothing fits, the nearest, with a hint.
    Raises:
        ValueError: the file has no such key, or several networks that fit.
    """
    names, removed = _cleaned(contents.readable().tensors)
    inside = {n: v for n, v in names.items() if n.startswith(_dotted(key))} if key else names
    if key and not inside:
        tops = list(dict.fromkeys(name.partition(".")[0] for name in names))
        raise ValueError(f"{contents.file} has no --weights-key {key}; it has {some(tops, 6)}")
    tried = [(view, _tried(attempt, view)) for view in _views(inside, _dotted(key), want)]
    fitting = _distinct([(v, a) for v, a in tried if isinstance(a, Attempt) and a.fits])
    if not fitting:
        return _nearest(contents, tried, inside, key)
    view, found = _one(contents, fitting, inside, bool(key))
    if not view.prefix:
        contents.check_plain()
    if not key and not view.averaged(names):
        _check_no_average(contents, view, names)
    return _told(contents, Picked(found, view), [v for v, _ in fitting], names, removed, key)


def _dotted(key: str) -> str:
    plain = _INNER.sub("", key.removesuffix(".") + ".")
    return plain if key else ""


def _cleaned(tensors: dict[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """Names without the wrappers that torch.compile and FSDP put within them; and the wrappers."""
    clean = {_INNER.sub("", name): value for name, value in tensors.items()}
    if len(clean) < len(tensors):
        return tensors, []
    return clean, sorted({part for name in tensors for part in _INNER.findall(name)})


def _views(names: dict[str, Tensor], within: str, want: Collection[str]) -> Iterator[View]:
    """All ways to see one network in the names, the whole first."""
    counts = _counted(names, within, want)
    full = {found: set(_stems(names, *found, want)) for found, n in counts.items()
            if n == len(want)}  # fmt: skip
    near = [found for found, _ in counts.most_common(3)]
    first = _groups(names, within, len(want))
    for prefix in dict.fromkeys([*first, *(p for p, _ in [*full, *near])]):
        view = _under(names, prefix, want)
        yield view
        if (prefix, "") not in full:
            continue
        others = set().union(*(taken for found, taken in full.items() if found != (prefix, "")))
        inner = {n: v for n, v in view.tensors.items() if prefix + n not in others}
        if len(inner) < len(view.tensors):
            yield View(prefix, "", inner)
    for prefix, form in full:
        if form:
            stems = _stems(names, prefix, form, want)
            yield View(prefix, form, {stem: names[name] for name, stem in stems.items()})


def _under(names: dict[str, Tensor], prefix: str, want: Collection[str]) -> View:
    """The tensors under a prefix, without the counters of a moving average."""
    found = {n.removeprefix(prefix): v for n, v in names.items() if n.startswith(prefix)}
    return View(prefix, "", {n: v for n, v in found.items()
                             if n in want or n not in _COUNTERS or v.numel() != 1})  # fmt: skip


def _groups(names: dict[str, Tensor], within: str, size: int) -> list[str]:
    """Prefixes of up to four keys that hold enough tensors for a network. The first holds all."""
    counts: Counter[str] = Counter()
    for name in names:
        parts = [part + "." for part in name.removeprefix(within).split(".")[:-1]]
        counts.update(within + "".join(parts[:n]) for n in range(1, len(parts[:4]) + 1))
    enough = max(2, size // 4)
    return [within, *(p for p, n in counts.items() if n >= enough and not _of_trainer(p))]


def _counted(
    names: dict[str, Tensor], within: str, want: Collection[str]
) -> Counter[tuple[str, str]]:
    """(prefix, form) -> how many of the network's keys stand in the names with these."""
    counts: Counter[tuple[str, str]] = Counter()
    flat = {key.replace(".", "") for key in want if "." in key} - set(want)
    for name in names:
        parts = name.removeprefix(within).split(".")
        for n in range(len(parts)):
            prefix, rest = within + "".join(p + "." for p in parts[:n]), ".".join(parts[n:])
            if rest in want:
                counts[prefix, ""] += 1
            if rest in flat:
                counts[prefix, _NO_DOTS] += 1
            for end in _ENDS:
                if rest.endswith(end) and rest.removesuffix(end) in want:
                    counts[prefix, end] += 1
    keys = {key.replace(".", "") for key in want}
    if len(keys) == len(want):  # a key without dots is its own name
        single = [key for key in want if "." not in key]
        for prefix, form in [found for found in counts if found[1] == _NO_DOTS]:
            counts[prefix, form] += sum(prefix + key in names for key in single)
    return Counter({found: n for found, n in counts.items() if not _of_trainer(found[0])})


def _stems(
    names: dict[str, Tensor], prefix: str, form: str, want: Collection[str]
) -> dict[str, str]:
    """Name -> key of the network, of the names with a prefix and a form."""
    if form == _NO_DOTS:
        pairs = {prefix + key.replace(".", ""): key for key in want}
    else:
        pairs = {prefix + key + form: key for key in want}
    return {name: key for name, key in pairs.items() if name in names}


def _tried(attempt: Callable[[dict[str, Tensor]], Attempt], view: View) -> Attempt | ValueError:
    try:
        return attempt(view.tensors)
    except ValueError as error:
        return error


def _distinct(fitting: list[tuple[View, Attempt]]) -> list[tuple[View, Attempt]]:
    """The views that fit, without those that hold the numbers of one before."""
    kept: list[tuple[View, Attempt]] = []
    for view, found in fitting:
        if not any(_same(found.have, other.have) for _, other in kept):
            kept.append((view, found))
        elif is_average(view.prefix):  # the same numbers under a better name
            kept = [(view, found) if _same(found.have, o.have) else (v, o) for v, o in kept]
    return kept


def _same(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return all(
        value.shape == other[key].shape
        and value.dtype == other[key].dtype
        and value.layout == other[key].layout == torch.strided
        and (value.data_ptr() == other[key].data_ptr() or torch.equal(value, other[key]))
        for key, value in one.items()
    )


def _one(
    contents: Contents, fitting: list[tuple[View, Attempt]], names: dict[str, Tensor], asked: bool
) -> tuple[View, Attempt]:
    """The one average of several views that fit, or the one view. ValueError: there is a doubt."""
    if len(fitting) == 1:
        return fitting[0]
    averages = [(view, found) for view, found in fitting if view.averaged(names)]
    swapped = "ema_state_dict.steps" in names
    if len(averages) == 1 and not swapped:
        return averages[0]
    why = "several moving averages" if len(averages) > 1 else "several networks"
    if swapped:
        why = "weights of mmengine, which saves the moving average as state_dict if its hook was on"
    more = "a longer --weights-key" if asked else "--weights-key KEY"
    raise ValueError(f"{contents.file} holds {why} that fit: "
                     f"{some([view.key or '(root)' for view, _ in fitting], 12)}; choose one "
                     f"with {more}")  # fmt: skip


def _check_no_average(contents: Contents, view: View, names: dict[str, Tensor]) -> None:
    """Raise ValueError if the file holds a moving average that cannot be used."""
    taken = {view.prefix + name for name in view.tensors}
    other = [
        n
        for n, v in names.items()
        if n not in taken and v.numel() > 1 and is_average(n) and not _of_trainer(n)
    ]
    if not other:
        return
    unnamed = all(n.rpartition(".")[2].isdigit() for n in other)
    where = other[0].rpartition(".")[0] if unnamed else other[0]
    why = ("a list without names (such as shadow_params), which cannot be told apart: in its "
           "publisher's environment copy the list into the network and save its state dict"
           if unnamed else "its names or shapes are not those of the network")  # fmt: skip
    key = f"--weights-key {view.key}" if view.key else "a file of them alone"
    raise ValueError(f"{contents.file} holds a moving average in {where}, but it is of no use: "
                     f"{why}; to take the weights themselves, give {key}")  # fmt: skip


def _told(
    contents: Contents, picked: Picked, fitting: list[View], names: dict[str, Tensor],
    removed: list[str], key: str,
) -> Picked:  # fmt: skip
    """The choice with the line that tells it, if there was one."""
    view = picked.view
    record: dict[str, object] = {}
    said: list[str] = []
    others = [one.key or "(root)" for one in fitting if one is not view]
    if others or key:
        record["weights_key"] = view.key
        what = ", a moving average" if view.averaged(names) else ""
        said.append(f"the weights are those of {view.key or 'its root'}{what}"
                    + (f"; it also holds {some(others, 6)}" if others else ""))  # fmt: skip
    if others:
        record["other_keys"] = others
    top = max((d for d in contents.dicts if view.prefix.startswith(d)), key=len, default="")
    wrappers = view.prefix.removeprefix(top) + "".join(f"{part}." for part in removed)
    if wrappers:
        record["removed_prefix"] = wrappers
        said.append(f"the prefix {wrappers} of the names was removed")
    elif view.prefix and not said:
        record["weights_key"] = view.key
    if view.form:
        said.append(f"the names were those of averages ({view.form})")
    line = f"{contents.file}: {'; '.join(said)}" if said else ""
    return Picked(picked.attempt, view, line, record)


def _nearest(
    contents: Contents, tried: list[tuple[View, Attempt | ValueError]], names: dict[str, Tensor],
    key: str,
) -> Picked:  # fmt: skip
    """The view that fits best, with a hint. ValueError: that of the best attempt."""

    def rank(one: tuple[View, Attempt | ValueError]) -> tuple[int, int, int]:
        view, found = one
        if isinstance(found, ValueError):
            return 0, 1, len(view.tensors)
        both = len(found.have.keys() & found.want.keys())
        return both, 0, -len(found.have) if both else len(view.tensors)

    view, found = max(tried, key=rank)
    if isinstance(found, ValueError):
        raise found
    if unnamed := [n for n in names if is_average(n) and n.rpartition(".")[2].isdigit()
                   and not _of_trainer(n)]:  # fmt: skip
        where = unnamed[0].rpartition(".")[0]
        raise ValueError(f"{contents.file} holds a moving average in {where}, a list without names "
                         "(such as shadow_params): copy it into the network in its publisher's "
                         "environment, save the state dict, and add that")  # fmt: skip
    both = found.have.keys() & found.want.keys()
    if not both and found.have:
        hint = (f"no key is one of the network's: the file has {min(found.have)}, the network "
                f"{min(found.want)}; is it another --family or --preset?")  # fmt: skip
    elif view.prefix and not key:
        hint = (f"without the prefix {view.prefix} {len(both)} of its {len(found.want)} keys are "
                "there")  # fmt: skip
    elif view.prefix:
        hint = f"under {view.key} {len(both)} of its {len(found.want)} keys are there"
    else:
        hint = ""
    return Picked(found, view, hint=hint)
