"""The discrete cosine transform of blocks of coordinates: what is smooth or periodic in them becomes few large numbers."""

import math
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from .codec import Codec, Memory, SparseCodec
from .errors import NonFiniteError, PayloadError
from .finite import all_finite
from .layout import Layout
from .wire import Sparse


@dataclass(frozen=True)
class DctCodec(Codec):
    """`dct:B`: the orthonormal DCT-II of each B coordinates in a row, encoded by another codec.

    DeMo (Peng, Quesnelle and Kingma 2024) sends the largest of such coefficients, of blocks of each tensor in all its
    dimensions; here they are of the flat vector, so that it works inside a mask too. The last block may be shorter.
    Sums are taken in fp64 and rounded once. Lengths stay: what a message leaves out is orthogonal to what it holds.
    """

    spec: str
    block: int
    inner: SparseCodec

    @property
    def density(self) -> float | None:
        return self.inner.density

    def most_bytes(self, layout: Layout) -> int:
        return self.inner.most_bytes(layout)

    def with_density(self, density: float) -> Codec:
        inner = self.inner.with_density(density)
        assert isinstance(inner, SparseCodec)
        return DctCodec(self.spec, self.block, inner)

    def _encode(
        self, x: Tensor, layout: Layout | None, key: int, memory: Memory
    ) -> tuple[Tensor, Sparse, dict[str, Tensor]]:
        coefficients = transform(x, self.block)
        if not all_finite(coefficients):
            raise NonFiniteError(
                f"the update is too large for {self.spec}: lower the learning rate, or clip the gradient"
            )
        payload, decoded = self.inner.encode(coefficients, layout, key=key)
        return payload, self._expanded(decoded), {}

    def decode(self, payload: Tensor, n: int, layout: Layout | None = None) -> Sparse:
        return self._expanded(self.inner.decode(payload, n, layout))

    def _expanded(self, coefficients: Sparse) -> Sparse:
        values = transform(coefficients.dense(), self.block, back=True)
        if not all_finite(values):
            raise PayloadError(f"the coefficients of {self.spec} are those of no finite vector")
        return Sparse(coefficients.n, None, values)


def transform(x: Tensor, block: int, *, back: bool = False) -> Tensor:
    """The orthonormal DCT-II of each `block` of fp32 [n], the last one shorter, as fp32 [n]; `back`: its inverse."""
    whole = x.numel() - x.numel() % block
    parts = [x[:whole].view(-1, block), x[whole:].view(1, -1)]
    found = []
    for part in parts:
        if part.numel():
            matrix = _matrix(part.shape[1], x.device)
            found.append((part.double() @ (matrix if back else matrix.T)).float().view(-1))
    return torch.cat(found) if found else x.clone()


@cache
def _matrix(size: int, device: torch.device) -> Tensor:
    """The orthonormal DCT-II as a matrix, float64 [size, size]: row k is the k-th basis vector."""
    with torch.inference_mode(False):
        places, orders = torch.arange(size, device="cpu").double(), torch.arange(size, device="cpu").double()[:, None]
        matrix = torch.cos(math.pi / size * (places + 0.5) * orders) * math.sqrt(2 / size)
        matrix[0] /= math.sqrt(2)
        return matrix.to(device)
