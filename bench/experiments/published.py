"""On published checkpoints: weights and references are their makers', so a plan says what is
missing, and measures the rate that its schedules need before the first cell."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bench import checkpoints, data, measures
from bench.checkpoints import Models
from bench.features import PUBLISHED, known_references, reference_images, reference_path
from bench.judge import extractor_of
from bench.samplers import DDIM, DDPM, IPNDM, DPMpp2M, DPMpp3M, Heun, UniPC
from bench.schedules import ConstantRate, Karras, LogSNR, Native
from bench.types import Block, Experiment, Rate, Sampler, Scoring
from bench.zoo.presets import find_preset

NFES = (5, 6, 8, 10, 15, 20, 25, 50, 100, 250)
MEASURED_ON = 64  # images of 256 x 256, at 101 levels in float32: minutes, and enough for v_x
SMOOTH = 0.3  # nats of sigma: networks jitter between neighbouring timesteps


@dataclass(frozen=True)
class Plan:
    """50,000 images a cell of a published checkpoint, at NFE 5 to 250, in its own protocol.

    preset: a published checkpoint, whose name its model folder has; model: another folder.
    reference: a name, or an .npz. published: the data set in `results/published.csv`.
    """

    name: str
    title: str
    preset: str
    published: str
    reference: str
    samplers: tuple[Sampler, ...]
    source: str = ""  # of a reference that nobody publishes: the command that makes it
    model: str = ""
    images: int = 50_000
    nfes: tuple[int, ...] = NFES
    guidance: float | None = None
    extractor: str = "inception-v3-compat"
    metrics: tuple[str, ...] = ("fd", "precision", "recall")
    dtype: str = "float16"  # as ADM's own samples were made
    batch: int = 64
    note: str = ""

    def altered(
        self,
        model: str = "",
        reference: str = "",
        images: int = 0,
        nfes: tuple[int, ...] = (),
        extractor: str = "",
    ) -> "Plan":
        """Another model folder or reference, fewer images, other NFEs, the extractor with weights
        of a path; results of less than the whole, or of another model, are kept apart."""
        changes: dict[str, Any] = {}
        changes |= {"model": model} if model else {}
        changes |= {"images": images} if images else {}
        changes |= {"nfes": nfes} if nfes else {}
        if changes:
            parts = [model and Path(model).name, str(images or ""), "-".join(map(str, nfes))]
            changes["name"] = "-".join([self.name, "part", *filter(None, parts)])
        changes |= {"extractor": extractor} if extractor else {}
        changes |= {"reference": reference} if reference else {}
        return replace(self, **changes)

    @property
    def home(self) -> str:
        """Its model folder, by name or path."""
        return self.model or self.preset

    def missing(self, models: Models) -> dict[str, str]:
        """What a run lacks -> where it comes from, and the command that puts it in its place."""
        lacks: dict[str, str] = {}
        try:
            models.folder(self.home)
        except ValueError:
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
            lacks["reference"] = f"{source}; or give it as --reference FILE.npz, or as {there}"
        elif not lacks and not self._measured(models) and not self._pictures():
            lacks["rate v_x"] = (
                f"the reference holds no images to measure it on: crs-bench measure {self.home} "
                f"--measure DataPrediction --images {self._measured_on} --data FOLDER"
            )
        return lacks

    def check(self, models: Models) -> None:
        """ValueError, a line for each thing that is missing."""
        lacks = self.missing(models)
        if lacks:
            lines = [f"  {what}: {how}" for what, how in lacks.items()]
            raise ValueError(f"{self.name} cannot run yet; it lacks\n" + "\n".join(lines))

    def prepare(self, models: Models, device: str) -> None:
        """Measure the rate that its schedules need, once, on images of the reference, and keep it
        beside the model; ValueError if anything is missing."""
        self.check(models)
        path = self._rate(models)
        if self._measured(models):
            return
        pictures = self._pictures()
        assert pictures is not None  # or it were missing
        model = checkpoints.load(self.home, device, models=models)
        images = data.open_images(pictures).spaced(self._measured_on)
        kept = path.with_name(f".{path.stem}.partial")
        what = measures.DataPrediction()
        measures.save(path, measures.measure(model, what, images, partial=kept))

    def __call__(self, models: Models) -> Experiment:
        """ValueError if anything is missing."""
        self.check(models)
        v_x = self._measured(models)
        if v_x is None:
            raise ValueError(f"{self._rate(models)} is not measured yet; crs-bench run {self.name} "
                             "does it")  # fmt: skip
        return Experiment(
            name=self.name,
            title=self.title,
            note="Nothing is tuned here. " + self.note,
            model=self.home,
            lines={
                "native": Native(),
                "log-SNR": LogSNR(),
                "Karras(rho=7)": Karras(7.0),
                "CRS(v_x, xi=1)": ConstantRate(v_x, 1.0, smooth=SMOOTH),
                "CRS(v_x, xi=0.5)": ConstantRate(v_x, 0.5, smooth=SMOOTH),
            },
            samplers=self.samplers,
            blocks=(Block("1", range(self.images), self.nfes),),
            scoring=Scoring(
                features=self.extractor, reference=self.reference, metrics=self.metrics,
                bank=50_000, dtype=self.dtype, batch=self.batch,
            ),
            guidance=self.guidance,
            published=self.published,
        )  # fmt: skip

    @property
    def _features(self) -> str:
        """The extractor's name, without its arguments."""
        return self.extractor.partition("(")[0]

    def _rate(self, models: Models) -> Path:
        """The file that the rate is written to."""
        return measures.path_of(models.writable(self.home), "v_x")

    @property
    def _measured_on(self) -> int:
        return min(MEASURED_ON, self.images)

    def _measured(self, models: Models) -> Rate | None:
        """The measured rate, if it was measured on enough images. A trial measures on fewer."""
        found = measures.measured(*models.homes(self.home)).get("v_x")
        enough = found is not None and found.provenance.get("images", 0) >= self._measured_on
        return found if isinstance(found, Rate) and enough else None

    def _reference_is_here(self) -> bool:
        if self.reference.endswith(".npz"):
            return Path(self.reference).is_file()
        return self._features in known_references().get(self.reference, [])

    def _pictures(self) -> Path | None:
        """A file of the reference's images, if it holds some."""
        return reference_images(self.reference, extractor_of(self.extractor, "cpu"))


_ADM = "Precision and recall are the ADM evaluator's: all samples against its 10,000 images."
_OF_NOISE = (DDPM("learned"), DDIM(), DPMpp2M(), UniPC())

lsun_horse_256 = Plan(
    name="lsun-horse-256",
    title="LSUN Horse 256, ADM (dropout)",
    preset="lsun-horse",
    published="LSUN Horse 256",
    reference="VIRTUAL_lsun_horse256",
    samplers=_OF_NOISE,
    note=_ADM,
)
lsun_bedroom_256 = Plan(
    name="lsun-bedroom-256",
    title="LSUN Bedroom 256, ADM (dropout)",
    preset="lsun-bedroom",
    published="LSUN Bedroom 256",
    reference="VIRTUAL_lsun_bedroom256",
    samplers=_OF_NOISE,
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
    note="Karras is the network's own schedule. Its reference batch holds no images, so there is "
    "no precision and recall.",
)
lsun_church_256_ldm = Plan(
    name="lsun-church-256-ldm",
    title="LSUN Church 256, LDM-KL-8",
    preset="lsun-churches",
    published="LSUN Church 256",
    reference="lsun-church-256-ldm",
    source="nobody publishes one: crs-bench reference lsun-church-256-ldm --images FOLDER "
    "--preprocess ldm --features inception-v3-compat --bank 10000",
    samplers=(DDIM(), DPMpp2M(), UniPC()),
    note="The reference is of the whole training set, prepared in LDM's way.",
)
imagenet_256_dit = Plan(
    name="imagenet-256-dit",
    title="ImageNet 256, DiT-XL/2, guidance 1.5",
    preset="dit-xl-2-256",
    published="ImageNet 256",
    reference="VIRTUAL_imagenet256_labeled",
    samplers=_OF_NOISE,
    guidance=1.5,
    note=_ADM + " Guidance acts on all channels of the latent, the published sampler's on three.",
)
