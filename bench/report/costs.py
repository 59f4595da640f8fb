"""What the page about costs may ask: records of `crs-bench bench`, and seconds of an experiment.

A record is described in `bench.benchmarks.record`. A name is that of its file.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from bench import store
from bench.report.frame import Results


@dataclass(frozen=True)
class Costs:
    """The records of a folder. Methods but `has` raise ValueError: no such record or reading."""

    folder: Path

    def record(self, name: str) -> dict[str, Any]:
        """The whole record."""
        if not (path := self.folder / f"{name}.json").is_file():
            raise ValueError(f"{self.folder} has no record {name!r} of crs-bench bench")
        return store.read_json(path)

    def has(self, name: str, what: str) -> bool:
        """Whether there is a record with such a reading."""
        there = (self.folder / f"{name}.json").is_file()
        return there and any(one["what"] == what for one in self.record(name)["readings"])

    def reading(self, name: str, what: str, peer: str = "") -> dict[str, Any]:
        """A reading, or what a peer of it needed."""
        found = [one for one in self.record(name)["readings"] if one["what"] == what]
        if peer:
            found = [two for one in found for two in one["peers"] if two["name"] == peer]
        if len(found) != 1:
            raise ValueError(f"the record {name!r} has no one reading {what!r} {peer}".rstrip())
        return found[0]

    def seconds(self, name: str, what: str, peer: str = "") -> str:
        """`1.33 s`."""
        return f"{short(self.reading(name, what, peer)['seconds'])} s"

    def memory(self, name: str, what: str, peer: str = "") -> str:
        """Peak memory: `0.384 GB`."""
        return f"{short(self.reading(name, what, peer)['memory_mib'] * 2**20 / 1e9)} GB"

    def rate(self, name: str, what: str, peer: str = "") -> float:
        """Images a second."""
        found = self.reading(name, what, peer)
        if "images_a_second" in found:
            return float(found["images_a_second"])
        return float(self.reading(name, what)["images"] / found["seconds"])

    def ratio(self, name: str, what: str, peer: str) -> float:
        """Seconds of a peer divided by ours."""
        return float(self.reading(name, what, peer)["ratio"])

    def overheads(self, name: str, peer: str = "") -> list[float]:
        """What our samplers, or those of a peer, add to the network, in percent, ascending.

        Without those of a compiled network.
        """
        every = [one for one in self.record(name)["readings"]
                 if not one["what"].endswith(", compiled")]  # fmt: skip
        if peer:
            every = [two for one in every for two in one["peers"] if two["name"] == peer]
        return sorted(100 * one["overhead"] for one in every if "overhead" in one)

    def shares(self, name: str) -> dict[str, float]:
        """Class of kernel -> its share of the time, of a record made with --profile."""
        return {one["what"]: one["share"] for one in self.record(name)["readings"] if "of" in one}

    def difference(self, name: str) -> float:
        """The largest difference of compiled and eager final states, in units of [-1, 1]."""
        every = self.record(name)["readings"]
        return max(one["difference"] for one in every if "difference" in one)


def short(x: float) -> str:
    """Three digits: `21,900`, `0.649`."""
    return f"{float(f'{x:.3g}'):,g}"


def pace(results: Results, n: int) -> pd.DataFrame:
    """Median seconds of the cells of n images in each range of seeds, by NFE: sample and score."""
    rows = [{"nfe": one["nfe"], **one["seconds"]} for one in results.done
            if one["cell"]["seeds"][1] - one["cell"]["seeds"][0] == n]  # fmt: skip
    return pd.DataFrame(rows).groupby("nfe").median()


def spent(results: Results) -> dict[str, float]:
    """Sums over all records: images, evaluations, and seconds of sampling and of scoring."""
    every = [(one["cell"]["seeds"][1] - one["cell"]["seeds"][0], one) for one in results.done]
    return {
        "images": sum(n for n, _ in every),
        "evaluations": sum(n * one["nfe"] for n, one in every),
        "sample": sum(one["seconds"]["sample"] for _, one in every),
        "score": sum(one["seconds"]["score"] for _, one in every),
    }
