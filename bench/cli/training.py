"""The verbs that train networks and codecs."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, get_args

import typer

from bench.cli.options import (
    Batch,
    Data,
    Device,
    Layers,
    LearningRate,
    Minutes,
    Models,
    Pictures,
    Preprocessing,
    Process,
    RatesOf,
    Size,
    Split,
    Steps,
    TrainingSeed,
    app,
    built,
    device_of,
    homes_of,
    numbers,
    pictures,
    prepare_of,
    process_of,
    ready,
    schedule_of,
    write_images,
)

Flip = Annotated[bool, typer.Option("--flip", help="train on mirror images too, each as often")]
Compile = Annotated[
    str,
    typer.Option(help="torch.compile: auto, off, default, reduce-overhead or max-autotune"),
]
State = Annotated[
    Path | None, typer.Option(help="file of the training's state; default: in the folder")
]
TensorBoard = Annotated[
    bool, typer.Option("--tensorboard", help="write TensorBoard's files too, in OUT/tensorboard")
]


@app.command()
def train(
    out: Annotated[Path, typer.Argument(help="model folder; a training that is there resumes")],
    channels: Annotated[
        str, typer.Option(help="U-Net channels, highest resolution first: 64,64,128")
    ],
    layers: Layers = 2,
    attention: Annotated[
        int, typer.Option(help="number of resolutions with attention, the lowest first")
    ] = 1,
    process: Process = "cosine",
    prediction: Annotated[str, typer.Option(help="of the network: v, eps, x0 or edm")] = "v",
    law: Annotated[
        str,
        typer.Option(
            help="law of noise levels: Native, LogNormal, ConstantRate(v_fid.json, xi=0.5), "
            "OnlineConstantRate(mixed=Cosine)"
        ),
    ] = "Native",
    weighting: Annotated[str, typer.Option(help="Unweighted, MinSNR, EDM, Importance(Native)")] = (
        "Unweighted"
    ),
    steps: Steps = 0,
    minutes: Minutes = 0,
    batch: Batch = 512,
    rate: LearningRate = 1e-3,
    warmup: Annotated[
        int, typer.Option(min=1, help="steps in which the learning rate rises")
    ] = 300,
    ema: Annotated[float, typer.Option(help="decay of the exponential moving average")] = 0.9995,
    seed: TrainingSeed = 0,
    codec: Annotated[
        Path | None,
        typer.Option(help="folder of train-codec or of a latent model; default: no codec"),
    ] = None,
    rates_of: RatesOf = "",
    data: Data = None,
    split: Split = None,
    size: Size = None,
    preprocess: Preprocessing = "none",
    flip: Flip = False,
    samples: Annotated[
        int, typer.Option(min=0, help="steps between two grids of samples; 0: none")
    ] = 0,
    tensorboard: TensorBoard = False,
    compile: Compile = "auto",
    state: State = None,
    models: Models = None,
    device: Device = "auto",
) -> None:
    """Train a denoiser of images, in pixel space or in a codec's latent space.

    After an interruption, the same command resumes the training. The losses are in OUT/loss.csv
    and OUT/loss.png, the grids of --samples in OUT/samples.
    """
    from bench import checkpoints, measures, names, schedules, training
    from bench.process import Prediction
    from bench.training import laws
    from bench.training import weighting as weightings

    prepare, where = prepare_of(size, preprocess), checkpoints.models_of(models)
    if prediction not in (known := get_args(Prediction)):
        raise ValueError(f"no prediction {prediction!r}{names.nearest(prediction, known)}")
    latents = checkpoints.codec_for(out, _codec_home(codec, where)) if codec else None
    known_rates = homes_of(where, rates_of) or [out]
    recipe = training.Recipe(
        name=out.name, codec=latents, network={}, prediction=prediction,  # type: ignore[arg-type]
        process=checkpoints.process_card(process_of(process)),
        law=schedule_of(law, known_rates, laws, measures),
        weighting=built(
            weighting, known_rates, weightings, schedules, role=weightings.Weighting
        ),
        steps=steps, minutes=minutes, batch=batch, rate=rate, warmup=warmup, ema=ema,
        seed=seed, flip=flip,
    )  # fmt: skip
    session = training.Session(compile, state, samples, tensorboard)
    on = device_of(device)
    dataset = ready(data, split, prepare)
    c, h, w = latents.state if latents else dataset.pixels.shape[1:]
    network = training.unet(numbers(channels), layers, (h, w), c, attention)
    _check_count(dataset, batch, flip)
    with _drawn(out / "loss.csv"):
        card = training.train(replace(recipe, network=network), dataset, out, on, session)
    typer.echo(f"{out}: {card.training['steps']} steps in {card.training['seconds']:.0f} s")
    if (out / "law.json").is_file():
        from bench.report import draw_law

        for path in draw_law(out):
            typer.echo(path)


def _check_count(dataset: Any, batch: int, flip: bool) -> None:
    """Warn of a set that is smaller than a batch: each image is drawn several times in a step."""
    count = len(dataset.pixels) * (1 + flip)
    if count < batch:
        typer.echo(f"warning: {count:,} images are fewer than a batch of {batch:,}, so each step "
                   "repeats some; give more images, or a smaller --batch", err=True)  # fmt: skip


@contextmanager
def _drawn(losses: Path) -> Iterator[None]:
    """Draw the losses at the end, also of a training that was stopped or that diverged."""
    from bench.report import draw_losses

    try:
        yield
    except (KeyboardInterrupt, FloatingPointError):
        if losses.is_file():
            draw_losses(losses)
        raise
    typer.echo(draw_losses(losses))


@app.command()
def train_codec(
    out: Annotated[Path, typer.Argument(help="codec folder; a training that is there resumes")],
    channels: Annotated[
        str, typer.Option(help="encoder channels, highest resolution first: 32,64")
    ],
    latent_channels: Annotated[int, typer.Option(help="channels of the latent space")],
    layers: Layers = 1,
    steps: Steps = 0,
    minutes: Minutes = 0,
    batch: Batch = 256,
    rate: LearningRate = 1e-3,
    kl: Annotated[float, typer.Option(help="weight of the KL divergence")] = 1e-6,
    adversary: Annotated[float, typer.Option(help="weight of the patch discriminator")] = 0.02,
    seed: TrainingSeed = 0,
    data: Data = None,
    split: Split = None,
    size: Size = None,
    preprocess: Preprocessing = "none",
    flip: Flip = False,
    tensorboard: TensorBoard = False,
    compile: Compile = "auto",
    state: State = None,
    device: Device = "auto",
) -> None:
    """Train an autoencoder of images for latent models.

    After an interruption, the same command resumes the training. The losses are in
    OUT/codec-loss.csv and OUT/codec-loss.png.
    """
    from bench import training

    recipe = training.CodecRecipe(
        name=out.name, channels=numbers(channels), latent_channels=latent_channels, layers=layers,
        steps=steps, minutes=minutes, batch=batch, rate=rate, kl=kl, adversary=adversary, seed=seed,
        flip=flip,
    )  # fmt: skip
    session = training.Session(compile, state, 0, tensorboard)
    on = device_of(device)
    dataset = ready(data, split, prepare_of(size, preprocess))
    _check_count(dataset, batch, flip)
    with _drawn(out / "codec-loss.csv"):
        done = training.train_codec(recipe, dataset, out, on, session).training
    typer.echo(f"{out}: {done['steps']} steps in {done['seconds']:.0f} s")


@app.command()
def reconstruct(
    model: Annotated[str, typer.Argument(help="latent model, or folder of train-codec")],
    out: Pictures,
    images: Annotated[int, typer.Option(help="training images, evenly spaced")] = 10_000,
    data: Data = None,
    split: Split = None,
    size: Size = None,
    preprocess: Preprocessing = "none",
    models: Models = None,
    device: Device = "auto",
) -> None:
    """Encode and decode images with a codec.

    Their score limits the score of every model in that latent space.
    """
    import torch

    from bench import checkpoints

    prepare = prepare_of(size, preprocess)
    home = _codec_home(Path(model), checkpoints.models_of(models))
    codec = checkpoints.load_codec(
        home, checkpoints.read_codec(home), device_of(device), torch.float32
    )
    where = device_of(device)
    back = [codec.decode(codec.encode(part.to(where))).cpu()
            for part in pictures(data, images, prepare, split).split(256)]  # fmt: skip
    write_images(out, torch.cat(back), list(range(images)))
    typer.echo(out)


def _codec_home(given: Path, models: Any) -> Path:
    """The folder of train-codec, or that of a latent model."""
    return given if (given / "codec.json").is_file() else models.folder(given)
