"""What a client holds of the global model."""

from dataclasses import dataclass

import torch
from torch import Tensor

from compression import Codec
from compression.masks.codec import MaskedCodec
from compression.masks.inside import MaskedLayout
from compression.wire import Sparse

from .surgery.cut import SmallerModel


@dataclass(frozen=True, eq=False)
class Submodel:
    """Coordinates that a client holds, and that its payloads are about.

    `inside`: of the n trainable coordinates; None: all. `buffers`: of the m buffers, ascending int64 [b]; None: all.
    `sub`: the smaller model made of exactly these, if the client trains one.
    """

    inside: MaskedLayout | None = None
    buffers: Tensor | None = None
    sub: SmallerModel | None = None

    def codec(self, codec: Codec) -> Codec:
        """`codec` for vectors of n coordinates, inside this submodel."""
        return codec if self.inside is None else MaskedCodec(codec, self.inside)

    def gather_buffers(self, buffers: Tensor) -> Tensor:
        """All buffers [m] -> those held [b]."""
        return buffers if self.buffers is None else buffers.index_select(0, self.buffers)

    def lift_buffers(self, held: Sparse, m: int) -> Sparse:
        """Buffers of this submodel, all b given -> as some of all m."""
        return held if self.buffers is None else Sparse(m, self.buffers, held.values)

    def buffer_count(self, m: int) -> int:
        """How many of m buffers are held: b."""
        return m if self.buffers is None else self.buffers.numel()

    @property
    def sends_buffers(self) -> bool:
        """Whether the client sends any buffers."""
        return self.buffers is None or self.buffers.numel() > 0

    def held(self, n: int) -> int:
        """How many of n coordinates are held."""
        return n if self.inside is None else self.inside.layout.total


WHOLE = Submodel()


def no_buffers(device: torch.device) -> Tensor:
    """`Submodel.buffers` of a client that sends none."""
    return torch.empty(0, dtype=torch.int64, device=device)
