"""Coordinate-wise median and trimmed mean: Yin et al. 2018, "Byzantine-Robust Distributed Learning: Towards Optimal
Statistical Rates" (ICML), Definitions 1 and 2, Algorithm 1."""

from collections.abc import Sequence

import torch
from torch import Tensor

from compression.wire import Sparse

from ..aggregate import Aggregate
from .kept import Kept, columns


class _Middle(Kept):
    """For every coordinate, and every buffer, the mean of what is left when the most extreme values are dropped."""

    def _dropped(self, clients: int) -> int:
        """How many of `clients` values are dropped on each side."""
        raise NotImplementedError

    def result(self) -> Aggregate:
        return Aggregate(self._middle(self._updates, self._update), self._middle(self._statistics, self._buffers))

    def _middle(self, vectors: Sequence[Sparse], out: Tensor) -> Tensor:
        out.zero_()
        dropped = self._dropped(len(vectors))
        for where, rows in columns(vectors) if vectors else ():
            first, *others = torch.sort(rows, dim=0).values[dropped : len(vectors) - dropped]
            for row in others:  # one after another: the sum's bits do not depend on where a coordinate stands
                first.add_(row)
            out[where] = first.div_(1 + len(others))
        return out


class Median(_Middle):
    """The median; of an even number of clients the mean of the two in the middle."""

    def _dropped(self, clients: int) -> int:
        return max(0, clients - 1) // 2


class Trimmed(_Middle):
    """The mean without the largest and the smallest values, a fraction F of the clients (rounded down) on each side."""

    def _dropped(self, clients: int) -> int:
        return int(self._number * clients + 1e-9)  # 0.29 * 100 is 28.999999999999996
