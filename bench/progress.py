"""The bar of a run: its time left counts what is left of all cells, and their scoring."""

import threading
from typing import Any

from tqdm import tqdm

_FORMAT = "{desc}{percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}<{left}, {rate_fmt}]"


class Progress(tqdm):
    """Evaluations of all cells of a run.

    Time that is left: of sampling by the mean speed so far, and of scoring by the mean time of the
    cells so far. They are added, although some of the scoring is done beside the sampling.
    """

    def __init__(self, **options: Any):
        self.lock, self.unscored, self.scores, self.scoring = threading.Lock(), 0, 0, 0.0
        how = {"unit": "eval", "unit_scale": True, "disable": None, "bar_format": _FORMAT}
        super().__init__(**how | {"total": 0} | options)

    def expect(self, evaluations: int, cells: int) -> None:
        """What is left now: evaluations to make, and cells to score."""
        with self.lock:
            self.total, self.unscored = self.n + evaluations, cells
        self.refresh()

    def scored(self, seconds: float) -> None:
        """A cell was scored. Any thread may call it."""
        with self.lock:
            self.unscored = max(0, self.unscored - 1)
            self.scores, self.scoring = self.scores + 1, self.scoring + seconds

    def left(self, elapsed: float) -> float | None:
        """Seconds that are left, after so many; None while nothing is known."""
        with self.lock:
            if self.n <= 0:
                return None
            mean = self.scoring / self.scores if self.scores else 0.0
            return max(0, (self.total or 0) - self.n) * elapsed / self.n + self.unscored * mean

    @property
    def format_dict(self) -> dict[str, Any]:
        found = super().format_dict
        left = self.left(found["elapsed"])
        return found | {"left": "?" if left is None else self.format_interval(left)}
