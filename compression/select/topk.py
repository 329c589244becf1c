"""The largest magnitudes (Aji & Heafield 2017)."""

import math

import torch
from torch import Tensor

from .. import kernels
from ..bits import flat_nonzero
from .base import ScopedSelector, kept_count
from .sample import kth_largest, margin, sampled_magnitudes


class TopK(ScopedSelector):
    """topk:R, the round(R * n) largest magnitudes, at least one; exact, ties to the lowest position."""

    def __init__(self, density: float, *, per_layer: bool = False) -> None:
        super().__init__(density, per_layer=per_layer)
        self.ratio = density

    def with_density(self, density: float) -> "TopK":
        """As in `Selector.with_density`."""
        return TopK(density, per_layer=self.per_layer)

    def pick(self, x: Tensor, key: int) -> Tensor:
        """As in `ScopedSelector.pick`.

        A sample gives a threshold that a little more than k coordinates pass; only those are ranked. A threshold that
        lets too few pass is lowered until enough do.
        """
        n = x.numel()
        k = kept_count(self.ratio, n)
        if k == n:
            return torch.arange(n, device=x.device)
        if kernels.available(x.device):
            return kernels.topk_positions(x, k)
        sample = sampled_magnitudes(x)
        expected = k / n * sample.numel()
        rank = math.ceil(expected + margin(expected))
        while rank < sample.numel():
            candidates = self.at_least(x, kth_largest(sample, rank))
            if candidates.numel() >= k:
                return _largest(x, candidates, k)
            rank *= 2
        return _largest(x, torch.arange(n, device=x.device), k)


def _largest(x: Tensor, candidates: Tensor, k: int) -> Tensor:
    """The k of the ascending `candidates` with the largest magnitudes, the lowest positions first among equals."""
    magnitudes = x[candidates].abs()
    bound = kth_largest(magnitudes, k)
    keep = magnitudes > bound
    ties = flat_nonzero(magnitudes == bound)
    keep.index_fill_(0, ties[: k - int(keep.sum())], True)
    return candidates[flat_nonzero(keep)]
