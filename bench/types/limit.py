"""A part of an experiment, for a trial."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace

from bench.store import digest
from bench.types.experiment import Block, Experiment


@dataclass(frozen=True)
class Limit:
    """Fewer images, other NFEs, fewer lines. An empty choice keeps what the experiment says.

    images: of each block, the first ones.
    nfes: each block keeps those that it has; the first block also gets those that none has.
    lines: names. A name that was cut at its commas is put together again.
    """

    images: int = 0
    nfes: tuple[int, ...] = ()
    lines: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.images < 0 or self.images == 1:
            raise ValueError(f"--images must be at least 2, not {self.images}: one image has no "
                             "covariance")  # fmt: skip
        if self.nfes and min(self.nfes) < 1:
            raise ValueError(f"--nfe must be at least 1, not {min(self.nfes)}")

    def of(self, experiment: Experiment) -> Experiment:
        """The part of an experiment. Its name says what it is, so its results have a folder of
        their own.

        Raises:
            ValueError: an unknown line; nothing is left.
        """
        if self == Limit():
            return experiment
        lines = _known(self.lines, experiment) if self.lines else tuple(experiment.lines)
        blocks = self._nfes(self._lines(experiment.blocks, lines))
        if not blocks:
            raise ValueError(f"{experiment.name} has no block of {', '.join(lines)}")
        tuning, scoring = experiment.tuning, experiment.scoring
        used = [nfe for block in blocks for nfe in block.nfes]
        ranges = tuple(one for one in experiment.ranges if _within(used, one))
        if tuning:
            tuning = self._cut(replace(tuning, nfes=self._tuned(tuning.nfes, ranges)))
        if scoring.converged and self.images:
            fewer = min(self.images, scoring.converged.images)
            scoring = replace(scoring, converged=replace(scoring.converged, images=fewer))
        baselines = experiment.baselines
        if baselines is not None:
            baselines = tuple(line for line in baselines if line in lines)
        return replace(
            experiment, name=self._name(experiment.name, lines if self.lines else ()),
            baselines=baselines,
            lines={line: experiment.lines[line] for line in lines},
            blocks=tuple(map(self._cut, blocks)), tuning=tuning, ranges=ranges, scoring=scoring,
        )  # fmt: skip

    def _lines(self, blocks: Iterable[Block], lines: tuple[str, ...]) -> list[Block]:
        """The blocks that have one of the lines."""
        return [
            replace(block, lines=tuple(line for line in block.lines if line in lines))
            for block in blocks
            if not block.lines or set(block.lines) & set(lines)
        ]

    def _nfes(self, blocks: list[Block]) -> list[Block]:
        """The blocks that have one of the NFEs."""
        if not self.nfes or not blocks:
            return blocks
        known = {nfe for block in blocks for nfe in block.nfes}
        new = tuple(nfe for nfe in self.nfes if nfe not in known)
        kept = [tuple(nfe for nfe in block.nfes if nfe in self.nfes) for block in blocks]
        kept[0] = tuple(sorted({*kept[0], *new}))
        return [replace(block, nfes=nfes) for block, nfes in zip(blocks, kept, strict=True) if nfes]

    def _tuned(self, nfes: tuple[int, ...], ranges: tuple[tuple[int, int], ...]) -> tuple[int, ...]:
        """The NFEs of tuning: in each range those that are asked for, or all where none is."""
        found: set[int] = set()
        for one in ranges or ((min(nfes), max(nfes)),):
            own = _within(nfes, one)
            found |= set(own) & set(self.nfes) or set(own)
        return tuple(sorted(found))

    def _cut(self, block: Block) -> Block:
        return replace(block, seeds=block.seeds[: self.images]) if self.images else block

    def _name(self, name: str, lines: tuple[str, ...]) -> str:
        said = "-".join(re.sub(r"[^\w.=]+", "-", line).strip("-") for line in lines)
        said = said if len(said) <= 60 else digest(lines)[:8]
        parts = [str(self.images or ""), "-".join(map(str, self.nfes)), said]
        return "-".join([name, "part", *filter(None, parts)])


def _within(nfes: Iterable[int], ends: tuple[int, int]) -> list[int]:
    """The NFEs of a range."""
    return [nfe for nfe in nfes if ends[0] <= nfe <= ends[1]]


def _known(parts: tuple[str, ...], experiment: Experiment) -> tuple[str, ...]:
    """The lines of an experiment that some names mean."""
    left, found = list(parts), []
    while left:
        whole = (n for n in range(len(left), 0, -1) if ", ".join(left[:n]) in experiment.lines)
        if not (count := next(whole, 0)):
            raise ValueError(f"--lines: {experiment.name} has no line {left[0]!r} (known: "
                             f"{'; '.join(experiment.lines)})")  # fmt: skip
        found.append(", ".join(left[:count]))
        del left[:count]
    return tuple(dict.fromkeys(found))
