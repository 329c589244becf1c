"""Every magnitude above a fixed one (Strom 2015)."""

from torch import Tensor

from ..spec import SpecError
from .base import ScopedSelector


class Threshold(ScopedSelector):
    """threshold:T, every coordinate with a magnitude of at least T."""

    def __init__(self, threshold: float) -> None:
        super().__init__(None)
        self.threshold = threshold

    def with_density(self, density: float) -> "Threshold":
        """SpecError: what a threshold keeps depends on the values."""
        raise SpecError(
            f"'threshold:{self.threshold:g}' has no kept fraction to set to {density:g}; use topk, prune, randk or cost"
        )

    def pick(self, x: Tensor, key: int) -> Tensor:
        """As in `ScopedSelector.pick`."""
        return self.at_least(x, self.threshold)
