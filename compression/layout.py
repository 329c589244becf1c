"""Where each named tensor lies in one flat vector."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, compress
from math import prod

import torch
from torch import Tensor


@dataclass(frozen=True)
class Layout:
    """Names and shapes of tensors laid end to end in a flat vector of `total` coordinates."""

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, named: Iterable[tuple[str, Tensor]]) -> "Layout":
        """The layout of `named` tensors, in their order."""
        pairs = list(named)
        return cls(tuple(name for name, _ in pairs), tuple(tuple(tensor.shape) for _, tensor in pairs))

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        """Number of coordinates of each tensor."""
        return tuple(prod(shape) for shape in self.shapes)

    @cached_property
    def offsets(self) -> tuple[int, ...]:
        """First coordinate of each tensor, and the total at the end."""
        return tuple(accumulate(self.sizes, initial=0))

    @property
    def total(self) -> int:
        """Number of coordinates in all."""
        return self.offsets[-1]

    def part(self, wanted: Sequence[bool]) -> "Layout":
        """The layout of the tensors that are `wanted` alone."""
        return Layout(tuple(compress(self.names, wanted)), tuple(compress(self.shapes, wanted)))

    def views(self, flat: Tensor) -> list[Tensor]:
        """Views of `flat` [total] in the tensors' shapes."""
        parts = flat.split(self.sizes) if self.sizes else ()
        return [part.view(shape) for part, shape in zip(parts, self.shapes, strict=True)]

    def gather(self, tensors: Iterable[Tensor], out: Tensor) -> Tensor:
        """Copy `tensors` into the flat vector `out` [total], whatever their memory format; returns `out`."""
        with torch.no_grad():
            if self.sizes:
                torch._foreach_copy_(self.views(out), list(tensors))
        return out

    def scatter(self, flat: Tensor, tensors: Iterable[Tensor]) -> None:
        """Copy the flat vector [total] into `tensors`."""
        with torch.no_grad():
            if self.sizes:
                torch._foreach_copy_(list(tensors), self.views(flat))


def as_real(tensor: Tensor) -> Tensor:
    """The tensor, or real and imaginary parts [..., 2] of a complex one, which is how DDP lays it in a bucket."""
    return torch.view_as_real(tensor) if tensor.is_complex() else tensor


def need_layout(layout: Layout | None, what: str) -> Layout:
    """`layout`; ValueError, naming `what` asks for it, if there is none."""
    if layout is None:
        raise ValueError(f"{what} needs to know the layers: pass a layout")
    return layout
