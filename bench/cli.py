"""`crs-bench` (= python -m bench): one verb an action; usage errors exit 2, others 1, one line."""

import math
import re
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)
costs = typer.Typer(no_args_is_help=True, help="What the bench itself costs, on this machine.")
app.add_typer(costs, name="bench")

Results = Annotated[Path, typer.Option(help="folder that holds one folder an experiment")]
Models = Annotated[Path | None, typer.Option(help="folder that holds one folder a model")]
ModelName = Annotated[str, typer.Argument(help="a folder in --models, a path, or a hub id")]
Seeds = Annotated[str, typer.Option(help="one, or first-last, inclusive")]
JSON = Annotated[bool, typer.Option("--json", help="machine-readable")]
Data = Annotated[Path | None, typer.Option(help="folder of Fashion-MNIST IDX files")]
RatesOf = Annotated[
    str,
    typer.Option(
        "--rates", help="model whose measured rates and costs schedules may name; its own"
    ),
]
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1, or auto")]


def _device(name: str) -> str:
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(f"--device {name}: no CUDA device is available here; use --device cpu")
    torch.device(name)
    return name


@app.callback()
def _root() -> None:
    """Noise schedules for diffusion models, compared honestly."""


@app.command()
def train(
    out: Annotated[Path, typer.Argument(help="model folder to make, or to go on with")],
    channels: Annotated[str, typer.Option(help="UNet channels, highest resolution first")],
    layers: Annotated[int, typer.Option(help="residual layers a block")] = 2,
    law: Annotated[
        str, typer.Option(help="schedule of noise levels: Native, LogNormal, OnlineConstantRate()")
    ] = "Native",
    weighting: Annotated[str, typer.Option(help="of the loss: Unweighted, MinSNR, EDM")] = (
        "Unweighted"
    ),
    steps: Annotated[int, typer.Option(help="train this many steps in all ...")] = 0,
    minutes: Annotated[float, typer.Option(help="... or this long in all")] = 0,
    batch: Annotated[int, typer.Option()] = 512,
    rate: Annotated[float, typer.Option(help="highest learning rate")] = 1e-3,
    ema: Annotated[float, typer.Option(help="decay of the averaged weights")] = 0.9995,
    seed: Annotated[int, typer.Option()] = 0,
    codec: Annotated[
        Path | None, typer.Option(help="folder of train-codec or a latent model; default: pixels")
    ] = None,
    rates_of: RatesOf = "",
    data: Data = None,
    models: Models = None,
    device: Device = "auto",
) -> None:
    """Train a denoiser on Fashion-MNIST, of pixels or of a codec's latents; stop it and start it
    again at any moment."""
    from bench import checkpoints, names, rates, schedules, training
    from bench.data import FashionMNIST
    from bench.training import laws
    from bench.training import weighting as weightings

    dataset = FashionMNIST() if data is None else FashionMNIST(folder=data)
    known = checkpoints.folder(rates_of, models or checkpoints.MODELS) if rates_of else out
    latents = checkpoints.codec_for(out, codec) if codec else None
    c, size, _ = latents.state if latents else (1, 28, 28)
    recipe = training.Recipe(
        name=out.name, codec=latents,
        network=training.unet(_numbers(channels), layers, size, c),
        law=names.build(law, (schedules, laws), rates.measured(known)),
        weighting=names.build(weighting, weightings),
        steps=steps, minutes=minutes, batch=batch, rate=rate, ema=ema, seed=seed,
    )  # fmt: skip
    card = training.train(recipe, dataset, out, _device(device))
    typer.echo(f"{out}: {card.training['steps']} steps in {card.training['seconds']:.0f} s")
    if (out / "law.json").is_file():
        from bench.report import draw_law

        for path in draw_law(out):
            typer.echo(path)


@app.command()
def run(
    experiment: Annotated[str, typer.Argument(help="quick, fmnist, or module:function")],
    results: Results = Path("results"),
    models: Models = None,
    device: Device = "auto",
    compile: Annotated[bool, typer.Option(help="torch.compile the network (GPU)")] = False,
    batch: Annotated[int, typer.Option(help="images at once; 0 for the experiment's own")] = 0,
    shard: Annotated[
        str, typer.Option(help="i/n: this process's share of n that share --results")
    ] = "1/1",
    model: Annotated[str, typer.Option(help="of a published plan: another model folder")] = "",
    reference: Annotated[str, typer.Option(help="of a published plan: a name, or an .npz")] = "",
    images: Annotated[int, typer.Option(help="of a published plan: fewer, for a trial")] = 0,
    nfe: Annotated[str, typer.Option(help="of a published plan: others, as 5,10")] = "",
    features: Annotated[
        str, typer.Option(help="of a published plan: inception-v3-compat(weights='FILE')")
    ] = "",
) -> None:
    """Every missing cell of an experiment, then its tables and figures."""
    from bench import checkpoints, experiments
    from bench.run import run as main_path

    folder, made = models or checkpoints.MODELS, _experiment(experiment)
    if isinstance(made, experiments.Plan):
        made = made.altered(
            model, reference, images, _numbers(nfe, "--nfe") if nfe else (), features
        )
        made.prepare(folder, _device(device))
    elif model or reference or images or nfe or features:
        raise ValueError(f"{experiment} is of no published checkpoint: --model, --reference, "
                         "--images, --nfe and --features change those alone")  # fmt: skip
    plan = made(folder)
    if batch:
        plan = replace(plan, scoring=replace(plan.scoring, batch=batch))
    prepare = checkpoints.compiled if compile else _as_is
    for path in main_path(plan, results, folder, _device(device), prepare, _shard(shard)):
        typer.echo(path)


def _shard(text: str) -> tuple[int, int]:
    try:
        index, of = (int(part) for part in text.split("/"))
    except ValueError:
        index, of = 0, 0
    if not 1 <= index <= of:
        raise ValueError(f"--shard {text!r}: write i/n with 1 <= i <= n, as 1/2 and 2/2")
    return index, of


def _as_is(model: Any) -> Any:
    return model


def _experiment(name: str) -> Any:
    from bench import names

    if ":" in name:
        return names.attribute(name)
    known = _experiments()
    if name not in known:
        raise ValueError(f"no experiment {name!r}{names.nearest(name, known)}")
    return known[name]


def _experiments() -> dict[str, Any]:
    """The experiments of `bench.experiments`, as the command line writes them."""
    from bench import experiments

    found = {name: getattr(experiments, name) for name in experiments.__all__}
    return {name.replace("_", "-"): one for name, one in found.items() if not isinstance(one, type)}


def _numbers(text: str, option: str = "--channels") -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise ValueError(f"{option} {text!r}: write whole numbers, such as 64,64,128") from error


@app.command()
def train_codec(
    out: Annotated[Path, typer.Argument(help="folder to make, or to go on with")],
    channels: Annotated[str, typer.Option(help="of the encoder, highest resolution first")],
    latent_channels: Annotated[int, typer.Option(help="of a latent")],
    layers: Annotated[int, typer.Option(help="residual layers a block")] = 1,
    steps: Annotated[int, typer.Option(help="train this many steps in all ...")] = 0,
    minutes: Annotated[float, typer.Option(help="... or this long in all")] = 0,
    batch: Annotated[int, typer.Option()] = 256,
    rate: Annotated[float, typer.Option(help="highest learning rate")] = 1e-3,
    kl: Annotated[float, typer.Option(help="weight of the KL divergence")] = 1e-6,
    adversary: Annotated[float, typer.Option(help="weight of the patch discriminator")] = 0.02,
    seed: Annotated[int, typer.Option()] = 0,
    data: Data = None,
    device: Device = "auto",
) -> None:
    """Train an autoencoder on Fashion-MNIST for latent models; stop it and start it again."""
    from bench import training
    from bench.data import FashionMNIST

    dataset = FashionMNIST() if data is None else FashionMNIST(folder=data)
    recipe = training.CodecRecipe(
        name=out.name, channels=_numbers(channels), latent_channels=latent_channels, layers=layers,
        steps=steps, minutes=minutes, batch=batch, rate=rate, kl=kl, adversary=adversary, seed=seed,
    )  # fmt: skip
    done = training.train_codec(recipe, dataset, out, _device(device)).training
    typer.echo(f"{out}: {done['steps']} steps in {done['seconds']:.0f} s")


@app.command()
def reconstruct(
    model: Annotated[str, typer.Argument(help="latent model, or folder of train-codec")],
    out: Annotated[Path, typer.Argument(help="folder for PNGs, or a file ending in .npz")],
    images: Annotated[int, typer.Option(help="training images, evenly spaced")] = 10_000,
    data: Data = None,
    models: Models = None,
    device: Device = "auto",
) -> None:
    """Training images through a codec and back: score them, and nothing made of its latents can be
    expected to score better."""
    import torch

    from bench import checkpoints

    home = Path(model)
    if not (home / "codec.json").is_file():
        home = checkpoints.folder(model, models or checkpoints.MODELS)
    codec = checkpoints.load_codec(
        home, checkpoints.read_codec(home), _device(device), torch.float32
    )
    where = _device(device)
    back = [codec.decode(codec.encode(part.to(where))).cpu()
            for part in _pictures(data, images).split(256)]  # fmt: skip
    _write_images(out, torch.cat(back), list(range(images)))
    typer.echo(out)


@app.command("report")
def report_(
    experiment: Annotated[str, typer.Argument(help="an experiment that was run")],
    results: Results = Path("results"),
) -> None:
    """Tables and figures from the records alone."""
    from bench.report import report

    for path in report(_folder_of(experiment, results)):
        typer.echo(path)


def _folder_of(experiment: str, results: Path) -> Path:
    from bench import names

    known = sorted(path.parent.name for path in results.glob("*/plan.json*"))
    if experiment not in known:
        raise ValueError(f"no results of {experiment!r} in {results}"
                         f"{names.nearest(experiment, known)}")  # fmt: skip
    return results / experiment


@app.command()
def pack(
    experiment: Annotated[str, typer.Argument(help="an experiment that was run")],
    results: Results = Path("results"),
) -> None:
    """Gather an experiment's records in one compressed file, to be shipped; runs go on from it."""
    from bench import store

    typer.echo(store.pack_records(_folder_of(experiment, results)))


@app.command()
def add(
    file: Annotated[
        Path,
        typer.Argument(help="weights as published: .pt, .ckpt, .zip, .safetensors; or a folder"),
    ],
    name: Annotated[str, typer.Option(help="of the model folder to make")],
    preset: Annotated[
        str, typer.Option(help="lsun-256, dit-xl-2-256, ..., or a .json of flags; diffusers: none")
    ] = "",
    family: Annotated[
        str, typer.Option(help="of networks, see: list models; or diffusers")
    ] = "adm",
    codec: Annotated[
        Path | None, typer.Option(help="autoencoder: a diffusers or model folder, or SD's file")
    ] = None,
    models: Models = None,
) -> None:
    """Make a model of a published checkpoint; runs no code of the file and checks every key.

    A pickle (.pkl, as EDM's) is refused, with the command that makes a .safetensors of it where its
    publisher's own code is.
    """
    from bench import checkpoints

    where = models or checkpoints.MODELS
    if family == "diffusers":
        if preset:
            raise ValueError("--preset is not for diffusers: a folder says itself what it is")
        typer.echo(checkpoints.add_folder(file, name, where))
        return
    typer.echo(checkpoints.add(file, preset, name, where, family, codec))


@app.command()
def fetch(
    name: Annotated[str, typer.Argument(help="a preset, a reference or an extractor")],
    to: Annotated[Path | None, typer.Option(help="folder, in place of the usual one")] = None,
    only_file: Annotated[bool, typer.Option(help="of a preset: make no model of it")] = False,
    codec: Annotated[
        Path | None, typer.Option(help="autoencoder, of a preset that needs it")
    ] = None,
    models: Models = None,
) -> None:
    """Download a published checkpoint and make a model folder of it; or a reference batch, or an
    extractor's weights. What was broken off goes on where it came to."""
    from bench import checkpoints, features
    from bench import fetch as downloads

    def get(address: str, usual: Path, sha256: str | None = None) -> Path:
        path = to / address.rpartition("/")[2] if to else usual
        found = downloads.download(address, path, sha256)
        typer.echo(f"{path}, SHA-256 {found}{'' if sha256 else ', which its maker does not say'}")
        return path

    weights = _weights()
    if name in features.PUBLISHED:
        inception = features.InceptionV3Compat.published.extractor
        get(features.PUBLISHED[name], features.reference_path(name, inception))
        return
    if name in weights:
        weights[name].digest(str(get(weights[name].url, weights[name].cached)))
        return
    family = checkpoints.family_of(name, [*features.PUBLISHED, *weights])
    chosen, folder = checkpoints.PRESETS[name], models or checkpoints.MODELS
    if not chosen.address:
        raise ValueError(f"preset {name} is of no one file: fetch one that it fits")
    if not only_file:
        checkpoints.check_free(name, folder / name)
        if chosen.how and codec is None:
            raise ValueError(f"preset {name} needs{chosen.how}; or fetch it with --only-file")
    usual = features.cache_folder() / "downloads" / chosen.file
    file = get(chosen.address, usual, chosen.sha256)
    if not only_file:
        typer.echo(checkpoints.add(file, name, name, folder, family, codec))


def _weights() -> dict[str, Any]:
    """Extractor -> its published weights, of those that have some."""
    from bench import features, names

    kinds = names.public(features).values()
    found = [kind.published for kind in kinds if hasattr(kind, "published")]
    return {one.extractor: one for one in found}


@app.command()
def sample(
    model: ModelName,
    out: Annotated[Path, typer.Argument(help="folder for PNGs, or a file ending in .npz")],
    schedule: Annotated[str, typer.Option(help="Native, Karras(rho=7), grid.json, ...")] = "Native",
    sampler: Annotated[str, typer.Option(help="DDIM, DPMpp2M, ...")] = "DPMpp2M",
    nfe: Annotated[int, typer.Option(help="function evaluations")] = 20,
    seeds: Seeds = "0-63",
    batch: Annotated[int, typer.Option(help="images at once")] = 64,
    dtype: Annotated[str, typer.Option(help="float32, float16, bfloat16")] = "float32",
    guidance: Annotated[
        float | None, typer.Option(help="scale of classifier-free guidance; classes are seed mod n")
    ] = None,
    rates_of: RatesOf = "",
    models: Models = None,
    device: Device = "auto",
) -> None:
    """Images of a model under a schedule: one PNG a seed, or an .npz with arr_0."""
    from bench import checkpoints, generate, names, samplers

    where = models or checkpoints.MODELS
    walk = names.build(sampler, samplers)
    checkpoint = checkpoints.load(model, _device(device), dtype, where)
    law = _schedule(schedule, checkpoints.folder(rates_of or model, where))
    wanted = _seeds(seeds)
    made = generate.sample(checkpoint, walk, law, nfe, wanted, batch, guidance)
    _write_images(out, made, wanted)
    typer.echo(out)


@app.command()
def measure(
    model: ModelName,
    measure: Annotated[
        str, typer.Option(help="DataPrediction, NoisePrediction, GITS, KLUB, module:Mine()")
    ],
    levels: Annotated[int | None, typer.Option(help="noise levels; 101, of costs 61")] = None,
    images: Annotated[int, typer.Option(help="training images, evenly spaced")] = 1024,
    batch: Annotated[int, typer.Option(help="images at once")] = 256,
    data: Annotated[
        Path | None,
        typer.Option(help="IDX files of Fashion-MNIST; or a folder, zip or array of images"),
    ] = None,
    preprocess: Annotated[
        str, typer.Option(help="of --data: none, adm-lsun, ldm, 'ldm(size=128)'")
    ] = "none",
    models: Models = None,
    device: Device = "auto",
) -> None:
    """Measure a rate, or costs of steps, on a checkpoint; writes models/MODEL/rates/NAME.json or
    costs/NAME.json. A rate that is stopped and started again goes on at the level it had come
    to."""
    from bench import checkpoints, costs, features, names, rates, schedules
    from bench.store import digest

    where = models or checkpoints.MODELS
    what = names.build(measure, (rates, costs, features, schedules))
    checkpoint = checkpoints.load(model, _device(device), models=where)
    home = checkpoints.folder(model, where)
    how = {} if levels is None else {"levels": levels}
    if isinstance(what, costs.CostMeasure):
        found = costs.measure(checkpoint, what, _batches(data, images, batch, preprocess), **how)
        typer.echo(costs.save_costs(home / "costs" / f"{found.name}.json", found))
        return
    kept, start = home / "rates" / f".{digest(measure)}.partial", time.monotonic()
    rate = rates.measure(
        checkpoint, what, _pictures(data, images, preprocess), batch=batch, partial=kept, **how
    )
    typer.echo(f"measured in {time.monotonic() - start:.1f} s", err=True)
    typer.echo(rates.save_rate(home / "rates" / f"{rate.name}.json", rate))


def _pictures(data: Path | None, images: int, preprocess: str = "none") -> Any:
    """Training images, evenly spaced: uint8 [images, c, h, w]; Fashion-MNIST's, or of a path."""
    from bench import data as datasets
    from bench import names
    from bench.data import FashionMNIST

    prepare = names.build(preprocess, datasets.preprocess)
    if data is not None and not data.exists():
        raise ValueError(f"--data {data} is not there; give Fashion-MNIST's IDX files (Debian's "
                         "dataset-fashion-mnist), or a folder, zip or array of images")  # fmt: skip
    if data is not None and not list(data.glob("*-ubyte*")):
        return datasets.spaced(data, images, prepare)
    if prepare != datasets.AsIs():
        raise ValueError(f"--preprocess {preprocess} prepares images of --data: give their folder")
    real = (FashionMNIST() if data is None else FashionMNIST(folder=data)).images()
    if not 0 < images <= len(real):
        raise ValueError(f"--images must lie between 1 and {len(real)}, not {images}")
    return real[:: len(real) // images][:images]


def _batches(data: Path | None, images: int, batch: int, preprocess: str) -> Iterator[Any]:
    """The same in batches, read when the first is asked for: some costs need no images."""
    yield from _pictures(data, images, preprocess).split(batch)


@app.command("schedule")
def schedule_(
    model: ModelName,
    schedule: Annotated[
        str,
        typer.Option(
            help="Karras(rho=7), ConstantRate(v_x, xi=0.5), CheapestPath(gits), grid.json"
        ),
    ],
    nfe: Annotated[int, typer.Option(help="steps, one evaluation each")] = 10,
    json: JSON = False,
    rates_of: RatesOf = "",
    models: Models = None,
) -> None:
    """Print a grid: sigma, alpha, lambda and the model's timestep."""
    import torch

    from bench import checkpoints
    from bench.process import alpha

    where = models or checkpoints.MODELS
    card = checkpoints.read_card(checkpoints.folder(model, where))
    process = card.process.build()
    grid = _schedule(schedule, checkpoints.folder(rates_of or model, where))(nfe, process)
    columns = {
        "sigma": grid, "alpha": alpha(grid), "lambda": -torch.log(grid),
        "timestep": process.timestep(grid.clamp(min=process.sigma_min)),
    }  # fmt: skip
    if json:
        levels = {
            k: [v if v < float("inf") else None for v in c.tolist()] for k, c in columns.items()
        }
        _print_json({"model": model, "schedule": schedule, **levels})
        return
    typer.echo("  ".join(f"{name:>12}" for name in columns))
    for row in zip(*(column.tolist() for column in columns.values()), strict=True):
        typer.echo("  ".join(f"{value:12.6g}" for value in row))


def _forms(text: str) -> list[str]:
    """Written forms, split at the commas outside their brackets: `fd,KID(10, 500)` is two."""
    return [form.strip() for form in re.split(r",(?![^()]*\))", text)]


@app.command()
def score(
    images: Annotated[Path, typer.Argument(help="folder or .zip of PNGs, .npy, .npz with arr_0")],
    reference: Annotated[str, typer.Argument(help="shipped name or .npz")] = "fashion-mnist",
    features: Annotated[str, typer.Option(help="feature extractor")] = "effnet-lite0",
    metrics: Annotated[
        str,
        typer.Option(
            help="fd,precision,recall,kid,kid_error,density(k=5),coverage,fd_infinity,is,sfid"
        ),
    ] = "fd,precision,recall",
    json: JSON = False,
    device: Device = "auto",
) -> None:
    """Score images against a reference, a batch at a time; says on stderr what keeps the score from
    being compared with others."""
    from tqdm import tqdm

    from bench import data
    from bench import run as path

    n, lossy = data.survey(images)
    shape: list[tuple[int, ...]] = []

    def batches() -> Iterator[Any]:
        with tqdm(total=n, unit="image", disable=None) as bar:
            for batch in data.stream(images, 256):
                shape[:] = [tuple(batch.shape[1:])]
                yield batch
                bar.update(len(batch))

    scores = path.score(batches(), reference, features, _forms(metrics), _device(device))
    warnings = path.cautions(n, lossy, shape[0], features)
    result = {"n": n, "features": features, "reference": reference, **scores}
    if json:
        _print_json(result | {"warnings": warnings})
        return
    for name, value in result.items():
        typer.echo(f"{name:>12}  {value}")
    for warning in warnings:
        typer.echo(f"warning: {warning}", err=True)


@app.command()
def reference(
    out: Annotated[str, typer.Argument(help=".npz to write, or a name to find it by")],
    features: Annotated[str, typer.Option(help="feature extractor")] = "effnet-lite0",
    images: Annotated[
        Path | None, typer.Option(help="folder, .zip, .npy or .npz; default: dataset")
    ] = None,
    preprocess: Annotated[
        str, typer.Option(help="of --images: none, adm-lsun, ldm, 'ldm(size=128)'")
    ] = "none",
    bank: Annotated[int, typer.Option(help="features kept for precision and recall")] = 0,
    layers: Annotated[
        str, typer.Option(help="the extractor's other layers, as spatial for sfid")
    ] = "",
    data: Data = None,
    device: Device = "auto",
) -> None:
    """Fold a set of real images into a reference file, a batch at a time."""
    import hashlib

    from bench import data as datasets
    from bench import features as room
    from bench import names
    from bench.run import extractor_of

    prepare = names.build(preprocess, datasets.preprocess)
    extractor = extractor_of(features, _device(device))
    others = [layer for layer in layers.split(",") if layer]
    keep = dict.fromkeys(others, 0) | {"features": bank}
    room.check_layers(extractor, keep)
    dataset = datasets.FashionMNIST() if data is None else datasets.FashionMNIST(folder=data)
    if images is None and prepare != datasets.AsIs():
        raise ValueError(f"--preprocess {preprocess} prepares --images: give their folder")
    real = datasets.stream(images, 256, prepare) if images else dataset.images().split(256)
    digest = hashlib.sha256()
    folded = room.fold_layers(extractor, datasets.hashed(real, digest), keep)
    provenance = {
        "dataset": str(images) if images else dataset.name, "data_digest": digest.hexdigest(),
        "preprocess": prepare.name,
        "extractor": extractor.name, "extractor_digest": extractor.digest,
    }  # fmt: skip
    path = Path(out) if out.endswith(".npz") else room.reference_path(out, extractor.name)
    saved = room.save_reference(path, folded.pop("features"), provenance, layers=folded)
    typer.echo(saved)


@app.command("list")
def list_(
    kind: Annotated[str, typer.Argument(help="models, experiments, samplers, ...")] = "all",
    models: Models = None,
) -> None:
    """What there is: models, experiments, samplers, schedules, measures of rates and of costs,
    metrics, extractors."""
    from bench import checkpoints, lab, names

    where = models or checkpoints.MODELS
    found = {
        "models": sorted(path.parent.name for path in where.glob("*/card.json")),
        "experiments": list(_experiments()),
    } | {
        room: _inhabitants(room) for room in ("samplers", "schedules", "rates", "costs", "metrics")
    }
    extractors = lab.extractors()
    found["extractors"] = sorted(name for name, why in extractors.items() if not why)
    if kind != "all" and kind not in found:
        raise ValueError(f"nothing called {kind!r} to list{names.nearest(kind, found)}")
    for name, members in found.items():
        if kind in ("all", name):
            typer.echo(f"{name}: {', '.join(members)}")
    if kind == "models":
        for line in checkpoints.preset_lines(where):
            typer.echo(line)
    if kind in ("all", "extractors"):
        for name, why in sorted(extractors.items()):
            if why:
                typer.echo(f"  not usable here: {name}: {why}")


def _inhabitants(room: str) -> list[str]:
    import importlib

    from bench import names

    return sorted(names.public(importlib.import_module(f"bench.{room}")))


@costs.command("sampler")
def bench_sampler(
    network: Annotated[
        list[str] | None,
        typer.Option(help="adm-256, latent or tiny, may be repeated; the first two on a GPU"),
    ] = None,
    batch: Annotated[int, typer.Option(help="images at once; 0: what fits of 500, 4 on a CPU")] = 0,
    nfe: Annotated[int, typer.Option(help="function evaluations")] = 10,
    repeats: Annotated[int, typer.Option(help="times a line is read, after a warm-up")] = 3,
    seconds: Annotated[
        float, typer.Option(help="halve the batch until all takes about this long; 0: any time")
    ] = 0.0,
    dtype: Annotated[
        str, typer.Option(help="float32, float16, bfloat16; float16 on a GPU, else float32")
    ] = "",
    compile: Annotated[bool, typer.Option(help="ours with torch.compile too")] = False,
    json: Annotated[Path | None, typer.Option(help="file for all readings")] = None,
    device: Device = "auto",
) -> None:
    """Seconds of our samplers and of diffusers' loop, beside the network's calls alone, on networks
    of random weights. --seconds leaves out what torch.compile takes to compile."""
    from bench import benchmarks, checkpoints, store
    from bench.run import device_name, versions

    where = _device(device)
    gpu = where.startswith("cuda")
    todo = network or (["adm-256", "latent"] if gpu else ["tiny"])
    found: list[dict[str, Any]] = []
    typer.echo(device_name(where))
    for name in todo:
        start = time.monotonic()
        model = benchmarks.untrained(name, where, dtype or ("float16" if gpu else "float32"))
        left = start + seconds / len(todo) - time.monotonic() if seconds else math.inf
        trial = benchmarks.fitting(model, nfe, batch, repeats, compile, left)
        lines = benchmarks.measure(trial, checkpoints.compiled if compile else None)
        typer.echo(benchmarks.table(trial, lines))
        found.append(benchmarks.content(trial, lines))
    if json:
        about = {"device": device_name(where), "versions": versions()}
        typer.echo(store.write_json(json, about | {"networks": found}))


@costs.command("network")
def bench_network(
    model: Annotated[str, typer.Argument(help="a folder in --models, a path, adm-256, latent")],
    batches: Annotated[str, typer.Option(help="images at once, ascending until one fails")] = (
        "1,2,4,8,16,32,64,128,256,384,512"
    ),
    seconds: Annotated[float, typer.Option(help="of calls for each batch")] = 2.0,
    dtype: Annotated[str, typer.Option(help="float32, float16 or bfloat16")] = "float16",
    compile: Annotated[bool, typer.Option(help="with torch.compile")] = False,
    models: Models = None,
    json: Annotated[Path | None, typer.Option(help="file for all readings")] = None,
    device: Device = "auto",
) -> None:
    """Images a second and memory of a network's forward pass, by batch, and the largest that fits;
    of a model folder, or of random weights."""
    import dataclasses

    from bench import benchmarks, checkpoints, store
    from bench.run import device_name, versions

    where, sizes = _device(device), _numbers(batches, "--batches")
    opened = (
        benchmarks.untrained(model, where, dtype)
        if model in benchmarks.NETWORKS
        else checkpoints.load(model, where, dtype, models or checkpoints.MODELS)
    )
    made = checkpoints.compiled if compile else None
    rates = list(benchmarks.throughput(opened, sizes, seconds, made))
    about = f"{opened.name}, {dtype}{', compiled' if compile else ''}, {device_name(where)}"
    typer.echo(f"{about}\n{benchmarks.throughput_table(rates)}")
    if len(rates) < len(sizes):
        typer.echo(f"batch {sorted(sizes)[len(rates)]} does not fit")
    if json:
        content = {"network": opened.name, "dtype": dtype, "compiled": compile,
                   "device": device_name(where), "versions": versions(),
                   "rates": [dataclasses.asdict(rate) for rate in rates]}  # fmt: skip
        typer.echo(store.write_json(json, content))


@costs.command("metrics")
def bench_metrics(
    only: Annotated[str, typer.Option(help="of frechet,neighbours,inception")] = (
        "frechet,neighbours,inception"
    ),
    images: Annotated[
        int, typer.Option(help="feature vectors; pictures, of which a CPU takes a twentieth")
    ] = 10_000,
    dim: Annotated[int, typer.Option(help="of features")] = 2048,
    repeats: Annotated[int, typer.Option(help="runs after a warm-up, of which the best")] = 2,
    peers: Annotated[bool, typer.Option(help="other tools too")] = True,
    json: Annotated[Path | None, typer.Option(help="file for all readings")] = None,
    device: Device = "auto",
) -> None:
    """Seconds and memory of our metrics and extractors beside torch-fidelity's and clean-fid's."""
    import dataclasses

    from bench import benchmarks, store
    from bench.run import device_name, versions

    where = _device(device)
    lines = benchmarks.score_lines(tuple(only.split(",")), where, images, dim, repeats, peers)
    typer.echo(f"{device_name(where)}; {images} images, {dim} dimensions")
    typer.echo(benchmarks.score_table(lines))
    if json:
        content = {"device": device_name(where), "versions": versions(), "images": images,
                   "dim": dim, "lines": [dataclasses.asdict(line) for line in lines]}  # fmt: skip
        typer.echo(store.write_json(json, content))


def _schedule(text: str, folder: Path) -> Any:
    from bench import costs, names, rates, schedules

    if text.endswith(".json"):
        return schedules.load(text)
    return names.build(text, schedules, rates.measured(folder) | costs.measured(folder))


def _seeds(text: str) -> list[int]:
    try:
        first, _, last = text.partition("-")
        return list(range(int(first), int(last or first) + 1))
    except ValueError as error:
        raise ValueError(f"--seeds {text!r}: write 7, or 0-9999") from error


def _write_images(out: Path, images: Any, seeds: list[int]) -> None:
    import io

    import numpy as np
    from PIL import Image

    from bench import store

    pixels = images.permute(0, 2, 3, 1).numpy()  # [n, h, w, c]
    if out.suffix == ".npz":
        file = io.BytesIO()
        np.savez_compressed(file, arr_0=pixels)
        store.write_bytes(out, file.getvalue())
        return
    for seed, image in zip(seeds, pixels, strict=True):
        file = io.BytesIO()
        Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image).save(file, "png")
        store.write_bytes(out / f"{seed:06d}.png", file.getvalue())


def _print_json(content: dict[str, Any]) -> None:
    import json

    typer.echo(json.dumps(content))


def main() -> None:
    """Console entry point: errors of the user's making are one line, never a traceback."""
    try:
        app()
    except ValueError as error:
        typer.echo(f"crs-bench: {error}", err=True)
        sys.exit(2)
    except (RuntimeError, ArithmeticError, OSError) as error:
        typer.echo(f"crs-bench: {type(error).__name__}: {error}", err=True)
        sys.exit(1)
