"""Packing of bits into bytes, lowest bit first; NumPy on the CPU, torch on a GPU, the same bytes from both."""

import numpy as np
import torch
from torch import Tensor


def pack_bits(bits: Tensor) -> Tensor:
    """Bool [n] -> uint8 [ceil(n / 8)], the last byte filled up with zeros."""
    if bits.device.type == "cpu":
        return torch.from_numpy(np.packbits(bits.numpy(), bitorder="little"))
    padded = torch.zeros(-(-bits.numel() // 8) * 8, dtype=torch.uint8, device=bits.device)
    padded[: bits.numel()] = bits
    weights = 1 << torch.arange(8, dtype=torch.uint8, device=bits.device)
    return (padded.view(-1, 8) * weights).sum(1, dtype=torch.uint8)


def unpack_bits(packed: Tensor, count: int) -> Tensor:
    """Uint8 [ceil(count / 8)] -> bool [count]; bits beyond `count` are ignored."""
    if packed.device.type == "cpu":
        bits = np.unpackbits(packed.numpy(), count=count, bitorder="little")
        return torch.from_numpy(bits.view(np.bool_))
    shifts = torch.arange(8, dtype=torch.uint8, device=packed.device)
    return ((packed[:, None] >> shifts) & 1).view(-1)[:count].bool()


def pack_fixed(values: Tensor, width: int) -> Tensor:
    """Int64 [k], each below 2**width -> uint8 [ceil(k * width / 8)]."""
    if width == 0 or values.numel() == 0:
        return torch.empty(0, dtype=torch.uint8, device=values.device)
    if values.device.type == "cpu":
        raw = values.numpy().astype("<u8").view(np.uint8).reshape(-1, 8)[:, : -(-width // 8)]
        bits = np.unpackbits(np.ascontiguousarray(raw), axis=1, count=width, bitorder="little")
        return torch.from_numpy(np.packbits(bits, bitorder="little"))
    shifts = torch.arange(width, device=values.device)
    return pack_bits(((values[:, None] >> shifts) & 1).view(-1).bool())


def unpack_fixed(packed: Tensor, width: int, count: int) -> Tensor:
    """Uint8 [ceil(count * width / 8)] -> int64 [count]."""
    if width == 0 or count == 0:
        return torch.zeros(count, dtype=torch.int64, device=packed.device)
    bits = unpack_bits(packed, count * width).view(count, width)
    if packed.device.type == "cpu":
        raw = np.zeros((count, 8), dtype=np.uint8)
        raw[:, : -(-width // 8)] = np.packbits(bits.numpy(), axis=1, bitorder="little")
        return torch.from_numpy(raw.view("<i8").reshape(-1))
    weights = 1 << torch.arange(width, device=packed.device)
    return (bits * weights).sum(1)


def flat_nonzero(mask: Tensor) -> Tensor:
    """Positions of the true entries of bool [n], ascending, int64 [k]."""
    if mask.device.type == "cpu":
        return torch.from_numpy(np.flatnonzero(mask.numpy()))
    return mask.nonzero().squeeze(1)
