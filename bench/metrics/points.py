"""Feature vectors for fast distances whose error is bounded, and exact distances of pairs."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

_PAIRS = 2**22  # distances held at once, on a CPU
_PAIRS_ON_GPU = 2**26


def kinds(device: torch.device) -> tuple[torch.dtype, ...]:
    """Arithmetics of quick distances, to be tried in turn.

    Float64 on a GPU, where it is fast and TF32 cannot reach it. On a CPU bfloat16 where that is in
    its hardware: a third of the time. Float32 where no product of it may be rougher than it says.
    """
    if device.type == "cuda":
        return (torch.float64,)
    able: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    half = (torch.bfloat16,) if able.get("avx512_bf16") or able.get("amx_bf16") else ()
    exact = torch.get_float32_matmul_precision() == "highest"
    return (*half, torch.float32 if exact else torch.float64)


@dataclass(frozen=True)
class Points:
    """Feature vectors twice: as given, and shifted and rounded for fast distances."""

    exact: Tensor  # float [n, dim], as given
    quick: Tensor  # [n, dim]
    square: Tensor  # [n], squared norms before rounding; float32, or float64 with `quick`
    unit: float  # bound on the error of a squared distance over |a|^2 + |b|^2

    @classmethod
    def of(cls, features: Tensor, centre: Tensor, kind: torch.dtype | None = None) -> "Points":
        """|a|^2 + |b|^2 - 2 a.b with unit roundoff u: the product is off by at most dim u |a||b|,
        and shift and sums by a few u (|a|^2 + |b|^2) (Higham 2002, sec. 3.1). Rounding moves each
        vector by r |a| at most, r being measured, and the product by (2 + r) r |a||b|; it leaves
        rounded to bfloat16 itself.
        """
        kind = kind or kinds(features.device)[0]
        wide = torch.promote_types(kind, torch.float32)
        quick = torch.empty(features.shape, dtype=kind, device=features.device)
        square = torch.empty(len(quick), dtype=wide, device=features.device)
        moved = torch.zeros((), dtype=torch.float64, device=features.device)
        for part, into, norm in zip(features.split(1024), quick.split(1024), square.split(1024),
                                    strict=True):  # fmt: skip
            shifted = part.double() - centre  # smaller norms, smaller rounding of the square
            norm.copy_(squares := shifted.square().sum(1))
            off = (shifted - into.copy_(shifted)).square().sum(1)
            moved = moved.maximum((off / squares.clamp(min=1e-300)).amax())
        unit = (features.shape[1] + 32) * torch.finfo(wide).eps / 2
        rounding = torch.finfo(kind).eps / 2 if kind != wide else 0.0
        return cls(features, quick, square, unit + 2.1 * float(moved) ** 0.5 + 1.1 * rounding)

    def minus_twice(self, rows: slice) -> Tensor:
        """-2 a of some rows."""
        return self.quick[rows] * -2

    def tiles(self) -> list[slice]:
        """Rows in parts that make square tiles of distances."""
        side = math.isqrt(_PAIRS_ON_GPU if self.quick.is_cuda else _PAIRS)
        return [slice(at, at + side) for at in range(0, len(self.quick), side)]

    def blocks(self, other: "Points") -> list[Tensor]:
        """Row numbers in blocks whose distances to all of `other` fit in memory."""
        size = min(512, max(1, _PAIRS // len(other.quick)))
        return list(torch.arange(len(self.quick), device=self.quick.device).split(size))


def bounds_of(rows: Tensor, a: Points, b: Points) -> tuple[Tensor, Tensor]:
    """Squared distances from a's rows to all of b, and a bound on their error: [rows, n] each."""
    size = a.square[rows, None] + b.square
    return size - 2 * (a.quick[rows] @ b.quick.T).to(size.dtype), max(a.unit, b.unit) * size


def distances(a: Tensor, b: Tensor) -> Tensor:
    """Squared distances along the last dimension, by direct subtraction in float64."""
    apart = a.double() - b.double()
    return torch.linalg.vecdot(apart, apart)


def measured(i: Tensor, j: Tensor, a: Points, b: Points) -> Tensor:
    """Squared distances of the pairs (a_i, b_j), float64 [pairs]."""
    size = max(1, (2**24 if i.is_cuda else 2**19) // a.exact.shape[1])  # stays in a CPU's caches
    parts = zip(i.split(size), j.split(size), strict=True)
    found = [distances(a.exact[rows], b.exact[cols]) for rows, cols in parts]
    return torch.cat(found) if found else torch.zeros(0, dtype=torch.float64, device=i.device)


def centre_of(features: Tensor) -> Tensor:
    """Mean, float64 [dim], without a copy of all features in float64."""
    return features.sum(0, dtype=torch.float64) / len(features)
