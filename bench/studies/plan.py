"""A training study: laws of noise levels, training seeds, and what decides between them."""

from dataclasses import dataclass, field, fields
from typing import Any

from bench.measures import FeatureFrechet, OfSchedule
from bench.samplers import DDIM, DPMpp2M
from bench.schedules import Cosine, Karras, Native
from bench.store import check_folder_name
from bench.types import Described, Measure, Sampler, Schedule


@dataclass(frozen=True)
class Arm(Described):
    """One way to train.

    law, weighting: as `crs-bench train` takes them. They may name the study's rates.
    primary: whether its difference to the baseline is among those that the study decides on.
    """

    name: str
    law: str = "Native"
    weighting: str = "Unweighted"
    primary: bool = True


@dataclass(frozen=True)
class Evaluation(Described):
    """One way to sample a trained model."""

    name: str
    sampler: Sampler
    schedule: Schedule
    nfe: int


@dataclass(frozen=True)
class Study(Described):
    """Every arm is trained with every seed; each training is sampled, scored and recorded.

    Trainings of one seed start from the same weights and draw the same images and noise, so that
    arms are compared in pairs. The outcome that decides is FD under the first evaluation in the
    last feature space, against the first arm, for all arms that are `primary`. `features` names the
    space that measured v_fid first, so that another one decides.

    seeds: number of training seeds, from 0. steps: of each training.
    rates: name -> measure that needs no network; measured first, on `rate_images` training images
        at `rate_levels` noise levels.
    images: sampled for each score. The images of training seed k have the seeds
        first_seed + k * images and on.
    features, metrics: as the command line writes them. The reference are all training images.
    bank: single features that precision and recall read, of either set.
    dtype: of the network while it samples on a GPU. On a CPU it is float32.
    sample_batch: images at once; scores do not depend on it.
    latent: whether the networks work in the latent space of a codec, which the run is given.
    losses: noise levels of the loss on held-out images, at equal distances of log sigma.
    held_out: number of these images, evenly spaced over the test split.
    """

    name: str
    title: str
    arms: tuple[Arm, ...]
    steps: int
    seeds: int = 3
    channels: tuple[int, ...] = (64, 128, 128)
    layers: int = 2
    batch: int = 512
    warmup: int = 300
    flip: bool = True
    latent: bool = False
    rates: dict[str, Measure] = field(
        default_factory=lambda: {"v_fid": FeatureFrechet(), "v_cos": OfSchedule(Cosine())}
    )
    rate_images: int = 5_000
    rate_levels: int = 65
    evaluations: tuple[Evaluation, ...] = (
        Evaluation("converged", DPMpp2M(), Karras(), 50),
        Evaluation("DDIM 10", DDIM(), Native(), 10),
        Evaluation("DPMpp2M 10", DPMpp2M(), Karras(), 10),
    )
    images: int = 10_000
    first_seed: int = 1_000_000
    features: tuple[str, ...] = ("effnet-lite0", "effnet-lite2")
    metrics: tuple[str, ...] = ("fd", "precision", "recall")
    bank: int = 5_000
    dtype: str = "float16"
    sample_batch: int = 1_000
    losses: int = 16
    held_out: int = 2_000

    def __post_init__(self) -> None:
        check_folder_name(self.name, "study")
        names = [arm.name for arm in self.arms]
        if len(set(names)) < max(2, len(names)):
            raise ValueError(f"study {self.name} needs two arms or more with names of their own, "
                             f"not {names}")  # fmt: skip
        if any("," in name or "/" in name for name in names):
            raise ValueError(f"study {self.name}: the name of an arm has no comma and no slash")
        if min(self.seeds, self.steps, len(self.evaluations), len(self.features)) < 1:
            raise ValueError(f"study {self.name} needs seeds, steps, evaluations and features")

    @property
    def baseline(self) -> str:
        """The arm that all others are compared with."""
        return self.arms[0].name

    def content(self) -> dict[str, Any]:
        """The plan as JSON, with every field."""
        return {one.name: _json(getattr(self, one.name)) for one in fields(self)}

    def sampled(self, seed: int) -> range:
        """The seeds of the images of a training."""
        start = self.first_seed + seed * self.images
        return range(start, start + self.images)


def _json(value: Any) -> Any:
    if isinstance(value, Arm):
        return {one.name: getattr(value, one.name) for one in fields(value)}
    if isinstance(value, Described):
        return value.spec()
    if isinstance(value, tuple):
        return [_json(one) for one in value]
    return {key: _json(one) for key, one in value.items()} if isinstance(value, dict) else value
