"""BITMAP: one bit a coordinate, set where it is kept; n bits.

By hand: 0, 2 and 8 of 9 are kept. Lowest position in the lowest bit: 0000 0101, 0000 0001 = 05 01.
"""

import torch
from torch import Tensor

from ..bits import flat_nonzero, pack_bits, unpack_bits
from .mixed import refuse


def size(n: int) -> int:
    """Bytes for n coordinates."""
    return -(-n // 8)


def encode(indices: Tensor, n: int) -> Tensor:
    """Positions, int64 [k] -> uint8 [size(n)]."""
    bits = torch.zeros(n, dtype=torch.bool, device=indices.device)
    return pack_bits(bits.index_fill_(0, indices, True))


def decode(data: Tensor, n: int, k: int) -> Tensor:
    """The inverse of `encode` -> ascending int64 [k]; PayloadError if `data` is not such an encoding."""
    refuse(data.numel() != size(n), f"bitmap of {n} coordinates has {data.numel()} bytes, not {size(n)}")
    refuse(n % 8 != 0 and bool(data[-1] >> (n % 8)), "bitmap has bits beyond the last coordinate")
    indices = flat_nonzero(unpack_bits(data, n))
    refuse(indices.numel() != k, f"bitmap marks {indices.numel()} coordinates, header says {k}")
    return indices
