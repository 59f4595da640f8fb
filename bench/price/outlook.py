"""What is done of an experiment and what is left: cells, shards, evaluations, disk and hours."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import checkpoints, plan, records
from bench.plan import Bench, Planned
from bench.price.probing import Probe, probe
from bench.price.standin import open_or_stand_in
from bench.types import Experiment


@dataclass(frozen=True)
class Work:
    """Some cells, and what is left of them."""

    cells: int
    recorded: int
    shards: int
    missing: int
    evaluations: int
    images: int
    seconds: float = 0.0
    scoring: float = 0.0


@dataclass(frozen=True)
class Outlook:
    """What a run will take.

    lacks: what is missing, in lines.
    work: role of the cells -> what is left of them.
    workers: devices that sample at once.
    """

    experiment: Experiment
    lacks: tuple[str, ...]
    work: dict[str, Work]
    disk: str
    probes: dict[str, Probe]
    workers: int
    provisional: bool

    @property
    def text(self) -> str:
        """All of it, in lines."""
        lines = [f"{self.experiment.name}: {self.experiment.title}"]
        lines += [f"missing: {one}" for one in self.lacks]
        lines += [f"model {name}: {self._speed(name)}" for name in self.probes]
        lines += [f"{role}: {self._left(one)}" for role, one in self.work.items() if one.cells]
        if self.provisional:
            lines.append("tuned lines are counted as their first try, until tuning has chosen")
        lines.append(self.disk)
        return "\n".join([*lines, self._hours()])

    def _speed(self, name: str) -> str:
        found = self.probes[name]
        rate = 1 / found.evaluation if found.evaluation else float("inf")
        return (f"{rate:.3g} evaluations/s on {found.device}, batch {found.batch} "
                f"({found.where})")  # fmt: skip

    def _left(self, work: Work) -> str:
        return (f"{work.cells:,} cells, {work.recorded:,} of them recorded; "
                f"{work.shards:,} shards, {work.missing:,} of them missing; left: "
                f"{work.images:,} images, "
                f"{work.evaluations:,} evaluations")  # fmt: skip

    def _hours(self) -> str:
        sample = sum(one.seconds for one in self.work.values()) / self.workers
        score = sum(one.scoring for one in self.work.values())
        on = f" on {self.workers} devices" if self.workers > 1 else ""
        return (f"estimate: {(sample + score) / 3600:.3g} hours{on}: {sample / 3600:.3g} of "
                f"sampling and features, {score / 3600:.3g} of scoring")  # fmt: skip


def outlook(
    experiment: Experiment,
    results: Path,
    models: checkpoints.Models | Path | None = None,
    device: str = "cpu",
    prepare: Callable[[Any], Any] = checkpoints.as_it_is,
    compiled: bool = False,
    workers: int = 1,
) -> Outlook:
    """Look at what a run would do. Nothing is sampled for it, downloaded or written but the probe.

    Arguments:
        results, models, device, prepare: as of `run.run`.
        compiled: whether `prepare` compiles.
        workers: devices that will sample at once.

    Raises:
        ValueError: a cell that cannot be; a missing model that is no preset.
    """
    where = checkpoints.models_of(models)
    bench, lacks = open_or_stand_in(experiment, results / experiment.name, where, device)
    tuning, anchors = plan.tuning(bench), plan.converged(bench)
    provisional = any(records.lacking(bench, one) for one in tuning)
    chosen = plan.first_tries(bench) if provisional else plan.choose(bench, tuning)
    scored, fine = plan.scored(bench, chosen, anchors), list(anchors.values())
    probes = {
        name: probe(model, bench.judge, experiment.scoring, experiment.guidance, compiled, prepare)
        for name, model in bench.models.items()
    }
    dims = next(iter(probes.values())).dims
    cells = {"tuning": tuning, "converged": fine, "scored": scored}
    work = {role: _work(bench, of, probes) for role, of in cells.items()}
    disk = records.disk(bench, [*tuning, *fine, *scored], dims)
    return Outlook(experiment, tuple(lacks), work, disk, probes, workers, provisional)


def _work(bench: Bench, cells: Sequence[Planned], probes: dict[str, Probe]) -> Work:
    each = {one.key: one for one in cells}.values()
    left = records.left(bench, cells)
    seconds = scoring = 0.0
    for one, count in left.images.items():
        speed = probes[one.cell.model]
        seconds += count * (one.cell.nfe * speed.evaluation + speed.image)
        scoring += speed.score(len(one.cell.seeds), bench.scoring.bank)
    return Work(
        len(each), len(each) - len(left.images), sum(len(one.tasks(bench)) for one in each),
        left.shards, left.evaluations, sum(left.images.values()), seconds, scoring,
    )  # fmt: skip
