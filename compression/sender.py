"""One sender's side of a codec: error feedback, and whatever else is remembered between messages.

none        what a message leaves out is lost.
residual    it is added to the next update (Seide et al. 2014; Stich et al. 2018, Algorithm 1).
residual:D  D times it is (SparseLoCo: Sarfi et al. 2025; DeMo: Peng et al. 2024, whose momentum is what was not sent).
dgc:M       momentum correction with factor masking (Lin et al. 2018, section 3.2): u <- M u + update, v <- v + u,
            the codec sends from v; where it sent, u is cleared, and v but for the rounding error of the value.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from .codec import Codec
from .feedback import read_feedback
from .layout import Layout
from .phases import phase
from .wire import Sparse


class Sender:
    """Encodes the updates of one client, of one server, or of one rank's buckets.

    A message's memory counts only when `keep()` says that it arrived; until then the sender is as it was before. All
    memory is by parameter name, so it survives other buckets, other ranks and other world sizes.
    """

    def __init__(self, codec: Codec, feedback: str = "residual") -> None:
        stage = read_feedback(feedback, codec)
        self.codec = codec
        self.momentum = float(stage.args[0]) if stage.name == "dgc" else None
        self.decay = float(stage.args[0]) if stage.name == "residual" and stage.args else 1.0
        self.feedback = "none" if codec.lossless else stage.name
        self._residual, self._velocity = Residuals(), Residuals()
        self._factors: dict[str, Tensor] = {}
        self._pending: list[tuple[Layout, Tensor | None, Tensor | None, dict[str, Tensor]]] = []
        self._kept: Any = None  # the snapshot before what is pending

    @phase("code")
    def encode(
        self, update: Tensor, layout: Layout, key: int = 0, *, within: Tensor | None = None
    ) -> tuple[Tensor, Sparse]:
        """The payload, uint8, and what a receiver decodes from it.

        `within`, bool [layout.total]: what was remembered of coordinates that are False there is forgotten beforehand.

        `update`, fp32 [layout.total], is used up: its memory becomes the residual's. Where values are exact,
        decoded + new residual == update + decay * old residual, bit for bit; a rounded value leaves its error behind.
        Raises NonFiniteError if the sum holds NaN or infinity, and then remembers nothing of it.
        """
        if self._kept is None:
            self._kept = self.snapshot()
        velocity = None
        if self.feedback == "none":
            total = update
        elif self.momentum is None:
            total = self._residual.add_to(update, layout, within, weight=self.decay)
        else:
            velocity = self._velocity.add_to(update, layout, within, weight=self.momentum)
            total = self._residual.add_to(velocity.clone(), layout, within)
        payload, decoded, factors = self.codec.encode_warm(total, layout, key=key, memory=self._factors)
        if self.feedback == "none":
            self._pending.append((layout, None, None, factors))
            return payload, decoded
        decoded.add_to(total, -1.0)
        if velocity is not None:
            assert decoded.indices is not None
            velocity.index_fill_(0, decoded.indices, 0.0)
        self._pending.append((layout, total, velocity, factors))
        return payload, decoded

    def keep(self) -> None:
        """What was encoded since the last call has arrived: its residual is now the sender's."""
        for layout, residual, velocity, factors in self._pending:
            if residual is not None:
                self._residual.store(layout, residual)
            if velocity is not None:
                self._velocity.store(layout, velocity)
            self._factors = {**self._factors, **factors}
        self._pending, self._kept = [], None

    def forget(self) -> None:
        """What was encoded since the last `keep()` has not arrived."""
        if self._kept is not None:
            self.restore(self._kept)

    def snapshot(self) -> Any:
        """Everything remembered, for `restore`; nothing is copied."""
        memory = self._residual.snapshot(), self._velocity.snapshot(), self._factors
        return *memory, list(self._pending), self._kept

    def restore(self, before: Any) -> None:
        """Be again as at a `snapshot`."""
        residual, velocity, self._factors, pending, self._kept = before
        self._residual.restore(residual)
        self._velocity.restore(velocity)
        self._pending = list(pending)

    def state_dict(self) -> dict[str, Tensor]:
        """Everything remembered, as `residual.NAME`, `velocity.NAME` and `factor.NAME` for each parameter name.

        Nothing is copied, and nothing is written over later.
        """
        return {
            **{f"residual.{name}": tensor for name, tensor in self._residual.state_dict().items()},
            **{f"velocity.{name}": tensor for name, tensor in self._velocity.state_dict().items()},
            **{f"factor.{name}": tensor for name, tensor in self._factors.items()},
        }

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Continue from `state_dict()`, whose tensors are only read, now and later."""
        parts: dict[str, dict[str, Tensor]] = {"residual": {}, "velocity": {}, "factor": {}}
        for name, tensor in state.items():
            kind, _, rest = name.partition(".")
            if kind not in parts or not rest:
                raise ValueError(f"'{name}' is no state of a sender: {', '.join(parts)} and a parameter's name are")
            parts[kind][rest] = tensor
        self._residual.load_state_dict(parts["residual"])
        self._velocity.load_state_dict(parts["velocity"])
        self._factors = parts["factor"]
        self._pending, self._kept = [], None


class Residuals:
    """What a sender has not sent yet, one tensor a parameter name (Seide et al. 2014; Stich et al. 2018).

    DistributedDataParallel regroups parameters into other buckets after its first iteration, so residuals are known by name.
    They are replaced, never written over.
    """

    def __init__(self) -> None:
        self._by_name: dict[str, Tensor] = {}

    def add_to(self, out: Tensor, layout: Layout, within: Tensor | None = None, *, weight: float = 1.0) -> Tensor:
        """`out`, fp32 [layout.total], += weight * the residuals of `layout`'s tensors, in place; returns `out`.

        `within`, bool [layout.total]: only those that are True there count. ValueError for the residual of another model.
        """
        if self._by_name.keys().isdisjoint(layout.names):
            return out
        masks = [None] * len(layout.names) if within is None else layout.views(within)
        parts, olds = [], []
        for name, part, mask in zip(layout.names, layout.views(out), masks, strict=True):
            old = self._by_name.get(name)
            if old is None:
                continue
            if part.numel() != old.numel():
                raise ValueError(
                    f"a residual of shape {tuple(old.shape)} belongs to no parameter of {tuple(part.shape)}"
                )
            old = old.to(out.device).view(part.shape)
            parts.append(part)
            olds.append(old if mask is None else old * mask)
        torch._foreach_add_(parts, olds, alpha=weight)
        return out

    def store(self, layout: Layout, residual: Tensor) -> None:
        """Replace the residuals of `layout`'s tensors by the vector [layout.total]."""
        self._by_name = {**self._by_name, **dict(zip(layout.names, layout.views(residual), strict=True))}

    def snapshot(self) -> Any:
        """For `restore`."""
        return self._by_name

    def restore(self, before: Any) -> None:
        """Be again as at a `snapshot`."""
        self._by_name = before

    def state_dict(self) -> dict[str, Tensor]:
        """The residuals by parameter name, themselves."""
        return dict(self._by_name)

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Replace all residuals by those of `state`."""
        self._by_name = dict(state)
