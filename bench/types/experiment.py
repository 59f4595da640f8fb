"""An experiment: a frozen list of choices, from which every cell follows."""

from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from bench.lazy import Tensor, torch
from bench.store import check_folder_name
from bench.types.described import Described
from bench.types.measured import Rate
from bench.types.roles import NoiseProcess, Sampler, Schedule

Keep = Literal["all", "scored", "none"]


@dataclass(frozen=True)
class Cell:
    """One point of a comparison: everything that decides which images are made.

    guidance: the scale of classifier-free guidance; None: the plain prediction.
    """

    model: str
    schedule: Schedule
    sampler: Sampler
    nfe: int
    seeds: range
    guidance: float | None = None

    def __post_init__(self) -> None:
        if self.nfe < 1:
            raise ValueError(f"nfe must be at least 1, not {self.nfe}")
        if len(self.seeds) < 2:
            raise ValueError("a cell needs at least 2 seeds: one image has no covariance")


def steps_for(sampler: Sampler, nfe: int) -> int:
    """The most steps to 0 that the sampler takes with at most `nfe` calls of the denoiser.

    Raises:
        ValueError: not even one step.
    """
    for steps in range(nfe, 0, -1):
        if sampler.evals(torch.arange(steps, -1, -1, dtype=torch.float64)) <= nfe:
            return steps
    raise ValueError(f"{sampler!r} cannot take a step with {nfe} function evaluations; raise --nfe")


def grid_of(cell: Cell, process: NoiseProcess) -> Tensor:
    """The cell's grid, float64 [steps + 1].

    Raises:
        ValueError: the schedule gives no grid that strictly decreases to 0 or above.
    """
    steps = steps_for(cell.sampler, cell.nfe)
    grid = torch.as_tensor(cell.schedule(steps, process))
    _check_grid(cell.schedule, steps, grid.numpy())
    return grid


def valid_grid(schedule: Schedule, steps: int, process: NoiseProcess) -> np.ndarray:
    """The grid of a schedule as an array, float64 [steps + 1].

    Raises:
        ValueError: as `grid_of`.
    """
    grid = schedule.noise_levels(steps, process)
    _check_grid(schedule, steps, grid)
    return grid


def _check_grid(schedule: Schedule, steps: int, grid: np.ndarray) -> None:
    ok = grid.dtype == np.float64 and grid.shape == (steps + 1,) and np.isfinite(grid).all()
    if not (ok and (np.diff(grid) < 0).all() and grid[-1] >= 0):
        raise ValueError(
            f"{schedule!r} gave no valid grid for {steps} steps: expected float64 "
            f"[{steps + 1}], strictly decreasing to >= 0, got {grid.tolist()}"
        )


@dataclass(frozen=True)
class Tuned(Described):
    """A schedule that is chosen among `tries`, for each sampler and each range of NFEs.

    It is chosen on seeds that no table scores. The winner has the lowest geometric mean of the
    Frechet distance over the tuning NFEs of the range (`Experiment.ranges`).

    tries: if they are values of one parameter, in its order.
    """

    tries: tuple[Schedule, ...]

    def __post_init__(self) -> None:
        if not self.tries or not all(isinstance(one, Schedule) for one in self.tries):
            raise ValueError(f"Tuned needs a tuple of schedules to choose from, not {self.tries!r}")

    def at_edge(self, winner: Schedule) -> bool:
        """Whether the winner is the first or the last value that was tried of one parameter.

        A value beyond it might then be better. False if the tries do not differ in numbers alone.
        """
        if len({type(one) for one in self.tries}) > 1:
            return False
        fields = [one.spec()["fields"] for one in self.tries]
        differing = {name for each in fields for name in each
                     if any(each.get(name) != other.get(name) for other in fields)}  # fmt: skip
        values = [vars(one)[name] for one in self.tries for name in differing]
        numbers = all(isinstance(value, int | float) for value in values)
        return numbers and winner in (self.tries[0], self.tries[-1])


@dataclass(frozen=True)
class On(Described):
    """A line of another model than the experiment's own."""

    model: str
    schedule: Schedule | Tuned


@dataclass(frozen=True)
class Converged:
    """The fine run of the same model and seeds that every cell of a block is compared with.

    images: the first seeds of each block that it is run on.
    """

    sampler: Sampler
    schedule: Schedule
    nfe: int
    images: int = 10_000


@dataclass(frozen=True)
class Scoring:
    """How images are made and scored: the protocol, with the digests of models and reference.

    features, reference, metrics: as the command line writes them.
    bank: single features that metrics read, of either set, at most.
    dtype: of the network while it samples.
    batch: images at once; results do not depend on it.
    shard: seeds that are made and kept together; a stopped run loses the one that it makes, and
        one that it is writing.
    keep: whose features stay on disk when they have their scores: of all cells, of scored cells
        (not those of tuning), or of none. New metrics of kept cells need no sampling.
    converged: None: no distance to the model's own converged samples.
    strip: images that are shown of a line's first block, at the NFEs of `Experiment.pictured`.
    """

    features: str = "effnet-lite0"
    reference: str = "fashion-mnist"
    metrics: tuple[str, ...] = ("fd", "precision", "recall")
    bank: int = 10_000
    dtype: str = "float32"
    batch: int = 128
    shard: int = 1_000
    keep: Keep = "scored"
    converged: Converged | None = None
    strip: int = 8

    def __post_init__(self) -> None:
        if self.converged and self.converged.images > self.bank:
            raise ValueError(
                f"converged runs of {self.converged.images} images need as large a bank of "
                f"features, not {self.bank}"
            )
        if self.shard < 1:
            raise ValueError(f"a shard holds at least 1 seed, not {self.shard}")
        if self.keep not in ("all", "scored", "none"):
            raise ValueError(f"keep is all, scored or none, not {self.keep!r}")


@dataclass(frozen=True)
class Block:
    """Seeds that are scored at some NFEs. Blocks share no seed, with tuning neither.

    Blocks of one name and the same seeds are one block, which has other NFEs for other lines.

    lines: the lines that are run on it; () stands for all.
    """

    name: str
    seeds: range
    nfes: tuple[int, ...]
    lines: tuple[str, ...] = ()


@dataclass(frozen=True)
class Experiment:
    """A named list of choices: every line, sampler, block and NFE of the block is a cell.

    model: what `bench.load` takes: a name, a path, or `module:name` of a model in Python.
    lines: name in tables -> a schedule, several to choose from, or one on another model.
    baselines: the lines that all others are compared with. None: lines on the experiment's own
        model that use no measured rate. A method of others that uses a rate must be named here.
    ranges: (first, last) NFE of each range that tuned lines are chosen for separately; (): one
        range of all NFEs.
    guidance: the scale of classifier-free guidance of every cell, for class-conditional models.
    published: the data set of `published.csv` whose numbers stand beside ours.
    """

    name: str
    title: str
    model: str
    lines: dict[str, Schedule | Tuned | On]
    samplers: tuple[Sampler, ...]
    blocks: tuple[Block, ...]
    tuning: Block | None = None
    ranges: tuple[tuple[int, int], ...] = ()
    scoring: Scoring = field(default_factory=Scoring)
    note: str = ""
    guidance: float | None = None
    published: str = ""
    baselines: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        check_folder_name(self.name, "experiment")
        for line in self.lines:
            if not line.strip("_ ") or line.startswith("_"):
                raise ValueError(f"experiment {self.name}: a line is named {line!r}; begin the "
                                 "name with a letter or a digit")  # fmt: skip
            if not isinstance(model := self.on(line).model, str):
                raise ValueError(f"experiment {self.name}: model must be a name, not a "
                                 f"{type(model).__name__}; write module:name")  # fmt: skip
            if not isinstance(found := self.on(line).schedule, Schedule | Tuned):
                raise ValueError(f"experiment {self.name}: line {line!r} is {found!r}, which is no "
                                 "schedule: derive its class from bench.Schedule")  # fmt: skip
        for sampler in self.samplers:
            if not isinstance(sampler, Sampler):
                raise ValueError(f"experiment {self.name}: {sampler!r} is no sampler: derive its "
                                 "class from bench.Sampler")  # fmt: skip
        named = {(one.name, one.seeds.start, one.seeds.stop) for one in self.blocks}
        spans = [(start, stop) for _, start, stop in named]
        if self.tuning:
            spans.append((self.tuning.seeds.start, self.tuning.seeds.stop))
        spans.sort()
        if any(stop > start for (_, stop), (start, _) in zip(spans, spans[1:], strict=False)):
            raise ValueError(f"experiment {self.name}: seed blocks overlap: {spans}")
        if len({name for name, *_ in named}) < len(named):
            raise ValueError(f"experiment {self.name}: blocks of other seeds share a name: "
                             f"{sorted(named)}")  # fmt: skip
        strangers = {line for block in self.blocks for line in block.lines} - self.lines.keys()
        if strangers:
            raise ValueError(f"experiment {self.name}: blocks name no lines: {sorted(strangers)}")
        if unknown := [line for line in self.baselines or () if line not in self.lines]:
            raise ValueError(f"experiment {self.name}: baselines name no lines: {unknown}")
        if self.tuning is None and any(self.tries(line) for line in self.lines):
            raise ValueError(f"experiment {self.name} has tuned lines but no tuning block")
        self._check_ranges()

    def _check_ranges(self) -> None:
        """ValueError where an NFE is in no range or in two, or a range is tuned at no NFE."""
        tuned = self.tuning.nfes if self.tuning else ()
        for nfe in sorted({*tuned, *(nfe for block in self.blocks for nfe in block.nfes)}):
            if self.ranges and sum(low <= nfe <= high for low, high in self.ranges) != 1:
                raise ValueError(f"experiment {self.name}: NFE {nfe} must be in one of the ranges "
                                 f"{self.ranges}")  # fmt: skip
        for low, high in self.ranges if self.tuning else ():
            if not any(low <= nfe <= high for nfe in tuned):
                raise ValueError(f"experiment {self.name}: no tuning NFE is in {low} to {high}")

    def range_of(self, nfe: int) -> tuple[int, int]:
        """The range of NFEs that a number of evaluations is tuned in."""
        everything = [one for block in self.blocks for one in block.nfes]
        ranges = self.ranges or ((min(everything), max(everything)),)
        return next((one for one in ranges if one[0] <= nfe <= one[1]), ranges[0])

    @property
    def pictured(self) -> tuple[int, ...]:
        """The lowest, a middle and the highest NFE of those that all lines share, or of all."""
        of_lines = []
        for line in self.lines:
            blocks = [one for one in self.blocks if not one.lines or line in one.lines]
            of_lines.append({nfe for one in blocks if one.name == blocks[0].name
                             for nfe in one.nfes})  # fmt: skip
        every = sorted(set.intersection(*of_lines) or set.union(*of_lines)) if of_lines else []
        return tuple(dict.fromkeys(every[at] for at in (0, len(every) // 2, -1))) if every else ()

    def on(self, line: str) -> On:
        """The model and schedule of a line."""
        what = self.lines[line]
        return what if isinstance(what, On) else On(self.model, what)

    def baseline(self, line: str) -> bool:
        """Whether a line is one that others are compared with."""
        if self.baselines is not None:
            return line in self.baselines
        on = self.on(line)
        schedules = on.schedule.tries if isinstance(on.schedule, Tuned) else (on.schedule,)
        rates = [
            one for schedule in schedules for one in schedule.measured if isinstance(one, Rate)
        ]
        return on.model == self.model and not rates

    def tries(self, line: str) -> tuple[Schedule, ...]:
        """The schedules that a tuned line is chosen from; () of any other line."""
        schedule = self.on(line).schedule
        return schedule.tries if isinstance(schedule, Tuned) else ()
