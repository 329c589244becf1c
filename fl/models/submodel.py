"""What a client holds of the global model."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from compression import Codec, Layout
from compression.masks.codec import MaskedCodec
from compression.masks.inside import MaskedLayout
from compression.masks.payload import decode_mask, encode_mask
from compression.wire import Sparse

from .surgery.cut import SmallerModel


@dataclass(frozen=True, eq=False)
class Submodel:
    """Coordinates that a client holds, and that its payloads are about.

    `inside`: of the n trainable coordinates; None: all. `buffers`: of the m buffers, ascending int64 [b]; None: all.
    `sub`: the smaller model made of exactly these, if the client trains one. `in_turn`: whether clients train all
    coordinates nevertheless, and exchange the others in other rounds.
    """

    inside: MaskedLayout | None = None
    buffers: Tensor | None = None
    sub: SmallerModel | None = None
    in_turn: bool = False

    @property
    def mask(self) -> Tensor | None:
        """Coordinates that are held, bool [n]; None: all."""
        return None if self.inside is None else self.inside.mask

    def mask_(self, values: Tensor) -> Tensor:
        """`values` [n], zero (or False) from now on where nothing is held."""
        return values if self.inside is None else values.mul_(self.inside.mask)

    def masks(self, layout: Layout) -> list[Tensor]:
        """The mask of each tensor of `layout`, bool in its shape; empty: all is held."""
        return [] if self.inside is None else layout.views(self.inside.mask)

    def model(self, whole: nn.Module) -> nn.Module:
        """The smaller model, or the `whole` one if the client trains that."""
        return whole if self.sub is None else self.sub.model

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

    def held_by_layer(self, layout: Layout) -> tuple[int, ...]:
        """How many coordinates of each tensor of `layout` are held."""
        return layout.sizes if self.inside is None else self.inside.layout.sizes

    def vote(self, votes: Tensor, weight: int) -> None:
        """Add `weight` to `votes`, fp32 [n], where coordinates are held."""
        _add_at(votes, None if self.inside is None else self.inside.support, weight)

    def vote_on_buffers(self, votes: Tensor, weight: int) -> None:
        """Add `weight` to `votes`, fp32 [m], where buffers are held."""
        _add_at(votes, self.buffers, weight)

    def state_dict(self) -> dict[str, Tensor]:
        """The mask as a payload, if there is one."""
        return {} if self.inside is None else {"inside": encode_mask(self.inside.mask)}

    @classmethod
    def of_state(cls, state: Mapping[str, Tensor], layout: Layout, buffers: Tensor | None) -> "Submodel":
        """The inverse of `state_dict`, without the smaller model; `buffers` as in the class."""
        if "inside" not in state:
            return cls(buffers=buffers)
        return cls(MaskedLayout(decode_mask(state["inside"], layout.total), layout), buffers)


WHOLE = Submodel()


def no_buffers(device: torch.device) -> Tensor:
    """`Submodel.buffers` of a client that sends none."""
    return torch.empty(0, dtype=torch.int64, device=device)


def _add_at(votes: Tensor, held: Tensor | None, weight: int) -> None:
    if held is None:
        votes.add_(weight)
    else:
        votes.index_add_(0, held, votes.new_full((1,), weight).expand(held.numel()))
