"""Options that several verbs share, and the functions that read their values."""

import re
from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False)
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
_IMAGES = (
    "images: folder, zip, .npy, .npz, or the folder of CIFAR-10's or Fashion-MNIST's own files; "
    "default: Fashion-MNIST of Debian's package"
)
Data = Annotated[Path | None, typer.Option(help=_IMAGES)]
DataOrImages = Annotated[Path | None, typer.Option("--data", "--images", help=_IMAGES)]
Split = Annotated[
    str | None, typer.Option(help="train or test, of a data set that has both; default: train")
]
Size = Annotated[
    int | None,
    typer.Option(min=1, help="crop the centre square of each image and resize it to this size"),
]
Preprocessing = Annotated[
    str,
    typer.Option("--preprocess", help="another preparation: none, adm-lsun, ldm, 'ldm(size=128)'"),
]
RatesOf = Annotated[
    str,
    typer.Option(
        "--rates",
        help="whose measurements the schedule may name: a model, or files of measure --out, with "
        "commas; default: the same model",
    ),
]
Process = Annotated[
    str, typer.Option(help="cosine, linear, scaled_linear, edm, or 'VP(linear, timesteps=500)'")
]
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1, or auto")]
Pictures = Annotated[Path, typer.Argument(help="folder for PNGs, or an .npz file")]
Features = Annotated[str, typer.Option(help="feature extractor")]
Schedule = Annotated[
    str,
    typer.Option(
        help="Native, Karras(rho=7), ConstantRate(v_x, xi=0.5), CheapestPath(gits), grid.json"
    ),
]
Batch = Annotated[int, typer.Option(help="batch size", min=1)]
Steps = Annotated[int, typer.Option(help="total steps; give --steps or --minutes")]
Minutes = Annotated[float, typer.Option(help="total minutes; give --steps or --minutes")]
LearningRate = Annotated[float, typer.Option(help="highest learning rate")]
TrainingSeed = Annotated[int, typer.Option(help="seed of weights, batches and noise")]
Layers = Annotated[int, typer.Option(help="residual layers in each block")]


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
        found = torch.device(name)
    except RuntimeError:
        found = torch.device("meta")
    there = {"cpu": 1, "cuda": torch.cuda.device_count()}
    if (found.index or 0) >= there.get(found.type, 0):
        raise ValueError(f"--device {name}: no such device; use cpu, cuda or auto")
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


_MOST_SEEDS = 10_000_000


def seeds_of(text: str) -> list[int]:
    """The seeds of `7` or `0-9999`. The range includes both ends."""
    if not (found := re.fullmatch(r"(\d+)(?:-(\d+))?", text.strip())):
        raise ValueError(f"--seeds {text!r}: write 7, or 0-9999")
    first, last = int(found[1]), int(found[2] or found[1])
    if first > last:
        raise ValueError(f"--seeds {text!r}: first-last needs first <= last; write {last}-{first}")
    if last >= 2**62 or last - first >= _MOST_SEEDS:
        raise ValueError(f"--seeds {text!r}: take seeds below 2^62, at most {_MOST_SEEDS:,} of "
                         "them at once")  # fmt: skip
    return list(range(first, last + 1))


_FILE = re.compile(r"""(['"])([^'"]+\.json)\1|(?<![\w./~+-])[\w./~+-]+\.json(?!\w)""")


def built(text: str, folders: list[Path], *rooms: Any, role: type | None = None) -> Any:
    """The object of a text that may name measurements, or files of one: `ConstantRate(rate.json)`.

    Arguments:
        folders: folders with measurements of a model.
        rooms: modules whose classes the text may name; the first that has a name is used.
        role: the class that is wanted, such as `Schedule`.

    Raises:
        ValueError: what `names.build` refuses; a file that holds no measurement.
    """
    from bench import measures, names

    values = {**measures.measured(*folders), "mix": measures.mix}

    def read(found: re.Match[str]) -> str:
        name = f"_file_{len(values)}"  # messages do not offer it
        values[name] = measures.load(Path(found[2] or found[0]))
        return name

    form = _FILE.sub(read, text)
    try:
        return names.build(form, rooms, values, role)
    except names.UnknownName as error:
        if says := _unmeasured(error, values):
            raise ValueError(says) from error
        raise


def _unmeasured(error: Any, values: dict[str, Any]) -> str:
    """The message for a name that stands for a measurement. Empty: it stands for something else.

    Arguments:
        error: a `names.UnknownName`.
        values: the measurements that are known, by name.
    """
    from bench import measures, names
    from bench.types import Costs, Rate

    roles = [role for role in error.roles if role in (Rate, Costs)]
    measure = names.called(error.name, measures)
    if not roles:
        return ""
    if len(roles) < len(error.roles) and not measure:  # it may be a schedule
        return "" if error.name[0].isupper() else f"{error}; a rate of another model needs --rates"
    known = [name for name, one in values.items()
             if isinstance(one, tuple(roles)) and not name.startswith("_")]  # fmt: skip
    what = " or ".join("costs" if role is Costs else "rate" for role in roles)
    ending = names.nearest(error.name, known) if known else ""
    return (f"no {what} {error.name} {'are' if what == 'costs' else 'is'} known here{ending}; name "
            "the model folder or the file that has it with --rates, or measure it: crs-bench "
            f"measure MODEL --measure {measure.__name__ if measure else 'MEASURE'}")  # fmt: skip


def schedule_of(text: str, folders: list[Path], *others: Any) -> Any:
    """The schedule of a text or of an exported JSON file.

    Arguments:
        folders: folders with measurements of a model, which the text may name.
        others: modules beside `schedules` whose classes the text may name, such as `laws`.

    Raises:
        ValueError: the text is no schedule.
    """
    from bench import schedules
    from bench.types import Costs, Rate, Schedule

    if found := re.fullmatch(r"(resampled\()?['\"]?(.+\.json)['\"]?(?(1)\))", text, re.IGNORECASE):
        return schedules.load(found[2], resample=bool(found[1]))
    found = built(text, folders, schedules, *others, role=Schedule)
    if isinstance(found, Rate | Costs):
        kind = "ConstantRate" if isinstance(found, Rate) else "CheapestPath"
        raise ValueError(f"{text} is a measurement, not a schedule: write {kind}({text})")
    if not isinstance(found, Schedule):
        raise ValueError(f"{text} is no schedule: derive its class from bench.Schedule")
    return found


def homes_of(models: Any, rates: str, model: Any = None) -> list[Path]:
    """Folders and files with the measurements that a schedule may name, of the text of --rates.

    Arguments:
        models: a `checkpoints.Models`.
        model: whose measurements it may name without --rates; None: of none.
    """
    given = [one.strip() for one in rates.split(",") if one.strip()]
    if not given:
        return models.homes(model) if model is not None else []
    each = [[Path(one)] if one.lower().endswith(".json") else models.homes(one) for one in given]
    return [path for paths in each for path in paths]


def process_of(text: str) -> Any:
    """The process of a short name, or of a form of `VP` or `VE`.

    Raises:
        ValueError: the text is no process.
    """
    from bench import names, process

    short = {
        "cosine": process.VP("cosine", 1000, 0.01, 80.0), "linear": process.VP(),
        "scaled_linear": process.VP("scaled_linear"), "edm": process.VE(),
    }  # fmt: skip
    if text.strip() in short:
        return short[text.strip()]
    if "(" not in text:
        raise ValueError(f"unknown process {text!r}{names.nearest(text, short)}; or write "
                         "'VP(...)' or 'VE(...)'")  # fmt: skip
    return names.build(text, process)


def prepare_of(size: int | None, preprocess: str) -> Any:
    """The preprocessing of --size and --preprocess.

    Raises:
        ValueError: both are given, or the text is no preprocessing.
    """
    from bench import data as datasets
    from bench import names

    prepare = names.build(preprocess, datasets.preprocess)
    if size is None:
        return prepare
    if prepare != datasets.AsIs():
        raise ValueError("--size and --preprocess both resize; give --preprocess "
                         f"'{preprocess.partition('(')[0]}(size={size})' alone")  # fmt: skip
    return datasets.CentreCrop(size)


def images_of(data: Path | None, split: str | None = None) -> Any:
    """The set of images of --data and --split: a `data.ImageSet`.

    Raises:
        ValueError: the path does not exist, or holds no images.
    """
    from bench import data as datasets
    from bench.data.fashion import DEBIAN

    if data is not None and not data.exists():
        raise ValueError(f"--data {data} does not exist; give a folder, zip or array of images, "
                         "or Fashion-MNIST's IDX files (dataset-fashion-mnist)")  # fmt: skip
    if data is None and not DEBIAN.is_dir():
        raise ValueError("no --data, and Debian's package dataset-fashion-mnist is not installed; "
                         "give --data: a folder, zip or array, or IDX files")  # fmt: skip
    return datasets.open_images(data or DEBIAN, split)


def pictures(data: Path | None, images: int, prepare: Any, split: str | None = None) -> Any:
    """Evenly spaced images of --data: uint8 [images, c, h, w]. What was changed in them is said.

    Raises:
        ValueError: the path does not exist, it has fewer images, or their sizes differ.
    """
    found = images_of(data, split)
    made = found.spaced(images, prepare)
    _warn(found)
    return made


def ready(data: Path | None, split: str | None, prepare: Any) -> Any:
    """All images of --data, a `data.Ready`. What was changed in them is said on stderr.

    Raises:
        ValueError: as `images_of`; or some cannot be read, or their sizes differ.
    """
    from bench import data as datasets

    found = images_of(data, split)
    made = datasets.Ready.of(found, prepare)
    _warn(found)
    return made


def _warn(found: Any) -> None:
    """Say on stderr what was changed in the images of a set."""
    for note in found.notes():
        typer.echo(f"warning: {note}", err=True)


def check_output(out: Path) -> Path:
    """Try the place of an output before any expensive work.

    Raises:
        ValueError: a file or folder that cannot be written there.
    """
    from bench import store

    return store.check_output(out)


def say_paths(paths: list[Path]) -> None:
    """Print one path a line."""
    for path in paths:
        typer.echo(path)


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
