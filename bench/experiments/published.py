"""Experiments on published checkpoints.

The package does not contain the weights and the references of others. A plan says which of them are
missing and how to get them. Before its first cell it measures the rate that its schedules need.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from bench import checkpoints, data, measures
from bench.checkpoints import Models
from bench.experiments.rates import crs
from bench.features import PUBLISHED, known_references, reference_images, reference_path
from bench.judge import extractor_of
from bench.samplers import DDIM, DDPM, IPNDM, DPMpp2M, DPMpp3M, Heun, UniPC
from bench.schedules import Karras, LogSNR, Native
from bench.types import Block, Experiment, Keep, Rate, Sampler, Scoring

NFES = (5, 6, 8, 10, 15, 20, 25, 50, 100, 250)
MEASURED_ON = 64  # images; enough for v_x, and minutes for 256 x 256 at 101 levels in float32


@dataclass(frozen=True)
class Plan:
    """50,000 images a cell of a published checkpoint at NFE 5 to 250, in its own protocol.

    Arguments:
        name: of the experiment and of its results folder.
        title: heading of its tables.
        preset: name of a published checkpoint; its model folder has the same name.
        published: the data set in `results/published.csv` whose numbers the tables show.
        reference: name of a reference, or path of an .npz file.
        samplers: every sampler runs with every schedule.
        source: the command that makes the reference, if nobody publishes it.
        model: another model folder than that of the preset, as a name or a path.
        images: a cell, at least 2.
        nfes: numbers of function evaluations.
        guidance: scale of classifier-free guidance; None: no guidance.
        extractor: as the command line writes it.
        metrics: as the command line writes them.
        dtype: of the network; the authors of ADM sampled in float16.
        batch: images at once.
        shard: seeds that are made and kept together. 250 images of 256 x 256 at NFE 250 take
            minutes on a GPU; a stopped run loses one shard at most.
        keep: "none" deletes the features of a cell after scoring: 50,000 x 2048 numbers in float32
            are 410 MB. `crs-bench run NAME --keep scored` keeps them for further metrics.
        note: text under the title.
        trial: images of a trial; 0: it is none. The rate is measured on no more images.
    """

    name: str
    title: str
    preset: str
    published: str
    reference: str
    samplers: tuple[Sampler, ...]
    source: str = ""
    model: str = ""
    images: int = 50_000
    nfes: tuple[int, ...] = NFES
    guidance: float | None = None
    extractor: str = "inception-v3-compat"
    metrics: tuple[str, ...] = ("fd", "precision", "recall")
    dtype: str = "float16"
    batch: int = 64
    shard: int = 250
    keep: Keep = "none"
    note: str = ""
    trial: int = 0

    def altered(
        self, model: str = "", reference: str = "", extractor: str = "", trial: int = 0
    ) -> "Plan":
        """The plan with other choices. An empty choice keeps the plan's own.

        A plan with another model gets a name of its own, so its results have a folder of their own.

        Arguments:
            model: another model folder, as a name or a path.
            reference: another reference, as a name or the path of an .npz file.
            extractor: the extractor with weights from a file: inception-v3-compat(weights='FILE').
            trial: images of a trial (`Limit`): the rate is measured on no more images.
        """
        changes: dict[str, Any] = {"trial": trial}
        if model:
            changes |= {"model": model, "name": f"{self.name}-part-{Path(model).name}"}
        changes |= {"extractor": extractor} if extractor else {}
        changes |= {"reference": reference} if reference else {}
        return replace(self, **changes)

    @property
    def home(self) -> str:
        """Name or path of its model folder."""
        return self.model or self.preset

    def missing(self, models: Models) -> dict[str, str]:
        """What is missing -> where it comes from, and the commands that get it."""
        lacks: dict[str, str] = {}
        try:
            models.folder(self.home)
        except ValueError:
            from bench.zoo.presets import find_preset  # it opens all networks

            family, chosen = find_preset(self.preset)
            lacks["weights"] = chosen.commands(family, self.preset, self.home)
        try:
            extractor_of(self.extractor, "cpu")
        except ValueError as error:
            lacks["extractor"] = str(error)
        if not self._reference_is_here():
            there = reference_path(self.reference, self._features)
            published = PUBLISHED.get(self.reference, "its maker")
            source = self.source or f"crs-bench fetch {self.reference}, from {published}"
            lacks["reference"] = f"{source}; or give --reference FILE.npz; or put it at {there}"
        elif not lacks and not self._measured(models) and not self._pictures():
            lacks["rate v_x"] = (
                "the reference contains no images, so measure the rate on images of your own: "
                f"crs-bench measure {self.home} "
                f"--measure DataPrediction --images {self._measured_on} --data FOLDER"
            )
        return lacks

    def check(self, models: Models) -> None:
        """Refuse to run while something is missing.

        Raises:
            ValueError: something is missing. The message has a line for each such thing.
        """
        lacks = self.missing(models)
        if lacks:
            lines = [f"  {what}: {how}" for what, how in lacks.items()]
            raise ValueError(f"{self.name} cannot run yet. Missing:\n" + "\n".join(lines))

    def prepare(self, models: Models, device: str) -> None:
        """Measure the rate that the schedules need, unless the model folder has it.

        The images are those of the reference. The rate is written to the model folder.

        Raises:
            ValueError: something is missing.
        """
        self.check(models)
        path = self._rate(models)
        if self._measured(models):
            return
        pictures = self._pictures()
        assert pictures is not None  # `check` has found them
        model = checkpoints.load(self.home, device, models=models)
        images = data.open_images(pictures).spaced(self._measured_on)
        kept = path.with_name(f".{path.stem}.partial")
        what = measures.DataPrediction()
        measures.save(path, measures.measure(model, what, images, partial=kept))

    def __call__(self, models: Models) -> Experiment:
        """The experiment.

        Raises:
            ValueError: something is missing, or the rate is not measured yet.
        """
        self.check(models)
        v_x = self._measured(models)
        if v_x is None:
            raise ValueError(
                f"{self.name}: the rate {self._rate(models)} is not measured yet; measure it with: "
                f"crs-bench run {self.name}"
            )
        return self._of(v_x)

    def sketch(self, models: Models) -> Experiment:
        """The experiment, to count its cells, whatever is missing. A rate that is not measured has
        a stand-in."""
        sigma = np.logspace(-3, 3, 61)
        try:
            v_x = self._measured(models)
        except ValueError:
            v_x = None
        return self._of(v_x or Rate("v_x", sigma, 1 / (sigma + sigma**3)))

    def _of(self, v_x: Rate) -> Experiment:
        return Experiment(
            name=self.name,
            title=self.title,
            note=f"This experiment tunes nothing. {self.note}".strip(),
            model=self.home,
            lines={
                "native": Native(),
                "log-SNR": LogSNR(),
                "Karras(rho=7)": Karras(7.0),
                "CRS(v_x, xi=1)": crs(v_x, 1.0, "alpha"),
                "CRS(v_x, xi=0.5)": crs(v_x, 0.5, "alpha"),
            },
            samplers=self.samplers,
            blocks=(Block("1", range(self.images), self.nfes),),
            scoring=Scoring(
                features=self.extractor, reference=self.reference, metrics=self.metrics,
                bank=50_000, dtype=self.dtype, batch=self.batch, shard=self.shard, keep=self.keep,
            ),
            guidance=self.guidance,
            published=self.published,
        )  # fmt: skip

    @property
    def _features(self) -> str:
        """Name of the extractor, without arguments."""
        return self.extractor.partition("(")[0]

    def _rate(self, models: Models) -> Path:
        """The file of the measured rate."""
        return measures.path_of(models.writable(self.home), "v_x")

    @property
    def _measured_on(self) -> int:
        return min(MEASURED_ON, self.trial or self.images)

    def _measured(self, models: Models) -> Rate | None:
        """The rate, if it was measured on enough images. A trial with few images needs fewer."""
        found = measures.measured(*models.homes(self.home)).get("v_x")
        enough = found is not None and found.provenance.get("images", 0) >= self._measured_on
        return found if isinstance(found, Rate) and enough else None

    def _reference_is_here(self) -> bool:
        if self.reference.endswith(".npz"):
            return Path(self.reference).is_file()
        return self._features in known_references().get(self.reference, [])

    def _pictures(self) -> Path | None:
        """The file of the reference, if it contains images."""
        return reference_images(self.reference, extractor_of(self.extractor, "cpu"))


_ADM = (
    "Precision and recall follow ADM's evaluator: all samples are compared with the 10,000 images "
    "of its reference."
)
_FOR_ADM = (DDPM("learned"), DDIM(), DPMpp2M(), UniPC())

lsun_horse_256 = Plan(
    name="lsun-horse-256",
    title="LSUN Horse 256, ADM (dropout)",
    preset="lsun-horse",
    published="LSUN Horse 256",
    reference="VIRTUAL_lsun_horse256",
    samplers=_FOR_ADM,
    note=_ADM,
)
lsun_bedroom_256 = Plan(
    name="lsun-bedroom-256",
    title="LSUN Bedroom 256, ADM (dropout)",
    preset="lsun-bedroom",
    published="LSUN Bedroom 256",
    reference="VIRTUAL_lsun_bedroom256",
    samplers=_FOR_ADM,
    note=_ADM,
)
cifar10_edm = Plan(
    name="cifar10-edm",
    title="CIFAR-10, EDM (unconditional, VP)",
    preset="edm-cifar10-uncond-vp",
    published="CIFAR-10 (uncond)",
    reference="edm-cifar10-32x32",
    samplers=(DDIM(), Heun(), DPMpp2M(), DPMpp3M(), UniPC(), IPNDM()),
    metrics=("fd",),
    batch=512,
    shard=1_000,  # images of 32 x 32 take seconds
    note="The authors sample this network with Karras's schedule. The published reference contains "
    "no images, so there is no precision and no recall.",
)
lsun_church_256_ldm = Plan(
    name="lsun-church-256-ldm",
    title="LSUN Church 256, LDM-KL-8",
    preset="lsun-churches",
    published="LSUN Church 256",
    reference="lsun-church-256-ldm",
    source="nobody publishes it; make it with: crs-bench reference lsun-church-256-ldm --images "
    "FOLDER --preprocess ldm --features inception-v3-compat --bank 10000",
    samplers=(DDIM(), DPMpp2M(), UniPC()),
    note="The reference has all training images, cropped and resized as LDM's authors do.",
)
imagenet_256_dit = Plan(
    name="imagenet-256-dit",
    title="ImageNet 256, DiT-XL/2, guidance 1.5",
    preset="dit-xl-2-256",
    published="ImageNet 256",
    reference="VIRTUAL_imagenet256_labeled",
    samplers=_FOR_ADM,
    guidance=1.5,
    note=f"{_ADM} Guidance changes all four channels of the latent. In the published sampler it "
    "changes three of them.",
)
