"""The verbs that score images and write reference statistics."""

import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from bench.cli.options import JSON, Data, Device, app, device_of, forms_of, print_json


@app.command()
def score(
    images: Annotated[Path, typer.Argument(help="folder or .zip of images, .npy, .npz with arr_0")],
    reference: Annotated[
        str, typer.Argument(help="reference statistics: a name or an .npz")
    ] = "fashion-mnist",
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
        typer.Option(min=2, help="single features that are kept, evenly spaced; default: all"),
    ] = None,
    bootstrap: Annotated[
        int,
        typer.Option(min=0, help="replicates for 95 % confidence intervals; each scores once more"),
    ] = 0,
    against: Annotated[
        Path | None,
        typer.Option(help="other images of the same seeds: report the differences of the scores"),
    ] = None,
    json: JSON = False,
    device: Device = "auto",
) -> None:
    """Score images against reference statistics.

    Warnings on stderr say why the scores cannot be compared with other scores.
    """
    import dataclasses

    from bench import data
    from bench import features as room
    from bench.judge import Judge, cautions

    (n, lossy), shape = data.survey(images), list[int]()
    if against and (other := data.survey(against)[0]) != n:
        raise ValueError(f"{against} has {other} images and {images} has {n}, but --against needs "
                         "images of the same seeds")  # fmt: skip
    judge = Judge.open(reference, features, forms_of(metrics), device_of(device))
    judge = dataclasses.replace(judge, bank=bank)
    mine = _fold(judge, images, n, shape, bootstrap)
    result = {"n": n, "features": features, "reference": reference}
    result |= _scores(judge, mine, bootstrap)
    if against:
        result |= _differences(judge, mine, _fold(judge, against, n, [], bootstrap), bootstrap)
    real = room.reference_shape(reference, judge.extractor) if judge.real else ()
    warnings = cautions(n, lossy, tuple(shape), features, real)
    if json:
        protocol = {name: judge.protocol(metric) for name, metric in judge.columns.items()}
        kept = {layer: len(one.bank) for layer, one in mine.items()}
        print_json(result | {"protocol": protocol, "bank": kept, "warnings": warnings})
        return
    _print(result)
    for warning in warnings:
        typer.echo(f"warning: {warning}", err=True)


def _fold(judge: Any, images: Path, n: int, shape: list[int], bootstrap: int) -> Any:
    """Layer -> features of a path. `shape` receives the shape of an image.

    A bootstrap resamples single features, so every layer then keeps them.
    """
    from bench import features

    rows = (judge.bank or sys.maxsize) if bootstrap else 0
    layers = {layer: max(rows, kept) for layer, kept in judge.layers.items()}
    return features.fold_layers(judge.extractor, _progress(images, n, shape), layers, n)


def _scores(judge: Any, mine: Any, bootstrap: int) -> dict[str, Any]:
    """Scores by metric, with standard errors and confidence intervals where there are some."""
    found = judge.scores(mine)
    result: dict[str, Any] = {name: one.value for name, one in found.items()}
    errors = {name: one.error for name, one in found.items() if one.error is not None}
    result |= {"error": errors} if errors else {}
    return result | ({"interval_95": judge.intervals(mine, bootstrap)} if bootstrap else {})


def _differences(judge: Any, mine: Any, other: Any, bootstrap: int) -> dict[str, Any]:
    """Differences of the scores by metric, and their confidence intervals."""
    one, two = judge.scores(mine), judge.scores(other)
    result = {"difference": {name: one[name].value - two[name].value for name in one}}
    if bootstrap:
        result["difference_95"] = judge.differences(mine, other, bootstrap)
    return result


def _print(result: dict[str, Any]) -> None:
    """A line for each score, then a line for each metric that has errors or intervals."""
    tables = {name: table for name, table in result.items() if isinstance(table, dict)}
    for name, value in result.items():
        if name not in tables:
            typer.echo(f"{name:>13}  {value}")
    for metric in dict.fromkeys(metric for table in tables.values() for metric in table):
        parts = (f"{name} {table[metric]}" for name, table in tables.items() if metric in table)
        typer.echo(f"{metric:>13}  {', '.join(parts)}")


def _progress(images: Path, n: int, shape: list[int]) -> Iterator[Any]:
    """Batches of a path, with a progress bar. `shape` receives the shape of an image."""
    from tqdm import tqdm

    from bench import data

    with tqdm(total=n, unit="image", disable=None) as bar:
        for batch in _shaped(data.stream(images, 256), shape):
            yield batch
            bar.update(len(batch))


def _shaped(batches: Iterable[Any], shape: list[int]) -> Iterator[Any]:
    """The same batches. `shape` receives the shape of an image."""
    for batch in batches:
        shape[:] = batch.shape[1:]
        yield batch


@app.command()
def reference(
    out: Annotated[str, typer.Argument(help=".npz file, or a name for later commands")],
    features: Annotated[str, typer.Option(help="feature extractor")] = "effnet-lite0",
    images: Annotated[
        Path | None, typer.Option(help="folder, .zip, .npy or .npz; default: Fashion-MNIST")
    ] = None,
    preprocess: Annotated[
        str, typer.Option(help="preprocessing of --images: none, adm-lsun, ldm, 'ldm(size=128)'")
    ] = "none",
    bank: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="single features that are kept, evenly spaced, for precision, KID ...; default: "
            "10,000 of --images, 0 of Fashion-MNIST",
        ),
    ] = None,
    layers: Annotated[
        str, typer.Option(help="more layers of the extractor, such as spatial for sfid")
    ] = "",
    data: Data = None,
    device: Device = "auto",
) -> None:
    """Write the reference statistics of a set of real images."""
    import hashlib

    from bench import data as datasets
    from bench import features as room
    from bench.judge import extractor_of

    if not out.endswith(".npz") and not re.fullmatch(r"[\w.-]+", out):
        raise ValueError(f"{out!r} is neither a name (letters, digits, . _ -) nor an .npz file")
    extractor = extractor_of(features, device_of(device))
    others = [layer for layer in layers.split(",") if layer]
    rows = bank if bank is not None else 10_000 if images else 0
    keep = dict.fromkeys(others, 0) | {"features": rows}
    room.check_layers(extractor, keep)
    dataset, prepared, count, real = _real(images, preprocess, data)
    digest, shape = hashlib.sha256(), list[int]()
    batches = _shaped(datasets.hashed(real, digest), shape)
    folded = room.fold_layers(extractor, batches, keep, count)
    provenance = {
        "dataset": dataset, "data_digest": digest.hexdigest(), "preprocess": prepared,
        "image": shape, "extractor": extractor.name, "extractor_digest": extractor.digest,
    }  # fmt: skip
    path = Path(out) if out.endswith(".npz") else room.reference_path(out, extractor.name)
    saved = room.save_reference(path, folded.pop("features"), provenance, layers=folded)
    typer.echo(saved)


def _real(
    images: Path | None, preprocess: str, data: Path | None
) -> tuple[str, str, int | None, Any]:
    """Real images: the name of the set, its preprocessing, the number of images, the batches."""
    from bench import data as datasets
    from bench import names

    prepare = names.build(preprocess, datasets.preprocess)
    if images:
        count = datasets.survey(images)[0]
        return str(images), prepare.name, count, datasets.stream(images, 256, prepare)
    if prepare != datasets.AsIs():
        raise ValueError(f"--preprocess {preprocess} needs --images; add --images FOLDER")
    dataset = datasets.FashionMNIST() if data is None else datasets.FashionMNIST(folder=data)
    return dataset.name, prepare.name, None, dataset.images().split(256)
