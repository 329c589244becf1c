"""log4, log3 and log2: a sign and a logarithmic magnitude, for values that span few binades, as those kept by top-k do."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from .. import kernels
from ..bits import compare
from .base import Blockwise

_LARGEST_BF16 = 0x7F7F0000
_UPPER_HALF = -0x10000
_SMALLEST = 2.0**-100  # below it, and below the block's largest * _FAR, magnitudes count as zero
_FAR = 2.0**-24


@dataclass(frozen=True)
class Logarithmic(Blockwise):
    """A sign bit and one of m = 2^(width - 1) magnitudes: the middles of m equally wide cells from lo to hi in log domain.

    lo and hi are the block's smallest and largest magnitude, rounded outwards (by less than 0.8 % each) to bfloat16,
    which has the range of fp32 in half its bytes: 4 bytes a block. m is a power of two, so all edges and middles follow
    from lo and hi by square roots and products, which round alike everywhere. A magnitude in [lo, hi] comes back off by
    a factor of at most (hi / lo)^(1 / 2m); with the ends of the grid on lo and hi that would be (hi / lo)^(1 / (2m - 2)).
    What lies above the largest bfloat16, 3.39e38, counts as that.

    A block that holds zeros, or magnitudes below max(hi * 2^-24, 2^-100), has lo negative: its lowest cell, moved below
    the smallest other magnitude, then stands for zero, and its cells are 2 / m wider.
    """

    impossible: ClassVar[str] = "a block's smallest and largest magnitude are no such pair"

    @property
    def code_count(self) -> int:
        """Every code of the width."""
        return 1 << self.width

    @property
    def magnitudes(self) -> int:
        """m, the number of cells."""
        return 1 << (self.width - 1)

    def _quantise(self, rows: Tensor, codes: Tensor, key: int, start: int) -> Tensor:
        if kernels.available(rows.device):
            return kernels.to_cells(rows, self.width, codes)
        magnitude = rows.abs()
        low, high = self._range(magnitude)
        edges, _ = self._grid(low.abs(), high)
        compare("less", rows, 0.0, codes).mul_(self.magnitudes)
        above = torch.empty_like(codes)
        for edge in edges.split(1, dim=1):
            codes.add_(compare("greater_equal", magnitude, edge, above))
        return high.view(torch.int32) | ((low.view(torch.int32) >> 16) & 0xFFFF)

    def _restore(self, words: Tensor, codes: Tensor) -> Tensor:
        if kernels.available(codes.device):
            return kernels.from_cells(words, codes, self.width)
        high, low = words & _UPPER_HALF, words << 16
        _, table = self._grid((low & 0x7FFFFFFF).view(torch.float32), high.view(torch.float32))
        table[:, 0].masked_fill_(low < 0, 0.0)
        return torch.cat((table, -table), 1).gather(1, codes.long())

    def _wrong(self, words: Tensor) -> Tensor:
        high, least = words & _UPPER_HALF, words << 16 & 0x7FFFFFFF
        # A negative `high` is less than any `least`.
        return (least < high.sign()) | (least > high) | (high > _LARGEST_BF16)

    def _range(self, magnitude: Tensor) -> tuple[Tensor, Tensor]:
        """Magnitudes fp32 [b, m] -> lo and hi, fp32 [b], representable in bfloat16; zero both if all counts as zero."""
        largest = magnitude.amax(1)
        floor = (largest * _FAR).clamp_(min=_SMALLEST)
        has_zero = magnitude.amin(1) < floor
        smallest = magnitude.masked_fill(magnitude < floor[:, None], torch.inf).amin(1)
        empty = smallest == torch.inf
        up = ((largest.view(torch.int32) + 0xFFFF) & _UPPER_HALF).clamp_(max=_LARGEST_BF16)
        high = up.view(torch.float32).masked_fill(empty, 0.0)
        low = _down(smallest).masked_fill_(empty, 0.0)
        # With lo * (lo / hi)^(2 / m) for lo, the first edge lies below the smallest magnitude: 2 / m > 1 / (m - 1).
        ratio = _ratio(low, high)
        for _ in range(self.width - 2):
            ratio = ratio.sqrt()
        lower = _down((low.double() * ratio).float())
        return torch.where(has_zero & ~empty, -lower, low), high

    def _grid(self, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        """Edges between cells, fp32 [b, m - 1], and middles, fp32 [b, m], ascending; edges of a block of zeros: inf."""
        root = _ratio(high, low)
        for _ in range(self.width):
            root = root.sqrt()
        points, point = [], low.double()
        for _ in range(2 * self.magnitudes - 1):
            point = point * root
            points.append(point)
        grid = torch.stack(points, 1).float()
        return grid[:, 1::2].masked_fill((low == 0)[:, None], torch.inf), grid[:, ::2]


def _ratio(a: Tensor, b: Tensor) -> Tensor:
    """a / b in float64, 1 where both are zero."""
    return torch.where(b == 0, 1.0, a.double() / b.double())


def _down(x: Tensor) -> Tensor:
    """fp32 of at least zero, rounded down to bfloat16."""
    return (x.view(torch.int32) & _UPPER_HALF).view(torch.float32)


LOG4 = Logarithmic("log4", 5, 4)
LOG3 = Logarithmic("log3", 6, 3)
LOG2 = Logarithmic("log2", 9, 2)
