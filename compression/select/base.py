"""What every selector is, and the pass over a vector that most of them share."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from .. import kernels
from ..bits import compare, flat_nonzero
from ..layout import Layout, need_layout

_CHUNK = 1 << 18  # coordinates; magnitudes and comparisons of one chunk stay in a CPU core's cache
_TINIEST = np.nextafter(np.float32(0), np.float32(1)).item()


class Selector(ABC):
    """Chooses coordinates of a vector.

    `per_layer` says that each tensor of the layout is taken by itself; `density` is the kept fraction in [0, 1], None
    where it depends on the values; `seeded` says that positions follow from the key alone, so that they need not be sent.
    """

    seeded: ClassVar[bool] = False
    per_layer: bool
    density: float | None

    def __init__(self, density: float | None, *, per_layer: bool = False) -> None:
        self.density = density
        self.per_layer = per_layer
        self._scratch: tuple[Tensor, Tensor] | None = None

    @abstractmethod
    def with_density(self, density: float) -> "Selector":
        """A selector of the same kind that keeps another fraction, in (0, 1]; SpecError if it has no kept fraction."""

    @abstractmethod
    def select(self, x: Tensor, layout: Layout | None, key: int) -> Tensor:
        """Ascending positions, int64 [k], of the coordinates of finite fp32 [n] to send.

        `layout` says where the tensors lie in `x`; a selector that looks at layers raises ValueError without it.
        `key` decides what is random, and nothing else: a selector that is not `seeded` ignores it.
        """

    def most_kept(self, layout: Layout) -> int:
        """The most coordinates of a vector of `layout` that can be selected: all, where that depends on its values."""
        return layout.total

    def at_least(self, x: Tensor, thresholds: Sequence[float], sizes: Sequence[int]) -> Tensor:
        """Ascending positions of the coordinates that are not zero and have a magnitude of at least the threshold of their
        part; `sizes`: of the parts, which make up `x` in their order."""
        if kernels.available(x.device):
            return kernels.compact(x, thresholds, sizes)[0]
        parts = zip(x.split(list(sizes)), accumulate(sizes, initial=0), thresholds, strict=False)
        found = [positions for part in parts for positions in self._passing(*part)]
        return torch.cat(found) if found else no_positions(x)

    def _passing(self, x: Tensor, first: int, threshold: float) -> Iterator[Tensor]:
        threshold = max(threshold, _TINIEST)
        chunk = _CHUNK if x.device.type == "cpu" else max(1, x.numel())
        if self._scratch is None or self._scratch[0].device != x.device or self._scratch[0].numel() < chunk:
            with torch.inference_mode(False):  # what is made in inference mode cannot be written to outside it
                self._scratch = (
                    torch.empty(chunk, dtype=torch.float32, device=x.device),
                    torch.empty(chunk, dtype=torch.bool, device=x.device),
                )
        for start in range(0, x.numel(), chunk):
            part = x[start : start + chunk]
            magnitude, mask = (buffer[: part.numel()] for buffer in self._scratch)
            torch.abs(part, out=magnitude)
            compare("greater_equal", magnitude, threshold, mask.view(torch.uint8))
            yield flat_nonzero(mask).add_(first + start)


class ScopedSelector(Selector):
    """A selector that takes the whole vector, or each tensor by itself, without a look at what the tensors are."""

    @abstractmethod
    def pick(self, x: Tensor, key: int) -> Tensor:
        """Ascending positions, int64 [k], of the coordinates of fp32 [n] to send."""

    def select(self, x: Tensor, layout: Layout | None, key: int) -> Tensor:
        """`pick` on the whole of `x`, or on each tensor of `layout` where the scope is the layer."""
        if not self.per_layer:
            return self.pick(x, key)
        layout = need_layout(layout, "scope=layer")
        parts = [
            self.pick(part, key) + start for part, start in zip(x.split(layout.sizes), layout.offsets, strict=False)
        ]
        return torch.cat(parts) if parts else no_positions(x)


def kept_count(density: float, n: int) -> int:
    """round(density * n), at least one, at most n."""
    return min(n, max(1, round(density * n)))


def no_positions(x: Tensor) -> Tensor:
    """Int64 [0] on the device of `x`."""
    return torch.empty(0, dtype=torch.int64, device=x.device)
