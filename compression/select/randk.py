"""Random coordinates from a shared seed (Konecny et al. 2016, "random mask"): their positions cost no bytes."""

from torch import Tensor

from ..draws import random_positions
from ..layout import Layout
from .base import ScopedSelector, kept_count, no_positions


class RandK(ScopedSelector):
    """randk:R, the round(R * n) positions, at least one, that follow from the key, whatever the values are.

    Every coordinate is kept with probability about R; the values are sent as they are, not divided by R: with error
    feedback that is the right scale (Stich et al. 2018).
    """

    seeded = True

    def __init__(self, density: float) -> None:
        super().__init__(density)
        self.ratio = density

    def with_density(self, density: float) -> "RandK":
        return RandK(density)

    def most_kept(self, layout: Layout) -> int:
        return kept_count(self.ratio, layout.total)

    def pick(self, x: Tensor, key: int) -> Tensor:
        n = x.numel()
        return random_positions(key, n, kept_count(self.ratio, n), x.device) if n else no_positions(x)
