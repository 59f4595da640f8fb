"""Banks, which are features of single images: their statistics, and the check of a pair of them."""

from dataclasses import dataclass, field

from bench.lazy import Tensor, torch


@dataclass(frozen=True, eq=False)
class Rows:
    """Statistics of a set whose features are all in its bank, such as a part of another bank."""

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
        """Unbiased covariance, float64 [dim, dim].

        Raises:
            ValueError: fewer than 2 features.
        """
        if self.n < 2:
            raise ValueError(f"a covariance needs at least 2 features, not {self.n}; add images")
        centred = self.bank.double() - self.mean
        return centred.T @ centred / (self.n - 1)


def check_banks(fake: Tensor, real: Tensor) -> None:
    """Check that both banks are finite floats [n, dim] and have the same dim.

    Raises:
        ValueError: they are not.
    """
    for name, bank in (("fake", fake), ("real", real)):
        if bank.ndim != 2 or not bank.is_floating_point():
            raise ValueError(
                f"{name} features must be float [n, dim], not {bank.dtype} {list(bank.shape)}"
            )
        if not torch.isfinite(bank).all():
            raise ValueError(
                f"{name} features have NaN or infinite entries; check the images that they are of"
            )
    if fake.shape[1] != real.shape[1]:
        raise ValueError(
            f"fake features have {fake.shape[1]} dimensions and real features {real.shape[1]}; "
            "use the same extractor for both"
        )
