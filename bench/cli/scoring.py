"""Verbs that score images of any kind."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from bench.cli.options import JSON, Data, Device, app, device_of, print_json


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
    from bench import features as room
    from bench import run as path
    from bench.types import needs_real

    n, lossy = data.survey(images)
    shape: list[tuple[int, ...]] = []

    def batches() -> Iterator[Any]:
        with tqdm(total=n, unit="image", disable=None) as bar:
            for batch in data.stream(images, 256):
                shape[:] = [tuple(batch.shape[1:])]
                yield batch
                bar.update(len(batch))

    where = device_of(device)
    scores = path.score(batches(), reference, features, _forms(metrics), where)
    extractor = path.extractor_of(features, where)
    compared = any(needs_real(one) for one in path.metrics_of(_forms(metrics), extractor))
    real = room.reference_shape(reference, extractor) if compared else ()
    warnings = path.cautions(n, lossy, shape[0], features, real)
    result = {"n": n, "features": features, "reference": reference, **scores}
    if json:
        print_json(result | {"warnings": warnings})
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
    extractor = extractor_of(features, device_of(device))
    others = [layer for layer in layers.split(",") if layer]
    keep = dict.fromkeys(others, 0) | {"features": bank}
    room.check_layers(extractor, keep)
    dataset = datasets.FashionMNIST() if data is None else datasets.FashionMNIST(folder=data)
    if images is None and prepare != datasets.AsIs():
        raise ValueError(f"--preprocess {preprocess} prepares --images: give their folder")
    real = datasets.stream(images, 256, prepare) if images else dataset.images().split(256)
    digest = hashlib.sha256()
    shape: list[int] = []

    def noted() -> Iterator[Any]:
        for batch in datasets.hashed(real, digest):
            shape[:] = batch.shape[1:]
            yield batch

    folded = room.fold_layers(extractor, noted(), keep)
    provenance = {
        "dataset": str(images) if images else dataset.name, "data_digest": digest.hexdigest(),
        "preprocess": prepare.name, "image": shape,
        "extractor": extractor.name, "extractor_digest": extractor.digest,
    }  # fmt: skip
    path = Path(out) if out.endswith(".npz") else room.reference_path(out, extractor.name)
    saved = room.save_reference(path, folded.pop("features"), provenance, layers=folded)
    typer.echo(saved)
