"""What `add` and `fetch` check: before gigabytes are read, and of the tensors that were read."""

import shlex
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import safetensors
import torch
from torch import Tensor

from bench.checkpoints.card import CodecCard
from bench.checkpoints.files import check_finite, content_of, unwritable, weights_file
from bench.store import check_folder_name, some
from bench.zoo.autoencoder import codec_at
from bench.zoo.base import Preset

_ELSEWHERE = "give another folder with --models"


def check_free(name: str, home: Path) -> None:
    """Raise ValueError unless a model folder `home` of that name can be made."""
    check_folder_name(name, "--name")
    if home.exists():
        raise ValueError(f"{home} is there already; give another --name, or remove it first")
    above = next(p for p in home.absolute().parents if p.exists())
    try:
        with tempfile.TemporaryFile(dir=above):
            pass
    except OSError as error:
        raise unwritable(home, error, _ELSEWHERE) from error


def check_codec(chosen: Preset, preset: str, codec: Path | None) -> tuple[CodecCard, Path] | None:
    """The card and the file of --codec. ValueError: it is missing, or the preset needs none."""
    if chosen.codec is None:
        if codec is not None:
            raise ValueError(f"preset {preset} takes no --codec; leave it out")
        return None
    if codec is None:
        raise ValueError(f"preset {preset} needs its autoencoder: fetch {chosen.codec.source} and "
                         "give --codec FOLDER_OR_FILE")  # fmt: skip
    card, file = codec_at(codec, chosen.codec)
    content_of(file)
    return card, file


def check_file(file: Path, chosen: Preset, preset: str) -> None:
    """Raise ValueError if the file is missing, is a pickle, or is known to be no weights."""
    if not file.exists():
        where = f"; get it with: {chosen.download(preset)}" if chosen.address else ""
        raise ValueError(f"no file {file}{where}")
    what = content_of(weights_file(file))
    if what == "pickle" or (what == "unknown" and file.suffix.lower() in (".pkl", ".pickle")):
        way = f"{chosen.convert} {shlex.quote(str(file))}" if chosen.convert else "save its tensors"
        raise ValueError(
            f"{file} is refused: reading it would run its code; if you trust it, "
            f"run in its publisher's environment: {way} ; then add the .safetensors"
        )


def check_weights(
    file: Path, have: Mapping[str, Tensor], want: Mapping[str, Tensor], hint: str = ""
) -> None:
    """Raise ValueError unless `have` has exactly the keys and shapes of `want`, and finite numbers.

    The message has the keys. hint: what it says first.
    """
    both = want.keys() & have.keys()
    whole = {key for key in both
             if want[key].is_floating_point() and not have[key].is_floating_point()}  # fmt: skip
    other = [
        f"{key} {list(have[key].shape)} for {list(want[key].shape)}"
        for key in both
        if have[key].shape != want[key].shape
    ]
    other += [f"{key} {have[key].dtype}" for key in whole]
    lists = {
        "missing": want.keys() - have.keys(),
        "extra": have.keys() - want.keys(),
        "mis-shaped": other,
    }
    wrong = [f"{len(keys)} {what}: {some(sorted(keys))}" for what, keys in lists.items() if keys]
    if whole:
        hint = ("integers are the weights of a quantised model: save them as float16 or float32"
                + (f"; {hint}" if hint else ""))  # fmt: skip
    if wrong:
        first = [hint] if hint else []
        raise ValueError(f"{file} is not of this preset's network; {'; '.join([*first, *wrong])}")
    if any(value.layout != torch.strided or value.is_meta for value in have.values()):
        raise ValueError(f"{file} holds sparse or meta tensors; save dense tensors and add that")
    check_finite(file, dict(have))


@contextmanager
def made_whole(home: Path) -> Iterator[Path]:
    """Give a folder to fill, which becomes `home` when it is complete.

    After an error nothing is left. ValueError: a disk is full or cannot be written.
    """
    new_parent = not home.parent.exists()
    try:
        home.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{home.name}.", dir=home.parent) as scratch:
            new = Path(scratch) / home.name
            new.mkdir()
            yield new
            new.rename(home)
    except (OSError, safetensors.SafetensorError) as error:
        raise unwritable(home, error, _ELSEWHERE) from error
    finally:
        if new_parent and home.parent.is_dir() and not any(home.parent.iterdir()):
            home.parent.rmdir()
