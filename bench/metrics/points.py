"""Feature vectors for fast distances with a bound on their error, and exact distances."""

from __future__ import annotations

import math
from dataclasses import dataclass

from bench.lazy import Tensor, torch

_PAIRS = 2**22  # distances in memory at once, on a CPU
_PAIRS_ON_GPU = 2**26


def kinds(device: torch.device) -> tuple[torch.dtype, ...]:
    """The dtypes for fast distances, in the order in which they are tried.

    On a GPU it is float64, which is fast there and which TF32 does not affect. A CPU that supports
    bfloat16 in hardware needs a third of the time with it. Float32 is used unless torch is allowed
    to compute its products with less precision.
    """
    if device.type == "cuda":
        return (torch.float64,)
    # not every supported version of torch can tell
    able = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    half = (torch.bfloat16,) if able.get("avx512_bf16") or able.get("amx_bf16") else ()
    exact = torch.get_float32_matmul_precision() == "highest"
    return (*half, torch.float32 if exact else torch.float64)


@dataclass(frozen=True)
class Points:
    """Feature vectors, and a shifted and rounded copy of them for fast distances.

    exact: the vectors, float [n, dim].
    quick: the copy, [n, dim].
    square: squared norms of the shifted vectors before rounding, [n]; float64 if `quick` is,
        otherwise float32.
    unit: the error of a fast squared distance is at most unit (|a|^2 + |b|^2).
    """

    exact: Tensor
    quick: Tensor
    square: Tensor
    unit: float

    @classmethod
    def of(cls, features: Tensor, centre: Tensor, kind: torch.dtype | None = None) -> Points:
        """Shift, round, and bound the error of |a|^2 + |b|^2 - 2 a.b.

        Let u be the unit roundoff of the sums. The error of the product is at most dim u |a||b|.
        The errors of the shift and of the sums are a few u (|a|^2 + |b|^2) (Higham 2002, sec. 3.1).
        Rounding moves a vector by at most r |a|, where r is measured, and so a product by at most
        (2 + r) r |a||b|. A bfloat16 product has also the rounding error of its result.

        Arguments:
            features: float [n, dim].
            centre: is subtracted from all vectors, float64 [dim].
            kind: dtype of the copy; None: the first of `kinds`.
        """
        kind = kind or kinds(features.device)[0]
        wide = torch.promote_types(kind, torch.float32)
        quick = torch.empty(features.shape, dtype=kind, device=features.device)
        square = torch.empty(len(quick), dtype=wide, device=features.device)
        moved = torch.zeros((), dtype=torch.float64, device=features.device)
        for part, into, norm in zip(features.split(1024), quick.split(1024), square.split(1024),
                                    strict=True):  # fmt: skip
            shifted = part.double() - centre  # a smaller norm has a smaller error
            norm.copy_(squares := shifted.square().sum(1))
            off = (shifted - into.copy_(shifted)).square().sum(1)
            moved = moved.maximum((off / squares.clamp(min=1e-300)).amax())
        unit = (features.shape[1] + 32) * torch.finfo(wide).eps / 2
        rounding = torch.finfo(kind).eps / 2 if kind != wide else 0.0
        return cls(features, quick, square, unit + 2.1 * float(moved) ** 0.5 + 1.1 * rounding)

    def minus_twice(self, rows: slice) -> Tensor:
        """-2 times some rows of `quick`."""
        return self.quick[rows] * -2

    def tiles(self) -> list[slice]:
        """Parts of the rows, such that the distances between two parts fit in memory."""
        side = math.isqrt(_PAIRS_ON_GPU if self.quick.is_cuda else _PAIRS)
        return [slice(at, at + side) for at in range(0, len(self.quick), side)]

    def blocks(self, other: Points) -> list[Tensor]:
        """Parts of the row numbers, such that the distances to all of `other` fit in memory."""
        size = min(512, max(1, _PAIRS // len(other.quick)))
        return list(torch.arange(len(self.quick), device=self.quick.device).split(size))


def bounds_of(rows: Tensor, a: Points, b: Points) -> tuple[Tensor, Tensor]:
    """Fast squared distances from rows of a to all of b, and bounds on their error: [rows, n]."""
    size = a.square[rows, None] + b.square
    return size - 2 * (a.quick[rows] @ b.quick.T).to(size.dtype), max(a.unit, b.unit) * size


def distances(a: Tensor, b: Tensor) -> Tensor:
    """Exact squared distances along the last dimension: subtraction in float64."""
    apart = a.double() - b.double()
    return torch.linalg.vecdot(apart, apart)


def measured(i: Tensor, j: Tensor, a: Points, b: Points) -> Tensor:
    """Exact squared distances of the pairs (a_i, b_j), float64 [pairs]."""
    size = max(
        1, (2**24 if i.is_cuda else 2**19) // a.exact.shape[1]
    )  # fits in the caches of a CPU
    parts = zip(i.split(size), j.split(size), strict=True)
    found = [distances(a.exact[rows], b.exact[cols]) for rows, cols in parts]
    return torch.cat(found) if found else torch.zeros(0, dtype=torch.float64, device=i.device)


def centre_of(features: Tensor) -> Tensor:
    """The mean, float64 [dim]. It makes no float64 copy of the features."""
    return features.sum(0, dtype=torch.float64) / len(features)
