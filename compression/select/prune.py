"""Gradient-magnitude pruning: all but about a fraction of smallest magnitudes."""

from torch import Tensor

from .base import ScopedSelector, no_positions
from .sample import kth_largest, sampled_magnitudes


class Prune(ScopedSelector):
    """prune:S drops about the fraction S of smallest magnitudes; the quantile is that of a sample of 32,768."""

    def __init__(self, sparsity: float, *, per_layer: bool = False) -> None:
        super().__init__(1 - sparsity, per_layer=per_layer)
        self.sparsity = sparsity

    def with_density(self, density: float) -> "Prune":
        """As in `Selector.with_density`."""
        return Prune(1 - density, per_layer=self.per_layer)

    def pick(self, x: Tensor, key: int) -> Tensor:
        """As in `ScopedSelector.pick`."""
        if not x.numel():
            return no_positions(x)
        sample = sampled_magnitudes(x)
        rank = max(1, round((1 - self.sparsity) * sample.numel()))
        return self.at_least(x, kth_largest(sample, rank))
