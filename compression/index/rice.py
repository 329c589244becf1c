"""RICE (Rice 1979): gaps in groups of 16 kept coordinates, each group with its own parameter b.

Kept coordinates cluster, and b follows the clusters: of a gap the low b bits are written as they are and the rest,
gap >> b, in unary. With b = 0 a group is the bitmap of its stretch. Written one after the other, each filled up to a byte:

    ceil(k / 16) parameters of 5 bits
    the low bits of every gap, by parameter (`pack_mixed`)
    the unary part: gap >> b zeros and a one, for every gap

By hand: 3, 4 and 17 are kept: gaps 3, 0, 12. One group. With b = 2 the low bits take 3 * 2 bits, the quotients 0, 0, 3
take 1 + 1 + 4 bits: 12 in all, and neither 1 nor 3 takes fewer. Parameter: 0000 0010 = 02. Low parts 3, 0, 0: 00 00 11
= 03. Unary, first bit lowest: 1, 1, 0001: 0010 0011 = 23.

Groups of 16 were measured on a first update of ResNet-18, bits per kept coordinate at 10, 1 and 0.1 %: 4.35, 5.67, 3.80
for 8; 4.17, 5.56, 3.74 for 16; 4.08, 5.59, 3.97 for 32; 4.04, 5.72, 4.48 for 64.
"""

import torch
from torch import Tensor

from ..bits import flat_nonzero, pack_bits, pack_fixed, unpack_bits, unpack_fixed
from .mixed import floor_log2, from_gaps, mixed_bytes, pack_mixed, refuse, unpack_mixed

GROUP = 16
_PARAMETER_BITS = 5
_WIDTHS = range(1 << _PARAMETER_BITS)


def fit(gaps: Tensor) -> Tensor:
    """Gaps, int64 [k] -> each group's parameter, uint8 [ceil(k / 16)]: the one with the fewest bits; the lower at a tie.

    Going from b to b + 1 saves sum(ceil((gap >> b) / 2)) bits of the unary part and costs one low bit a gap. The saving
    never grows with b, so the first b at which it is no gain is the best. While sum(gap) > 3 * count * 2^b there is a
    gain, and from sum(gap) <= count * 2^b on there is none; at most two steps lie between.
    """
    k = gaps.numel()
    groups = -(-k // GROUP)
    rest = gaps.new_zeros(groups * GROUP)
    rest[:k] = gaps
    rest = rest.view(groups, GROUP)
    count = torch.full((groups,), GROUP, dtype=torch.int64, device=gaps.device)
    count[-1:] -= groups * GROUP - k
    start = ((rest.sum(1) - 1) // (3 * count)).clamp_(
        min=0
    )  # ceil(sum / (3 * count)) - 1, of which we need the bit length
    parameters = floor_log2(2 * start + 1).long()
    rest >>= parameters[:, None]
    for _ in range(2):
        gain = ((rest + 1) >> 1).sum(1) > count
        parameters += gain
        rest >>= gain[:, None].long()
    return parameters.to(torch.uint8)


def encode(gaps: Tensor, parameters: Tensor) -> Tensor:
    """Gaps, int64 [k], with the parameters of `fit` -> uint8."""
    widths = parameters.repeat_interleave(GROUP)[: gaps.numel()]
    ends = ((gaps >> widths) + 1).cumsum(0)
    unary = torch.zeros(int(ends[-1]) if gaps.numel() else 0, dtype=torch.bool, device=gaps.device)
    unary.index_fill_(0, ends - 1, True)
    return torch.cat((pack_fixed(parameters, _PARAMETER_BITS), pack_mixed(gaps, widths, _WIDTHS), pack_bits(unary)))


def size(gaps: Tensor, parameters: Tensor) -> int:
    """Bytes of `encode`."""
    widths = parameters.repeat_interleave(GROUP)[: gaps.numel()]
    unary = gaps.numel() + int((gaps >> widths).sum())
    return -(-parameters.numel() * _PARAMETER_BITS // 8) + mixed_bytes(widths, _WIDTHS) + -(-unary // 8)


def decode(data: Tensor, n: int, k: int) -> Tensor:
    """The inverse of `encode` -> ascending positions, int64 [k]; PayloadError if `data` is not such an encoding."""
    groups = -(-k // GROUP)
    split = -(-groups * _PARAMETER_BITS // 8)
    refuse(data.numel() < split + -(-k // 8), f"Rice part of {data.numel()} bytes is too short for {k} positions")
    stray = groups * _PARAMETER_BITS % 8
    refuse(stray != 0 and bool(data[split - 1] >> stray), "Rice parameters go beyond their end")
    parameters = unpack_fixed(data[:split], _PARAMETER_BITS, groups, torch.uint8)
    widths = parameters.repeat_interleave(GROUP)[:k]
    middle = split + mixed_bytes(widths, _WIDTHS)
    refuse(data.numel() < middle + -(-k // 8), f"Rice part of {data.numel()} bytes is too short for its parameters")
    unary = data[middle:]
    ends = flat_nonzero(unpack_bits(unary, 8 * unary.numel()))
    refuse(ends.numel() != k, f"Rice part marks {ends.numel()} coordinates, header says {k}")
    refuse(unary.numel() > 0 and not bool(unary[-1]), "Rice part goes beyond its end")
    rest = ends
    rest[1:] = ends.diff() - 1
    refuse(bool((rest > (n >> widths.long())).any()), "a gap is larger than the vector")
    return from_gaps((rest << widths) | unpack_mixed(data[split:middle], widths, _WIDTHS), n)
