"""A tiny random network, a tiny extractor and experiments of them, for tests of whole runs.

Tests import it, and so do processes that they start: `crs-bench run tiny:pooled`.
"""

import os
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from bench import checkpoints, experiments, features, measures, shards, training
from bench.checkpoints import Models
from bench.checkpoints.card import Card, Data, VPCard
from bench.report import figures
from bench.samplers import DDIM, DPMpp2M
from bench.schedules import ConstantRate, Karras
from bench.types import Block, Converged, Experiment, Extractor, Rate, Scoring, Tuned

NETWORK = training.unet((8, 16), 1)


@dataclass(frozen=True)
class Pooled(Extractor):
    """Grey levels of 4 x 4 fields; the layer "spatial" has the fields of 14 x 14."""

    name = "pooled"
    digest = "1" * 64
    layers: ClassVar[tuple[str, ...]] = ("features", "spatial")

    def __call__(self, images: Tensor) -> Tensor:
        return self.of_layers(images, ("features",))["features"]

    def of_layers(self, images: Tensor, wanted: Collection[str]) -> dict[str, Tensor]:
        grey = images.float().mean(1, keepdim=True)
        parts = {
            "features": nn.functional.adaptive_avg_pool2d(grey, 4).flatten(1),
            "spatial": nn.functional.adaptive_avg_pool2d(grey, 2).flatten(1),
        }
        return {layer: parts[layer] for layer in wanted}


def make_models(folder: Path) -> Path:
    """A models folder with one random checkpoint, its measured rate, and a reference.

    The rate is a file of measures/, the reference the file reference.npz of `Pooled`.
    """
    torch.manual_seed(0)
    card = Card(
        name="tiny",
        network=NETWORK,
        process=VPCard(kind="vp", betas="cosine", timesteps=1000, sigma_min=0.01, sigma_max=80),
        prediction="v",
        data=Data(name="none", digest="", licence="none"),
        training={},
        weights_sha256="",
    )
    checkpoints.save(folder / "tiny", card, checkpoints.network(NETWORK).state_dict())
    model = checkpoints.load("tiny", models=folder)
    images = torch.randint(0, 256, (4, 1, 28, 28), dtype=torch.uint8)
    rate = measures.measure(model, measures.DataPrediction(), images, levels=6)
    measures.save(folder / "tiny" / "measures" / "v_x.json", rate)
    draw = np.random.default_rng(0)
    real = torch.from_numpy(draw.integers(0, 256, (100, 3, 28, 28), np.uint8))
    made = features.fold_layers(Pooled(), [real], {"features": 100, "spatial": 0})
    who = {"extractor": Pooled.name, "extractor_digest": Pooled.digest}
    features.save_reference(
        folder / "tiny" / "reference.npz", made["features"], who, layers={"spatial": made["spatial"]}
    )
    return folder


def rate_of(models: Models | Path) -> Rate:
    """The measured rate of the network."""
    return measures.load_rate(models / "tiny" / "measures" / "v_x.json")


def tiny(models: Models | Path) -> Experiment:
    """A tuned line and another, two samplers, two blocks, a converged run; real features."""
    v_x = rate_of(models)
    return Experiment(
        name="tiny", title="tiny", model="tiny", samplers=(DDIM(), DPMpp2M()),
        lines={"Karras": Karras(), "CRS": Tuned((ConstantRate(v_x, 0.5), ConstantRate(v_x, 1.0)))},
        tuning=Block("tuning", range(12), (3,)),
        blocks=(Block("1", range(12, 24), (2, 3)), Block("2", range(24, 36), (2, 3))),
        scoring=Scoring(bank=20, batch=5, shard=5, converged=Converged(DPMpp2M(), Karras(), 6, 9)),
    )  # fmt: skip


def pooled(models: Models | Path, **scoring: Any) -> Experiment:
    """`tiny` under one sampler, with features that take no time, in shards of 4."""
    plan, real = tiny(models), str(models / "tiny" / "reference.npz")
    protocol = replace(plan.scoring, features="tiny:Pooled", reference=real, shard=4, batch=4)
    return replace(plan, samplers=(DDIM(),), scoring=replace(protocol, **scoring))


def _logged() -> None:
    """Write each start of a shard as a line of the file STARTS, and draw no figures, which take
    longer than all else. Of a process that does nothing but one run."""
    make, log = shards.make, os.environ["STARTS"]

    def noted(task: shards.Task, *rest: Any) -> shards.Shard:
        with open(log, "a") as file:
            file.write(f"{task.cell} {task.seeds}\n")
        return make(task, *rest)

    shards.make = noted  # type: ignore[assignment]
    figures.write = lambda *_: []  # type: ignore[assignment]


def many(models: Models | Path) -> Experiment:
    """`pooled` in shards of 2, logged."""
    _logged()
    return pooled(models, shard=2, batch=2)


def quick(models: Models | Path) -> Experiment:
    """`quick` of 12 images a cell, in shards of 3, logged."""
    _logged()
    plan = experiments.quick(models)
    blocks = tuple(replace(one, seeds=one.seeds[:12], nfes=one.nfes[:2]) for one in plan.blocks)
    return replace(plan, blocks=blocks, scoring=replace(plan.scoring, shard=3, batch=3))
