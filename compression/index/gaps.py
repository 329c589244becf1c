"""GAPS: gaps as an entropy-coded class each, and the bits below the class as they are (Elias 1975's gamma code, with its
unary part entropy coded).

The class of a gap is c = floor(log2(gap + 1)), and c bits of gap + 1 remain. From 2^15 on the class is 15 and the gap
itself follows in ceil(log2(n)) bits. Two classes share a byte, the first lowest, so that the Huffman coder sees a gap with
its neighbour: kept coordinates cluster, and pairs take less than two single classes (measured: 3.6 instead of 4.0 bits at
10 % kept). Written one after the other:

    4 bytes    length of the frame, little-endian
    a frame    the classes, Zstandard (`entropy.compress`)
    the bits below the class, by class, each class filled up to a byte (`pack_mixed`)

By hand: 3, 4 and 17 are kept: gaps 3, 0, 12, classes 2, 0, 3 (4 = 100, 1 = 1, 13 = 1101). Class bytes: 02 03. Bits below:
class 2: 00 = 00; class 3: 101 = 05.
"""

import torch
from torch import Tensor

from ..entropy import compress, decompress, pack_symbols, symbol_bytes, unpack_symbols
from .mixed import floor_log2, from_gaps, mixed_bytes, pack_mixed, refuse, unpack_mixed

_CLASS_BITS = 4
_ESCAPE = 15
_LENGTH_BYTES = 4


def encode(gaps: Tensor, n: int) -> Tensor:
    """Gaps, int64 [k] -> uint8."""
    numbers = gaps + 1
    classes = floor_log2(numbers).clamp_(max=_ESCAPE)
    numbers -= (classes == _ESCAPE).long()
    frame = compress(pack_symbols(classes, _CLASS_BITS))
    length = torch.tensor(list(frame.numel().to_bytes(_LENGTH_BYTES, "little")), dtype=torch.uint8, device=gaps.device)
    return torch.cat((length, frame, pack_mixed(numbers, classes, _widths(n))))


def decode(data: Tensor, n: int, k: int) -> Tensor:
    """The inverse of `encode` -> ascending positions, int64 [k]; PayloadError if `data` is not such an encoding."""
    refuse(data.numel() < _LENGTH_BYTES, f"gaps part of {data.numel()} bytes has no length")
    split = _LENGTH_BYTES + int.from_bytes(data[:_LENGTH_BYTES].cpu().numpy().tobytes(), "little")
    refuse(data.numel() < split, f"gaps part of {data.numel()} bytes; its frame ends at {split}")
    packed = decompress(data[_LENGTH_BYTES:split], symbol_bytes(_CLASS_BITS, k))
    classes = unpack_symbols(packed, _CLASS_BITS, k)
    widths = _widths(n)
    end = split + mixed_bytes(classes, widths)
    refuse(data.numel() != end, f"gaps part has {data.numel()} bytes, not {end}")
    below = unpack_mixed(data[split:], classes, widths)
    escaped = classes == _ESCAPE
    refuse(bool((escaped & (below < (1 << _ESCAPE) - 1)).any()), "a gap is written out that has a class of its own")
    top = (1 << classes.long()).masked_fill_(escaped, 1)
    return from_gaps(below.add_(top).sub_(1), n)


def _widths(n: int) -> tuple[int, ...]:
    return (*range(_ESCAPE), max(n - 1, 0).bit_length())
