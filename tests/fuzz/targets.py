"""One function for each reader: bytes of a file -> None. It raises only if a promise is broken.

The promise: a reader gives a result, or it raises ValueError with a message of one line that names
the file. It takes at most ten seconds and a few hundred megabytes. It runs nothing from a file.
"""

import gzip
import os
import tempfile
import time
import warnings
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from bench import checkpoints, measures, names, report, samplers, schedules, store
from bench import metrics as metrics_room
from bench.data import MANIFEST, open_images, read_manifest
from bench.features import Flatten, load_reference
from bench.process import VE
from bench.zoo.torch_files import read_file

from . import seeds

warnings.simplefilter("ignore")  # of Pillow and numpy, about damaged files
SECONDS = 10.0
MOST = 2**16  # bytes of an input
_ROOT = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


class Broken(AssertionError):
    """A reader broke its promise."""


class Homes(dict[str, Path]):
    """A private folder for each name. It is made when it is first asked for."""

    def __missing__(self, name: str) -> Path:
        if not self:
            self._kept = tempfile.TemporaryDirectory(dir=_ROOT, prefix="damage-")
        self[name] = Path(self._kept.name) / name
        self[name].mkdir()
        return self[name]

    def close(self) -> None:
        """Delete the folders."""
        if self:
            self._kept.cleanup()


HOMES = Homes()


def keeps(read: Callable[[], object], *named: object) -> bool:
    """Run a reader and check its promise.

    Arguments:
        named: texts, one of which its message must hold.

    Returns:
        True if it gave a result, False if it refused.
    """
    start, given = time.monotonic(), True
    try:
        read()
    except ValueError as error:
        given, said = False, str(error)
        if "\n" in said or "\r" in said or not said.strip():
            raise Broken(f"the message has not one line: {said!r}") from error
        if named and not any(str(one) in said for one in named):
            raise Broken(f"the message does not name the file: {said!r}") from error
    if (took := time.monotonic() - start) > SECONDS:
        raise Broken(f"it took {took:.0f} seconds")
    if seeds.CANARY.exists():
        seeds.CANARY.rmdir()
        raise Broken("code of a file ran")
    return given


def _put(place: str, file: str, data: bytes) -> Path:
    path = HOMES[place] / file
    path.write_bytes(data)
    return path


def _stream(path: Path) -> None:
    found = open_images(path)
    for _ in found.stream(4):
        pass
    found.notes()


def image(data: bytes) -> None:
    """A file in a folder of images."""
    path = _put("image", "x.png", data)
    keeps(lambda: _stream(path.parent), path)


def array(data: bytes) -> None:
    """An .npy or an .npz: as images, and as a reference."""
    if not data.startswith(b"PK"):
        path = _put("array", "x.npy", data)
        keeps(lambda: _stream(path), path)
        return
    path = _put("array", "x.npz", data)
    keeps(lambda: _stream(path), path)
    keeps(lambda: load_reference(path, Flatten(), 4), path)
    keeps(lambda: read_manifest(path), path)


def archive(data: bytes) -> None:
    """A zip of images."""
    path = _put("archive", "x.zip", data)
    keeps(lambda: _stream(path), path)


def card(data: bytes) -> None:
    """A model card, and the process that it describes."""
    path = _put("card", "card.json", data)
    found: list[checkpoints.Card] = []
    if keeps(lambda: found.append(checkpoints.read_card(path.parent)), path):
        keeps(found[0].process.build)


def weights(data: bytes) -> None:
    """A file of weights."""
    path = _put("weights", "x.bin", data)
    keeps(lambda: read_file(path).readable().check_plain(), path)


def measurement(data: bytes) -> None:
    """A measured rate or costs, and what other parts ask of it."""
    path = _put("measures", "x.json", data)
    found: list[object] = []
    if keeps(lambda: found.append(measures.load(path)), path):
        keeps(lambda: (found[0].spec(), store.digest(found[0].spec()), found[0].label))  # type: ignore[attr-defined]


_PLACES = ("plan.json", "plan.json.gz", "records.jsonl.gz", "records.jsonl", "record",
           "strip.png")  # fmt: skip


def results(data: bytes) -> None:
    """A plan or a record among whole ones. The first byte says which; the rest is the file."""
    folder = HOMES["results"]
    for path in (folder / "records").glob("*"):
        path.unlink()
    for name in ("plan.json", "plan.json.gz"):
        (folder / name).unlink(missing_ok=True)
    place, data = _PLACES[data[0] % len(_PLACES)] if data else "plan.json", data[1:]
    (folder / "records").mkdir(exist_ok=True)
    pack = folder / "records" / "records.jsonl.gz"
    if place.startswith("plan"):
        (folder / place).write_bytes(data)
    else:
        (folder / "plan.json").write_bytes(seeds.PLAN)
    if place.startswith("records"):
        pack.write_bytes(data if place.endswith("gz") else gzip.compress(data, 1))
    else:
        for key, one in seeds.RECORDS.items():
            (folder / "records" / f"{key}.json").write_bytes(one)
    if place in ("record", "strip.png"):
        ending = ".json" if place == "record" else ".png"
        (folder / "records" / f"{next(iter(seeds.RECORDS))}{ending}").write_bytes(data)
    store._unpacked.cache_clear()
    keeps(lambda: store.load_records(folder), folder)
    keeps(lambda: store.load_plan(folder), folder)
    _report(folder, draws=zlib.crc32(data) % (4 if place == "strip.png" else 32) == 0)


def _report(folder: Path, draws: bool) -> None:
    """Tables; of some inputs also the figures, which take seconds."""
    whole = report.figures.write
    try:
        if not draws:
            report.figures.write = lambda *_: []
        keeps(lambda: report.report(folder), folder)
    finally:
        report.figures.write = whole


def text(data: bytes) -> None:
    """Levels, a manifest, or a text of the command line. The first byte says which."""
    which, data = (data[0] % 3 if data else 0), data[1:]
    if which == 0:
        path = _put("levels", "x.json", data)
        keeps(lambda: schedules.load(path), path)
    elif which == 1:
        path = _put("manifest", MANIFEST, data)
        keeps(lambda: read_manifest(path.parent), path)
    else:
        _form(data.decode(errors="replace"))


def _form(form: str) -> None:
    """A schedule, sampler or metric as text. `module:Name` imports a module, so it is left out."""
    if ":" in form.partition("(")[0]:
        return
    for room in (schedules, samplers, metrics_room):
        made: list[object] = []
        if keeps(lambda room=room, made=made: made.append(names.build(form, room))) and isinstance(
            made[0], schedules.Native.__base__
        ):
            with suppress(ArithmeticError):  # the command line says so in one line, too
                keeps(lambda made=made: made[0](5, VE(0.002, 80.0, 0.5)))


TARGETS: dict[str, Callable[[bytes], None]] = {
    "image": image, "array": array, "archive": archive, "weights": weights, "results": results,
    "card": card, "measurement": measurement, "text": text,
}  # fmt: skip
