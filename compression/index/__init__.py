"""How the positions of k kept coordinates out of n are written down, one module a format.

DENSE       no positions: all n values are sent.
BITMAP      one bit a coordinate.
ELIAS_FANO  at most 2 + log2(n / k) bits a kept coordinate, wherever they lie.
RICE        less where kept coordinates cluster, as those of real updates do.
SEEDED      8 bytes: positions that both sides draw from a key.
GAPS        less still, with an entropy stage (Zstandard).

Bits per kept coordinate, a first update of ResNet-18 (11.2 M coordinates, CIFAR-10), largest magnitudes kept:

                10 %    1 %     0.1 %
    ELIAS_FANO  5.25    8.56    11.95
    RICE        4.17    5.56    3.74
    GAPS        3.61    4.65    2.69
"""

from enum import IntEnum

import torch
from torch import Tensor

from . import bitmap, elias_fano, gaps, rice, seeded
from .mixed import refuse, to_gaps

__all__ = ["IndexFormat", "choose", "decode_index", "encode_index", "seeded"]


class IndexFormat(IntEnum):
    """The index format's code in the payload header; of those that `choose` picks from, the simpler has the lower code."""

    DENSE = 0
    BITMAP = 1
    ELIAS_FANO = 2
    RICE = 3
    SEEDED = 4
    GAPS = 5


def choose(indices: Tensor, n: int, *, dense_bits: int, value_bits: int, entropy: bool) -> tuple[IndexFormat, Tensor]:
    """The format with the fewest bits in all, positions and values, and the positions in it; the simpler at a tie.

    `indices`: ascending int64 [k]. `dense_bits`, `value_bits`: bits of the whole value section if all n values are sent,
    and if only the k kept ones are. `entropy`: whether GAPS may be used. The positions are uint8, on the same device.
    """
    k = indices.numel()
    found = to_gaps(indices)
    parameters = rice.fit(found)
    written = gaps.encode(found, n) if entropy else None
    cost = {
        IndexFormat.DENSE: dense_bits,
        IndexFormat.BITMAP: 8 * bitmap.size(n) + value_bits,
        IndexFormat.ELIAS_FANO: 8 * elias_fano.size(n, k) + value_bits,
        IndexFormat.RICE: 8 * rice.size(found, parameters) + value_bits,
    }
    if written is not None:
        cost[IndexFormat.GAPS] = 8 * written.numel() + value_bits
    form = min(cost, key=lambda form: (cost[form], form))
    if form is IndexFormat.RICE:
        return form, rice.encode(found, parameters)
    if form is IndexFormat.GAPS and written is not None:
        return form, written
    return form, encode_index(form, indices, n)


def encode_index(form: IndexFormat, indices: Tensor, n: int) -> Tensor:
    """Ascending positions, int64 [k], out of n < 2^32 -> uint8. A key for SEEDED is written by `seeded.encode`."""
    if form is IndexFormat.DENSE:
        return torch.empty(0, dtype=torch.uint8, device=indices.device)
    if form is IndexFormat.BITMAP:
        return bitmap.encode(indices, n)
    if form is IndexFormat.ELIAS_FANO:
        return elias_fano.encode(indices, n)
    if form is IndexFormat.SEEDED:
        raise ValueError("seeded positions are written as their key")
    found = to_gaps(indices)
    return gaps.encode(found, n) if form is IndexFormat.GAPS else rice.encode(found, rice.fit(found))


def decode_index(form: IndexFormat, data: Tensor, n: int, k: int) -> Tensor:
    """The inverse of `encode_index`: uint8 -> ascending positions, int64 [k].

    PayloadError unless `data`, from its first byte to its last, is such an encoding of k positions out of n < 2^32.
    """
    if form is IndexFormat.DENSE:
        raise ValueError("a dense payload has no positions")
    refuse(k > n, f"{k} coordinates out of {n}")
    decoders = {
        IndexFormat.BITMAP: bitmap.decode,
        IndexFormat.ELIAS_FANO: elias_fano.decode,
        IndexFormat.RICE: rice.decode,
        IndexFormat.SEEDED: seeded.decode,
        IndexFormat.GAPS: gaps.decode,
    }
    return decoders[form](data, n, k)
