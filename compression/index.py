"""How the positions of k kept coordinates out of n are written down.

DENSE       no positions: all n values are sent.
BITMAP      one bit a coordinate: n bits.
ELIAS_FANO  (Elias 1974, Fano 1971) the low l = floor(log2(n / k)) bits of each position as they are, the high bits in
            unary: k * l + k + ceil(n / 2^l) bits, at most 2 + log2(n / k) a kept coordinate.

The size of each is a function of (n, k) alone, so the smallest is chosen before anything is written.
"""

from enum import IntEnum

import torch
from torch import Tensor

from .bits import flat_nonzero, pack_bits, pack_fixed, unpack_bits, unpack_fixed
from .errors import PayloadError


class IndexFormat(IntEnum):
    """The index format's code in the payload header."""

    DENSE = 0
    BITMAP = 1
    ELIAS_FANO = 2


def _low_bits(n: int, k: int) -> int:
    return max(0, (n // k).bit_length() - 1) if k else 0


def _high_length(n: int, k: int) -> int:
    return k + ((n - 1) >> _low_bits(n, k)) + 1 if k else 0


def index_bytes(form: IndexFormat, n: int, k: int) -> int:
    """Bytes that `form` takes for k positions out of n."""
    if form is IndexFormat.DENSE:
        return 0
    if form is IndexFormat.BITMAP:
        return -(-n // 8)
    return -(-k * _low_bits(n, k) // 8) + -(-_high_length(n, k) // 8)


def choose(n: int, k: int, value_bytes: int) -> IndexFormat:
    """The format with the fewest bytes in all, positions and values; the simpler one at a tie."""
    cost = {
        form: index_bytes(form, n, k) + value_bytes * (n if form is IndexFormat.DENSE else k) for form in IndexFormat
    }
    return min(IndexFormat, key=lambda form: (cost[form], form))


def encode_index(form: IndexFormat, indices: Tensor, n: int) -> Tensor:
    """Ascending positions int64 [k] out of n -> uint8 [index_bytes(form, n, k)]."""
    k, device = indices.numel(), indices.device
    if form is IndexFormat.DENSE:
        return torch.empty(0, dtype=torch.uint8, device=device)
    if form is IndexFormat.BITMAP:
        bits = torch.zeros(n, dtype=torch.bool, device=device)
        bits[indices] = True
        return pack_bits(bits)
    low = _low_bits(n, k)
    high = torch.zeros(_high_length(n, k), dtype=torch.bool, device=device)
    high[(indices >> low) + torch.arange(k, device=device)] = True
    return torch.cat((pack_fixed(indices & ((1 << low) - 1), low), pack_bits(high)))


def decode_index(form: IndexFormat, data: Tensor, n: int, k: int) -> Tensor:
    """The inverse of `encode_index` for uint8 [index_bytes(form, n, k)]; PayloadError if it is no such encoding."""
    if form is IndexFormat.DENSE:
        raise ValueError("a dense payload has no positions")
    if form is IndexFormat.BITMAP:
        indices = flat_nonzero(unpack_bits(data, n))
        _refuse(indices.numel() != k, f"bitmap marks {indices.numel()} coordinates, header says {k}")
        _refuse(n % 8 != 0 and bool(data[-1] >> (n % 8)), "bitmap has bits beyond the last coordinate")
        return indices
    low = _low_bits(n, k)
    split = -(-k * low // 8)
    length = _high_length(n, k)
    positions = flat_nonzero(unpack_bits(data[split:], length))
    _refuse(positions.numel() != k, f"Elias-Fano part marks {positions.numel()} coordinates, header says {k}")
    _refuse(length % 8 != 0 and bool(data[-1] >> (length % 8)), "Elias-Fano part has bits beyond its end")
    _refuse(k * low % 8 != 0 and bool(data[split - 1] >> (k * low % 8)), "low bits go beyond their end")
    high = positions - torch.arange(k, device=data.device)
    indices = (high << low) | unpack_fixed(data[:split], low, k)
    if k:
        _refuse(bool((indices.diff() <= 0).any()), "positions do not ascend")
        _refuse(int(indices[-1]) >= n, "a position lies beyond the last coordinate")
    return indices


def _refuse(condition: bool, reason: str) -> None:
    if condition:
        raise PayloadError(reason)
