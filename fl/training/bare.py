"""Tensors of a CPU that have a shape and no numbers, and the mode in which nothing but such tensors is made.

They do what torch's `FakeTensorMode` does for shapes that are known, without its compiler.
"""

from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_iter, tree_map

from fl.common.eager import EagerMode

_META = torch.device("meta")


class Bare(Tensor):
    """A tensor that says it lies on the CPU; `behind`, of the same shape and strides, lies on `meta`."""

    behind: Tensor

    @staticmethod
    def __new__(cls, behind: Tensor) -> "Bare":
        """Around a tensor on `meta`."""
        bare: Bare = Tensor._make_wrapper_subclass(
            cls,
            behind.size(),
            strides=behind.stride(),
            storage_offset=behind.storage_offset(),
            dtype=behind.dtype,
            device=torch.device("cpu"),
        )
        bare.behind = behind
        return bare

    def untyped_storage(self) -> torch.UntypedStorage:
        """The memory that there would be, which views share."""
        return self.behind.untyped_storage()

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        """As torch calls it, for operators on such tensors outside of the mode."""
        return _on_shapes(func, args, kwargs or {})


class BareMode(EagerMode):
    """In this block whatever makes a tensor makes a bare one."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """As torch calls it, for every operator."""
        return _on_shapes(func, args, kwargs or {})


def _on_shapes(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Run an operator on what lies behind its arguments; as it is, where all tensors have numbers that do not change."""
    tensors = [value for value in tree_iter((args, kwargs)) if isinstance(value, Tensor)]
    if tensors and not func._schema.is_mutable and not any(isinstance(tensor, Bare) for tensor in tensors):
        return func(*args, **kwargs)
    if not func._schema.returns:
        return None  # it changes numbers, of which there are none
    known: dict[int, Tensor] = {}

    def inner(value: Any) -> Any:
        if isinstance(value, Tensor):
            found = value.behind if isinstance(value, Bare) else value.to(_META)
            known[id(found)] = value
            return found
        return _META if isinstance(value, torch.device) else value

    def outer(value: Any) -> Any:
        if isinstance(value, Tensor):
            return known[id(value)] if id(value) in known else Bare(value)
        return value

    args, kwargs = tree_map(inner, (args, kwargs))
    if any(argument.name == "device" for argument in func._schema.arguments):
        kwargs.setdefault("device", _META)
    return tree_map(outer, func(*args, **kwargs))
