"""The payload: a 16-byte header, then positions, then values.

    offset  bytes  field
    0       2      magic "LF"
    2       1      version, 1
    3       1      kind (Kind)
    4       1      index format (IndexFormat)
    5       1      value format (ValueFormat)
    6       2      zero
    8       4      n, coordinates of the whole vector
    12      4      k, coordinates sent

All numbers are little-endian. The length of a payload follows from its header, so payloads can be laid end to end.
The decoder trusts nothing: it knows n beforehand, and every byte string is a valid payload for it or a PayloadError.
"""

import struct
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import torch
from torch import Tensor

from .errors import PayloadError
from .finite import all_finite
from .index import IndexFormat, choose, decode_index, encode_index, index_bytes
from .values import ValueFormat, decode_values, encode_values, value_bytes

MAGIC = b"LF"
VERSION = 1
_HEADER = struct.Struct("<2sBBBBHII")
HEADER_BYTES = _HEADER.size


class Kind(IntEnum):
    """What a payload holds."""

    UPDATE = 0
    BUFFERS = 1


@dataclass(frozen=True)
class Sparse:
    """A vector of n coordinates of which only some are given; the others are zero.

    `indices`: ascending int64 [k], or None when all n are given. `values`: fp32 [k].
    """

    n: int
    indices: Tensor | None
    values: Tensor

    @property
    def kept(self) -> int:
        """Number of coordinates given."""
        return self.values.numel()

    def dense(self) -> Tensor:
        """The whole vector, fp32 [n]."""
        if self.indices is None:
            return self.values.clone()
        return torch.zeros(self.n, device=self.values.device).index_copy_(0, self.indices, self.values)

    def add_to(self, out: Tensor, weight: float = 1.0) -> Tensor:
        """`out` += weight * this vector, in place; `out` is fp32 [n]."""
        if self.indices is None:
            return out.add_(self.values, alpha=weight)
        return out.index_add_(0, self.indices, self.values, alpha=weight)


@dataclass(frozen=True)
class Header:
    """A payload's header, checked against itself."""

    kind: Kind
    index: IndexFormat
    value: ValueFormat
    n: int
    k: int

    @property
    def index_bytes(self) -> int:
        """Bytes of the positions."""
        return index_bytes(self.index, self.n, self.k)

    @property
    def payload_bytes(self) -> int:
        """Bytes of the whole payload, header included."""
        return HEADER_BYTES + self.index_bytes + self.k * value_bytes(self.value)


def dense_bytes(n: int) -> int:
    """Bytes of the payload that sends all n coordinates in fp32: the dense baseline."""
    return HEADER_BYTES + 4 * n


def write(sparse: Sparse, value: ValueFormat, kind: Kind = Kind.UPDATE) -> tuple[Tensor, Sparse]:
    """Write `sparse` down; returns the payload, uint8, and what a receiver will decode from it."""
    raw = encode_values(value, sparse.values)
    decoded = Sparse(sparse.n, sparse.indices, decode_values(value, raw))
    form = IndexFormat.DENSE
    parts: list[Tensor] = []
    if sparse.indices is not None:
        form = choose(sparse.n, sparse.kept, value_bytes(value))
        if form is IndexFormat.DENSE:
            raw = encode_values(value, sparse.dense())
        else:
            parts = [encode_index(form, sparse.indices, sparse.n)]
    k = sparse.n if form is IndexFormat.DENSE else sparse.kept
    header = _HEADER.pack(MAGIC, VERSION, kind, form, value, 0, sparse.n, k)
    start = torch.from_numpy(np.frombuffer(header, dtype=np.uint8).copy()).to(raw.device)
    return torch.cat([start, *parts, raw]), decoded


def read_header(data: Tensor) -> Header:
    """The header at the start of `data`, uint8; PayloadError if there is none."""
    if data.numel() < HEADER_BYTES:
        raise PayloadError(f"{data.numel()} bytes are too few for a header of {HEADER_BYTES}")
    raw = data[:HEADER_BYTES].cpu().numpy().tobytes()
    magic, version, kind, index, value, zero, n, k = _HEADER.unpack(raw)
    if magic != MAGIC or zero:
        raise PayloadError("not a payload: wrong magic bytes")
    if version != VERSION:
        raise PayloadError(f"payload version {version}; this program reads version {VERSION}")
    try:
        header = Header(Kind(kind), IndexFormat(index), ValueFormat(value), n, k)
    except ValueError as error:
        raise PayloadError(f"unknown code in the header: {error}") from None
    if k > n or (header.index is IndexFormat.DENSE and k != n):
        raise PayloadError(f"{k} coordinates out of {n}")
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
    split = HEADER_BYTES + header.index_bytes
    indices = None
    if header.index is not IndexFormat.DENSE:
        indices = decode_index(header.index, data[HEADER_BYTES:split], n, header.k)
    values = decode_values(header.value, data[split:])
    if not all_finite(values):
        raise PayloadError("payload holds NaN or infinity")
    return Sparse(n, indices, values)


def split_payloads(data: Tensor, count: int) -> list[Tensor]:
    """Cut `data`, uint8, into `count` payloads laid end to end; PayloadError if they do not fill it exactly."""
    parts: list[Tensor] = []
    for _ in range(count):
        size = read_header(data).payload_bytes
        if size > data.numel():
            raise PayloadError(f"payload of {data.numel()} bytes; its header says {size}")
        parts.append(data[:size])
        data = data[size:]
    if data.numel():
        raise PayloadError(f"{data.numel()} bytes after the last payload")
    return parts
