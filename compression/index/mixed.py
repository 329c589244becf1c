"""What the formats that write gaps share: gaps themselves, and numbers of several widths.

The gap of a kept coordinate is its position minus the previous one's minus 1, so that neighbours have gap 0.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from ..bits import pack_fixed, unpack_fixed
from ..errors import PayloadError


def refuse(condition: bool, reason: str) -> None:
    """Raise PayloadError with `reason` if `condition` holds."""
    if condition:
        raise PayloadError(reason)


def to_gaps(indices: Tensor) -> Tensor:
    """Ascending positions, int64 [k] -> gaps, int64 [k]."""
    gaps = indices.clone()
    gaps[1:] -= indices[:-1]
    gaps[1:] -= 1
    return gaps


def from_gaps(gaps: Tensor, n: int) -> Tensor:
    """Gaps, int64 [k], each in [0, 2^33) -> ascending positions, int64 [k]; PayloadError if one lies beyond n."""
    # In place, and the largest is checked, not the last: even if a sum could wrap, it would pass n first.
    indices = gaps.add_(1).cumsum(0).sub_(1)
    refuse(indices.numel() > 0 and int(indices.max()) >= n, "a position lies beyond the last coordinate")
    return indices


def floor_log2(numbers: Tensor) -> Tensor:
    """Int64, each in [1, 2^53) -> uint8, the place of the highest bit, exact: the exponent of the float64."""
    return (numbers.double().view(torch.int64) >> 52).sub_(1023).to(torch.uint8)


def pack_mixed(numbers: Tensor, classes: Tensor, widths: Sequence[int]) -> Tensor:
    """The low widths[c] bits of each number, int64 [k], of class c, uint8 [k] -> uint8.

    Class by class, each class in order and filled up to a byte: every class is packed at once, with one width.
    """
    parts = [
        pack_fixed(numbers[members] & ((1 << width) - 1), width)
        for members, width in zip(_members(classes, widths), widths, strict=True)
        if members.numel() and width
    ]
    return torch.cat(parts) if parts else classes.new_empty(0)


def mixed_bytes(classes: Tensor, widths: Sequence[int]) -> int:
    """Bytes of `pack_mixed`."""
    return sum(-(-count * width // 8) for count, width in zip(_counts(classes, widths), widths, strict=True))


def unpack_mixed(data: Tensor, classes: Tensor, widths: Sequence[int]) -> Tensor:
    """The inverse of `pack_mixed` for uint8 [mixed_bytes(classes, widths)] -> int64 [k]; PayloadError for stray bits."""
    numbers = torch.zeros(classes.numel(), dtype=torch.int64, device=data.device)
    start, stray = 0, []
    for members, width in zip(_members(classes, widths), widths, strict=True):
        bits = members.numel() * width
        if bits:
            part = data[start : start + -(-bits // 8)]
            if bits % 8:
                stray.append(part[-1] >> (bits % 8))
            numbers[members] = unpack_fixed(part, width, members.numel())
            start += part.numel()
    refuse(bool(stray) and bool(torch.stack(stray).any()), "low bits go beyond their end")
    return numbers


def _members(classes: Tensor, widths: Sequence[int]) -> Sequence[Tensor]:
    """Positions of each class's members, ascending int64. By one sort: to look for each class a GPU's host would wait."""
    return classes.sort(stable=True).indices.split(_counts(classes, widths))


def _counts(classes: Tensor, widths: Sequence[int]) -> list[int]:
    return torch.bincount(classes, minlength=len(widths)).tolist()
