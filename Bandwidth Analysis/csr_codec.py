"""`--uplink csr_codec:csr`: compressed sparse rows as a published federated system sends them, to compare with.

The format of a report on pruning with SciPy's sparse matrices (Jeurkar, Michalak and Cala 2024). One file per tensor:

* two dimensions or more: the tensor as a matrix whose columns are its last dimension (so a 3x3 convolution has rows of
  three) in compressed sparse rows, in an uncompressed .npz of five arrays: `data` fp32 [nnz], `indices` int32 [nnz],
  `indptr` int32 [rows + 1], `shape` and `original_shape` int64. A non-zero value costs 8 bytes, a row 4, the file
  1,274 + 8 for each dimension: with more than a third of its values, a 3x3 convolution takes more than as plain fp32.
* one dimension: a .npy of fp32, zeros included: 128 bytes + 4 for each value.
* none: a .npy of float64, 136 bytes. (The report's only scalars are BatchNorm's step counters, eight bytes each.)

The payload is these files end to end, in the layout's order. They are written here byte by byte, since what NumPy and
zipfile write depends on version and system; `numpy.load` reads them. The decoder accepts what the encoder writes,
nothing else.
"""

import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from compression import Codec, Layout, PayloadError, Sparse
from compression.codec import Memory
from compression.layout import need_layout

Bytes = NDArray[np.uint8]

_ARRAYS = ("data", "indices", "indptr", "shape", "original_shape")
_MOST = 1 << 28  # elements of a matrix; with more, offsets in the .zip could leave 32 bits

# Sources: NumPy's NEP 1 for the .npy, PKWARE's APPNOTE 6.3 for the .zip around several of them.
_NPY_BYTES = 128
_LOCAL = struct.Struct("<4s5HIIIHH")  # before each member; then its name
_SIZES = struct.Struct("<HHQQ")  # then its sizes, which the header leaves out as NumPy does
_ENTRY = struct.Struct("<4s6HIIIHHHHHII")  # the member in the directory at the end; then its name
_END = struct.Struct("<4sHHHHIIH")
_ELSEWHERE = 0xFFFFFFFF
_JAN_1980 = 33  # the first day that a .zip can name


@dataclass(frozen=True)
class CsrCodec(Codec):
    """All coordinates that are not zero, as compressed sparse rows."""

    spec: str

    @property
    def lossless(self) -> bool:
        return True

    @property
    def by_shape(self) -> bool:
        return True

    def _encode(
        self, x: Tensor, layout: Layout | None, key: int, memory: Memory
    ) -> tuple[Tensor, Sparse, dict[str, Tensor]]:
        layout, decoded = need_layout(layout, self.spec), x.clone()
        for view in layout.views(decoded):
            if view.dim() > 1:
                view.add_(0.0)  # a matrix leaves its zeros out, and with them the sign of -0.0
        return encode_csr(layout, x), Sparse(x.numel(), None, decoded), {}

    def decode(self, payload: Tensor, n: int, layout: Layout | None = None) -> Sparse:
        """See `Codec`; `layout` is needed."""
        return Sparse(n, None, decode_csr(payload, need_layout(layout, self.spec)))


def csr(spec: str) -> Codec:
    """The plug-in."""
    return CsrCodec(spec)


def encode_csr(layout: Layout, flat: Tensor) -> Tensor:
    """Encode finite fp32 [layout.total]; returns uint8 on the same device.

    Zeros of matrices are left out, -0.0 too. ValueError for a matrix of more than 2^28 elements.
    """
    values, files = flat.detach().cpu().numpy(), [np.empty(0, dtype=np.uint8)]
    for shape, start, size in zip(layout.shapes, layout.offsets, layout.sizes, strict=False):
        part = values[start : start + size]
        if len(shape) > 1:
            if size > _MOST:
                raise ValueError(f"a matrix of {size} elements; csr holds at most {_MOST}")
            positions = np.flatnonzero(part)
            files.append(_npz(shape, part[positions], positions))
        else:
            files.append(_npy(shape, part.astype("<f4" if shape else "<f8")))
    return torch.from_numpy(np.concatenate(files)).to(flat.device)


def decode_csr(payload: Tensor, layout: Layout) -> Tensor:
    """Decode uint8 into fp32 [layout.total] on the same device; PayloadError unless the payload is exactly what
    `encode_csr` writes for some finite vector of this layout."""
    data = payload.cpu().contiguous().numpy()
    flat = np.zeros(layout.total, dtype=np.float32)
    for name, shape, start, size in zip(layout.names, layout.shapes, layout.offsets, layout.sizes, strict=False):
        try:
            used = (_read_matrix if len(shape) > 1 else _read_dense)(data, shape, flat[start : start + size])
        except PayloadError as error:
            raise PayloadError(f"csr payload, tensor '{name}': {error}") from None
        data = data[used:]
    _refuse(data.size > 0, f"csr payload: {data.size} bytes after the last tensor")
    return torch.from_numpy(flat).to(payload.device)


def _read_matrix(data: Bytes, shape: tuple[int, ...], out: NDArray[np.float32]) -> int:
    """Read the .npz at the start of `data` into `out`, all zero before; returns its length."""
    start = _LOCAL.size + len("data.npy")
    _refuse(data.size < start + _SIZES.size, "it is cut short")
    _, _, size, _ = _SIZES.unpack_from(data[start : start + _SIZES.size].tobytes())
    nnz, odd = divmod(size - _NPY_BYTES, 4)
    _refuse(odd > 0 or not 0 <= nnz <= out.size, f"it claims {nnz} values of {out.size}")
    length = _npz_bytes(shape, nnz)
    _refuse(data.size < length, "it is cut short")
    rows, columns = prod(shape[:-1]), shape[-1]
    at, arrays = 0, []
    for name, count in zip(_ARRAYS, (nnz, nnz, rows + 1), strict=False):
        at += _LOCAL.size + len(f"{name}.npy") + _SIZES.size + _NPY_BYTES
        arrays.append(data[at : at + 4 * count])
        at += 4 * count
    values = arrays[0].view("<f4")
    indices, indptr = (array.view("<i4").astype(np.int64) for array in arrays[1:])
    counts = np.diff(indptr)
    _refuse(bool(indptr[0] != 0 or indptr[-1] != nnz or (counts < 0).any()), "its rows do not add up")
    _refuse(bool(((indices < 0) | (indices >= columns)).any()), "a column is out of range")
    positions = np.repeat(np.arange(rows) * columns, counts) + indices
    _refuse(bool((np.diff(positions) <= 0).any()), "columns do not ascend")
    _refuse(not np.isfinite(values).all() or not values.all(), "it holds NaN, infinity or a zero")
    _refuse(not np.array_equal(data[:length], _npz(shape, values, positions)), "headers or checksums are wrong")
    out[positions] = values
    return length


def _read_dense(data: Bytes, shape: tuple[int, ...], out: NDArray[np.float32]) -> int:
    """Read the .npy at the start of `data` into `out`; returns its length."""
    length = _NPY_BYTES + (4 * out.size if shape else 8)
    _refuse(data.size < length, "it is cut short")
    values = data[_NPY_BYTES:length].view("<f4" if shape else "<f8")
    _refuse(not np.isfinite(values).all(), "it holds NaN or infinity")
    _refuse(bool((np.abs(values) > np.finfo(np.float32).max).any()), "a value is beyond fp32")
    out[:] = values
    rewritten = _npy(shape, out.astype(values.dtype))
    _refuse(not np.array_equal(data[:length], rewritten), "its header is wrong, or a value is none of fp32")
    return length


def _npy(shape: Sequence[int], values: NDArray[np.generic]) -> Bytes:
    """`values` [prod(shape)] as a .npy file."""
    text = f"{{'descr': '{values.dtype.str}', 'fortran_order': False, 'shape': {tuple(shape)}, }}"
    header = b"\x93NUMPY\1\0" + struct.pack("<H", _NPY_BYTES - 10) + text.encode().ljust(_NPY_BYTES - 11) + b"\n"
    return np.concatenate((np.frombuffer(header, dtype=np.uint8), values.view(np.uint8)))


def _npz_bytes(shape: tuple[int, ...], nnz: int) -> int:
    """Length of `_npz` with `nnz` values."""
    member = _LOCAL.size + _SIZES.size + _NPY_BYTES + _ENTRY.size
    around = sum(member + 2 * len(f"{name}.npy") for name in _ARRAYS) + _END.size
    return around + 8 * nnz + 4 * (prod(shape[:-1]) + 1) + 8 * (2 + len(shape))


def _npz(shape: tuple[int, ...], values: NDArray[np.float32], positions: NDArray[np.int64]) -> Bytes:
    """A matrix's .npz file, from its non-zero values and their ascending positions in the tensor."""
    rows, columns = prod(shape[:-1]), shape[-1]
    row, column = np.divmod(positions, max(columns, 1))
    indptr = np.concatenate(([0], np.cumsum(np.bincount(row, minlength=rows))))
    arrays = (
        values.astype("<f4"),
        column.astype("<i4"),
        indptr.astype("<i4"),
        np.array((rows, columns), dtype="<i8"),
        np.array(shape, dtype="<i8"),
    )
    parts, directory, at = [], [], 0
    for title, array in zip(_ARRAYS, arrays, strict=True):
        name, npy = f"{title}.npy".encode(), _npy(array.shape, array)
        same = (0, 0, 0, _JAN_1980, zlib.crc32(npy.data))  # no flags, no compression, midnight
        header = _LOCAL.pack(b"PK\3\4", 45, *same, _ELSEWHERE, _ELSEWHERE, len(name), _SIZES.size) + name
        header += _SIZES.pack(1, 16, npy.size, npy.size)
        directory += [_ENTRY.pack(b"PK\1\2", 45, 45, *same, npy.size, npy.size, len(name), 0, 0, 0, 0, 0, at), name]
        parts += [np.frombuffer(header, dtype=np.uint8), npy]
        at += len(header) + npy.size
    tail = b"".join(directory)
    tail += _END.pack(b"PK\5\6", 0, 0, len(_ARRAYS), len(_ARRAYS), len(tail), at, 0)
    return np.concatenate((*parts, np.frombuffer(tail, dtype=np.uint8)))


def _refuse(condition: bool, reason: str) -> None:
    if condition:
        raise PayloadError(reason)
