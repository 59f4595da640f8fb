"""Family oracle: the data have a known law, a mixture of Gaussians, so that E[x0|x] is exact.

On such a model the error of a sampler is its discretisation error alone, and classifier-free
guidance has a closed form. The card holds the whole law. All computation is in float64.
"""

import math

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn

from bench.checkpoints.card import Card
from bench.checkpoints.family import Family, Output, Shape
from bench.process import Process


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Component(_Strict):
    """One Gaussian. Its covariance is diagonal in the orthonormal DCT-II of the image.

    mean: amplitudes of cosines, [c or 1][rows][columns]. One channel stands for all. mean(y, x) =
    sum a[i][j] cos(pi i (y + 1/2) / h) cos(pi j (x + 1/2) / w).
    std: the standard deviation of a pixel, as a root mean square over the pixels.
    exponent: the variance of mode (i, j) falls as (1 + i^2 + j^2)^(-exponent / 2). 0 is white.
    """

    weight: float = Field(1.0, gt=0)
    mean: tuple[tuple[tuple[float, ...], ...], ...] = (((0.0,),),)
    std: float = Field(gt=0)
    exponent: float = Field(0.0, ge=0, le=20)


class Law(_Strict):
    """The network of an oracle's card: the shape c, h, w of a state, and a mixture."""

    shape: tuple[int, int, int]
    components: tuple[Component, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _fits(self) -> "Law":
        if min(self.shape) < 1:
            raise ValueError(f"shape {list(self.shape)} must be positive")
        total = math.fsum(one.weight for one in self.components)
        if abs(total - 1) > 1e-9:
            raise ValueError(f"the weights of the components add up to {total:.9g}, not to 1")
        for k, one in enumerate(self.components):
            _check_mean(f"mean of component {k}", one.mean, self.shape)
        return self


def _check_mean(
    what: str, mean: tuple[tuple[tuple[float, ...], ...], ...], shape: tuple[int, int, int]
) -> None:
    """Raise ValueError unless the amplitudes are a table of modes of such a state."""
    rows, columns = {len(channel) for channel in mean}, {len(row) for one in mean for row in one}
    if len(rows) != 1 or len(columns) != 1 or 0 in rows | columns:
        raise ValueError(f"{what} must be a table [channels][rows][columns]")
    size = len(mean), *rows, *columns
    c, h, w = shape
    if size[0] not in (1, c) or size[1] > h or size[2] > w:
        raise ValueError(f"{what} is {list(size)}, which does not fit the shape {list(shape)}")


def law(card: Card) -> Law:
    """The law that a card of family oracle describes. ValueError: it describes none."""
    found = card.arguments(Law)
    for fits, says in [
        (card.prediction == "x0", "prediction must be x0"),
        (not card.clip, "clip must be false: E[x0|x] is already exact"),
        (not card.learned_variance, "learned_variance must be false"),
        (card.weights_sha256 == "", "weights_sha256 must be empty: an oracle has no weights"),
        (card.classes in (0, len(found.components)),
         f"classes must be 0, or {len(found.components)} as there are components"),
    ]:  # fmt: skip
        if not fits:
            raise ValueError(f"an oracle's {says}")
    return found


def _cosines(n: int) -> Tensor:
    """cos(pi i (x + 1/2) / n): float64 [n modes, n pixels]."""
    at = torch.arange(n, dtype=torch.float64)
    return torch.cos(math.pi / n * at[:, None] * (at + 0.5))


class Oracle(nn.Module):
    """The exact denoiser: x = x0 + sigma eps [n, c, h, w] and sigma [n] -> E[x0|x], float64.

    With class_labels [n] the result is E[x0|x, component]. The number after the last component
    stands for the whole mixture, as does no label.
    With z = DCT x, S_k = spectrum_k + sigma^2 and r_k the posterior share of component k,
    E[z0|z] = sum_k r_k (mean_k + spectrum_k / S_k (z - mean_k)).
    """

    rows: Tensor  # orthonormal DCT-II, [h, h]
    columns: Tensor  # [w, w]
    means: Tensor  # of the DCT, [k, c, h, w]
    spectra: Tensor  # variance of each mode, [k, h, w]
    shares: Tensor  # log prior share of the components under each class and under none, [k + 1, k]

    def __init__(self, law: Law) -> None:
        super().__init__()
        c, h, w = self.shape = law.shape
        norms = [torch.full((n, 1), (2 / n) ** 0.5, dtype=torch.float64) for n in (h, w)]
        for norm in norms:
            norm[0] *= 0.5**0.5
        rows, columns = (norm * _cosines(len(norm)) for norm in norms)
        means = torch.zeros(len(law.components), c, h, w, dtype=torch.float64)
        for mean, one in zip(means, law.components, strict=True):
            amplitudes = torch.tensor(one.mean, dtype=torch.float64)
            mean[:, : amplitudes.shape[1], : amplitudes.shape[2]] = amplitudes
        i, j = torch.arange(h, dtype=torch.float64), torch.arange(w, dtype=torch.float64)
        square = 1 + i[:, None] ** 2 + j**2
        falls = torch.stack([square ** (-one.exponent / 2) for one in law.components])
        variance = torch.tensor([one.std**2 for one in law.components], dtype=torch.float64)
        prior = torch.tensor([one.weight for one in law.components], dtype=torch.float64)
        constants = {
            "rows": rows, "columns": columns, "means": means / (norms[0] * norms[1].T),
            "spectra": falls * (variance / falls.mean((1, 2)))[:, None, None],
            "shares": torch.cat([torch.eye(len(prior), dtype=torch.float64), prior[None]]).log(),
        }  # fmt: skip
        for name, value in constants.items():
            self.register_buffer(name, value, persistent=False)  # they come from the card

    def forward(self, x: Tensor, sigma: Tensor, class_labels: Tensor | None = None) -> Output:
        """Return `Output` of E[x0|x], as the class says."""
        z = self.rows @ x.double() @ self.columns.T
        noise = sigma.double()[:, None, None, None] ** 2
        prior = self.shares[-1:] if class_labels is None else self.shares[class_labels]
        share = (prior + self._log_likelihoods(z, noise)).softmax(1)
        parts = zip(share.T, self.means, self.spectra, strict=True)
        found = torch.zeros_like(z)
        for r, mean, spectrum in parts:  # one at a time, to save memory
            found += r[:, None, None, None] * (mean + spectrum / (spectrum + noise) * (z - mean))
        return Output(self.rows.T @ found @ self.columns)

    def _log_likelihoods(self, z: Tensor, noise: Tensor) -> Tensor:
        """Log likelihood of each state under each component, up to a common constant: [n, k]."""
        found = []
        for mean, spectrum in zip(self.means, self.spectra, strict=True):
            total = spectrum + noise  # [n, 1, h, w]
            away = (z - mean).square() / total + total.log()
            found.append(-0.5 * away.sum((1, 2, 3)))
        return torch.stack(found, 1)


class _Oracle(Family):
    """An oracle takes x and sigma themselves. A float32 timestep would round sigma."""

    has_weights = False

    def network(self, card: Card) -> Oracle:
        return Oracle(law(card))

    def shape(self, card: Card) -> Shape:
        return law(card).shape

    def cast(self, net: nn.Module, dtype: torch.dtype) -> nn.Module:
        return net  # float64, whatever the dtype

    def inputs(
        self, x: Tensor, sigma: float, process: Process, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor]:
        return x, torch.full((len(x),), sigma, dtype=torch.float64, device=x.device)


FAMILY = _Oracle()
