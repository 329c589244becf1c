"""The payload: a 24-byte header, then positions, then values.

    offset  bytes  field
    0       2      magic "LF"
    2       1      version, 2
    3       1      kind (Kind)
    4       1      index format (IndexFormat)
    5       1      value format (its `code`)
    6       1      the value format's parameter
    7       1      1 if the values are entropy coded (`entropy`), else 0
    8       4      n, coordinates of the whole vector
    12      4      k, values sent
    16      4      bytes of the positions
    20      4      bytes of the values: block scales first, then one code a value; 2^32 - 1 stands for that and for more,
                   where they are not entropy coded, since their number follows from k and the formats

All numbers are little-endian. The length of a payload follows from its header.
The decoder knows n beforehand: every byte string is a valid payload for it, whoever wrote it, or a PayloadError.
"""

import struct
from dataclasses import dataclass, replace
from enum import IntEnum

import numpy as np
import torch
from torch import Tensor

from compression.finite import all_finite

from . import kernels
from .bits import pack_fixed, unpack_fixed
from .draws import derive_key
from .entropy import compress, decompress, pack_symbols, symbol_bytes, unpack_symbols
from .errors import PayloadError
from .index import IndexFormat, choose, decode_index
from .index import seeded as seeds
from .placement import move, move_together, workplace
from .values import ValueFormat, value_of

MAGIC = b"LF"
VERSION = 2
HEADER = struct.Struct("<2sBBBBBBIIII")
HEADER_BYTES = HEADER.size
_NEVER = 1 << 62  # bits
_LONG = (1 << 32) - 1  # the largest number in four bytes


class Kind(IntEnum):
    """What a payload holds."""

    UPDATE = 0
    BUFFERS = 1
    FACTORS = 2
    MASK = 3
    WEIGHTS = 4
    COSINES = 5


@dataclass(frozen=True)
class Sparse:
    """A vector of n coordinates of which only some are given; the others are zero.

    `indices`: ascending int64 [k], or None when all n are given. `values`: fp32 [k]. `sent`: how many were sent to give
    it, where that is not k; `sent_at`: where these lie, those that are zero left out, ascending int64, if not at `indices`.
    """

    n: int
    indices: Tensor | None
    values: Tensor
    sent: int | None = None
    sent_at: Tensor | None = None

    @property
    def kept(self) -> int:
        """Number of coordinates sent."""
        return self.values.numel() if self.sent is None else self.sent

    def dense(self) -> Tensor:
        """The whole vector, fp32 [n]."""
        if self.indices is None:
            return self.values.clone()
        return torch.zeros(self.n, dtype=torch.float32, device=self.values.device).index_copy_(
            0, self.indices, self.values
        )

    def between(self, begin: int, end: int) -> "Sparse":
        """The coordinates `begin` to `end`, counted from `begin`."""
        if self.indices is None:
            return Sparse(end - begin, None, self.values[begin:end])
        first, last = torch.searchsorted(self.indices, self.indices.new_tensor([begin, end])).tolist()
        return Sparse(end - begin, self.indices[first:last] - begin, self.values[first:last])

    def add_to(self, out: Tensor, weight: float = 1.0) -> Tensor:
        """`out` += weight * this vector, in place; `out` is fp32 [n]."""
        if self.indices is None:
            return out.add_(self.values, alpha=weight)
        if kernels.available(out.device):
            return kernels.accumulate(out, self.indices, self.values, weight)
        return out.index_add_(0, self.indices, self.values, alpha=weight)


@dataclass(frozen=True)
class Header:
    """A payload's header, checked against itself."""

    kind: Kind
    index: IndexFormat
    value: ValueFormat
    entropy: bool
    n: int
    k: int
    index_bytes: int
    value_bytes: int

    @property
    def payload_bytes(self) -> int:
        """Bytes of the whole payload, header included."""
        return HEADER_BYTES + self.index_bytes + self.value_bytes

    def to_bytes(self) -> bytes:
        """The 24 bytes; ValueError if the vector is too long for them."""
        if self.n > _LONG:
            raise ValueError(f"a vector of {self.n} coordinates; a payload is of at most {_LONG}")
        return HEADER.pack(
            *(MAGIC, VERSION, self.kind, self.index, self.value.code, self.value.parameter, self.entropy),
            *(self.n, self.k, self.index_bytes, min(self.value_bytes, _LONG)),
        )


def dense_bytes(n: int) -> int:
    """Bytes of the payload that sends all n coordinates in fp32: the dense baseline."""
    return HEADER_BYTES + 4 * n


def write(
    sparse: Sparse,
    value: ValueFormat,
    kind: Kind = Kind.UPDATE,
    *,
    coded: bool = False,
    key: int = 0,
    seeded: bool = False,
) -> tuple[Tensor, Sparse]:
    """Write `sparse` down; returns the payload, uint8, and what a receiver will decode from it.

    `coded`: positions and values go through the entropy coder where that is smaller. `key` seeds stochastic rounding;
    with `seeded` the positions are those that `key` draws, and only `key` is sent.
    """
    n, k, device = sparse.n, sparse.kept, sparse.values.device
    given, sparse = sparse, _moved(sparse, workplace(k, device))
    # The numbers that drew the positions must not round the values too: they say where in its stratum a position lies.
    rounding_key = derive_key(key, 1) if seeded else key
    side, codes = value.quantise(sparse.values, rounding_key)
    values = given.values if value.exact else move(value.restore(side, codes, k), device)
    decoded = Sparse(n, given.indices, values)
    form, index = IndexFormat.DENSE, None
    if sparse.indices is not None and seeded:
        form, index = IndexFormat.SEEDED, seeds.encode(key, sparse.indices.device)
    elif sparse.indices is not None:
        # Block scales depend on what else is in the block, so only formats without them can send zeros unnoticed.
        dense_bits = _NEVER if value.side_bytes(k) else n * value.width
        value_bits = 8 * value.side_bytes(k) + k * value.width
        form, index = choose(sparse.indices, n, dense_bits=dense_bits, value_bits=value_bits, entropy=coded)
        if form is IndexFormat.DENSE:
            side, codes = value.quantise(sparse.dense(), key)
            k = n
    is_coded, packed = _pack(codes, value, k, coded)
    parts = [side, packed] if index is None else [index, side, packed]
    index_bytes = 0 if index is None else index.numel()
    header = Header(kind, form, value, is_coded, n, k, index_bytes, side.numel() + packed.numel())
    start = torch.from_numpy(np.frombuffer(header.to_bytes(), dtype=np.uint8).copy())
    return move(torch.cat([move(start, packed.device), *parts]), device), decoded


def _moved(sparse: Sparse, device: torch.device) -> Sparse:
    """Positions and values on `device`."""
    if sparse.indices is None:
        return Sparse(sparse.n, None, move(sparse.values, device))
    indices, values = move_together((sparse.indices, sparse.values), device)
    return Sparse(sparse.n, indices, values)


def _plain_bytes(value: ValueFormat, k: int) -> int:
    return -(-k * value.width // 8)


def _pack(codes: Tensor, value: ValueFormat, k: int, coded: bool) -> tuple[bool, Tensor]:
    """The codes as bytes, and whether entropy coding made them fewer."""
    if coded:
        packed = compress(pack_symbols(codes, value.width), parts=max(1, value.width // 8))
        if packed.numel() < min(_plain_bytes(value, k), _LONG - value.side_bytes(k)):
            return True, packed
    return False, codes if value.width >= 8 else pack_fixed(codes, value.width)


def read_header(data: Tensor) -> Header:
    """The header at the start of `data`, uint8; PayloadError if there is none."""
    if data.numel() < HEADER_BYTES:
        raise PayloadError(f"{data.numel()} bytes are too few for a header of {HEADER_BYTES}")
    raw = data[:HEADER_BYTES].cpu().numpy().tobytes()
    magic, version, kind, index, value, parameter, coded, n, k, index_bytes, value_bytes = HEADER.unpack(raw)
    if magic != MAGIC:
        raise PayloadError("not a payload: wrong magic bytes")
    if version != VERSION:
        raise PayloadError(f"payload version {version}; this program reads version {VERSION}")
    try:
        kind, index = Kind(kind), IndexFormat(index)
    except ValueError as error:
        raise PayloadError(f"unknown code in the header: {error}") from None
    if coded > 1:
        raise PayloadError(f"unknown entropy coder {coded} in the header")
    header = Header(kind, index, value_of(value, parameter), bool(coded), n, k, index_bytes, value_bytes)
    if k > n or (header.index is IndexFormat.DENSE and (k != n or index_bytes)):
        raise PayloadError(f"{k} coordinates out of {n}")
    if not coded:
        exact = header.value.side_bytes(k) + _plain_bytes(header.value, k)
        if value_bytes != min(exact, _LONG):
            raise PayloadError(f"{value_bytes} bytes of values; {k} of them take another number")
        header = replace(header, value_bytes=exact)
    return header


def read(data: Tensor, n: int, kind: Kind = Kind.UPDATE) -> Sparse:
    """Decode one whole payload, uint8, for a vector of n coordinates; PayloadError unless it is exactly that."""
    header = read_header(data)
    if header.kind is not kind or header.n != n:
        raise PayloadError(
            f"payload of kind {header.kind.name} over {header.n} coordinates; expected {kind.name} over {n}"
        )
    if data.numel() != header.payload_bytes:
        raise PayloadError(f"payload of {data.numel()} bytes; its header says {header.payload_bytes}")
    device, data = data.device, move(data, workplace(header.k, data.device))
    split = HEADER_BYTES + header.index_bytes
    indices = None
    if header.index is not IndexFormat.DENSE:
        indices = decode_index(header.index, data[HEADER_BYTES:split], n, header.k)
    values = _read_values(header, data[split:])
    if not all_finite(values):
        raise PayloadError("payload holds NaN or infinity")
    return _moved(Sparse(n, indices, values), device)


def _read_values(header: Header, data: Tensor) -> Tensor:
    """Fp32 [k] from the value section."""
    value, k = header.value, header.k
    side_bytes = value.side_bytes(k)
    if data.numel() < side_bytes:
        raise PayloadError(f"{data.numel()} bytes of values; their scales alone take {side_bytes}")
    side, codes = data[:side_bytes], data[side_bytes:]
    if header.entropy:
        codes = unpack_symbols(decompress(codes, symbol_bytes(value.width, k)), value.width, k)
    elif value.width < 8:
        spare = 8 * codes.numel() - k * value.width
        if spare and bool(codes[-1] >> (8 - spare)):
            raise PayloadError("the values' codes go beyond their end")
        codes = unpack_fixed(codes, value.width, k, torch.uint8)
    return value.restore(side, codes, k)
