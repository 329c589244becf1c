"""What layers.csv says of a round."""

from typing import Any

import torch

from fl.models.state import ModelState
from fl.rounds.layer_counts import mean_held
from fl.rounds.result import RoundOutcome

LAYERS = ("round", "layer", "size", "held", "sparsity", "non_zeros", "pruned_fraction", "sent_fraction")


def layer_rows(round_: int, outcome: RoundOutcome, state: ModelState) -> list[dict[str, Any]]:
    """A row for each layer, in the order of the model; `state`: the global model after the round.

    `held` counts the coordinates inside a client's mask, as a mean over the cohort, and `sparsity` is the fraction
    outside. `pruned_fraction` is what a client does not hold or, pruning after training, does not send of it.
    """
    names, sizes, clients = state.layout.names, state.layout.sizes, max(1, len(outcome.reports))
    held = mean_held(outcome.held_by_layer or [state.layout.sizes]).tolist()
    sent = [0] * len(sizes) if outcome.sent_by_layer is None else outcome.sent_by_layer.tolist()
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
                "pruned_fraction": unsent if outcome.pruned_after else sparsity,
                "sent_fraction": sent[at] / trained,
            }
        )
    return rows
