"""What every value format offers, and what those with one scale a block share."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..errors import PayloadError

# Values worked on at once: on the CPU the temporaries stay in the cache, on a GPU the chunk only bounds the memory.
_CPU_CHUNK = 1 << 17
_DEVICE_CHUNK = 1 << 24
_LARGEST_FP32 = 0x7F7FFFFF


@dataclass(frozen=True)
class ValueFormat(ABC):
    """One way to write k values down: side information (scales of blocks) and one code of `width` bits for each value.

    `name`: as in specifications. `code` and `parameter`: one byte each of the payload header.
    """

    name: str
    code: int
    width: int
    parameter: int = 0

    stochastic: ClassVar[bool] = False

    @property
    def exact(self) -> bool:
        """Whether every value is restored as it was."""
        return False

    def __str__(self) -> str:
        return f"{self.name}:{self.parameter}" if self.parameter else self.name

    @abstractmethod
    def side_bytes(self, k: int) -> int:
        """Bytes of side information for k values."""

    @abstractmethod
    def quantise(self, values: Tensor, key: int = 0) -> tuple[Tensor, Tensor]:
        """Finite fp32 [k] -> side uint8 [side_bytes(k)] and codes uint8 [k], each below 2**width.

        For widths 16 and 32 the codes are the values' little-endian bytes, uint8 [k * width / 8]. `key` feeds the random
        numbers of stochastic formats (draws.uniform at positions 0 to k - 1); the others ignore it.
        """

    @abstractmethod
    def restore(self, side: Tensor, codes: Tensor, k: int) -> Tensor:
        """The inverse of `quantise`: fp32 [k]; PayloadError for side information or codes that it cannot give.

        Float formats may restore NaN and infinity, which the caller refuses; the others are finite always.
        """


@dataclass(frozen=True)
class Blockwise(ValueFormat):
    """A format with one 4-byte word of side information for each `block` consecutive values (the last may be shorter)."""

    block: ClassVar[int] = 256
    impossible: ClassVar[str] = "a block's scale is negative, infinite or NaN"

    @property
    @abstractmethod
    def code_count(self) -> int:
        """Codes are below this number."""

    @abstractmethod
    def _quantise(self, rows: Tensor, codes: Tensor, key: int, start: int) -> Tensor:
        """Blocks fp32 [b, m], the first value being number `start` -> words int32 [b]; fills `codes`, uint8 [b, m]."""

    @abstractmethod
    def _restore(self, words: Tensor, codes: Tensor) -> Tensor:
        """Words int32 [b] that are not `_wrong`, codes [b, m] below code_count -> fp32 [b, m]."""

    def _wrong(self, words: Tensor) -> Tensor:
        """Of words int32 [b] those that no sender writes, bool [b]; `impossible` says so of them."""
        return (words < 0) | (words > _LARGEST_FP32)

    def side_bytes(self, k: int) -> int:
        """Four bytes a block."""
        return 4 * -(-k // self.block)

    def quantise(self, values: Tensor, key: int = 0) -> tuple[Tensor, Tensor]:
        """See ValueFormat; extra memory is that of one chunk."""
        k, device = values.numel(), values.device
        values = values.contiguous()
        words = torch.empty(self.side_bytes(k) // 4, dtype=torch.int32, device=device)
        codes = torch.empty(k, dtype=torch.uint8, device=device)
        for start, stop, rows, blocks in self._pieces(k, device):
            words[blocks] = self._quantise(
                values[start:stop].view(rows, -1), codes[start:stop].view(rows, -1), key, start
            )
        return words.view(torch.uint8), codes

    def restore(self, side: Tensor, codes: Tensor, k: int) -> Tensor:
        """See ValueFormat; extra memory is that of one chunk."""
        if side.numel() != self.side_bytes(k) or codes.numel() != k:
            raise PayloadError(f"{side.numel()} bytes of scales and {codes.numel()} codes for {k} values of {self}")
        values = torch.empty(k, dtype=torch.float32, device=codes.device)
        words = aligned(side, 4).view(torch.int32)
        codes = codes.contiguous()
        if k and int(codes.max()) >= self.code_count:
            raise PayloadError(f"a code of {self} lies beyond the largest, {self.code_count - 1}")
        if bool(self._wrong(words).any()):
            raise PayloadError(self.impossible)
        for start, stop, rows, blocks in self._pieces(k, codes.device):
            part = codes[start:stop].view(rows, -1)
            values[start:stop] = self._restore(words[blocks], part).view(-1)
        return values

    def _pieces(self, k: int, device: torch.device) -> Iterator[tuple[int, int, int, slice]]:
        """(start, stop, rows, blocks): chunks of whole blocks, then the shorter last block as one row of its own."""
        whole = k - k % self.block
        chunk = _CPU_CHUNK if device.type == "cpu" else _DEVICE_CHUNK
        for start in range(0, whole, chunk):
            stop = min(start + chunk, whole)
            yield start, stop, (stop - start) // self.block, slice(start // self.block, stop // self.block)
        if whole < k:
            yield whole, k, 1, slice(whole // self.block, whole // self.block + 1)


def aligned(data: Tensor, size: int) -> Tensor:
    """`data`, uint8, or a copy of it, such that it can be viewed as a type of `size` bytes."""
    if data.storage_offset() % size or data.stride(0) != 1:
        return data.clone(memory_format=torch.contiguous_format)
    return data


def row_sums(rows: Tensor) -> Tensor:
    """Float64 [b, m] -> [b, 1], added up as a binary tree of halves: the same bits on every device; rows is overwritten."""
    width = rows.shape[1]
    half = 1 << (width - 1).bit_length() >> 1
    while width > 1:
        rows[:, : width - half] += rows[:, half:width]
        width, half = half, half >> 1
    return rows[:, :1]


def scales_from(words: Tensor) -> Tensor:
    """Words int32 [b] -> scales fp32 [b, 1]."""
    return words.view(torch.float32)[:, None]


def fixed(number: int, like: Tensor) -> Tensor:
    """A divisor as a tensor [1]: division by a Python number is a product with its rounded inverse on CUDA."""
    return torch.full((1,), float(number), dtype=like.dtype, device=like.device)
