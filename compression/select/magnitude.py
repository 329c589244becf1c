"""Selectors by magnitude: an exact count of the largest, about a fraction of them, or all above a fixed one."""

import math

import torch
from torch import Tensor

from .. import kernels
from ..bits import flat_nonzero
from ..layout import Layout, need_layout
from ..spec import SpecError
from .base import ScopedSelector, kept_count, no_positions
from .sample import kth_largest, margin, sampled_magnitudes


class TopK(ScopedSelector):
    """topk:R, the round(R * n) largest magnitudes, at least one, ties to the lowest position (Aji & Heafield 2017).

    `chunk`: so many of each `chunk` coordinates in a row, and of what is left at the end.
    """

    def __init__(self, density: float, *, per_layer: bool = False, chunk: int | None = None) -> None:
        super().__init__(density, per_layer=per_layer)
        self.ratio = density
        self.chunk = chunk

    def with_density(self, density: float) -> "TopK":
        return TopK(density, per_layer=self.per_layer, chunk=self.chunk)

    def most_kept(self, layout: Layout) -> int:
        return sum(map(self._count, layout.sizes if self.per_layer else [layout.total]))

    def select(self, x: Tensor, layout: Layout | None, key: int) -> Tensor:
        if not self.per_layer or self.chunk is not None or not kernels.available(x.device):
            return super().select(x, layout, key)
        sizes = need_layout(layout, "scope=layer").sizes
        return kernels.topk_positions(x, [self._count(n) for n in sizes], sizes)

    def _count(self, n: int) -> int:
        if self.chunk is None:
            return kept_count(self.ratio, n)
        chunks, rest = divmod(n, self.chunk)
        return chunks * kept_count(self.ratio, self.chunk) + (kept_count(self.ratio, rest) if rest else 0)

    def _of_chunks(self, x: Tensor, chunk: int) -> Tensor:
        whole = x.numel() - x.numel() % chunk
        rows = [x[:whole].view(-1, chunk), x[whole:].view(1, -1)]
        return flat_nonzero(torch.cat([self._largest_of_rows(part.abs()).view(-1) for part in rows if part.numel()]))

    def _largest_of_rows(self, magnitudes: Tensor) -> Tensor:
        """Of each row of [rows, m], which to keep: bool of the same shape."""
        k = kept_count(self.ratio, magnitudes.shape[1])
        bound = magnitudes.topk(k, dim=1).values[:, -1:]
        more, ties = magnitudes > bound, magnitudes == bound
        free = k - more.sum(1, keepdim=True)
        return more | (ties & (ties.cumsum(1) <= free))

    def pick(self, x: Tensor, key: int) -> Tensor:
        """See `ScopedSelector`.

        A sample gives a threshold that a little more than k coordinates pass; only those are ranked. A threshold that
        lets too few pass is lowered until enough do.
        """
        n = x.numel()
        if self.chunk is not None and n > self.chunk:
            return self._of_chunks(x, self.chunk)
        k = kept_count(self.ratio, n)
        if k == n:
            return torch.arange(n, device=x.device)
        if kernels.available(x.device):
            return kernels.topk_positions(x, [k], [n])
        sample = sampled_magnitudes(x)
        expected = k / n * sample.numel()
        rank = math.ceil(expected + margin(expected))
        while rank < sample.numel():
            candidates = self.at_least(x, [kth_largest(sample, rank)], [n])
            if candidates.numel() >= k:
                return _largest(x, candidates, k)
            rank *= 2
        return _largest(x, torch.arange(n, device=x.device), k)


class Prune(ScopedSelector):
    """prune:S drops about the fraction S of smallest magnitudes; the quantile is that of a sample of 32,768."""

    def __init__(self, density: float, *, per_layer: bool = False) -> None:
        super().__init__(density, per_layer=per_layer)
        self.ratio = density

    def with_density(self, density: float) -> "Prune":
        return Prune(density, per_layer=self.per_layer)

    def pick(self, x: Tensor, key: int) -> Tensor:
        if not x.numel():
            return no_positions(x)
        sample = sampled_magnitudes(x)
        rank = max(1, round(self.ratio * sample.numel()))
        return self.at_least(x, [kth_largest(sample, rank)], [x.numel()])


class Threshold(ScopedSelector):
    """threshold:T, every coordinate with a magnitude of at least T (Strom 2015)."""

    def __init__(self, threshold: float) -> None:
        super().__init__(None)
        self.threshold = threshold

    def with_density(self, density: float) -> "Threshold":
        """SpecError: what a threshold keeps depends on the values."""
        raise SpecError(
            f"'threshold:{self.threshold:g}' has no kept fraction to set to {density:g}; use topk, prune, randk or cost"
        )

    def pick(self, x: Tensor, key: int) -> Tensor:
        return self.at_least(x, [self.threshold], [x.numel()])


def _largest(x: Tensor, candidates: Tensor, k: int) -> Tensor:
    """The k of the ascending `candidates` with the largest magnitudes, the lowest positions first among equals."""
    magnitudes = x[candidates].abs()
    bound = kth_largest(magnitudes, k)
    keep = magnitudes > bound
    ties = flat_nonzero(magnitudes == bound)
    keep.index_fill_(0, ties[: k - int(keep.sum())], True)
    return candidates[flat_nonzero(keep)]
