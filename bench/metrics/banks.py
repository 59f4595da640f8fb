"""Banks of features: what every metric that reads them asks of them, and parts of them."""

from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Rows:
    """Statistics of features that are all kept: some rows of a bank, say."""

    bank: Tensor = field(repr=False)  # float [n, dim]

    @property
    def n(self) -> int:
        """Number of features."""
        return len(self.bank)

    @property
    def mean(self) -> Tensor:
        """Mean vector, float64 [dim]."""
        return self.bank.double().mean(0)

    @property
    def cov(self) -> Tensor:
        """Unbiased covariance, float64 [dim, dim]."""
        if self.n < 2:
            raise ValueError(f"a covariance needs at least 2 features, not {self.n}; add images")
        centred = self.bank.double() - self.mean
        return centred.T @ centred / (self.n - 1)


def check_banks(fake: Tensor, real: Tensor) -> None:
    """ValueError unless both banks are finite floats [n, dim] of one dim."""
    for name, bank in (("fake", fake), ("real", real)):
        if bank.ndim != 2 or not bank.is_floating_point():
            raise ValueError(
                f"{name} features must be float [n, dim], not {bank.dtype} {list(bank.shape)}"
            )
        if not torch.isfinite(bank).all():
            raise ValueError(f"{name} features have NaN or infinite entries; look at the images")
    if fake.shape[1] != real.shape[1]:
        raise ValueError(
            f"fake features have {fake.shape[1]} dimensions and real {real.shape[1]}; "
            "use one extractor for both"
        )
