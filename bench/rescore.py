"""More metrics for an experiment that was run: from the features on its shelf, without sampling."""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from bench import records, shards, store
from bench.features import Features
from bench.judge import Judge, free_name, long_name
from bench.plan.outline import metric_entry
from bench.shards import Shelf


@dataclass(frozen=True)
class Rescored:
    """What came of it: cells that have new scores, that had them, and that have no features."""

    scored: int
    had: int
    missing: tuple[str, ...]


def rescore(
    folder: Path, metrics: Sequence[str], device: str = "cpu", replicates: int = 0
) -> Rescored:
    """Take further scores of the cells of an experiment, write them into the records and plan.

    Arguments:
        folder: of the experiment's results.
        metrics: as the command line writes them.
        device: of torch.
        replicates: of the bootstrap, for 95 % intervals of each cell; 0: none.

    Raises:
        ValueError: what `Judge.open` refuses; no cell that can be scored.
    """
    plan = store.load_plan(folder)
    said = plan["protocol"]
    judge = Judge.open(
        said["reference"], said["features"], metrics, device, said["bank"],
    )  # fmt: skip
    rows = {row["key"]: row for row in plan["rows"] if row["role"] != "tune"}
    scored, had, missing = 0, 0, []
    for key, row in tqdm(rows.items(), unit="cell", disable=None):
        record = store.load_record(folder, key)
        if record is None:
            continue
        if _has(judge, record, replicates):
            had += 1
            continue
        layers = dict.fromkeys(judge.layers, sys.maxsize) if replicates else judge.layers
        features = _features(folder, judge, record, layers, device)
        if features is None:
            missing.append(_name(row))
            continue
        _save(folder, record, judge, features, replicates)
        scored += 1
    if not scored + had:
        raise ValueError(
            f"no cell of {folder} has its features on disk; to sample again, add the metrics to "
            f"the Scoring(metrics=...) of {plan['experiment']}, and run it again"
        )
    _extend(folder, plan, judge)
    return Rescored(scored, had, tuple(missing))


def _has(judge: Judge, record: dict[str, Any], replicates: int) -> bool:
    """Whether a record has all scores of a judge, with intervals where they are asked for."""
    keys = (store.score_key(record["key"], judge.identity(metric)) for metric in judge.metrics)
    found = [record["scores"].get(key) for key in keys]
    return all(one and (not replicates or "interval_95" in one) for one in found)


def _features(
    folder: Path, judge: Judge, record: dict[str, Any], layers: dict[str, int], device: str
) -> dict[str, Features] | None:
    """Features of a cell, merged from its shards; None where a shard or a layer is missing."""
    if not record["shard"]:
        return None
    shelf, parts = Shelf.of(folder, judge.extractor), []
    for seeds in shards.ranges(range(*record["cell"]["seeds"]), record["shard"]):
        shard = shelf.load(record["key"], seeds, layers)
        if shard is None:
            return None
        parts.append(shard)
    return shards.merge(parts, layers, device).features


def _save(
    folder: Path, record: dict[str, Any], judge: Judge, features: dict[str, Features],
    replicates: int,
) -> None:  # fmt: skip
    """Write a record again with the further scores."""
    n = len(range(*record["cell"]["seeds"]))
    key = record["key"]
    scores = record["scores"] | records.scores_of(judge, key, n, features, record)
    if replicates:
        for metric in judge.metrics:
            # a bootstrap resamples single features: all of them, where the score reads all images
            rows = judge.rows(metric) or sys.maxsize
            read = records.first_rows(features, rows)
            ends = judge.interval(metric, read, replicates)
            of_score = store.score_key(key, judge.identity(metric))
            scores[of_score] = scores[of_score] | {"interval_95": list(ends)}
    store.save_record(folder, record | {"scores": scores}, None)


def _extend(folder: Path, plan: dict[str, Any], judge: Judge) -> None:
    """Write the plan with the metrics that it lacks, each under a name of its own."""
    known = {metric["identity"]: metric["name"] for metric in plan["metrics"]}
    for metric in judge.metrics:
        if (identity := judge.identity(metric)) not in known:
            known[identity] = free_name(metric.name, long_name(metric), known.values())
            entry = metric_entry(identity, known[identity], metric)
            plan["metrics"].append(entry | {"added": True})
    store.save_plan(folder, plan)


def _name(row: dict[str, Any]) -> str:
    return f"{row['line']}, {row['sampler']}, NFE {row['nfe']}, block {row['block']}"


def listed(names: Sequence[str], most: int = 10) -> Iterator[str]:
    """The names, or the first of them and how many more there are."""
    yield from names[:most]
    if len(names) > most:
        yield f"and {len(names) - most} more"
