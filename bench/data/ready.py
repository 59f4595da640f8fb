"""Real images in memory, of one size, as training takes them."""

from dataclasses import dataclass
from typing import Protocol

from bench.data.preprocess import AsIs, Preprocess
from bench.data.sets import ImageSet
from bench.lazy import Tensor


class Dataset(Protocol):
    """A data set to train on. `Ready` and `FashionMNIST` are such."""

    @property
    def name(self) -> str:
        """The name in the card, with the split."""
        ...

    @property
    def licence(self) -> str:
        """The licence of the images."""
        ...

    @property
    def preparation(self) -> str:
        """How the images were cropped and resized: `Preprocess.name`."""
        ...

    def images(self) -> Tensor:
        """All images, uint8 [n, c, h, w]."""
        ...


@dataclass(frozen=True, eq=False)
class Ready:
    """A data set that was read.

    pixels: uint8 [n, c, h, w].
    """

    name: str
    licence: str
    preparation: str
    pixels: Tensor

    @classmethod
    def of(cls, found: ImageSet, prepare: Preprocess | None = None) -> "Ready":
        """All images of a set. ValueError: as of `ImageSet.everything`."""
        prepare = prepare or AsIs()
        return cls(found.name, found.licence, prepare.name, found.everything(prepare))

    def images(self) -> Tensor:
        """All images, uint8 [n, c, h, w]."""
        return self.pixels
