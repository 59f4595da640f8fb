"""A set of images on disk: a folder, a zip, an array, or a known data set. Every verb opens one
here."""

import os
import re
import zipfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from tqdm import tqdm

from bench.data.arrays import array_names, mapped, readable, spread
from bench.data.decode import Picture, decode, layout
from bench.data.formats import known_set, rows_of
from bench.data.manifest import MANIFEST, parsed_manifest, read_manifest
from bench.data.preprocess import AsIs, Preprocess
from bench.lazy import Tensor, torch
from bench.store import in_a_line, some

_SUFFIXES = {
    ".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm",
    ".pnm", ".gif", ".jp2", ".avif",
}  # fmt: skip
_JUNK = {"__macosx", "thumbs.db", "desktop.ini", "@eadir", "$recycle.bin", "lost+found"}
_LARGEST = 2**29  # bytes of one file; more is no image
_NAMED = 5  # most images that a message names

Read = Callable[[], bytes]


@dataclass
class Found:
    """What reading a set found: numbers of images that are lossy or were changed."""

    lossy: int = 0
    grey: int = 0  # grey images among colour images, repeated to three channels
    other: int = 0  # CMYK, YCbCr and the like, converted to RGB
    turned: int = 0  # turned or mirrored, as the EXIF says
    enlarged: int = 0  # smaller than the preprocessing's size
    shape: tuple[int, ...] = ()  # c, h, w


@dataclass(frozen=True)
class ImageSet:
    """Images of one size, each read when it is asked for.

    names: relative to the path, without suffix, in natural order: 2 before 10.
    left_out: files that are no images of the set, such as hidden ones.
    manifest: what `crs-bench sample` wrote beside its images; None without one.
    found: filled while images are read.
    title: the name in records, with the split; empty: that of the path.
    licence: of the images.
    files: names with their suffixes, for messages; () for an array.
    """

    path: Path
    names: Sequence[str]
    readers: Sequence[Callable[[], Picture]] = field(repr=False)
    left_out: tuple[str, ...] = ()
    manifest: dict[str, Any] | None = None
    found: Found = field(default_factory=Found)
    title: str = ""
    licence: str = "unknown"
    files: Sequence[str] = ()

    @property
    def name(self) -> str:
        """The name in records: that of the data set, or of the file or folder."""
        return self.title or self.path.resolve().name

    def __len__(self) -> int:
        return len(self.names)

    def stream(self, size: int, preprocess: Preprocess | None = None) -> Iterator[Tensor]:
        """The images in batches, uint8 [<= size, c, h, w], c 1 or 3.

        Raises:
            ValueError: an image of another size, or one that `decode` refuses. The message names
                the file.
        """
        return self._batched(range(len(self)), size, preprocess or AsIs())

    def spaced(self, n: int, preprocess: Preprocess | None = None) -> Tensor:
        """`n` evenly spaced images, uint8 [n, c, h, w]. Others are not decoded.

        Raises:
            ValueError: the set has fewer than `n` images; and as `stream`.
        """
        if not 0 < n <= len(self):
            raise ValueError(f"{self.path} has {len(self)} images, not {n}; ask for fewer: "
                             "--images")  # fmt: skip
        chosen = spread(len(self), n).tolist()
        return whole(self._batched(chosen, 256, preprocess or AsIs()))

    def everything(self, preprocess: Preprocess | None = None) -> Tensor:
        """All images, uint8 [n, c, h, w]. They are decoded in threads.

        Raises:
            ValueError: as `stream`; all images are tried, and the message names the first five that
                cannot be read.
        """
        attempt = partial(self._attempt, prepare=preprocess or AsIs())
        parts, bad = [], []
        bar = tqdm(total=len(self), unit="image", disable=None, desc=f"read {self.path.name}")
        with bar, ThreadPoolExecutor() as pool:
            for start in range(0, len(self), 1024):
                chunk, rows = range(start, min(start + 1024, len(self))), []
                for i, picture in zip(chunk, pool.map(attempt, chunk), strict=True):
                    if isinstance(picture, ValueError):
                        bad.append(str(picture))
                    else:
                        rows.append((self.names[i], self._taken(i, picture)))
                if not bad:
                    parts.append(self._batch(rows))
                bar.update(len(chunk))
        if len(bad) == 1:
            raise ValueError(bad[0])
        if bad:
            more = "; ..." if len(bad) > _NAMED else ""
            raise ValueError(f"{len(bad):,} of {len(self):,} images in {self.path} cannot be read: "
                             f"{'; '.join(bad[:_NAMED])}{more}")  # fmt: skip
        return whole(iter(parts))

    def as_of(self, other: "ImageSet") -> "ImageSet":
        """The images in the order of another set: those of the same names, else those of the same
        numbers in their names, else all as they come.

        Raises:
            ValueError: another number of images, or names with other numbers, which are seeds.
        """
        if len(self) != len(other):
            raise ValueError(
                f"{self.path} has {len(self)} images and {other.path} {len(other)}; a difference "
                "needs images of the same seeds"
            )
        mine, theirs = list(self.names), list(other.names)
        if set(mine) != set(theirs):
            mine, theirs = _numbers(mine), _numbers(theirs)
        if mine and set(mine) == set(theirs):
            at = {name: i for i, name in enumerate(mine)}
            order = [at[name] for name in theirs]
        elif mine and theirs:
            raise ValueError(f"{self.path} and {other.path} hold images of different seeds; a "
                             "difference needs the same seeds")  # fmt: skip
        else:
            order = list(range(len(self)))
        return ImageSet(self.path, [self.names[i] for i in order], [self.readers[i] for i in order],
                        self.left_out, self.manifest)  # fmt: skip

    def notes(self) -> list[str]:
        """What a reader of the score should know about the set, in sentences."""
        found, name = self.found, self.path.name
        said = []
        if self.left_out:
            said.append(f"{name}: {_were(len(self.left_out), 'file')} left out: "
                        f"{some(self.left_out, 3)}")  # fmt: skip
        for count, what in (
            (found.grey, "grey among colour images and repeated to three channels"),
            (found.other, "converted to RGB"),
            (found.turned, "turned, as the EXIF says"),
            (found.enlarged, "smaller and enlarged"),
        ):
            said += [f"{name}: {_were(count, 'image')} {what}"] if count else []
        spans = self.manifest["seeds"] if self.manifest else []
        seeds = _seeds(spans, len(self)) or [-1]
        if self.manifest and sorted(map(int, _numbers(self.names))) != seeds:
            said.append(f"{name}: its {len(self):,} images are not those of its manifest, which "
                        f"has {sum(b - a for a, b in spans):,}; it may be a mixture")  # fmt: skip
        return said

    def _batched(self, chosen: Sequence[int], size: int, prepare: Preprocess) -> Iterator[Tensor]:
        for at in range(0, len(chosen), size):
            yield self._batch([(self.names[i], self._read(i, prepare))
                               for i in chosen[at : at + size]])  # fmt: skip

    def _attempt(self, i: int, prepare: Preprocess) -> Picture | ValueError:
        """One image, or the error that tells why it cannot be read. It may run in a thread."""
        try:
            return self._prepared(i, prepare)
        except ValueError as error:
            return error

    def _prepared(self, i: int, prepare: Preprocess) -> Picture:
        picture = self.readers[i]()
        pixels = prepare(picture.pixels)
        enlarged = min(pixels.shape[:2]) > min(picture.pixels.shape[:2])
        return replace(picture, pixels=pixels, enlarged=enlarged)

    def _read(self, i: int, prepare: Preprocess) -> np.ndarray:
        return self._taken(i, self._prepared(i, prepare))

    def _taken(self, i: int, picture: Picture) -> np.ndarray:
        """The pixels of one image, uint8 [h, w, c]; what it is adds to `found`."""
        self.found.lossy += picture.lossy
        self.found.other += picture.converted
        self.found.turned += picture.turned
        self.found.enlarged += picture.enlarged
        pixels = picture.pixels
        shape = (pixels.shape[2], *pixels.shape[:2])
        known = self.found.shape or shape
        if shape[1:] != known[1:]:
            name = (self.files or self.names)[i]
            raise ValueError(
                f"{self.path}/{name} is {shape[1]} x {shape[2]}, but the images before it "
                f"are {known[1]} x {known[2]}; images of one set must have one size: give --size "
                "or --preprocess; to score against them: crs-bench reference NAME --data FOLDER "
                "--size SIZE"
            )
        self.found.shape = (max(shape[0], known[0]), *shape[1:])
        return pixels

    def _batch(self, images: list[tuple[str, np.ndarray]]) -> Tensor:
        """Images of one size as a batch; grey ones are repeated where the set has colour."""
        grey = [pixels.shape[2] < self.found.shape[0] for _, pixels in images]
        self.found.grey += sum(grey)
        whole = [np.repeat(pixels, 3, axis=2) if one else pixels
                 for one, (_, pixels) in zip(grey, images, strict=True)]  # fmt: skip
        return torch.from_numpy(np.ascontiguousarray(np.stack(whole).transpose(0, 3, 1, 2)))


def _were(count: int, what: str) -> str:
    return f"{count:,} {what}{'s were' if count != 1 else ' was'}"


def whole(batches: Iterator[Tensor]) -> Tensor:
    """All batches as one; grey batches before the first colour image get three channels."""
    parts = list(batches)
    channels = max(len(part[0]) for part in parts)
    return torch.cat([part.expand(-1, channels, -1, -1) for part in parts])


def _seeds(spans: Sequence[tuple[int, int]], count: int) -> list[int]:
    """The seeds of a manifest, in order. None at all if they are not `count`."""
    fit = sum(max(b - a, 0) for a, b in spans) == count
    return [seed for a, b in spans for seed in range(a, b)] if fit else []


def _numbers(names: Sequence[str]) -> list[str]:
    """The last number in each name, which is a seed. None at all if a name has no number, or two
    have the same."""
    found = [(re.findall("[0-9]+", name.rpartition("/")[2]) or [""])[-1] for name in names]
    plain = [number and str(int(number)) for number in found]
    return plain if all(plain) and len(set(plain)) == len(plain) else []


def natural(text: str) -> list[tuple[int, int, str]]:
    """A key that sorts 2 before 10."""
    parts = [part for part in re.split(r"([0-9]+)", text) if part]
    numbers = [part.lstrip("0") if part[0] in "0123456789" else None for part in parts]
    return [(1, 0, part) if number is None else (0, len(number), number)
            for part, number in zip(parts, numbers, strict=True)]  # fmt: skip


# ---------------------------------------------------------------- opening


def open_images(path: str | Path, split: str | None = None) -> ImageSet:
    """A set of images.

    Arguments:
        path: a folder of image files, with its subfolders and links; a .zip of such files; an .npy;
            an .npz with `arr_0`; or a data set as of `formats.known_set`. Arrays are uint8 NHWC or
            NCHW, c 1 or 3.
        split: "train" (the default) or "test", of a data set that has both.

    Raises:
        ValueError: no images; a broken link, or one that leads to its own folder; two files of one
            name in a zip; a pickle; an array of another kind; a split of images without splits.
    """
    path = Path(path)
    kind = path.suffix.lower()
    if known := known_set(path, split):
        names = [str(i) for i in range(len(known.readers))]
        return ImageSet(path, names, known.readers, title=known.name, licence=known.licence)
    if split:
        raise ValueError(f"--split {split}: {path} has no splits; leave --split out, or give the "
                         "folder of the split")  # fmt: skip
    if kind in (".pkl", ".pickle"):
        raise ValueError(pickle_refusal(path))
    if not path.exists():
        raise ValueError(f"there is no file or folder {path}; check the path")
    if kind in (".npy", ".npz") and path.is_file():
        return _array_set(path)
    files, left_out, manifest = _zipped(path) if path.is_file() else _folder(path)
    if not files:
        others = f" (left out: {', '.join(left_out[:3])})" if left_out else ""
        raise ValueError(f"no images in {path}{others}: give a folder or .zip of PNGs, an .npy, or "
                         "an .npz with arr_0")  # fmt: skip
    names = [PurePosixPath(name).with_suffix("").as_posix() for name in files]
    if len(set(names)) < len(names):  # 0.png and 0.jpg
        names = list(files)
    readers = [partial(_decoded, f"{path}/{name}", read) for name, read in files.items()]
    return ImageSet(path, names, readers, tuple(left_out), manifest, files=list(files))


def pickle_refusal(path: str | Path) -> str:
    """What to do with a pickle, such as EDM2's statistics: reading one may run anyone's code."""
    return (
        f"{path} is a pickle, and reading one may run code; if you trust it, convert it yourself: "
        f"s = pickle.load(open('{path}', 'rb'))['fid']; "
        "np.savez('reference.npz', mu=s['mu'], sigma=s['sigma'])"
    )


def _decoded(name: str, read: Read) -> Picture:
    with readable(name, "an image"):
        raw = read()
    return decode(raw, name)


def _array_set(path: Path) -> ImageSet:
    """The images of an array, mapped and not read."""
    kind, manifest = path.suffix.lower(), None
    with readable(path, f"an {kind}"):
        if kind == ".npy":
            array = np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))
        else:
            held = array_names(path)
            array = mapped(path, "arr_0") if "arr_0" in held else np.zeros(0)
            manifest = read_manifest(path) if "manifest" in held else None
    if kind == ".npz" and "arr_0" not in held:
        names = in_a_line(", ".join(held)) or "nothing"
        raise ValueError(f"{path} holds {names}; it must hold arr_0, uint8 images [n, h, w, c]")
    pixels = layout(array, path)
    seeds = _seeds(manifest["seeds"] if manifest else [], len(pixels)) or range(len(pixels))
    return ImageSet(path, [str(seed) for seed in seeds], rows_of(pixels), (), manifest)


_Opened = tuple[dict[str, Read], list[str], dict[str, Any] | None]


def _folder(path: Path) -> _Opened:
    """Image files under a folder by relative name, files that are left out, the manifest."""
    files: dict[str, Read] = {}
    left_out = []
    for relative in sorted(_walk(path, path, ()), key=lambda one: natural(one.as_posix())):
        name, file = relative.as_posix(), path / relative
        _check_name(path, name)
        if relative == Path(MANIFEST):
            continue
        if _hidden(relative.parts) or relative.suffix.lower() not in _SUFFIXES:
            left_out.append(name)
            continue
        files[name] = partial(_content, file)
    manifest = read_manifest(path) if (path / MANIFEST).is_file() else None
    return files, left_out, manifest


def _content(file: Path) -> bytes:
    if (size := file.stat().st_size) > _LARGEST:
        raise ValueError(f"it has {size:,} bytes")
    return file.read_bytes()


def _walk(top: Path, folder: Path, above: tuple[Path, ...]) -> Iterator[Path]:
    """Files under a folder, relative to `top`, through links.

    Raises:
        ValueError: a broken link, a link to a folder that it lies in, or a pipe or device.
    """
    real = folder.resolve()
    if real in above:
        raise ValueError(f"{folder} is a link to a folder that it lies in; remove the link")
    for entry in sorted(os.scandir(folder), key=lambda one: one.name) if folder.is_dir() else ():
        path = Path(entry.path)
        if entry.is_symlink() and not path.exists():
            raise ValueError(f"{path} is a broken link to {os.readlink(path)}; remove it")
        if entry.is_dir():
            yield from _walk(top, path, (*above, real))
        elif not entry.is_file():  # a pipe would be waited for, a device has no end
            raise ValueError(f"{path} is a pipe or a device, not a file; remove it")
        else:
            yield path.relative_to(top)


def _check_name(path: Path, name: str) -> None:
    """Raise ValueError for a name that would break the line of a message."""
    if any(mark in name for mark in "\n\r"):
        raise ValueError(f"{path} holds {name!r}, a name with a line break; rename it")


def _hidden(parts: Sequence[str]) -> bool:
    """Whether a file, or a folder above it, is hidden or an archiver's own."""
    return any(part.startswith(".") or part.lower() in _JUNK for part in parts)


def _zipped(path: Path) -> _Opened:
    """As `_folder`, of a zip."""
    if path.suffix.lower() != ".zip" and not zipfile.is_zipfile(path):
        raise ValueError(f"{path} is neither a folder nor a .zip, .npy or .npz of images; unpack "
                         "it into a folder of images")  # fmt: skip
    with readable(path, "a .zip of images"):
        archive = zipfile.ZipFile(path)
    members: dict[str, zipfile.ZipInfo] = {}
    left_out: dict[str, zipfile.ZipInfo] = {}
    for info in archive.infolist():
        _check_name(path, info.filename)
        name = PurePosixPath(info.filename.replace("\\", "/"))
        parts = [part for part in name.parts if part not in ("/", ".")]
        if info.filename.endswith("/") or not parts:
            continue
        plain = PurePosixPath(*parts)
        if _hidden(parts) or plain.suffix.lower() not in _SUFFIXES:
            left_out[plain.as_posix()] = info
            continue
        if plain.as_posix() in members:
            raise ValueError(f"{path} holds {plain} twice; make the archive again")
        if info.file_size > _LARGEST:
            raise ValueError(f"{path}: {plain} has {info.file_size:,} bytes, which is no image")
        members[plain.as_posix()] = info
    ordered = sorted(members, key=natural)
    files: dict[str, Read] = {name: partial(archive.read, members[name]) for name in ordered}
    beside = {PurePosixPath(name).with_name(MANIFEST).as_posix() for name in members}
    manifest = None
    if len(beside) == 1 and (mine := beside.pop()) in left_out:
        with readable(f"{path}/{mine}", "a manifest"), archive.open(left_out.pop(mine)) as file:
            manifest = parsed_manifest(file.read(2**24).decode("utf-8-sig"))
    return files, list(left_out), manifest
