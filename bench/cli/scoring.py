"""Verbs that score images of any kind."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from bench.cli.options import JSON, Data, Device, app, device_of, forms_of, print_json


@app.command()
def score(
    images: Annotated[Path, typer.Argument(help="folder or .zip of PNGs, .npy, .npz with arr_0")],
    reference: Annotated[str, typer.Argument(help="shipped name or .npz")] = "fashion-mnist",
    features: Annotated[str, typer.Option(help="feature extractor")] = "effnet-lite0",
    metrics: Annotated[
        str,
        typer.Option(
            help="fd,precision,recall,kid,kid_error,density(k=5),coverage,fd_infinity,is,sfid,"
            "precision_adm,recall_adm"
        ),
    ] = "fd,precision,recall",
    bank: Annotated[
        int | None,
        typer.Option(min=2, help="single features kept, evenly spaced; all without it"),
    ] = None,
    bootstrap: Annotated[
        int, typer.Option(min=0, help="replicates of 95 % intervals, each as costly as the scores")
    ] = 0,
    against: Annotated[
        Path | None,
        typer.Option(help="images of the same seeds: intervals of the differences from theirs"),
    ] = None,
    json: JSON = False,
    device: Device = "auto",
) -> None:
    """Score images against a reference, a batch at a time; says on stderr what keeps the score from
    being compared with others."""
    import dataclasses

    from bench import data
    from bench import features as room
    from bench.judge import Judge, cautions

    (n, lossy), shape = data.survey(images), list[int]()
    if against and data.survey(against)[0] != n:
        raise ValueError(f"{against} has {data.survey(against)[0]} images and {images} {n}, but "
                         "differences are of the same seeds")  # fmt: skip
    judge = Judge.open(reference, features, forms_of(metrics), device_of(device))
    judge = dataclasses.replace(judge, bank=bank)
    mine = judge.fold(_noted(images, n, shape), n)
    found = judge.scores(mine)
    scores = {name: one.value for name, one in found.items()}
    result: dict[str, Any] = {"n": n, "features": features, "reference": reference, **scores}
    result |= {f"{name}_error": one.error for name, one in found.items() if one.error is not None}
    if bootstrap:
        result["interval_95"] = judge.intervals(mine, bootstrap)
    if against:
        other = judge.fold(_noted(against, n, []), n)
        result["difference"] = {
            name: scores[name] - one.value for name, one in judge.scores(other).items()
        }
        if bootstrap:
            result["difference_95"] = judge.differences(mine, other, bootstrap)
    real = room.reference_shape(reference, judge.extractor) if judge.real else ()
    warnings = cautions(n, lossy, tuple(shape), features, real)
    if json:
        protocol = {name: judge.protocol(metric) for name, metric in judge.columns.items()}
        kept = {layer: len(one.bank) for layer, one in mine.items()}
        print_json(result | {"protocol": protocol, "bank": kept, "warnings": warnings})
        return
    for name, value in result.items():
        if not isinstance(value, dict):
            typer.echo(f"{name:>13}  {value}")
    for metric in scores if bootstrap or against else ():
        typer.echo(f"{metric:>13}  " + ", ".join(
            f"{name} {value[metric]}" for name, value in result.items()
            if isinstance(value, dict) and metric in value
        ))  # fmt: skip
    for warning in warnings:
        typer.echo(f"warning: {warning}", err=True)


def _noted(images: Path, n: int, shape: list[int]) -> Iterator[Any]:
    """Batches of a path, while a bar on stderr moves; the shape of an image is left in `shape`."""
    from tqdm import tqdm

    from bench import data

    with tqdm(total=n, unit="image", disable=None) as bar:
        for batch in data.stream(images, 256):
            shape[:] = batch.shape[1:]
            yield batch
            bar.update(len(batch))


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
    bank: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="single features kept, evenly spaced, for precision, KID ...: 10,000 of --images, "
            "none of the dataset, whose test images are at hand",
        ),
    ] = None,
    layers: Annotated[
        str, typer.Option(help="the extractor's other layers, as spatial for sfid")
    ] = "",
    data: Data = None,
    device: Device = "auto",
) -> None:
    """Fold a set of real images into a reference file, a batch at a time."""
    import hashlib
    import re

    from bench import data as datasets
    from bench import features as room
    from bench import names
    from bench.judge import extractor_of

    if not out.endswith(".npz") and not re.fullmatch(r"[\w.-]+", out):
        raise ValueError(f"{out!r} is neither a name, of letters, digits and .-_, nor an .npz path")
    prepare = names.build(preprocess, datasets.preprocess)
    extractor = extractor_of(features, device_of(device))
    others = [layer for layer in layers.split(",") if layer]
    rows = bank if bank is not None else 10_000 if images else 0
    keep = dict.fromkeys(others, 0) | {"features": rows}
    room.check_layers(extractor, keep)
    dataset = datasets.FashionMNIST() if data is None else datasets.FashionMNIST(folder=data)
    if images is None and prepare != datasets.AsIs():
        raise ValueError(f"--preprocess {preprocess} prepares --images: give their folder")
    real = datasets.stream(images, 256, prepare) if images else dataset.images().split(256)
    count = datasets.survey(images)[0] if images else None
    digest = hashlib.sha256()
    shape: list[int] = []

    def noted() -> Iterator[Any]:
        for batch in datasets.hashed(real, digest):
            shape[:] = batch.shape[1:]
            yield batch

    folded = room.fold_layers(extractor, noted(), keep, count)
    provenance = {
        "dataset": str(images) if images else dataset.name, "data_digest": digest.hexdigest(),
        "preprocess": prepare.name, "image": shape,
        "extractor": extractor.name, "extractor_digest": extractor.digest,
    }  # fmt: skip
    path = Path(out) if out.endswith(".npz") else room.reference_path(out, extractor.name)
    saved = room.save_reference(path, folded.pop("features"), provenance, layers=folded)
    typer.echo(saved)
