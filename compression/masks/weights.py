"""Pruning after local training: a client sends the weights that are left, not an update.

The protocol of a report on pruning under limited bandwidth (Jeurkar, Michalak and Cala 2024): every client trains, drops its
smallest weights or filters, and sends what is not zero. There is no error feedback: what a client drops is zero on its
side too. The server averages weights.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..bits import flat_nonzero
from ..codec import Codec, Memory
from ..layout import Layout, need_layout
from ..wire import Sparse

Choose = Callable[[Tensor, Layout], Tensor]


@dataclass(frozen=True)
class PrunedWeights(Codec):
    """Turns an update into the pruned local weights, which `codec` sends, and back.

    `reference`: the global weights, fp32 [n], as both sides know them in this round. `choose`: weights [n] and layout ->
    mask, bool [n], of those that stay.
    """

    codec: Codec
    reference: Tensor
    choose: Choose

    @property
    def spec(self) -> str:  # type: ignore[override]
        """The specification of the codec of the weights."""
        return self.codec.spec

    def _encode(
        self, x: Tensor, layout: Layout | None, key: int, memory: Memory
    ) -> tuple[Tensor, Sparse, dict[str, Tensor]]:
        layout = need_layout(layout, "pruning after training")
        weights = self.reference - x
        weights.mul_(self.choose(weights, layout))
        payload, decoded, memory = self.codec.encode_warm(weights, layout, key=key, memory=memory)
        return payload, self._update(decoded), memory

    def decode(self, payload: Tensor, n: int, layout: Layout | None = None) -> Sparse:
        """The update that these weights mean."""
        return self._update(self.codec.decode(payload, n, layout))

    def _update(self, weights: Sparse) -> Sparse:
        whole = weights.dense()
        left = flat_nonzero(whole != 0) if weights.indices is None else weights.indices
        return Sparse(weights.n, None, torch.sub(self.reference, whole), sent=weights.kept, sent_at=left)
