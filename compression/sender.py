"""One sender's side of a codec: error feedback, and whatever else is remembered between messages.

none        what a message leaves out is lost.
residual    it is added to the next update (Seide et al. 2014; Stich et al. 2018, Algorithm 1).
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
        self.feedback = "none" if codec.lossless else stage.name
        self._residual, self._velocity = Residuals(), Residuals()
        self._factors: dict[str, Tensor] = {}
        self._pending: list[tuple[Layout, Tensor | None, Tensor | None, dict[str, Tensor]]] = []
        self._kept: Any = None  # the snapshot before what is pending

    def encode(
        self, update: Tensor, layout: Layout, key: int = 0, *, within: Tensor | None = None
    ) -> tuple[Tensor, Sparse]:
        """The payload, uint8, and what a receiver decodes from it.

        `within`, bool [layout.total]: what was remembered of coordinates that are False there is forgotten beforehand.

        `update`, fp32 [layout.total], is used up: its memory becomes the residual's. Where values are exact,
        decoded + new residual == update + old residual, bit for bit; a rounded value leaves the rounding error behind.
        Raises NonFiniteError if the sum holds NaN or infinity, and then remembers nothing of it.
        """
        if self._kept is None:
            self._kept = self.snapshot()
        velocity = None
        if self.feedback == "none":
            total = update
        elif self.momentum is None:
            residual = self._residual.find(layout, update)
            total = update if residual is None else update.add_(_inside(residual, within))
        else:
            velocity = update.add_(_inside(self._velocity.flat(layout, update), within), alpha=self.momentum)
            total = velocity + _inside(self._residual.flat(layout, update), within)
        payload, decoded, factors = self.codec.encode_warm(total, layout, key=key, memory=self._factors)
        if self.feedback == "none":
            self._pending.append((layout, None, None, factors))
            return payload, decoded
        if decoded.indices is None:
            total.sub_(decoded.values)
        else:
            total.index_copy_(0, decoded.indices, total[decoded.indices] - decoded.values)
        if velocity is not None:
            assert decoded.indices is not None
            velocity.index_fill_(0, decoded.indices, 0.0)
        self._pending.append((layout, total, velocity, factors))
        return payload, decoded

    def keep(self) -> Tensor | None:
        """What was encoded since the last call has arrived: its residual is now the sender's.

        Returns a vector whose memory that set free, if any: the next update may be written there.
        """
        free = None
        for layout, residual, velocity, factors in self._pending:
            if residual is not None:
                free = self._residual.find(layout, residual)
                self._residual.store(layout, residual)
            if velocity is not None:
                self._velocity.store(layout, velocity)
            self._factors = {**self._factors, **factors}
        self._pending, self._kept = [], None
        return free

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
        """Everything remembered, as `residual.NAME`, `velocity.NAME` and `factor.NAME` for each parameter name."""
        return {
            **{f"residual.{name}": tensor for name, tensor in self._residual.state_dict().items()},
            **{f"velocity.{name}": tensor for name, tensor in self._velocity.state_dict().items()},
            **{f"factor.{name}": tensor.clone() for name, tensor in self._factors.items()},
        }

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Continue from `state_dict()`."""
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


def _inside(memory: Tensor, within: Tensor | None) -> Tensor:
    return memory if within is None else memory * within


class Residuals:
    """What a sender has not sent yet, one tensor a parameter name (Seide et al. 2014; Stich et al. 2018).

    DistributedDataParallel regroups parameters into other buckets after its first iteration; residuals are therefore
    kept by name, as views into one flat vector for each group of names that is asked for.
    """

    def __init__(self) -> None:
        self._by_name: dict[str, Tensor] = {}
        self._groups: dict[tuple[str, ...], Tensor] = {}

    def find(self, layout: Layout, like: Tensor) -> Tensor | None:
        """`flat`, or None where nothing is known of any of `layout`'s tensors."""
        return None if self._by_name.keys().isdisjoint(layout.names) else self.flat(layout, like)

    def flat(self, layout: Layout, like: Tensor) -> Tensor:
        """The residuals of `layout`'s tensors as one vector [layout.total] on `like`'s device; zero where there is none.

        The vector is the storage itself until another grouping of the same names is asked for.
        """
        group = self._groups.get(layout.names)
        if group is None or group.device != like.device:
            group = torch.zeros(layout.total, dtype=torch.float32, device=like.device)
            known = [
                (view, self._by_name[name])
                for name, view in zip(layout.names, layout.views(group), strict=True)
                if name in self._by_name
            ]
            for view, old in known:
                if view.numel() != old.numel():
                    raise ValueError(
                        f"a residual of shape {tuple(old.shape)} belongs to no parameter of {tuple(view.shape)}"
                    )
                view.copy_(old.view(view.shape))
            self._set(layout, group)
        return group

    def store(self, layout: Layout, residual: Tensor) -> None:
        """Replace the residuals of `layout`'s tensors by the vector [layout.total]."""
        self._set(layout, residual)

    def _set(self, layout: Layout, group: Tensor) -> None:
        names = set(layout.names)
        self._groups = {key: value for key, value in self._groups.items() if names.isdisjoint(key)}
        self._groups[layout.names] = group
        self._by_name = {**self._by_name, **dict(zip(layout.names, layout.views(group), strict=True))}

    def snapshot(self) -> Any:
        """For `restore`: the vectors are replaced, never written over."""
        return self._by_name, self._groups

    def restore(self, before: Any) -> None:
        """Be again as at a `snapshot`."""
        self._by_name, self._groups = before

    def state_dict(self) -> dict[str, Tensor]:
        """Copies of the residuals by parameter name."""
        return {name: tensor.clone() for name, tensor in self._by_name.items()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Replace all residuals by those of `state`."""
        self._groups = {}
        self._by_name = {name: tensor.clone() for name, tensor in state.items()}
