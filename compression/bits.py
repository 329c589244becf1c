"""Packing of bits into bytes, lowest bit first; NumPy on the CPU, torch on a GPU, the same bytes from both."""

from typing import Literal

import numpy as np
import torch
from torch import Tensor

from . import kernels


def pack_bits(bits: Tensor) -> Tensor:
    """Bool [n] -> uint8 [ceil(n / 8)], the last byte filled up with zeros."""
    if kernels.available(bits.device):
        return kernels.pack_bits(bits)
    if bits.device.type == "cpu":
        return torch.from_numpy(np.packbits(bits.numpy(), bitorder="little"))
    padded = torch.zeros(-(-bits.numel() // 8) * 8, dtype=torch.uint8, device=bits.device)
    padded[: bits.numel()] = bits
    weights = 1 << torch.arange(8, dtype=torch.uint8, device=bits.device)
    return (padded.view(-1, 8) * weights).sum(1, dtype=torch.uint8)


def unpack_bits(packed: Tensor, count: int) -> Tensor:
    """Uint8 [ceil(count / 8)] -> bool [count]; bits beyond `count` are ignored."""
    if kernels.available(packed.device):
        return kernels.unpack_bits(packed, count)
    if packed.device.type == "cpu":
        bits = np.unpackbits(packed.numpy(), count=count, bitorder="little")
        return torch.from_numpy(bits.view(np.bool_))
    shifts = torch.arange(8, dtype=torch.uint8, device=packed.device)
    return ((packed[:, None] >> shifts) & 1).view(-1)[:count].bool()


def pack_fixed(values: Tensor, width: int) -> Tensor:
    """Int64 or uint8 [k], each below 2**width -> uint8 [ceil(k * width / 8)]; width 0 to 32. May be a view of `values`."""
    if width == 0 or values.numel() == 0:
        return torch.empty(0, dtype=torch.uint8, device=values.device)
    if width == 8:
        return values.to(torch.uint8).contiguous()
    if kernels.available(values.device):
        return kernels.pack_fixed(values, width)
    if values.device.type == "cpu":
        pack = _pack_bytes if values.dtype == torch.uint8 and width < 8 else _pack_groups
        return torch.from_numpy(pack(values.numpy(), width))
    shifts = torch.arange(width, device=values.device, dtype=values.dtype)
    return pack_bits(((values[:, None] >> shifts) & 1).view(-1).bool())


def unpack_fixed(packed: Tensor, width: int, count: int, dtype: torch.dtype = torch.int64) -> Tensor:
    """Uint8 [ceil(count * width / 8)] -> `dtype` [count]: int64, or uint8 for widths up to 8. May be a view of `packed`."""
    if width == 0 or count == 0:
        return torch.zeros(count, dtype=dtype, device=packed.device)
    if width == 8:
        return packed[:count].to(dtype)
    if kernels.available(packed.device):
        return kernels.unpack_fixed(packed, width, count, dtype)
    if packed.device.type == "cpu":
        unpack = _unpack_bytes if dtype == torch.uint8 else _unpack_groups
        return torch.from_numpy(unpack(packed.numpy(), width, count))
    bits = unpack_bits(packed, count * width).view(count, width)
    weights = 1 << torch.arange(width, device=packed.device, dtype=dtype)
    return (bits * weights).sum(1, dtype=dtype)


def _lanes(width: int) -> list[tuple[int, int, int]]:
    """Where value 0 to 7 of a group lies: its word of 64 bits, its lowest bit there, the bits beyond the word's end."""
    return [(i * width // 64, i * width % 64, i * width % 64 + width - 64) for i in range(8)]


def _pack_groups(values: np.ndarray, width: int) -> np.ndarray:
    # Eight values fill whole bytes, so all groups are packed at once: a few operations for each of the eight.
    k, groups = values.size, -(-values.size // 8)
    padded = np.zeros((groups, 8), dtype=values.dtype)
    padded.reshape(-1)[:k] = values
    words = np.zeros((groups, -(-width // 8)), dtype="<u8")
    for lane, (word, shift, beyond) in enumerate(_lanes(width)):
        value = padded[:, lane].astype(np.uint64)
        words[:, word] |= value << np.uint64(shift)
        if beyond > 0:
            words[:, word + 1] |= value >> np.uint64(width - beyond)
    packed = words.view(np.uint8)[:, :width].reshape(-1)
    return packed[: -(-k * width // 8)]


def _unpack_groups(packed: np.ndarray, width: int, count: int) -> np.ndarray:
    groups, size = -(-count // 8), -(-count * width // 8)
    values = np.empty(count, dtype=np.int64)
    padded = np.zeros((groups, width), dtype=np.uint8)
    padded.reshape(-1)[:size] = packed[:size]
    words = np.zeros((groups, -(-width // 8)), dtype="<u8")
    words.view(np.uint8)[:, :width] = padded
    for lane, (word, shift, beyond) in enumerate(_lanes(width)):
        target = values[lane::8]
        value = words[: target.size, word] >> np.uint64(shift)
        if beyond > 0:
            value |= words[: target.size, word + 1] << np.uint64(width - beyond)
        value &= np.uint64((1 << width) - 1)
        target[:] = value
    return values


def _halves(width: int, size: int) -> tuple[np.uint64, np.uint64, np.uint64]:
    """In each `size` bits of a word, a half has bits of values in its lowest places, `width` of 8: the lower half's bits, by
    how much the upper half moves to follow them, and where it is then."""
    bits = size * width // 16
    lower = sum(((1 << bits) - 1) << at for at in range(0, 64, size))
    return np.uint64(lower), np.uint64(size // 2 - bits), np.uint64(lower << bits)


def _pack_bytes(values: np.ndarray, width: int) -> np.ndarray:
    # As `_pack_groups`, eight bytes in a word: neighbours move together, then pairs, then fours.
    k, groups = values.size, -(-values.size // 8)
    padded = np.zeros((groups, 8), dtype=np.uint8)
    padded.reshape(-1)[:k] = values
    words = padded.view("<u8")
    for size in (16, 32, 64):
        lower, distance, upper = _halves(width, size)
        moved = (words >> distance) & upper
        words &= lower
        words |= moved
    return padded[:, :width].reshape(-1)[: -(-k * width // 8)]


def _unpack_bytes(packed: np.ndarray, width: int, count: int) -> np.ndarray:
    whole, rest = divmod(-(-count * width // 8), width)
    padded = np.zeros((-(-count // 8), 8), dtype=np.uint8)
    padded[:whole, :width] = packed[: whole * width].reshape(-1, width)
    padded[whole:, :rest] = packed[whole * width : whole * width + rest]
    words = padded.view("<u8")
    for size in (64, 32, 16):
        lower, distance, upper = _halves(width, size)
        moved = (words & upper) << distance
        words &= lower
        words |= moved
    return padded.reshape(-1)[:count]


def compare(relation: Literal["less", "greater_equal"], x: Tensor, y: Tensor | float, out: Tensor) -> Tensor:
    """1 where fp32 `x` is in this relation to `y`, fp32 that broadcasts, else 0: in `out`, uint8 of the shape of `x`."""
    if x.device.type == "cpu":  # many times as fast: PyTorch does not write bools by vector instructions
        right = y.numpy() if isinstance(y, Tensor) else np.float32(y)
        getattr(np, relation)(x.numpy(), right, out=out.numpy().view(np.bool_))
    else:
        getattr(torch, relation)(x, y, out=out.view(torch.bool))
    return out


def flat_nonzero(mask: Tensor) -> Tensor:
    """Positions of the true entries of bool [n], ascending, int64 [k]."""
    if mask.device.type == "cpu":
        return torch.from_numpy(np.flatnonzero(mask.numpy()))
    return mask.nonzero().squeeze(1)
