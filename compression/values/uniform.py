"""int8, int4 and qsgd: equal steps on both sides of zero, one scale a block, stochastic rounding."""

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from .. import kernels
from ..bits import compare
from ..draws import uniform
from .base import Blockwise, fixed, row_sums, scales_from

QSGD_CODE = 8


@dataclass(frozen=True)
class Uniform(Blockwise):
    """A value v of a block with scale s (fp32, at least every |v|) becomes a level q with E[q] = v / s * levels.

    q = floor(x) + (u < x - floor(x)) with x = v / s * levels and u the value's own random number in [0, 1);
    code = levels + q; restored is q / levels * s. So a value is off by less than one step s / levels, is right on
    average (to within 2^-24 of a step), and zero and +-s are exact.
    """

    stochastic: ClassVar[bool] = True

    @property
    @abstractmethod
    def levels(self) -> int:
        """Steps between zero and the scale, 1 to 127."""

    @abstractmethod
    def _scales(self, rows: Tensor) -> Tensor:
        """Blocks fp32 [b, m] -> scales fp32 [b, 1], finite, none below its block's largest magnitude."""

    @property
    def code_count(self) -> int:
        """Levels on both sides, and zero."""
        return 2 * self.levels + 1

    def _quantise(self, rows: Tensor, codes: Tensor, key: int, start: int) -> Tensor:
        scales = self._scales(rows)
        if kernels.available(rows.device):
            kernels.round_stochastic(
                rows.reshape(-1), scales.view(-1), key, self.levels, rows.shape[1], start, codes.view(-1)
            )
            return scales.view(-1).view(torch.int32)
        # The quotient first: levels / scale would overflow for a denormal scale.
        rest = rows / torch.where(scales == 0, 1.0, scales)
        rest.mul_(self.levels)
        low = rest.floor()
        rest.sub_(low)
        codes.copy_(low.add_(self.levels))
        draws = uniform(key, rows.numel(), rows.device, start, out=low.view(-1)).view_as(rest)
        codes.add_(compare("less", draws, rest, torch.empty_like(codes)))
        return scales.view(-1).view(torch.int32)

    def _restore(self, words: Tensor, codes: Tensor) -> Tensor:
        scales = scales_from(words)
        levels = codes.float().sub_(self.levels)
        return levels.div_(fixed(self.levels, levels)).mul_(scales)


@dataclass(frozen=True)
class Integer(Uniform):
    """Signed whole numbers of `width` bits without the lowest; the scale is the block's largest magnitude."""

    @property
    def levels(self) -> int:
        """127 or 7."""
        return (1 << (self.width - 1)) - 1

    def _scales(self, rows: Tensor) -> Tensor:
        return rows.abs().amax(1, keepdim=True)


@dataclass(frozen=True)
class Qsgd(Uniform):
    """qsgd:LEVELS (Alistarh, Grubic, Li, Tomioka, Vojnovic 2017, "QSGD", section 3.1).

    Q_s(v) = ||v||_2 * sign(v) * xi(v, s) for blocks of 512; `parameter` is the number of levels s.

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


INT8 = Integer("int8", 3, 8)
INT4 = Integer("int4", 4, 4)
