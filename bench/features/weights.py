"""Weights that other libraries publish. They are found on this machine and verified."""

import functools
import os
import re
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar, Self

from bench.lazy import torch
from bench.store import file_digest
from bench.types import Extractor


def _hub() -> Path:
    """torch.hub's cache: what torch says or, before it is imported, what it would say."""
    if "torch" in sys.modules:
        return Path(torch.hub.get_dir())
    cache = os.environ.get("XDG_CACHE_HOME", "~/.cache")
    return Path(os.environ.get("TORCH_HOME", f"{cache}/torch")).expanduser() / "hub"


@dataclass(frozen=True)
class Published:
    """A weights file that somebody publishes.

    extractor: name of the extractor that needs it.
    file: its file name.
    url: where it can be downloaded.
    folders: folders that are searched after torch.hub's cache.
    """

    extractor: str
    file: str
    url: str
    folders: tuple[str, ...] = ()

    @property
    def cached(self) -> Path:
        """The path of the file in torch.hub's cache, where downloads are kept."""
        return _hub() / "checkpoints" / self.file

    def find(self, given: str) -> Path:
        """The file `given`, or the published file if `given` is "".

        Raises:
            ValueError: there is no such file.
        """
        if given:
            if not Path(given).is_file():
                raise ValueError(
                    f"{self.extractor}: there is no weights file {given}; check the path"
                )
            return Path(given)
        for folder in (self.cached.parent, *map(Path, self.folders)):
            if (folder / self.file).is_file():
                return folder / self.file
        raise ValueError(
            f"no weights for {self.extractor}: run crs-bench fetch {self.extractor}, or download "
            f"{self.url} to {self.cached}, or give the file as weights='...'"
        )

    def digest(self, given: str) -> str:
        """SHA-256 of the file that `find` returns, 64 hex digits.

        torch.hub puts the first eight digits into some file names, `vgg16-397923af.pth` for
        example. They are compared with the digest.

        Raises:
            ValueError: there is no such file, or its name has other digits.
        """
        path = self.find(given)
        status = path.stat()
        digest = _digest(path, status.st_mtime_ns, status.st_size)
        named = re.search(r"-([0-9a-f]{8})\.\w+$", path.name)
        if named and not digest.startswith(named[1]):
            raise ValueError(
                f"{path} is damaged or was changed: its SHA-256 begins with {digest[:8]}, but its "
                f"name says {named[1]}; delete it and download it again"
            )
        return digest


@dataclass(frozen=True)
class PublishedExtractor(Extractor):
    """An extractor whose network is read from a published weights file.

    weights: path of the file; "" searches for the published one (`Published.find`).
    device: torch device of the network.
    """

    weights: str = ""
    device: str = field(default="cpu", compare=False)
    published: ClassVar[Published]

    def __post_init__(self) -> None:
        _ = self.digest  # missing weights are reported now, not after sampling

    @property
    def name(self) -> str:
        return self.published.extractor

    @property
    def digest(self) -> str:
        return self.published.digest(self.weights)

    def on(self, device: str) -> Self:
        return replace(self, device=device)

    @property
    def files(self) -> dict[str, Path]:
        return {"weights": self.published.find(self.weights)}

    def reading(self, files: dict[str, str]) -> Self:
        return replace(self, weights=files["weights"])


@functools.lru_cache(maxsize=16)
def _digest(path: Path, changed: int, size: int) -> str:
    return file_digest(path)


def check_tensors(path: Path) -> None:
    """Check that a file contains only tensors, so that loading it cannot run code.

    Raises:
        ValueError: it contains something else, or is damaged.
    """
    try:
        torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a file that is no pickle can raise any exception
        raise ValueError(
            f"{path} is not a plain state dict ({type(error).__name__}); other files are refused, "
            "because they can run code; delete it and download it again, or write one with "
            "torch.save"
        ) from None
