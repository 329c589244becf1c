"""How many coordinates of each layer clients hold and send: layers.csv."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from compression import Layout
from compression.wire import Sparse
from fl.models.state import ModelState
from fl.models.submodel import Submodel

LAYERS = ("round", "layer", "size", "held", "sparsity", "non_zeros", "pruned_fraction", "sent_fraction")


class LayerCounts:
    """The counts of a round, over its clients in cohort order.

    `held`: coordinates of each layer that each client holds. `sent`: coordinates of each layer in their payloads, all
    together, int64 [layers]. `pruned_after`: whether the payloads were weights, pruned after training.
    """

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self.held: list[tuple[int, ...]] = []
        self.sent = torch.zeros(len(layout.sizes), dtype=torch.int64)
        self.pruned_after = False

    def add(self, update: Sparse, submodel: Submodel) -> None:
        """Rank 0 has decoded the update of the next client, which holds `submodel`."""
        counts = count_by_layer(update, self._layout)
        self.sent = self.sent.to(counts.device) + counts
        self.held.append(submodel.held_by_layer(self._layout))
        self.pruned_after = update.sent_at is not None

    def rows(self, round_: int, state: ModelState) -> list[dict[str, Any]]:
        """A row for each layer, in the order of the model; `state`: the global model after the round.

        `held` counts the coordinates inside a client's mask, as a mean over the cohort, and `sparsity` is the fraction
        outside. `pruned_fraction` is what a client does not hold or, pruning after training, does not send of it.
        """
        names, sizes, clients = self._layout.names, self._layout.sizes, max(1, len(self.held))
        held, sent = mean_held(self.held or [sizes]).tolist(), self.sent.tolist()
        non_zeros = torch.stack([view.count_nonzero() for view in state.layout.views(state.parameters)]).tolist()
        rows = []
        for at, (name, size) in enumerate(zip(names, sizes, strict=True)):
            trained = max(1, clients * size)
            sparsity, unsent = (size - held[at]) / max(1, size), (clients * size - sent[at]) / trained
            rows.append(
                {
                    "round": round_,
                    "layer": name,
                    "size": size,
                    "held": int(held[at]) if held[at].is_integer() else held[at],
                    "sparsity": sparsity,
                    "non_zeros": non_zeros[at],
                    "pruned_fraction": unsent if self.pruned_after else sparsity,
                    "sent_fraction": sent[at] / trained,
                }
            )
        return rows


def count_by_layer(sparse: Sparse, layout: Layout) -> Tensor:
    """Coordinates of each layer that the payload held which decoded to `sparse`: int64 [layers], on its device.

    All of them where it held no positions; those at `sent_at` where what was sent is not what it decoded to.
    """
    if sparse.n != layout.total:
        raise ValueError(f"a vector of {sparse.n} coordinates; the layers have {layout.total}")
    positions = sparse.indices if sparse.sent_at is None else sparse.sent_at
    device = sparse.values.device
    if positions is None:
        return torch.tensor(layout.sizes, dtype=torch.int64, device=device)
    return torch.searchsorted(positions, torch.tensor(layout.offsets, device=device)).diff()


def mean_held(held: Sequence[Sequence[int]]) -> Tensor:
    """Coordinates of each layer that each client holds -> their mean, float64 [layers]."""
    return torch.tensor(held, dtype=torch.float64).mean(0)
