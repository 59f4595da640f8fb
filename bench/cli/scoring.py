"""The verbs that score images and write reference statistics."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from bench.cli.options import (
    JSON,
    DataOrImages,
    Device,
    Features,
    Preprocessing,
    Size,
    Split,
    app,
    check_output,
    device_of,
    forms_of,
    images_of,
    prepare_of,
    print_json,
)

_FEWEST = 1_000  # real images whose single features are read, at least


@app.command()
def score(
    images: Annotated[Path, typer.Argument(help="folder or .zip of images, .npy, .npz with arr_0")],
    reference: Annotated[
        str, typer.Argument(help="a name, an .npz of statistics, or images of any such kind")
    ] = "fashion-mnist",
    features: Features = "effnet-lite0",
    metrics: Annotated[
        str,
        typer.Option(
            help="fd,precision,recall,kid,density(k=5),coverage,fd_infinity,is,sfid,"
            "precision_adm,recall_adm; of a second feature space fd2,precision2,recall2"
        ),
    ] = "fd,precision,recall",
    bank: Annotated[
        int | None,
        typer.Option(
            min=2,
            help="single generated features that metrics read, evenly spaced; default: all. Of a "
            "reference as many are read, at least 1,000",
        ),
    ] = None,
    bootstrap: Annotated[
        int, typer.Option(min=0, help="replicates of 95 % intervals, each as costly as the scores")
    ] = 0,
    against: Annotated[
        Path | None,
        typer.Option(help="other images of the same seeds: shows the differences from theirs"),
    ] = None,
    json: JSON = False,
    device: Device = "auto",
) -> None:
    """Score a set of images against another set, or against a reference.

    Warnings on stderr say what keeps the score from being compared with others. Features are kept
    in the cache, so that a second score of the same images takes seconds.
    """
    from bench.data import open_images
    from bench.judge import Judge, are_images

    fake = open_images(images)
    other = open_images(against).as_of(fake) if against else None
    real = open_images(reference) if are_images(reference) else reference
    whole = any("_adm" in form for form in forms_of(metrics)) or not isinstance(real, str)
    most = None if whole else max(_FEWEST, len(fake), bank or 0)
    judge = Judge.open(real, features, forms_of(metrics), device_of(device), bank, most,
                       bootstrap > 0)  # fmt: skip
    mine = judge.fold(_barred(fake), len(fake))
    result = _scores(judge, mine, len(fake), features, reference)
    if bootstrap:
        result["interval_95"] = judge.intervals(mine, bootstrap)
    if other:
        result |= _difference(judge, mine, judge.fold(_barred(other), len(other)), bootstrap)
    warnings = _warnings(judge, fake, real, features, most)
    if json:
        print_json(result | _protocol(judge, mine, fake) | {"warnings": warnings})
        return
    _table(result, list(judge.columns))
    for warning in warnings:
        typer.echo(f"warning: {warning}", err=True)


def _barred(images: Any) -> Iterator[Any]:
    from bench.features import barred

    return barred(images.stream(256), len(images), images.path.name)


def _scores(judge: Any, mine: Any, n: int, features: str, reference: str) -> dict[str, Any]:
    """Scores and their errors, by name."""
    found = judge.scores(mine)
    values = {name: one.value for name, one in found.items()}
    errors = {name: one.error for name, one in found.items() if one.error is not None}
    return {"n": n, "features": features, "reference": reference, **values} | (
        {"error": errors} if errors else {}
    )


def _difference(judge: Any, mine: Any, other: Any, bootstrap: int) -> dict[str, Any]:
    """Scores less those of the other set, with intervals if they are asked for."""
    ours, theirs = judge.scores(mine), judge.scores(other)
    found: dict[str, Any] = {
        "difference": {name: ours[name].value - one.value for name, one in theirs.items()}
    }
    if bootstrap:
        found["difference_95"] = judge.differences(mine, other, bootstrap)
    return found


def _warnings(
    judge: Any, fake: Any, real: Any, features: str, most: int | None
) -> list[str]:  # fmt: skip
    """What keeps the score from being compared with others. most: real features to be read."""
    from bench import features as room
    from bench.judge import cautions

    shape: tuple[int, ...] = ()
    if judge.real:
        shape = room.reference_shape(real, judge.extractor) if isinstance(real, str) else (
            real.found.shape
        )  # fmt: skip
    found = cautions(len(fake), fake.found.lossy, fake.found.shape, features, shape)
    found += fake.notes()
    if not isinstance(real, str):
        found += real.notes()
        if real.found.lossy:
            found.append(f"{real.found.lossy:,} of the reference images have lossy compression")
    if most and most < 10_000 and any(len(one.bank) == most for one in judge.real.values()):
        found.append(f"{most:,} single real features were read (--bank 10000 reads more)")
    return found


def _protocol(judge: Any, mine: Any, fake: Any) -> dict[str, Any]:
    """The whole protocol of a score, for --json."""
    return {
        "protocol": {name: judge.protocol(metric) for name, metric in judge.columns.items()},
        "bank": {layer: len(one.bank) for layer, one in mine.items()},
        "left_out": len(fake.left_out), "lossy": fake.found.lossy,
        "converted": {"grey": fake.found.grey, "other": fake.found.other},
        "manifest": fake.manifest,
    }  # fmt: skip


def _table(result: dict[str, Any], names: list[str]) -> None:
    for name, value in result.items():
        if not isinstance(value, dict):
            typer.echo(f"{name:>13}  {value}")
    parts = {name: value for name, value in result.items() if isinstance(value, dict)}
    for metric in names if parts else ():
        typer.echo(f"{metric:>13}  " + ", ".join(
            f"{name} {value[metric]}" for name, value in parts.items() if metric in value
        ))  # fmt: skip


@app.command()
def reference(
    out: Annotated[str, typer.Argument(help=".npz to write, or a name to find it by")],
    features: Features = "effnet-lite0",
    data: DataOrImages = None,
    split: Split = None,
    size: Size = None,
    preprocess: Preprocessing = "none",
    bank: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="single features that are kept, evenly spaced, for precision, KID ...; default: "
            "10,000, but none of Fashion-MNIST",
        ),
    ] = None,
    layers: Annotated[
        str, typer.Option(help="further layers of the extractor, such as spatial for sfid")
    ] = "",
    device: Device = "auto",
) -> None:
    """Write the statistics of a set of real images to a reference file."""
    import hashlib

    from bench import data as datasets
    from bench import features as room
    from bench.judge import extractor_of

    prepare = prepare_of(size, preprocess)
    extractor = extractor_of(features, device_of(device))
    found = images_of(data, split)
    fashion = found.title.startswith("fashion-mnist")  # its test images are shipped
    own = found.title != f"{out}-train" or prepare.name != "none"
    path = _reference_file(out, extractor.name, own)
    rows = bank if bank is not None else 0 if fashion else 10_000
    keep = dict.fromkeys(filter(None, layers.split(",")), 0)
    keep |= dict.fromkeys(extractor.banked, rows)
    room.check_layers(extractor, keep)
    digest = hashlib.sha256()
    shown = room.barred(datasets.hashed(found.stream(256, prepare), digest), len(found),
                        f"{extractor.name} features")  # fmt: skip
    folded = room.fold_rows(room.embedded(extractor, shown, tuple(keep)), keep, len(found))
    provenance: dict[str, Any] = {
        "dataset": found.title or str(data), "data_digest": digest.hexdigest(),
        "preprocess": prepare.name, "image": found.found.shape,
        "extractor": extractor.name, "extractor_digest": extractor.digest,
        "grey": found.found.grey, "converted": found.found.other, "lossy": found.found.lossy,
    }  # fmt: skip
    for note in found.notes():
        typer.echo(f"warning: {note}", err=True)
    replaces, old = path.is_file(), room.identity_of(path)
    first = next(iter(found.stream(8, prepare)))
    typer.echo(room.save_reference(path, folded.pop("features"), provenance, layers=folded,
                                   images=first))  # fmt: skip
    if replaces and old != room.identity_of(path):
        typer.echo(f"warning: {path} held another reference, of other images, preparation or "
                   "number of single features; scores against it are taken anew",
                   err=True)  # fmt: skip


def _reference_file(out: str, extractor: str, own_images: bool) -> Path:
    """The file of a new reference.

    own_images: whether they are others than the training images of the data set `out` as they are.

    Raises:
        ValueError: no name and no .npz; a shipped name; a file that cannot be written.
    """
    import re

    from bench import features as room

    if out.lower().endswith(".npz"):
        return _check_own(check_output(Path(out)))
    if not re.fullmatch(r"\w[\w.-]*", out):
        raise ValueError(f"{out!r} is neither a name, of letters, digits and .-_, nor an .npz path")
    shipped = [one.name.split(".")[0] for one in room.REFERENCES.glob("*.npz")]
    same = (room.REFERENCES / f"{out}.{extractor}.npz").is_file()
    if out in shipped and (own_images or same):
        raise ValueError(f"{out!r} is the name of a shipped reference, which takes the training "
                         f"images of {out} alone, as they are, for features that are not shipped; "
                         "choose another name")  # fmt: skip
    return check_output(room.reference_path(out, extractor))


def _check_own(path: Path) -> Path:
    """The path. ValueError: a file is there that `reference` did not write, such as images."""
    from bench.data.arrays import array_names, readable

    if path.is_file():
        with readable(path, "a reference"):
            names = array_names(path)
        if "provenance" not in names:
            raise ValueError(f"{path} is no reference of ours, so it is not overwritten; choose "
                             "another name, or delete it")  # fmt: skip
    return path
