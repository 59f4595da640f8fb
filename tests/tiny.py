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

from bench import checkpoints, experiments, features, measures, shards, studies, training
from bench.checkpoints import Models
from bench.checkpoints.card import Card, Data, VPCard
from bench.report import figures
from bench.samplers import DDIM, DPMpp2M
from bench.schedules import ConstantRate, Karras
from bench.types import (
    Block,
    Converged,
    Experiment,
    Extractor,
    Metric,
    Rate,
    Score,
    Scoring,
    Tuned,
)


@dataclass(frozen=True)
class Pooled(Extractor):
    """Grey levels of 4 x 4 fields; the layer "spatial" has 2 x 2."""

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


@dataclass(frozen=True)
class Spread(Metric):
    """The variance of the generated features; it reads no real set."""

    name: ClassVar[str] = "spread"
    needs_real: ClassVar[bool] = False
    higher_is_better: ClassVar[bool] = True

    def __call__(self, *, fake: Any, real: Any) -> Score:
        return Score(float(fake.cov.trace()))


def make_models(folder: Path) -> Path:
    """A models folder with two random checkpoints and their measured rates: `tiny` has the size of
    Fashion-MNIST, `small` has 8 x 8 pixels and a reference.npz of `Pooled`."""
    for name, size in (("tiny", 28), ("small", 8)):
        _make_model(folder, name, size)
    draw = np.random.default_rng(0)
    real = torch.from_numpy(draw.integers(0, 256, (100, 3, 8, 8), np.uint8))
    made = features.fold_layers(Pooled(), [real], {"features": 100, "spatial": 0})
    who = {"extractor": Pooled.name, "extractor_digest": Pooled.digest}
    features.save_reference(
        folder / "small" / "reference.npz", made["features"], who,
        layers={"spatial": made["spatial"]},
    )  # fmt: skip
    return folder


def _make_model(folder: Path, name: str, size: int) -> None:
    torch.manual_seed(0)
    network = training.unet((8, 16), 1, size)
    card = Card(
        name=name,
        network=network,
        process=VPCard(kind="vp", betas="cosine", timesteps=1000, sigma_min=0.01, sigma_max=80),
        prediction="v",
        data=Data(name="none", digest="", licence="none"),
        training={},
        weights_sha256="",
    )
    checkpoints.save(folder / name, card, checkpoints.network(network).state_dict())
    model = checkpoints.load(name, models=folder)
    images = torch.randint(0, 256, (4, 1, size, size), dtype=torch.uint8)
    rate = measures.measure(model, measures.DataPrediction(), images, levels=6)
    measures.save(folder / name / "measures" / "v_x.json", rate)


def rate_of(models: Models | Path, model: str = "tiny") -> Rate:
    """The measured rate of a network."""
    return measures.load_rate(models / model / "measures" / "v_x.json")


def tiny(models: Models | Path, model: str = "tiny") -> Experiment:
    """A tuned line and another, two samplers, two blocks, a converged run; real features."""
    v_x = rate_of(models, model)
    return Experiment(
        name="tiny", title="tiny", model=model, samplers=(DDIM(), DPMpp2M()),
        lines={"Karras": Karras(), "CRS": Tuned((ConstantRate(v_x, 0.5), ConstantRate(v_x, 1.0)))},
        tuning=Block("tuning", range(12), (3,)),
        blocks=(Block("1", range(12, 24), (2, 3)), Block("2", range(24, 36), (2, 3))),
        scoring=Scoring(bank=20, batch=5, shard=5, converged=Converged(DPMpp2M(), Karras(), 6, 9)),
    )  # fmt: skip


def pooled(models: Models | Path, **scoring: Any) -> Experiment:
    """`tiny` of the smaller model, under one sampler, with features that take no time, in shards
    of 4."""
    plan, real = tiny(models, "small"), str(models / "small" / "reference.npz")
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


ONLINE = "OnlineConstantRate(warmup=4, every=3, probe=2, images=16, bins=4, mixed=v_fid)"


def study() -> studies.Study:
    """Three arms and two seeds of twelve steps, on images of 8 x 8 pixels."""
    return studies.Study(
        name="tiny-study", title="A tiny study", steps=12, seeds=2, channels=(8, 8), layers=1,
        batch=8, warmup=3, rate_images=30, rate_levels=6, images=12, bank=12, sample_batch=5,
        arms=(
            studies.Arm("cosine", primary=False), studies.Arm("online", ONLINE),
            studies.Arm("back", "ConstantRate(v_fid)", "Importance(Native)", primary=False),
        ),
        rates={"v_fid": measures.FeatureFrechet(Pooled())}, losses=5, held_out=8,
        evaluations=(studies.Evaluation("converged", DPMpp2M(), Karras(), 4),
                     studies.Evaluation("DDIM 2", DDIM(), Karras(), 2)),
        features=("tiny:Pooled", "flatten"),
    )  # fmt: skip
