"""What a client is asked for, and what it made of the global model."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from .submodel import WHOLE, Submodel


@dataclass(frozen=True)
class Job:
    """A client's local training: from `version` of the global model, on `submodel`.

    `number` seeds its random choices: the round, or, where clients come and go in their own time, how many starts of this
    client came before. `state`: what the client keeps from the last time, nested, its tensors only to be read.
    """

    client: int
    number: int
    version: int
    submodel: Submodel = WHOLE
    state: Mapping[str, Any] = field(default_factory=dict, compare=False)

    @property
    def moments(self) -> dict[str, Tensor]:
        """What the client keeps of its optimizer; of coordinates that it does not hold now, nothing."""
        kept, mask = self.state.get("optimizer", {}), self.submodel.mask
        if mask is None or self.submodel.in_turn:
            return dict(kept)
        return {name: each.to(mask.device) * mask if each.is_floating_point() else each for name, each in kept.items()}


@dataclass
class Update:
    """What a client made of the global model.

    `values`: fp32 [n], global minus local parameters (the pseudo-gradient), zero where the client holds nothing.
    `buffers`: fp32 [m], its own buffers, or those [b] of its submodel. `moved`: whether it has taken a step. `halved`:
    whether its batches went through the model in halves, since whole ones did not fit into memory. `kept`: what the client
    keeps of its `optimizer` and of its own `weights`, never sent.
    """

    client: int
    values: Tensor
    buffers: Tensor
    samples: int
    train_loss: float
    train_s: float
    moved: bool = True
    halved: bool = False
    kept: dict[str, dict[str, Tensor]] = field(default_factory=dict)
