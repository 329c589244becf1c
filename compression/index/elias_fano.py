"""ELIAS_FANO (Elias 1974, Fano 1971): the low l = floor(log2(n / k)) bits of each position as they are, the high bits in
unary: k * l + k + ceil(n / 2^l) bits, at most 2 + log2(n / k) a kept coordinate, however the positions lie.

By hand: 3, 4 and 17 of 20 are kept, so l = 2. Low parts 3, 0, 1 of two bits each: 01 00 11 = 13. High parts 0, 1, 4: the
bits 0 + 0, 1 + 1 and 4 + 2 are set: 0100 0101 = 45.
"""

import torch
from torch import Tensor

from ..bits import flat_nonzero, pack_bits, pack_fixed, unpack_bits, unpack_fixed
from .mixed import refuse


def size(n: int, k: int) -> int:
    """Bytes for k positions out of n."""
    return -(-k * _low_bits(n, k) // 8) + -(-_high_length(n, k) // 8)


def encode(indices: Tensor, n: int) -> Tensor:
    """Ascending positions, int64 [k] -> uint8 [size(n, k)]."""
    k, device = indices.numel(), indices.device
    low = _low_bits(n, k)
    high = torch.zeros(_high_length(n, k), dtype=torch.bool, device=device)
    high.index_fill_(0, (indices >> low) + torch.arange(k, device=device), True)
    return torch.cat((pack_fixed(indices & ((1 << low) - 1), low), pack_bits(high)))


def decode(data: Tensor, n: int, k: int) -> Tensor:
    """The inverse of `encode` -> ascending int64 [k]; PayloadError if `data` is not such an encoding."""
    expected = size(n, k)
    refuse(data.numel() != expected, f"Elias-Fano part of {k} positions has {data.numel()} bytes, not {expected}")
    low, length = _low_bits(n, k), _high_length(n, k)
    split = -(-k * low // 8)
    refuse(length % 8 != 0 and bool(data[-1] >> (length % 8)), "Elias-Fano part has bits beyond its end")
    refuse(k * low % 8 != 0 and bool(data[split - 1] >> (k * low % 8)), "low bits go beyond their end")
    positions = flat_nonzero(unpack_bits(data[split:], length))
    refuse(positions.numel() != k, f"Elias-Fano part marks {positions.numel()} coordinates, header says {k}")
    high = positions - torch.arange(k, device=data.device)
    indices = (high << low) | unpack_fixed(data[:split], low, k)
    if k:
        refuse(bool((indices.diff() <= 0).any()), "positions do not ascend")
        refuse(int(indices[-1]) >= n, "a position lies beyond the last coordinate")
    return indices


def _low_bits(n: int, k: int) -> int:
    return max(0, (n // k).bit_length() - 1) if k else 0


def _high_length(n: int, k: int) -> int:
    return k + ((n - 1) >> _low_bits(n, k)) + 1 if k else 0
