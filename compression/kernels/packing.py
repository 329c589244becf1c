"""Packing of bits into bytes, lowest bit first: the bytes of `compression.bits`."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .launch import EXACT, blocks, on_device_of

_BLOCK = 1024
_CHUNK = tl.constexpr(128)  # _BLOCK values of w bits are w chunks of 128 bytes


@triton.jit
def _pack_bits(bits, packed, n, BLOCK: tl.constexpr):
    byte = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    j = tl.arange(0, 8)
    i = byte[:, None] * 8 + j[None, :]
    bit = tl.load(bits + i, mask=i < n, other=0).to(tl.int32)
    tl.store(packed + byte, tl.sum(bit << j[None, :], 1).to(tl.uint8), mask=byte * 8 < n)


@triton.jit
def _unpack_bits(packed, bits, n, BLOCK: tl.constexpr):
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    byte = tl.load(packed + i // 8, mask=i < n, other=0).to(tl.int32)
    tl.store(bits + i, ((byte >> (i % 8).to(tl.int32)) & 1).to(tl.uint8), mask=i < n)


@triton.jit(do_not_specialize=["k", "width"])
def _pack_fixed(values, packed, k, width, BLOCK: tl.constexpr):
    """A program's values fill whole bytes, so all but the two base addresses is 32-bit arithmetic."""
    first_value = tl.program_id(0).to(tl.int64) * BLOCK
    first_byte = tl.program_id(0).to(tl.int64) * (BLOCK // 8) * width
    j = tl.arange(0, 8)
    for chunk in range(width):
        byte = chunk * _CHUNK + tl.arange(0, _CHUNK)
        bit = byte[:, None] * 8 + j[None, :]
        i = bit // width
        value = tl.load(values + first_value + i, mask=first_value + i < k, other=0).to(tl.int64)
        ones = ((value >> (bit - i * width).to(tl.int64)) & 1).to(tl.int32)
        tl.store(
            packed + first_byte + byte,
            tl.sum(ones << j[None, :], 1).to(tl.uint8),
            mask=first_value * width + byte * 8 < k.to(tl.int64) * width,
        )


@triton.jit(do_not_specialize=["width"])
def _unpack_fixed(packed, values, k, size, width, BLOCK: tl.constexpr):
    """A value of up to 32 bits lies in at most five bytes."""
    v = tl.arange(0, BLOCK)
    i = tl.program_id(0).to(tl.int64) * BLOCK + v
    first_byte = tl.program_id(0).to(tl.int64) * (BLOCK // 8) * width
    bit = v * width
    address = first_byte + bit // 8
    word = tl.zeros([BLOCK], dtype=tl.int64)
    for part in tl.static_range(5):
        byte = tl.load(packed + address + part, mask=(i < k) & (address + part < size), other=0)
        word |= byte.to(tl.int64) << (8 * part)
    value = (word >> (bit % 8).to(tl.int64)) & ((tl.full([], 1, tl.int64) << width) - 1)
    tl.store(values + i, value.to(values.dtype.element_ty), mask=i < k)


def pack_bits(bits: Tensor) -> Tensor:
    """Bool [n] -> uint8 [ceil(n / 8)], the last byte filled up with zeros."""
    n = bits.numel()
    packed = torch.empty(blocks(n, 8), dtype=torch.uint8, device=bits.device)
    if n:
        with on_device_of(bits):
            raw = bits.contiguous().view(torch.uint8)
            _pack_bits[(blocks(n, 8 * _BLOCK),)](raw, packed, n, BLOCK=_BLOCK, **EXACT)
    return packed


def unpack_bits(packed: Tensor, count: int) -> Tensor:
    """Uint8 [ceil(count / 8)] -> bool [count]; bits beyond `count` are ignored."""
    _check_size(packed, 1, count)
    bits = torch.empty(count, dtype=torch.bool, device=packed.device)
    if count:
        with on_device_of(packed):
            _unpack_bits[(blocks(count, _BLOCK),)](
                packed.contiguous(), bits.view(torch.uint8), count, BLOCK=_BLOCK, **EXACT
            )
    return bits


def pack_fixed(values: Tensor, width: int) -> Tensor:
    """Int64 or uint8 [k], each below 2**width, width 0 to 32 -> uint8 [ceil(k * width / 8)]."""
    _check_width(width)
    k = values.numel()
    packed = torch.empty(blocks(k * width, 8), dtype=torch.uint8, device=values.device)
    if packed.numel():
        with on_device_of(values):
            _pack_fixed[(blocks(k, _BLOCK),)](values.contiguous(), packed, k, width, BLOCK=_BLOCK, **EXACT)
    return packed


def unpack_fixed(packed: Tensor, width: int, count: int, dtype: torch.dtype = torch.int64) -> Tensor:
    """Uint8 [ceil(count * width / 8)] -> [count] of `dtype`: int64, or uint8 where width is at most 8."""
    _check_width(width)
    _check_size(packed, width, count)
    if not width or not count:
        return torch.zeros(count, dtype=dtype, device=packed.device)
    values = torch.empty(count, dtype=dtype, device=packed.device)
    with on_device_of(packed):
        _unpack_fixed[(blocks(count, _BLOCK),)](
            packed.contiguous(), values, count, packed.numel(), width, BLOCK=_BLOCK, **EXACT
        )
    return values


def _check_width(width: int) -> None:
    if not 0 <= width <= 32:
        raise ValueError(f"width must be from 0 to 32 bits, not {width}")


def _check_size(packed: Tensor, width: int, count: int) -> None:
    if packed.numel() * 8 < count * width:
        raise ValueError(f"{packed.numel()} bytes are too few for {count} values of {width} bits")
