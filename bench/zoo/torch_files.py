"""Read files of weights, whatever their names. No code of such a file runs."""

import pickle
import shlex
import tempfile
import warnings
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench.checkpoints.files import Content, content_of, weights_file
from bench.checkpoints.weights import joined, loaded
from bench.store import first_line, in_a_line

_INSIDE = (".ckpt", ".pt", ".pth", ".bin", ".safetensors")  # what an archive may hold
_DEPTH = 12  # of dicts within dicts
_MOST = 2_000_000  # objects of a file


class _Inert:
    """It replaces a class whose objects lie beside the weights. They are not used."""


# Lightning's trainer saves an object of this class beside the state dict
_INERT: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [
    (_Inert, "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint")
]


@dataclass(frozen=True)
class Contents:
    """All tensors of a file.

    tensors: by their path. Dots join the keys of dicts within dicts: model_ema.out.0.weight.
    dicts: the paths of all dicts and lists of the file. Each ends with a dot; "" is the file.
    others: root-level keys that stand beside tensors and hold something else.
    """

    file: Path
    tensors: dict[str, Tensor]
    dicts: tuple[str, ...] = ("",)
    others: tuple[str, ...] = ()

    def readable(self) -> "Contents":
        """The same. ValueError: there is no tensor, nor an empty state dict."""
        if not self.dicts:
            raise self._other("")
        return self

    def check_plain(self) -> None:
        """Raise ValueError if the root has other things beside its tensors."""
        if self.others:
            raise self._other(f" ({in_a_line(self.others[0])} is no tensor)")

    def _other(self, why: str) -> ValueError:
        return ValueError(f"{self.file} holds no plain state dict{why}; save net.state_dict() with "
                          "torch.save and add that")  # fmt: skip


def read_file(path: Path) -> Contents:
    """Read all tensors of a file, on the CPU. No code of it runs: `torch.load(weights_only=True)`.

    Arguments:
        path: a file of safetensors or of torch, a .zip with one of them, an index of shards, or a
            folder with such an index. Its content decides which, not its suffix.
    Raises:
        ValueError: the file needs code to be read, is damaged, or holds something else.
    """
    file = weights_file(path)
    what = content_of(file)
    if what == "zip":
        return _unpacked(file)
    if what == "index":
        return Contents(file, joined(file, lambda path: read_file(path).tensors))
    if what == "safetensors" or (what == "unknown" and file.suffix.lower() == ".safetensors"):
        return Contents(file, loaded(file))
    return _torch(file, what)


def _torch(file: Path, what: Content) -> Contents:
    if what == "script":
        raise ValueError(
            f"{file} is a program of TorchScript; run "
            "torch.save(torch.jit.load(FILE).state_dict(), NEW), then add NEW"
        )
    try:
        return _flat(file, _loaded(file))
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{file} is refused: reading it would run its code, or it is damaged; delete it and "
            "fetch it again, or, if you trust it, save its tensors as .safetensors in a "
            f"throw-away environment and add that: {_way_out(file)}"
        ) from error
    except Exception as error:  # a damaged pickle raises almost any error
        raise ValueError(f"{file} is damaged or no torch file: {first_line(error)}") from error


def _loaded(file: Path) -> Any:
    """What torch.load gives. It takes a path that ends in .safetensors for another format."""
    mapped = zipfile.is_zipfile(file)  # files of torch before 1.6 cannot be mapped
    quiet = warnings.catch_warnings(action="ignore")  # torch warns, then refuses
    with quiet, torch.serialization.safe_globals(_INERT):
        if file.suffix.lower() != ".safetensors":
            return torch.load(file, map_location="cpu", weights_only=True, mmap=mapped)
        with open(file, "rb") as opened:
            return torch.load(opened, map_location="cpu", weights_only=True)


def _flat(file: Path, found: Any) -> Contents:
    """Lay all tensors of nested dicts and lists side by side."""
    tensors: dict[str, Tensor] = {}
    dicts: list[str] = []
    for path, value in _walk(found, "", _DEPTH, iter(range(_MOST))):
        if not isinstance(value, Tensor):
            dicts.append(path)
        elif tensors.setdefault(path, value) is not value:
            raise ValueError(f"{path} stands there twice")
    root = found if isinstance(found, dict) else {}
    beside = any(isinstance(value, Tensor) for value in root.values())
    others = [str(k) for k, v in root.items() if not isinstance(v, Tensor | dict | list | tuple)]
    empty = isinstance(found, dict) and not found
    return Contents(file, tensors, tuple(dicts if tensors or empty else ()),
                    tuple(others) if beside else ())  # fmt: skip


def _walk(value: Any, path: str, depth: int, left: Iterator[int]) -> Iterator[tuple[str, Any]]:
    """Each tensor with its path, and each dict or list with its path and a dot.

    left: it ends if there are too many objects. A list that holds one list many times, which holds
        one list many times, has more of them than any machine can count.
    """
    if next(left, None) is None:
        raise ValueError(f"it holds more than {_MOST:,} objects")
    if isinstance(value, Tensor):
        yield path.removesuffix("."), value
    elif isinstance(value, dict | list | tuple) and depth:
        yield path, value
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, inner in items:
            yield from _walk(inner, f"{path}{key}.", depth - 1, left)


def _way_out(file: Path) -> str:
    """The command for an environment that has the classes of the file. The user runs it.

    It keeps all tensors, by their paths, so that `add` chooses among them and says what it took.
    """
    code = (
        "import sys, torch; from safetensors.torch import save_file; "
        "f = lambda w, p: [t for n, x in w.items() for t in f(x, p + str(n) + '.')] "
        "if isinstance(w, dict) else f(dict(enumerate(w)), p) if isinstance(w, (list, tuple)) "
        "else [(p[:-1], w.detach().clone().contiguous())] if torch.is_tensor(w) "
        "else f(w.state_dict(), p) if isinstance(w, torch.nn.Module) else []; "
        "save_file(dict(f(torch.load(sys.argv[1], map_location='cpu', weights_only=False), '')), "
        "sys.argv[2])"
    )
    paths = shlex.join([str(file), str(file.with_suffix(".safetensors"))])
    return f'python -c "{code}" {paths}'


def _unpacked(file: Path) -> Contents:
    """Read the one file of weights in an archive. It is unpacked beside the archive."""
    try:
        with (
            zipfile.ZipFile(file) as archive,
            tempfile.TemporaryDirectory(prefix=f".{file.stem}.", dir=file.parent) as scratch,
        ):
            names = [n for n in archive.namelist()
                     if n.lower().endswith(_INSIDE) and not n.startswith("__MACOSX/")]  # fmt: skip
            if len(names) != 1:
                raise ValueError(f"{file} holds {len(names)} files of weights; unpack it and add "
                                 "one of them")  # fmt: skip
            inside = _extracted(archive, names[0], scratch)
            try:
                if content_of(inside) == "zip":
                    raise ValueError(f"{inside} is an archive of other files; unpack it too")
                return replace(read_file(inside), file=file)
            except ValueError as error:
                why = str(error).replace(scratch, str(file.parent))
                why = in_a_line(why) if "\n" in why else why  # it may hold a whole command
                raise ValueError(f"{file} unpacked: {why}") from error
    except OSError as error:
        raise ValueError(f"{file} cannot be unpacked in {file.parent}: {error.strerror}; unpack it "
                         "elsewhere and add the file in it") from error  # fmt: skip
    except (zipfile.BadZipFile, RuntimeError, NotImplementedError, EOFError) as error:
        raise ValueError(
            f"{file} is damaged, or cannot be unpacked: {first_line(error)}"
        ) from error


def _extracted(archive: zipfile.ZipFile, name: str, folder: str) -> Path:
    """Unpack one file. RuntimeError: of a damaged zip zipfile raises nearly anything."""
    try:
        return Path(archive.extract(name, folder))
    except Exception as error:
        if isinstance(error, OSError) and error.errno:  # a disk that cannot be written
            raise
        raise RuntimeError(first_line(error)) from error
