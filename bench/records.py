"""What a cell's record holds, which scores it lacks, and what becomes of its shards."""

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import lru_cache
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from bench import plan, shards, store
from bench.data.writing import png
from bench.features import Features
from bench.judge import Judge, free_name, real_images
from bench.machine import device_name, made_on, settled, versions
from bench.metrics import FrechetDistance
from bench.plan import Bench, Chosen, Planned
from bench.shards import Merged, Shard, Task
from bench.store import digest
from bench.types import Score

_MOST = 5  # lines that a message names

# ---------------------------------------------------------------- what is there


def lacking(bench: Bench, one: Planned) -> bool:
    """Whether the record of a cell is missing, or lacks a score that the experiment asks for."""
    record = store.load_record(bench.folder, one.key)
    return record is None or not wanted(bench, one) <= record["scores"].keys()


def wanted(bench: Bench, one: Planned) -> set[str]:
    """Keys of the scores that an experiment asks of a cell."""
    of_metrics = (bench.judge.identity(metric) for metric in bench.judge.metrics)
    keys = {store.score_key(one.key, identity) for identity in of_metrics}
    return keys | set(error_keys(bench, one).values())


def error_keys(bench: Bench, one: Planned) -> dict[str, str]:
    """Name -> key, of the distances to the converged run that a cell is compared with."""
    if one.anchor is None:
        return {}
    return {name: store.score_key(one.key, digest(what))
            for name, what in _errors(bench, one.anchor).items()}  # fmt: skip


def _errors(bench: Bench, anchor: Planned) -> dict[str, dict[str, Any]]:
    """Name -> protocol of the two distances to a converged run."""
    extractor = bench.judge.extractor
    features = {"features": extractor.name, "features_digest": extractor.digest}
    return {
        "rms_error": {"metric": "rms_error", "converged": anchor.key},
        "fd_error": {"metric": "fd_error", "converged": anchor.key, **features},
    }


def needed(bench: Bench, cells: Sequence[Planned], scored: Sequence[Planned]) -> set[str]:
    """Keys of the converged runs whose images are still to be compared with those of a cell."""
    compared = {one.anchor.key for one in scored
                if one.anchor and lacking(bench, one) and not sound(bench, one)}  # fmt: skip
    return {one.key for one in cells if one.key in compared}


def whole(bench: Bench, one: Planned) -> bool:
    """Whether all shards of a cell are there."""
    return all(bench.shelf.has(one.key, task) for task in one.tasks(bench))


def sound(bench: Bench, one: Planned) -> bool:
    """As `whole`, but every byte is read, so that damaged shards are found."""
    return all(bench.shelf.sound(one.key, task) for task in one.tasks(bench))


@dataclass(frozen=True)
class Left:
    """What is left of some cells. images: cell that lacks a score -> images to make."""

    shards: int
    evaluations: int
    images: dict[Planned, int]


def left(bench: Bench, cells: Sequence[Planned]) -> Left:
    """What is left of cells. Shards that are there are not read."""
    shards, evaluations, images = 0, 0, {}
    for one in {one.key: one for one in cells if lacking(bench, one)}.values():
        tasks = [task for task in one.tasks(bench) if not bench.shelf.has(one.key, task)]
        images[one] = sum(len(task.seeds) for task in tasks)
        shards, evaluations = shards + len(tasks), evaluations + images[one] * one.cell.nfe
    return Left(shards, evaluations, images)


def keeps(bench: Bench, one: Planned) -> bool:
    """Whether a cell's shards stay on disk after its record: as the experiment says. Those of
    converged runs always do, since other cells are compared with them."""
    keep = bench.scoring.keep
    if one.role == "converged" or (one.anchor and one.anchor.key == one.key):
        return True
    return keep == "all" or (keep == "scored" and one.role == "score")


def disk(bench: Bench, cells: Sequence[Planned], dims: int = 0) -> str:
    """How much disk the kept features of an experiment will take, in words.

    dims: features of an image; 0: as many as the reference has.
    """
    real = bench.judge.real
    dims = dims or sum(len(real[layer].mean) for layer in bench.layers if layer in real)
    images = sum(
        len(one.cell.seeds) for one in {c.key: c for c in cells if keeps(bench, c)}.values()
    )
    size = 4 * dims * images
    unit, name = (1e9, "GB") if size >= 1e9 else (1e6, "MB")
    return (
        f"features of {images:,} images stay in {bench.folder / 'shards'} for further metrics: "
        f"{size / unit:.3g} {name} when all is run (--keep none drops them)"
    )


# ---------------------------------------------------------------- shards of a cell


def truth(bench: Bench, one: Planned, task: Task) -> bytes | None:
    """The file of the images of the converged run that a task is compared with, which has the
    first of its seeds; None where there is no such run."""
    if one.anchor is None:
        return None
    seeds, size = one.anchor.cell.seeds, bench.scoring.shard
    at = task.seeds.start - seeds.start
    if at % size or not 0 <= at < len(seeds):
        return None
    return bench.shelf.pictures(one.anchor.key, seeds[at : at + size]).read_bytes()


def merged(
    bench: Bench, one: Planned, made: Mapping[range, Shard] = MappingProxyType({})
) -> Merged:
    """All shards of a cell as one.

    Arguments:
        made: seeds -> a shard that is at hand; the others are read.

    Raises:
        RuntimeError: a shard is not there.
    """
    layers, parts = bench.layers, []
    for task in one.tasks(bench):
        shard = made.get(task.seeds) or bench.shelf.load(one.key, task.seeds, layers)
        if shard is None:
            raise RuntimeError(f"{bench.shelf.path(one.key, task.seeds)} is missing or damaged; "
                               "start the run again")  # fmt: skip
        parts.append(shard)
    return shards.merge(parts, layers, bench.device)


@lru_cache(maxsize=16)
def _converged(bench: Bench, anchor: Planned) -> Features:
    found = merged(bench, anchor).features["features"]
    settled(found.outer)
    return found


# ---------------------------------------------------------------- the record


def content(bench: Bench, one: Planned, found: Merged) -> dict[str, Any]:
    """The record of a cell: choices, grid, counted evaluations, every score with its protocol.

    An earlier record of the cell gets the scores that it lacks. It goes on naming the machine and
    the date of its images and first scores.
    """
    start, cell = time.perf_counter(), one.cell
    old = store.load_record(bench.folder, one.key)
    about = old or _about(bench, one, found)
    scores = dict(about["scores"])
    scores |= scores_of(bench.judge, one.key, len(cell.seeds), found.features, about)
    if not set(error_keys(bench, one).values()) <= scores.keys():
        elsewhere = made_on(bench.device, about)
        scores |= {key: entry | elsewhere for key, entry in _distances(bench, one, found).items()}
    spent = about["seconds"]["score"] + time.perf_counter() - start
    seconds = about["seconds"] | {"score": spent}
    return about | {"shard": bench.scoring.shard, "scores": scores, "seconds": seconds}


def _about(bench: Bench, one: Planned, found: Merged) -> dict[str, Any]:
    """The record of a cell that has no score yet."""
    cell = one.cell
    model = bench.models[cell.model]
    return {
        "key": one.key,
        "cell": {
            "model": cell.model, "model_digest": model.digest, "schedule": cell.schedule.spec(),
            "label": cell.schedule.label, "sampler": cell.sampler.spec(), "nfe": cell.nfe,
            "seeds": [cell.seeds.start, cell.seeds.stop], "guidance": cell.guidance,
            "dtype": bench.scoring.dtype, "quantiser": model.quantiser,
        },
        "grid": one.grid.tolist(),
        "nfe": found.nfe,
        "shard": bench.scoring.shard,
        "batch": found.batch,
        "scores": {},
        "seconds": {"sample": found.seconds, "score": 0.0},
        "device": found.device or device_name(bench.device),
        "versions": versions(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }  # fmt: skip


def scores_of(
    judge: Judge, key: str, n: int, features: dict[str, Features], about: Mapping[str, Any]
) -> dict[str, Any]:
    """Score key -> value, error and protocol, of the metrics whose score a record lacks.

    about: the record. A score that is made on another machine than it names says so.
    """
    found = {}
    for metric in judge.metrics:
        if (of_score := store.score_key(key, judge.identity(metric))) not in about["scores"]:
            read = first_rows(features, judge.rows(metric))
            entry = _entry(judge.score(metric, read), metric.name, n)
            found[of_score] = entry | judge.protocol(metric) | made_on(judge.device, about)
    return found


def first_rows(features: Mapping[str, Features], rows: int) -> dict[str, Features]:
    """The same sums with at most so many single features: a score must not depend on what other
    metrics read."""
    return {layer: replace(one, bank=one.bank[:rows]) for layer, one in features.items()}


def _entry(score: Score, name: str, n: int) -> dict[str, Any]:
    error = {} if score.error is None else {"error": score.error}
    return {"name": name, "value": score.value, "n": n} | error


def _distances(bench: Bench, one: Planned, found: Merged) -> dict[str, Any]:
    """Distances to the converged run, by score key; none where there is no such run."""
    if one.anchor is None or found.square is None:
        return {}
    n = min(len(one.cell.seeds), len(one.anchor.cell.seeds))
    fine, fake = _converged(bench, one.anchor), found.features["features"]
    if fake.n != fine.n:
        fake = Features.of(fake.bank[: fine.n], 0)
    values = {
        "rms_error": Score((found.square / (n * found.first[0].numel())) ** 0.5),
        "fd_error": FrechetDistance()(fake=fake, real=fine),
    }
    about, keys = _errors(bench, one.anchor), error_keys(bench, one)
    return {keys[name]: _entry(score, name, n) | about[name] for name, score in values.items()}


def strip(one: Planned, found: Merged) -> bytes | None:
    """The first images of a cell side by side, as a PNG; None where the figure shows none."""
    return _side_by_side(found.first[: one.strip]) if one.strip else None


def _side_by_side(images: Tensor) -> bytes | None:
    """uint8 [n, c, h, w] as a PNG of h x n w; None without any image."""
    if len(images) == 0:
        return None
    return png(torch.cat(list(images), dim=2))  # [c, h, n w]


# ---------------------------------------------------------------- the plan


def save_plan(bench: Bench, cells: Sequence[Planned], chosen: Chosen) -> None:
    """Write `plan.json`, with the metrics that `rescore` added to an earlier one.

    It also writes `real.png`: the first images of the reference, if it holds any.
    """
    made = plan.outline(bench, cells, chosen)
    for row, one in zip(made["rows"], cells, strict=True):
        row["errors"] = error_keys(bench, one)
    known = {metric["identity"]: metric["name"] for metric in made["metrics"]}
    old = store.load_plan(bench.folder) if store.has_plan(bench.folder) else {}
    for metric in old.get("metrics", ()):
        if metric.get("added") and metric["identity"] not in known:
            longer = metric["name"].partition("(")[0] + "(" + metric["text"].partition("(")[2]
            known[metric["identity"]] = free_name(metric["name"], longer, known.values())
            made["metrics"].append(metric | {"name": known[metric["identity"]]})
    if left := left_out(old, made):
        tqdm.write(left, file=sys.stderr)
    store.save_plan(bench.folder, made)
    count = bench.scoring.strip if bench.judge.real else 0  # without metrics of it it may not exist
    real = real_images(bench.scoring.reference, bench.judge.extractor, count) if count else None
    if real is not None and (shown := _side_by_side(real)):
        store.write_bytes(bench.folder / "real.png", shown)


def left_out(old: dict[str, Any], new: dict[str, Any]) -> str:
    """What an edited experiment no longer shows of its earlier plan, in words; "" for nothing."""
    keys = {row["key"] for row in new["rows"]}
    gone = [row for row in old.get("rows", ()) if row["key"] not in keys and row["role"] == "score"]
    if not gone:
        return ""
    names = [*dict.fromkeys(f"{row['line']} ({row['sampler']})" for row in gone)]
    more = f" and {len(names) - _MOST} more" if len(names) > _MOST else ""
    return (f"{len(gone)} cells of the earlier plan of {new['experiment']} are not in this one, so "
            f"tables leave them out; their records stay: "
            f"{', '.join(names[:_MOST])}{more}")  # fmt: skip
