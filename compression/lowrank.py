"""Low-rank factors in the place of matrices: PowerSGD (Vogels, Karimireddy & Jaggi 2019, Algorithm 1).

A tensor of two dimensions or more is read as a matrix M [rows, cols], rows its first dimension. One step of subspace
iteration gives P [rows, rank] with orthonormal columns and Q [cols, rank], M about P Q^T; Q is remembered, so that the
next step starts where this one ended. What M lacks is left to error feedback.
"""

import zlib
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from .draws import derive_key, uniform
from .errors import NonFiniteError, PayloadError
from .layout import Layout

_BLOCK = 1 << 16  # coordinates; on a CPU one block and its product stay in a core's cache
_LARGEST = 2.0**112  # of a factor; a sum of up to 2^15 products with an orthonormal column is then finite


@dataclass(frozen=True)
class _Place:
    """Where a matrix lies in the vector and its factors among the factors."""

    name: str
    start: int
    rows: int
    cols: int
    left: int
    right: int


@dataclass(frozen=True)
class LowRank:
    """The factors of a vector's matrices at `rank`, and the vector that factors stand for.

    The factors are one fp32 vector: P^T [rank, rows] of every matrix in the layout's order, then Q^T [rank, cols] of
    every matrix, then the tensors that are not matrices or would not get smaller, as they are. Columns lie next to each
    other because their magnitudes differ from column to column, which formats with a scale per block profit from.
    """

    rank: int

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ValueError(f"the rank must be at least 1, not {self.rank}")

    def count(self, layout: Layout) -> int:
        """Number of floats that stand for a vector of `layout`."""
        places, others = self._plan(layout)
        return sum(self.rank * (place.rows + place.cols) for place in places) + sum(
            stop - start for start, stop in others
        )

    def factorise(
        self, x: Tensor, layout: Layout, memory: Mapping[str, Tensor] | None, key: int
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Factors, fp32 [count], of `x`, finite fp32 [layout.total], and the memory for the next call.

        `memory` is that of the sender's last call, by parameter name, Q^T [rank, cols] each, and is left as it is; None or
        a missing name starts from random columns that follow from `key` and the name. ValueError if it does not fit;
        NonFiniteError if `x` is too large (a matrix of norm 2^112) to be multiplied.
        """
        places, others = self._plan(layout)
        factors = torch.empty(self.count(layout), dtype=torch.float32, device=x.device)
        new_memory = {}
        for place in places:
            matrix = _aligned(_part(x, place.start, place.rows, place.cols))
            start = self._start(place, (memory or {}).get(place.name), key, x.device)
            left = _orthonormal(torch.mm(matrix, start.t())).t().contiguous()
            right = torch.mm(left, matrix)
            _part(factors, place.left, self.rank, place.rows).copy_(left)
            _part(factors, place.right, self.rank, place.cols).copy_(right)
            new_memory[place.name] = right
        self._copy_others(others, factors, x, into_factors=True)
        compressed = factors[: factors.numel() - sum(stop - start for start, stop in others)]
        if not bool((compressed.abs() <= _LARGEST).all()):  # NaN among them too, from infinity minus infinity
            raise NonFiniteError(
                "the update is too large for low-rank factors: lower the learning rate, or clip the gradient"
            )
        return factors, new_memory

    def expand(self, factors: Tensor, layout: Layout, out: Tensor | None = None) -> Tensor:
        """The vector, fp32 [layout.total], that finite `factors`, fp32 [count], stand for: P Q^T for each matrix.

        The same bits on every device and with any number of threads: products and sums are separate operations in a fixed
        order, each rounded by itself. `out`: contiguous fp32 [total] to write into, otherwise a new tensor. PayloadError if
        a factor is too large for the products to be finite.
        """
        places, others = self._plan(layout)
        if factors.numel() != self.count(layout):
            raise ValueError(f"{factors.numel()} factors where {self.count(layout)} are needed")
        out = torch.empty(layout.total, dtype=torch.float32, device=factors.device) if out is None else out
        block = _BLOCK if out.device.type == "cpu" else max(1, out.numel())
        scratch = max((min(place.rows * place.cols, max(block, place.cols)) for place in places), default=0)
        product = torch.empty(scratch, dtype=torch.float32, device=out.device)
        self._refuse_large(factors, places)
        for place in places:
            left = _part(factors, place.left, self.rank, place.rows)
            right = _part(factors, place.right, self.rank, place.cols)
            matrix = _part(out, place.start, place.rows, place.cols)
            step = max(1, block // place.cols)
            for row in range(0, place.rows, step):
                _multiply(left[:, row : row + step], right, matrix[row : row + step], product)
        self._copy_others(others, factors, out, into_factors=False)
        return out

    def _refuse_large(self, factors: Tensor, places: list[_Place]) -> None:
        """PayloadError if the products of these factors, or their sums, might not be finite."""
        if not places:
            return
        largest = [
            float(part.abs().max())
            for part in (
                factors[: places[0].right],
                factors[places[0].right : places[-1].right + self.rank * places[-1].cols],
            )
        ]
        if not largest[0] * largest[1] * self.rank < torch.finfo(torch.float32).max / 2:
            raise PayloadError("low-rank factors are too large: their product is not finite in fp32")

    def _plan(self, layout: Layout) -> tuple[list[_Place], list[tuple[int, int]]]:
        """The matrices that get smaller, and first and last coordinate + 1 of every other tensor."""
        shapes, others = [], []
        for name, shape, size, start in zip(layout.names, layout.shapes, layout.sizes, layout.offsets, strict=False):
            rows = shape[0] if len(shape) >= 2 else 1
            cols = size // rows if rows else 0
            if len(shape) >= 2 and self.rank * (rows + cols) < size:
                shapes.append((name, start, rows, cols))
            else:
                others.append((start, start + size))
        places, left, right = [], 0, self.rank * sum(rows for _, _, rows, _ in shapes)
        for name, start, rows, cols in shapes:
            places.append(_Place(name, start, rows, cols, left, right))
            left, right = left + self.rank * rows, right + self.rank * cols
        return places, others

    def _start(self, place: _Place, remembered: Tensor | None, key: int, device: torch.device) -> Tensor:
        """Q^T [rank, cols] to start from, its columns of unit length: P's span does not depend on their scale."""
        shape = (self.rank, place.cols)
        if remembered is None:
            return self._random(place, key, device)
        if tuple(remembered.shape) != shape:
            raise ValueError(f"the memory of '{place.name}' has shape {tuple(remembered.shape)}, not {shape}")
        wide = remembered.to(device, torch.float64)  # squares of denormals are not zero in fp64
        lengths = wide.norm(dim=1, keepdim=True)
        if bool((lengths > 0).all()):
            return (wide / lengths).float()
        # A column of zeros, as after a matrix of lower rank, would stay zero for ever.
        return torch.where(lengths > 0, wide / lengths, self._random(place, key, device)).float()

    def _random(self, place: _Place, key: int, device: torch.device) -> Tensor:
        """Orthonormal columns Q^T [rank, cols] that follow from the key and the parameter's name.

        The paper draws from a normal distribution, whose logarithm and cosine differ between devices; only the span of
        the columns matters, and uniform numbers give one as good.
        """
        numbers = uniform(derive_key(key, zlib.crc32(place.name.encode())), self.rank * place.cols, device)
        return _orthonormal(numbers.sub_(0.5).view(self.rank, place.cols).t()).t().contiguous()

    @staticmethod
    def _copy_others(others: list[tuple[int, int]], factors: Tensor, flat: Tensor, *, into_factors: bool) -> None:
        """Copy the tensors that stay as they are between the end of `factors` and their places in `flat`."""
        sizes = [stop - start for start, stop in others]
        if not sizes:
            return
        inside = list(factors[factors.numel() - sum(sizes) :].split(sizes))
        outside = [flat[start:stop] for start, stop in others]
        torch._foreach_copy_(inside, outside) if into_factors else torch._foreach_copy_(outside, inside)


def _part(flat: Tensor, start: int, rows: int, cols: int) -> Tensor:
    return flat[start : start + rows * cols].view(rows, cols)


def _aligned(matrix: Tensor) -> Tensor:
    """The matrix at an address that is a multiple of 64: matrix products round by address, and must not depend on it."""
    return matrix.clone() if matrix.data_ptr() % 64 else matrix


def _orthonormal(columns: Tensor) -> Tensor:
    """Orthonormal fp32 [rows, rank], rank <= rows, with the span of `columns` [rows, rank] and more where that is less.

    Householder's QR in fp64: columns that are zero, or depend on others, give orthonormal ones too, never NaN.
    """
    return torch.linalg.qr(columns.double()).Q.float()


def _multiply(left: Tensor, right: Tensor, out: Tensor, scratch: Tensor) -> None:
    """P Q^T into `out` [rows, cols], from P^T [rank, rows] and Q^T [rank, cols], by adding up one outer product a rank."""
    product = scratch[: out.numel()].view(out.shape)
    for i in range(left.shape[0]):
        torch.mul(left[i, :, None], right[i], out=product if i else out)
        if i:
            out.add_(product)
