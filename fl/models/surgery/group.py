"""Channels that go together, as slices of tensors."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

Example = Tensor | tuple[Tensor, ...]


@dataclass(frozen=True)
class Cut:
    """Slices of one tensor along `dim`: slice `positions[i]` belongs to channel `channels[i]`; int64 [p] each."""

    tensor: str
    dim: int
    positions: Tensor
    channels: Tensor


@dataclass(frozen=True)
class Group:
    """`channels` channels that every tensor in `cuts` has along some dimension, dropped everywhere or nowhere.

    `makers`: names of the layers whose outputs they are. `block`: so many neighbours stay or go together (a group of
    GroupNorm, whose mean and variance are theirs; a head of attention).
    """

    makers: tuple[str, ...]
    channels: int
    block: int
    cuts: tuple[Cut, ...]

    @property
    def units(self) -> int:
        """Number of blocks: what there is to choose from."""
        return self.channels // self.block


def run(model: nn.Module, example: Example) -> Any:
    """`model` on the example: one tensor, or a tuple of arguments."""
    return model(*example) if isinstance(example, tuple) else model(example)
