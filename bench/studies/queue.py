"""The queue of a study: trainings that are missing are trained, sampled, scored and recorded.

A process takes a training by a lock on a file of its state, which the system releases when the
process ends, however it ends. So several processes can share one state folder, one for each GPU. A
stopped training goes on from its state, a minute old at most. A stopped score loses one evaluation.
"""

import fcntl
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from bench import checkpoints, generate, measures, names, schedules, store, training
from bench.data import Ready, digest, open_images
from bench.data.arrays import spread
from bench.features import fold_layers, full_float32
from bench.judge import Judge
from bench.machine import device_name, versions
from bench.noise import normal
from bench.process import error_gain
from bench.studies.plan import Arm, Evaluation, Study
from bench.training import laws, weighting
from bench.types import Cell, Rate, Schedule, grid_of


@dataclass(frozen=True)
class Job:
    """One training of a study."""

    arm: Arm
    seed: int

    @property
    def key(self) -> str:
        """The name of its record, and of the folder of its state."""
        return f"{self.arm.name}-{self.seed}".replace(" ", "_")

    def named(self, text: str) -> bool:
        """Whether ARM, or ARM,SEED, names it."""
        return text in (self.arm.name, f"{self.arm.name},{self.seed}")


@dataclass(frozen=True, eq=False)
class Desk:
    """A study that was opened: what every training of it needs.

    folder: of the results. state: of the trainings.
    train: the training images. held_out: images of the test split, uint8 [n, c, h, w].
    """

    study: Study
    folder: Path
    state: Path
    device: str
    compile: bool
    train: Ready
    codec: Path | None  # its folder, of a study of latents
    held_out: Tensor = field(repr=False)
    judges: dict[str, Judge] = field(repr=False)
    rates: dict[str, Any] = field(repr=False)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of a network's state, c, h, w: of an image, or of its latents."""
        if self.codec:
            return checkpoints.read_codec(self.codec).state
        c, h, w = self.train.pixels.shape[1:]
        return c, h, w

    @property
    def forward(self) -> checkpoints.Forward:
        """The process alone, of images or of their latents."""
        process = training.Recipe("", {}, steps=1).process.build()
        if self.codec is None:
            return checkpoints.forward(process, self.shape, self.device)
        card = checkpoints.read_codec(self.codec)
        latents = checkpoints.load_codec(self.codec, card, self.device, torch.float32)
        return checkpoints.forward(process, latents, self.device)

    @property
    def jobs(self) -> list[Job]:
        """All trainings; arms of one seed follow each other."""
        return jobs_of(self.study)

    def home(self, job: Job) -> Path:
        """The folder of a training's weights."""
        return self.state / job.key

    def recipe(self, job: Job) -> training.Recipe:
        """How a training of the study is made.

        Raises:
            ValueError: a law or a weighting that cannot be read.
        """
        study, (c, h, w) = self.study, self.shape
        values, rooms = {**self.rates, "mix": measures.mix}, (schedules, laws, measures)
        return training.Recipe(
            name=f"{study.name}-{job.key}",
            network=training.unet(study.channels, study.layers, (h, w), c),
            law=names.build(job.arm.law, rooms, values, Schedule),
            weighting=names.build(
                job.arm.weighting, (weighting, *rooms), values, weighting.Weighting
            ),
            steps=study.steps, batch=study.batch, warmup=study.warmup, flip=study.flip,
            seed=job.seed,
            codec=checkpoints.codec_for(self.home(job), self.codec) if self.codec else None,
        )  # fmt: skip


def jobs_of(study: Study, only: Sequence[str] = ()) -> list[Job]:
    """The trainings of a study; arms of one seed follow each other.

    only: those to choose: ARM, or ARM,SEED. Default: all.

    ValueError: one of them names no training.
    """
    every = [Job(arm, seed) for seed in range(study.seeds) for arm in study.arms]
    for one in only:
        if not any(job.named(one) for job in every):
            known = ", ".join(arm.name for arm in study.arms)
            raise ValueError(f"--only {one} names no training of {study.name}: its arms are "
                             f"{known}, its seeds 0 to {study.seeds - 1}")  # fmt: skip
    return [job for job in every if not only or any(map(job.named, only))]


def run(
    study: Study,
    data: Path,
    state: Path,
    results: Path,
    device: str = "cpu",
    compile: bool = False,
    only: Sequence[str] = (),
    codec: Path | None = None,
) -> list[str]:
    """Do the trainings of a study that have no record, one after the other.

    Arguments:
        data: images with the splits train and test; see `data.open_images`.
        state: folder for trainings that are not finished, and for weights.
        results: folder that holds one folder a study.
        compile: whether the network is compiled for sampling. In training it is, on a GPU.
        only: trainings to do: ARM, or ARM,SEED. Default: all.
        codec: folder of the codec, which a study of latents needs.

    Returns:
        Keys of the trainings that have no record yet.

    Raises:
        ValueError: anything that is missing or does not fit, before any training.
    """
    if device.startswith("cuda:"):
        torch.cuda.set_device(device)
    jobs = jobs_of(study, only)
    desk = open_desk(study, data, state, results / study.name, device, compile, codec)
    for job in jobs:
        with _claimed(desk.state / f"{job.key}.lock") as mine:
            if mine and not store.has_record(desk.folder, job.key):
                _finish(desk, job)
    return [job.key for job in desk.jobs if not store.has_record(desk.folder, job.key)]


@contextmanager
def _claimed(path: Path, wait: bool = False) -> Iterator[bool]:
    """Whether this process has the lock of a file. wait: until no other process has it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
            return
        yield True


# ---------------------------------------------------------------- opening


def open_desk(
    study: Study, data: Path, state: Path, folder: Path, device: str, compile: bool,
    codec: Path | None = None,
) -> Desk:  # fmt: skip
    """Read the data, write the plan, measure the rates and open the judges.

    Raises:
        ValueError: missing data or weights; a law that cannot be read; a folder with the results of
            another plan.
    """
    image = _codec_image(study, codec)
    train = Ready.of(open_images(data, "train"))
    if image not in (None, found := tuple(train.pixels.shape[1:])):
        raise ValueError(f"{codec} is a codec of images {list(image)}, and those of {data} are "
                         f"{list(found)}; give another --codec")  # fmt: skip
    held_out = open_images(data, "test").spaced(study.held_out)
    if study.images < 2 or train.pixels.shape[1:] != held_out.shape[1:]:
        raise ValueError(f"{data}: images of the test split are {list(held_out.shape[1:])}, those "
                         f"of the training split {list(train.pixels.shape[1:])}")  # fmt: skip
    state = state / f"{study.name}-{store.digest(study.content())[:8]}"
    desk = Desk(study, folder, state, device, compile, train, codec, held_out, {}, {})
    with _claimed(state / "open.lock", wait=True):  # another process may measure just now
        _check_plan(desk)
        for name in study.rates:
            desk.rates[name] = _rate(desk, name)
        for job in desk.jobs:
            recipe = desk.recipe(job)
            laws.Law(recipe.law, recipe.process.build(), "cpu", 0)
        for text in study.features:
            desk.judges[text] = Judge.open(
                train.pixels, text, study.metrics, device, study.bank, study.bank
            )
    return desk


def _codec_image(study: Study, codec: Path | None) -> tuple[int, int, int] | None:
    """The shape of a codec's images; None: of a study of pixels. ValueError: no codec, or one too
    many."""
    if study.latent is not bool(codec):
        raise ValueError(f"study {study.name} trains on " + (
            "latents: give --codec, a folder of train-codec" if study.latent
            else "pixels: leave --codec out"))  # fmt: skip
    return checkpoints.read_codec(codec).image if codec else None


def _check_plan(desk: Desk) -> None:
    """Write the plan. ValueError: the folder has another one."""
    path, pixels = desk.folder / "study.json", desk.train.pixels
    plan = desk.study.content() | {
        "baseline": desk.study.baseline,
        "data": {"name": desk.train.name, "digest": digest(pixels), "images": len(pixels)},
        "held_out_digest": digest(desk.held_out),
    }
    if desk.codec:
        plan["codec_sha256"] = checkpoints.read_codec(desk.codec).weights_sha256
    plan = json.loads(json.dumps(plan))
    if not path.is_file():
        store.write_json(path, plan)
    elif (old := store.read_json(path)) != plan:
        other = ", ".join(key for key in {**old, **plan} if old.get(key) != plan.get(key))
        raise ValueError(f"{path} is the plan of a study with other {other}; give another "
                         "--results, or move the folder away")  # fmt: skip


def _rate(desk: Desk, name: str) -> Rate:
    """A rate of the study: measured on the process and the training images alone, or read."""
    path = measures.path_of(desk.folder, name)
    if not path.is_file():
        study, pixels = desk.study, desk.train.pixels
        images = pixels[spread(len(pixels), study.rate_images)]
        found = measures.measure(desk.forward, study.rates[name], images, study.rate_levels)
        measures.save(path, replace(found, name=name))
    return measures.load_rate(path)


# ---------------------------------------------------------------- one training


def _finish(desk: Desk, job: Job) -> None:
    """Train, score and record; each part only if it is not there."""
    home, recipe = desk.home(job), desk.recipe(job)
    if desk.compile or desk.device.startswith("cuda"):
        torch.compiler.reset()  # the compiled network before this one, and its memory
    if not (home / "card.json").is_file():
        training.train(recipe, desk.train, home, desk.device)
    kept = home / "scores.json"
    scores = store.read_json(kept) if kept.is_file() else {}
    model: Any = None
    for one in desk.study.evaluations:
        if one.name not in scores:
            model = model or _model(desk, home)
            scores[one.name] = _scores(desk, job, one, model)
            store.write_json(kept, scores)
    store.save_record(desk.folder, _record(desk, job, home, recipe, scores), None)
    (home / "state.pt").unlink(missing_ok=True)  # four times the weights
    tqdm.write(f"{job.key}: {json.dumps(scores)}", file=sys.stderr)


def _dtype(desk: Desk) -> str:
    return desk.study.dtype if desk.device.startswith("cuda") else "float32"


def _model(desk: Desk, home: Path) -> checkpoints.Checkpoint:
    model = checkpoints.load(home, desk.device, _dtype(desk))
    return checkpoints.compiled(model) if desk.compile else model


def _scores(desk: Desk, job: Job, one: Evaluation, model: Any) -> dict[str, dict[str, float]]:
    """Features as the command line writes them -> metric -> value, of freshly sampled images."""
    study, seeds = desk.study, desk.study.sampled(job.seed)
    grid = grid_of(Cell(model.name, one.schedule, one.sampler, one.nfe, seeds), model.process)
    bar = tqdm(total=len(seeds), unit="image", disable=None, desc=f"{job.key}, {one.name}")
    parts = []
    with bar:
        for made, _ in generate.images(model, one.sampler, grid, seeds, study.sample_batch):
            parts.append(made.cpu())
            bar.update(len(made))
    images, found = torch.cat(parts), {}
    for text, judge in desk.judges.items():
        rows = fold_layers(judge.extractor, images.split(256), judge.layers, len(images))
        fake = {layer: part.to(judge.device) for layer, part in rows.items()}
        found[text] = {name: score.value for name, score in judge.scores(fake).items()}
    return found


def _record(
    desk: Desk, job: Job, home: Path, recipe: training.Recipe, scores: dict[str, Any]
) -> dict[str, Any]:
    card, seeds = checkpoints.read_card(home), desk.study.sampled(job.seed)
    sigma = torch.logspace(*_ends(recipe), desk.study.losses, dtype=torch.float64)
    return {
        "key": job.key, "study": desk.study.name, "arm": job.arm.name, "seed": job.seed,
        "law": card.training["law"], "law_spec": card.training["law_spec"],
        "weighting": card.training["weighting"], "weighting_spec": card.training["weighting_spec"],
        "steps": card.training["steps"], "batch": recipe.batch,
        "data": card.data.model_dump(), "weights_sha256": card.weights_sha256,
        "sampled": {"first": seeds[0], "images": len(seeds), "dtype": _dtype(desk)},
        "scores": scores,
        "protocol": {text: {name: judge.protocol(metric) for name, metric in judge.columns.items()}
                     for text, judge in desk.judges.items()},
        "sigma": sigma.tolist(), "v_loss": _losses(desk, home, sigma),
        "density": _density(home, recipe, sigma).tolist(),
        "seconds": card.training["seconds"], "device": device_name(desk.device),
        "versions": versions(),
    }  # fmt: skip


def _ends(recipe: training.Recipe) -> tuple[float, float]:
    """log10 of the ends of the range of sigma, for `torch.logspace`."""
    process = recipe.process.build()
    ends = torch.tensor([process.sigma_min, process.sigma_max], dtype=torch.float64).log10()
    return float(ends[0]), float(ends[1])


def _losses(desk: Desk, home: Path, sigma: Tensor) -> list[float]:
    """The v-loss on held-out images at each sigma, with the same noise in every training."""
    model = checkpoints.load(home, desk.device)
    free = replace(model, card=model.card.model_copy(update={"clip": False})).denoiser()
    totals = torch.zeros(len(sigma), dtype=torch.float64)
    with full_float32():
        for at in range(0, len(desk.held_out), 250):
            x0 = model.encode(desk.held_out[at : at + 250])
            seeds = torch.arange(at, at + len(x0), device=x0.device) + measures.FIRST_SEED
            eps = normal(seeds, 0, tuple(x0.shape[1:]))
            for i, level in enumerate(sigma.tolist()):
                away = free(x0 + level * eps, level) - x0
                totals[i] += float(away.double().square().mean((1, 2, 3)).sum())
    return (totals / len(desk.held_out) / error_gain("v", sigma)).tolist()


def _density(home: Path, recipe: training.Recipe, sigma: Tensor) -> Tensor:
    """The density of the training's last law per log sigma, at each sigma."""
    process, law = recipe.process.build(), recipe.law
    found = measures.measured(home)
    if isinstance(law, laws.OnlineConstantRate) and f"{law.name}_online" in found:
        rate = found[f"{law.name}_online"]
        assert isinstance(rate, Rate)
        final: Schedule = law.constant(rate, process)
    else:
        final = law
    return laws.law_density(laws.noise_law(final, process), sigma)
