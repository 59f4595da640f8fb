"""The verbs that train networks and codecs."""

from pathlib import Path
from typing import Annotated, Any

import typer

from bench.cli.options import (
    Data,
    Device,
    Models,
    RatesOf,
    app,
    built,
    device_of,
    numbers,
    pictures,
    schedule_of,
    write_images,
)


@app.command()
def train(
    out: Annotated[Path, typer.Argument(help="model folder; a training that is there resumes")],
    channels: Annotated[
        str, typer.Option(help="U-Net channels, highest resolution first: 64,64,128")
    ],
    layers: Annotated[int, typer.Option(help="residual layers in each block")] = 2,
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
    steps: Annotated[int, typer.Option(help="total steps; give --steps or --minutes")] = 0,
    minutes: Annotated[float, typer.Option(help="total minutes; give --steps or --minutes")] = 0,
    batch: Annotated[int, typer.Option(help="batch size")] = 512,
    rate: Annotated[float, typer.Option(help="highest learning rate")] = 1e-3,
    ema: Annotated[float, typer.Option(help="decay of the exponential moving average")] = 0.9995,
    seed: Annotated[int, typer.Option(help="seed of weights, batches and noise")] = 0,
    codec: Annotated[
        Path | None,
        typer.Option(help="folder of train-codec or of a latent model; default: no codec"),
    ] = None,
    rates_of: RatesOf = "",
    data: Data = None,
    models: Models = None,
    device: Device = "auto",
) -> None:
    """Train a denoiser on Fashion-MNIST, in pixel space or in a codec's latent space.

    After an interruption, the same command resumes the training.
    """
    from bench import checkpoints, measures, schedules, training
    from bench.data import FashionMNIST
    from bench.training import laws
    from bench.training import weighting as weightings

    dataset = FashionMNIST() if data is None else FashionMNIST(folder=data)
    where = checkpoints.models_of(models)
    known = where.homes(rates_of) if rates_of else [out]
    latents = checkpoints.codec_for(out, _codec_home(codec, where)) if codec else None
    c, size, _ = latents.state if latents else (1, 28, 28)
    recipe = training.Recipe(
        name=out.name, codec=latents,
        network=training.unet(numbers(channels), layers, size, c),
        law=schedule_of(law, known, laws, measures),
        weighting=built(weighting, known, weightings, schedules),
        steps=steps, minutes=minutes, batch=batch, rate=rate, ema=ema, seed=seed,
    )  # fmt: skip
    card = training.train(recipe, dataset, out, device_of(device))
    typer.echo(f"{out}: {card.training['steps']} steps in {card.training['seconds']:.0f} s")
    if (out / "law.json").is_file():
        from bench.report import draw_law

        for path in draw_law(out):
            typer.echo(path)


@app.command()
def train_codec(
    out: Annotated[Path, typer.Argument(help="codec folder; a training that is there resumes")],
    channels: Annotated[
        str, typer.Option(help="encoder channels, highest resolution first: 32,64")
    ],
    latent_channels: Annotated[int, typer.Option(help="channels of the latent space")],
    layers: Annotated[int, typer.Option(help="residual layers in each block")] = 1,
    steps: Annotated[int, typer.Option(help="total steps; give --steps or --minutes")] = 0,
    minutes: Annotated[float, typer.Option(help="total minutes; give --steps or --minutes")] = 0,
    batch: Annotated[int, typer.Option(help="batch size")] = 256,
    rate: Annotated[float, typer.Option(help="highest learning rate")] = 1e-3,
    kl: Annotated[float, typer.Option(help="weight of the KL divergence")] = 1e-6,
    adversary: Annotated[float, typer.Option(help="weight of the patch discriminator")] = 0.02,
    seed: Annotated[int, typer.Option(help="seed of weights, batches and noise")] = 0,
    data: Data = None,
    device: Device = "auto",
) -> None:
    """Train an autoencoder on Fashion-MNIST for latent models.

    After an interruption, the same command resumes the training.
    """
    from bench import training
    from bench.data import FashionMNIST

    dataset = FashionMNIST() if data is None else FashionMNIST(folder=data)
    recipe = training.CodecRecipe(
        name=out.name, channels=numbers(channels), latent_channels=latent_channels, layers=layers,
        steps=steps, minutes=minutes, batch=batch, rate=rate, kl=kl, adversary=adversary, seed=seed,
    )  # fmt: skip
    done = training.train_codec(recipe, dataset, out, device_of(device)).training
    typer.echo(f"{out}: {done['steps']} steps in {done['seconds']:.0f} s")


@app.command()
def reconstruct(
    model: Annotated[str, typer.Argument(help="latent model, or folder of train-codec")],
    out: Annotated[Path, typer.Argument(help="folder for PNGs, or an .npz file")],
    images: Annotated[int, typer.Option(help="training images, evenly spaced")] = 10_000,
    data: Data = None,
    models: Models = None,
    device: Device = "auto",
) -> None:
    """Encode and decode training images with a codec.

    Their score limits the score of every model in that latent space.
    """
    import torch

    from bench import checkpoints

    home = _codec_home(Path(model), checkpoints.models_of(models))
    codec = checkpoints.load_codec(
        home, checkpoints.read_codec(home), device_of(device), torch.float32
    )
    where = device_of(device)
    back = [codec.decode(codec.encode(part.to(where))).cpu()
            for part in pictures(data, images).split(256)]  # fmt: skip
    write_images(out, torch.cat(back), list(range(images)))
    typer.echo(out)


def _codec_home(given: Path, models: Any) -> Path:
    """The folder of train-codec, or that of a latent model."""
    return given if (given / "codec.json").is_file() else models.folder(given)
