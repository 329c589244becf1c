"""sign: one bit a value and one magnitude a block."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..bits import compare
from .base import Blockwise, fixed, row_sums, scales_from


@dataclass(frozen=True)
class Sign(Blockwise):
    """A value becomes +-(mean magnitude of its block); code 1 is minus, zero counts as plus.

    After top-k: Sparse Ternary Compression (Sattler, Wiedemann, Mueller, Samek 2019, algorithm 1), here a mean a block;
    dense: scaled sign (Karimireddy, Rebjock, Stich, Jaggi 2019, algorithm 1), which needs error feedback to converge.
    """

    @property
    def code_count(self) -> int:
        """Plus and minus."""
        return 2

    def _quantise(self, rows: Tensor, codes: Tensor, key: int, start: int) -> Tensor:
        compare("less", rows, 0.0, codes)
        sums = row_sums(rows.abs().double())
        return (sums / fixed(rows.shape[1], sums)).float().view(-1).view(torch.int32)

    def _restore(self, words: Tensor, codes: Tensor) -> Tensor:
        return scales_from(words) * codes.float().mul_(-2).add_(1)


SIGN = Sign("sign", 7, 1)
