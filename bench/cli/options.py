"""Options that several verbs share, and the functions that read their values."""

import re
from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)
benchmarks = typer.Typer(no_args_is_help=True, help="Time the bench itself on this machine.")
app.add_typer(benchmarks, name="bench")

Results = Annotated[
    Path, typer.Option(help="folder of results, with one folder for each experiment")
]
Models = Annotated[
    Path | None, typer.Option(help="folder of models, with one folder for each model")
]
ModelName = Annotated[
    str, typer.Argument(help="name in --models, path, Hugging Face id, or module:name of your own")
]
Seeds = Annotated[str, typer.Option(help="one seed (7), or first-last (0-9999)")]
JSON = Annotated[bool, typer.Option("--json", help="print JSON")]
Data = Annotated[Path | None, typer.Option(help="folder of the IDX files of Fashion-MNIST")]
RatesOf = Annotated[
    str,
    typer.Option(
        "--rates", help="model whose measurements the schedule may name; default: the same model"
    ),
]
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1, or auto")]


def device_of(name: str) -> str:
    """The torch device of a name. `auto` is cuda if a GPU is available, else cpu.

    Raises:
        ValueError: there is no such device.
    """
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(f"--device {name}: this machine has no CUDA device; use --device cpu")
    try:
        torch.device(name)
    except RuntimeError:
        raise ValueError(f"--device {name}: no such device; use cpu, cuda or auto") from None
    return name


def numbers(text: str, option: str = "--channels") -> tuple[int, ...]:
    """Whole numbers of `64,64,128`. The error message names the option."""
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise ValueError(f"{option} {text!r}: write whole numbers, such as 64,64,128") from error


def forms_of(text: str) -> list[str]:
    """Split a list at the commas outside brackets: `fd,kid(10, 500)` has two members."""
    return [form.strip() for form in re.split(r",(?![^()]*\))", text)]


def seeds_of(text: str) -> list[int]:
    """The seeds of `7` or `0-9999`. The range includes both ends."""
    if not (found := re.fullmatch(r"(\d+)(?:-(\d+))?", text.strip())):
        raise ValueError(f"--seeds {text!r}: write 7, or 0-9999")
    first, last = int(found[1]), int(found[2] or found[1])
    if first > last:
        raise ValueError(f"--seeds {text!r}: first-last needs first <= last; write {last}-{first}")
    return list(range(first, last + 1))


def schedule_of(text: str, folders: list[Path], *others: Any) -> Any:
    """The schedule of a text or of an exported JSON file.

    Arguments:
        folders: folders with measurements of a model, which the text may name.
        others: modules beside `schedules` whose classes the text may name, such as `laws`.

    Raises:
        ValueError: the text is no schedule.
    """
    from bench import measures, names, schedules
    from bench.types import Costs, Rate, Schedule

    if found := re.fullmatch(r"(resampled\()?['\"]?(.+\.json)['\"]?(?(1)\))", text, re.IGNORECASE):
        return schedules.load(found[2], resample=bool(found[1]))
    known = {**measures.measured(*folders), "mix": measures.mix}
    found = names.build(text, (schedules, *others), known)
    if isinstance(found, Rate | Costs):
        kind = "ConstantRate" if isinstance(found, Rate) else "CheapestPath"
        raise ValueError(f"{text} is a measurement, not a schedule: write {kind}({text})")
    if not isinstance(found, Schedule):
        raise ValueError(f"{text} is no schedule: derive its class from bench.Schedule")
    return found


def pictures(data: Path | None, images: int, preprocess: str = "none") -> Any:
    """Evenly spaced training images, of Fashion-MNIST or of a path: uint8 [images, c, h, w].

    Raises:
        ValueError: the path does not exist, it has fewer images, or nothing can be preprocessed.
    """
    from bench import data as datasets
    from bench import names
    from bench.data import FashionMNIST

    prepare = names.build(preprocess, datasets.preprocess)
    if data is not None and not data.exists():
        raise ValueError(f"--data {data} does not exist; give the IDX files of Fashion-MNIST "
                         "(Debian: dataset-fashion-mnist), or a folder, zip or array")  # fmt: skip
    if data is not None and not list(data.glob("*-ubyte*")):
        return datasets.open_images(data).spaced(images, prepare)
    if prepare != datasets.AsIs():
        raise ValueError(f"--preprocess {preprocess} needs images in --data; add --data FOLDER")
    real = (FashionMNIST() if data is None else FashionMNIST(folder=data)).images()
    if not 0 < images <= len(real):
        raise ValueError(f"--images must lie between 1 and {len(real)}, not {images}")
    return real[:: len(real) // images][:images]


def check_output(out: Path) -> Path:
    """Try the place of an output before any expensive work.

    Raises:
        ValueError: a file or folder that cannot be written there.
    """
    from bench import store

    return store.check_output(out)


def write_images(out: Path, images: Any, seeds: list[int]) -> None:
    """Write uint8 [n, c, h, w] as one .npz file, or as one PNG for each seed in a folder."""
    from bench.data import writing

    if out.suffix.lower() == ".npz":
        writing.write_npz(out, images)
        return
    for seed, image in zip(seeds, images, strict=True):
        writing.write_png(out / f"{seed:06d}.png", image)


def print_json(content: dict[str, Any]) -> None:
    """Print one line of JSON."""
    import json

    typer.echo(json.dumps(content))
