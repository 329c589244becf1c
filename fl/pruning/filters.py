"""Whole filters and neurons: the rows of a weight along its first dimension, by their L2 norm (Li et al. 2017)."""

import torch
from torch import Tensor

from compression.layout import Layout

from .choose import protected_layers


def choose_filters(
    weights: Tensor,
    layout: Layout,
    sparsity: float,
    *,
    protected: frozenset[str] | None = None,
    held: Tensor | None = None,
) -> Tensor:
    """The mask, bool [n], without the round(sparsity * filters) filters of smallest norm of each layer of `weights` [n].

    Layers with fewer than two dimensions, and `protected` ones (names; None: `protected_layers`), are whole. Among equals
    the last filter goes first. What `held`, an earlier mask, dropped stays dropped.
    """
    protected = protected_layers(layout) if protected is None else protected
    mask = torch.ones(layout.total, dtype=torch.bool, device=weights.device)
    for name, view, kept in zip(layout.names, layout.views(weights), layout.views(mask), strict=True):
        if view.dim() < 2 or name in protected:
            continue
        rows = view.flatten(1).double()
        # Float64 sums of squares: filters of equal norm must tie whatever the order of additions made of fp32 sums.
        order = rows.square().sum(1).sort(descending=True, stable=True).indices
        kept.index_fill_(0, order[len(rows) - round(sparsity * len(rows)) :], False)
    return mask if held is None else mask & held
