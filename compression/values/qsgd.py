"""qsgd:LEVELS (Alistarh, Grubic, Li, Tomioka, Vojnovic 2017, "QSGD", section 3.1)."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from .base import row_sums
from .uniform import Uniform

MAX_LEVELS = 127
QSGD_CODE = 8


@dataclass(frozen=True)
class Qsgd(Uniform):
    """Q_s(v) = ||v||_2 * sign(v) * xi(v, s) for blocks of 512; `parameter` is the number of levels s.

    With a = |v| / ||v||_2 * s, xi is (floor(a) + 1) / s with probability a - floor(a), otherwise floor(a) / s: unbiased,
    its variance at most min(m / s^2, sqrt(m) / s) * ||v||_2^2 for a block of m. A norm beyond fp32 is cut to its largest.
    """

    block: ClassVar[int] = 512

    @classmethod
    def of(cls, levels: int) -> "Qsgd":
        """The format with so many levels, 1 to 127."""
        return cls("qsgd", QSGD_CODE, (2 * levels).bit_length(), levels)

    @property
    def levels(self) -> int:
        """The paper's s."""
        return self.parameter

    def _scales(self, rows: Tensor) -> Tensor:
        squares = rows.double()
        norms = row_sums(squares.mul_(squares)).sqrt()
        return norms.clamp_(max=torch.finfo(torch.float32).max).float()
