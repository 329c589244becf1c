"""Codes of log4, log3 and log2, a block a program: the numbers of `compression.values.logarithmic`, in its order of steps.

Magnitudes are compared as bit patterns, as in `selecting`. Quotients, roots and products are in float64, each rounded.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .launch import EXACT, on_device_of

_MOST = 256  # values of a block
_ONE_WARP = {**EXACT, "num_warps": 1}  # each warp of a program goes through the steps that are of the block
_MAGNITUDE = tl.constexpr(0x7FFFFFFF)
_INFINITE = tl.constexpr(0x7F800000)
_UPPER_HALF = tl.constexpr(-0x10000)
_LARGEST_BF16 = tl.constexpr(0x7F7F0000)
_SMALLEST = tl.constexpr(2.0**-100)
_FAR = tl.constexpr(2.0**-24)


@triton.jit
def _root(a, b, times):
    """Of a / b in float64, 1 where both are zero, the square root of the square root and so on."""
    root = tl.where(b == 0.0, 1.0, a / tl.where(b == 0.0, 1.0, b))
    for _ in range(times):
        root = tl.sqrt(root)
    return root


@triton.jit
def _float(pattern):
    """The fp32 of this bit pattern, as float64."""
    return pattern.to(tl.float32, bitcast=True).to(tl.float64)


@triton.jit(do_not_specialize=["m", "width"])
def _to_cells(patterns, words, codes, m, width, BLOCK: tl.constexpr):
    block = tl.program_id(0).to(tl.int64)
    i = tl.arange(0, BLOCK)
    pattern = tl.load(patterns + block * m + i, mask=i < m, other=0)
    magnitude = pattern & _MAGNITUDE
    largest = tl.max(magnitude, 0)
    floor = tl.maximum(largest.to(tl.float32, bitcast=True) * _FAR, _SMALLEST).to(tl.int32, bitcast=True)
    counts = (i < m) & (magnitude >= floor)
    smallest = tl.min(tl.where(counts, magnitude, _INFINITE), 0)
    zeros = tl.sum(((i < m) & (magnitude < floor)).to(tl.int32), 0) > 0
    empty = smallest == _INFINITE
    high = tl.where(empty, 0, tl.minimum((largest + 0xFFFF) & _UPPER_HALF, _LARGEST_BF16))
    low = tl.where(empty, 0, smallest & _UPPER_HALF)
    lower = _float(low) * _root(_float(low), _float(high), width - 2)
    lower = lower.to(tl.float32).to(tl.int32, bitcast=True) & _UPPER_HALF
    moved = zeros & (low > 0)
    low = tl.where(moved, lower, low)
    root = _root(_float(high), _float(low), width)
    point = _float(low)
    cells = 1 << (width - 1)
    code = tl.where(pattern < 0, (magnitude > 0).to(tl.int32) * cells, 0)
    for _ in range(cells - 1):
        point = point * root
        point = point * root
        edge = point.to(tl.float32).to(tl.int32, bitcast=True)
        code += ((magnitude >= edge) & (low > 0)).to(tl.int32)
    tl.store(codes + block * m + i, code.to(tl.uint8), mask=i < m)
    tl.store(words + block, high | (low >> 16) | tl.where(moved, 0x8000, 0))


@triton.jit(do_not_specialize=["m", "width"])
def _from_cells(words, codes, patterns, m, width, BLOCK: tl.constexpr):
    block = tl.program_id(0).to(tl.int64)
    i = tl.arange(0, BLOCK)
    word = tl.load(words + block)
    low = (word << 16) & _MAGNITUDE
    has_zero = (word & 0x8000) != 0
    code = tl.load(codes + block * m + i, mask=i < m, other=0).to(tl.int32)
    cells = 1 << (width - 1)
    cell = code & (cells - 1)
    root = _root(_float(word & _UPPER_HALF), _float(low), width)
    point = _float(low) * root
    pattern = tl.zeros([BLOCK], dtype=tl.int32)
    for number in range(cells):
        middle = point.to(tl.float32).to(tl.int32, bitcast=True)
        pattern = tl.where((cell == number) & ((number > 0) | ~has_zero), middle, pattern)
        point = point * root
        point = point * root
    # Not a product with -1 nor a difference from zero: zero has a sign too.
    tl.store(patterns + block * m + i, pattern | ((code >> (width - 1)) << 31), mask=i < m)


def to_cells(rows: Tensor, width: int, codes: Tensor) -> Tensor:
    """Blocks fp32 [b, m], m at most 256 -> words int32 [b], as log4, log3 or log2 (`width` 4, 3 or 2) has them; fills
    `codes`, uint8 [b, m], contiguous."""
    b, m = rows.shape
    if codes.shape != rows.shape or not codes.is_contiguous() or m > _MOST:
        raise ValueError(
            f"codes of shape {tuple(codes.shape)} for blocks of shape {tuple(rows.shape)} of at most {_MOST}"
        )
    words = torch.empty(b, dtype=torch.int32, device=rows.device)
    with on_device_of(rows):
        patterns = rows.contiguous().view(torch.int32)
        _to_cells[(b,)](patterns, words, codes, m, width, BLOCK=_MOST, **_ONE_WARP)
    return words


def from_cells(words: Tensor, codes: Tensor, width: int) -> Tensor:
    """The values of `to_cells`: words int32 [b], whole-number codes [b, m] below 2^width -> fp32 [b, m]."""
    b, m = codes.shape
    if words.shape != (b,) or m > _MOST:
        raise ValueError(f"{words.numel()} words for blocks of shape {tuple(codes.shape)} of at most {_MOST}")
    values = torch.empty((b, m), dtype=torch.float32, device=codes.device)
    with on_device_of(codes):
        given, patterns = (words.contiguous(), codes.contiguous()), values.view(torch.int32)
        _from_cells[(b,)](*given, patterns, m, width, BLOCK=_MOST, **_ONE_WARP)
    return values
