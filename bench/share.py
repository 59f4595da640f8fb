"""Several processes on one results folder: who makes which shard, and who waits for whom."""

import math
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from tqdm import tqdm

Item = TypeVar("Item")


@dataclass(frozen=True)
class Share:
    """The part of one process: every `total`-th shard, from the `index`-th, counted from 1.

    Processes meet in the results folder alone, so that they may run on several machines.
    """

    index: int = 1
    total: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.index <= self.total:
            raise ValueError(f"share {self.index}/{self.total}: write i/n with 1 <= i <= n, as 1/2 "
                             "and 2/2")  # fmt: skip

    def of(self, items: Sequence[Item]) -> Sequence[Item]:
        """The items that are this process's work."""
        return items[self.index - 1 :: self.total]

    def wait(self, done: Callable[[], bool], folder: Path) -> None:
        """Wait until the other processes have done their part; say so once a minute."""
        last = -math.inf
        while not done():
            if self.total == 1:
                raise RuntimeError(f"shards in {folder} vanished during the run; start it again")
            if time.monotonic() - last > 60:
                last = time.monotonic()
                tqdm.write(f"waiting for the other processes on {folder}", file=sys.stderr)
            time.sleep(0.5)
