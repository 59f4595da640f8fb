"""torch, imported when it is first used: `from bench.lazy import Tensor, torch`.

The import of torch takes seconds. With these two names a module may use torch in its functions and
`Tensor` in its annotations, and `crs-bench list` can import the module without torch. Where the
types of annotations are others, such as torch.dtype, the module says `from __future__ import
annotations`. A module that defines networks, or code for torch.compile, imports torch itself.
"""

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:

    class _Torch(ModuleType):
        """torch, whose names are looked up when they are asked for."""

        def __getattr__(self, name: str) -> Any:
            return getattr(importlib.import_module("torch"), name)

        def __reduce__(self) -> tuple[Any, ...]:  # a local function that is sent to Ray names it
            return importlib.import_module, ("torch",)

    class _IsTensor(type):
        """isinstance and issubclass of torch's Tensor. Before torch is imported there is none."""

        def __instancecheck__(cls, one: Any) -> bool:
            return "torch" in sys.modules and isinstance(one, torch.Tensor)

        def __subclasscheck__(cls, kind: type) -> bool:
            return "torch" in sys.modules and issubclass(kind, torch.Tensor)

    class Tensor(metaclass=_IsTensor):
        """Stands for `torch.Tensor` in annotations and in isinstance."""

        __module__ = "torch"

    torch = _Torch("torch")

__all__ = ["Tensor", "torch"]
