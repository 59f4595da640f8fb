"""Weights that other libraries publish: found on this machine and verified, never downloaded."""

import functools
import re
from dataclasses import dataclass
from pathlib import Path

import torch

from bench.store import file_digest


@dataclass(frozen=True)
class Published:
    """A published weights file: who needs it, its name, its address, folders beside torch.hub's."""

    extractor: str
    file: str
    url: str
    folders: tuple[str, ...] = ()

    @property
    def cached(self) -> Path:
        """Where the file belongs: in torch.hub's cache."""
        return Path(torch.hub.get_dir()) / "checkpoints" / self.file

    def find(self, given: str) -> Path:
        """`given`, or the published file in torch.hub's cache; a ValueError says where it goes."""
        cache = self.cached.parent
        if given:
            if not Path(given).is_file():
                raise ValueError(f"{self.extractor}: there is no weights file {given}; its path?")
            return Path(given)
        for folder in (cache, *map(Path, self.folders)):
            if (folder / self.file).is_file():
                return folder / self.file
        raise ValueError(
            f"no weights for {self.extractor}: crs-bench fetch {self.extractor}, or download "
            f"{self.url} to {self.cached}, or give the file as weights='...'"
        )

    def digest(self, given: str) -> str:
        """SHA-256 of the file, 64 hex digits; of which a name like `...-6726825d.pth` tells the
        first eight, as torch.hub writes them."""
        path = self.find(given)
        status = path.stat()
        digest = _digest(path, status.st_mtime_ns, status.st_size)
        told = re.search(r"-([0-9a-f]{8})\.\w+$", path.name)
        if told and not digest.startswith(told[1]):
            raise ValueError(
                f"{path} is not the file that its name says (SHA-256 {digest[:8]}, not {told[1]}): "
                "cut short or changed; delete it and download it again"
            )
        return digest


@functools.lru_cache(maxsize=16)
def _digest(path: Path, changed: int, size: int) -> str:
    return file_digest(path)


def check_tensors(path: Path) -> None:
    """ValueError unless a file is tensors alone: reading it then runs no code of others."""
    try:
        torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # unpickling what is no pickle fails in any way at all
        raise ValueError(
            f"{path} is no plain state dict ({type(error).__name__}), and nothing else is "
            "read, for it may run code; delete it and download it again, or save one with "
            "torch.save"
        ) from None
