"""How many coordinates of each layer clients hold and send."""

from collections.abc import Sequence

import torch
from torch import Tensor

from compression import Layout
from compression.wire import Sparse


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
