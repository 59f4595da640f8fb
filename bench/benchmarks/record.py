"""The one form of what `crs-bench bench` reads, and how works are timed in turn.

A record is a JSON object:

* `verb`, `arguments`: what was asked, with the defaults.
* `device`, `versions`: of the machine. A CPU's name has the number of threads.
* `counts`: which of the repeated runs `seconds` is.
* `readings`: a list of objects. Each has `what`, our `seconds`, numbers of the verb's own, and
  `peers`: `name`, `version` (null: no package, or not recorded), `seconds`, `ratio` (its seconds
  divided by ours), and numbers of its own.
"""

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from typing import Any

import torch
from tabulate import tabulate

Work = Callable[[], Any]


@dataclass(frozen=True)
class Peer:
    """Another way to do the work of a reading. ratio: its seconds divided by ours."""

    name: str
    version: str | None
    seconds: float
    ratio: float
    more: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Reading:
    """Our seconds of one work, beside those of its peers. more: other numbers, by name."""

    what: str
    seconds: float
    more: Mapping[str, Any] = field(default_factory=dict)
    peers: tuple[Peer, ...] = ()

    def beside(self, name: str, seconds: float, package: str = "", **more: Any) -> "Reading":
        """The same with one more peer. package: whose version counts, if there is one."""
        known = version(package) if package else None
        peer = Peer(name, known, seconds, seconds / self.seconds, more)
        return replace(self, peers=(*self.peers, peer))


def seconds_of(work: Work, device: str) -> float:
    """Seconds of one run. The device is idle before and after it."""
    wait(device)
    start = time.perf_counter()
    work()
    wait(device)
    return time.perf_counter() - start


def wait(device: str) -> None:
    """Wait for all that a GPU has queued."""
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


def in_turns(works: Sequence[Work], repeats: int, device: str) -> list[tuple[float, ...]]:
    """Seconds of each work in each of several rounds, after a round that does not count.

    A round runs each work once, so that a drift of the machine affects all works alike.

    Returns:
        For each work, `repeats` numbers.
    """
    rounds = [[seconds_of(work, device) for work in works] for _ in range(repeats + 1)]
    return list(zip(*rounds[1:], strict=True))


def content(readings: Collection[Reading]) -> list[dict[str, Any]]:
    """Readings as a record has them."""
    return [
        {"what": one.what, "seconds": one.seconds, **one.more, "peers": [
            {"name": peer.name, "version": peer.version, "seconds": peer.seconds,
             "ratio": peer.ratio, **peer.more} for peer in one.peers
        ]} for one in readings
    ]  # fmt: skip


def table(readings: Collection[Reading], **columns: str) -> str:
    """A text table with a row for each reading and each peer.

    Arguments:
        columns: a name in `more` -> the format of its column. What is not there is left out.
    """
    rows = []
    for one in readings:
        rows.append((one.what, "crs-bench", f"{one.seconds:.4g}", "", one.more))
        rows += [("", " ".join(filter(None, (peer.name, peer.version))), f"{peer.seconds:.4g}",
                  f"{peer.ratio:.2f}", peer.more) for peer in one.peers]  # fmt: skip
    cells = [
        (*row, *("" if more.get(name) is None else format(more[name], form)
                 for name, form in columns.items()))
        for *row, more in rows
    ]  # fmt: skip
    heads = "what", "by", "seconds", "ratio", *(name.replace("_", " ") for name in columns)
    return tabulate(cells, heads, disable_numparse=True)
