"""Adding a decoded payload to a dense vector."""

import triton
import triton.language as tl
from torch import Tensor

from .launch import EXACT, blocks, on_device_of

_BLOCK = 1024


@triton.jit
def _accumulate(out, positions, values, weight, n, k, BLOCK: tl.constexpr):
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    position = tl.load(positions + i, mask=i < k, other=-1)
    inside = (position >= 0) & (position < n)
    old = tl.load(out + position, mask=inside, other=0.0)
    value = tl.load(values + i, mask=inside, other=0.0)
    tl.store(out + position, old + value * weight, mask=inside)


def accumulate(out: Tensor, positions: Tensor, values: Tensor, weight: float = 1.0) -> Tensor:
    """`out` [n] += weight * values at `positions`, in place; returns `out`. As `out.index_add_(0, positions, values,
    alpha=weight)` gives it on the CPU: the product is rounded, then the sum.

    `out` fp32 [n], contiguous; `positions` int64 [k], each at most once, as in a payload: so the result does not depend
    on an order and no atomic operation is needed; `values` fp32 [k]. Positions outside [0, n) are left out.
    """
    k = positions.numel()
    if not out.is_contiguous():
        raise ValueError("accumulate: out must be contiguous")
    if k:
        with on_device_of(out):
            _accumulate[(blocks(k, _BLOCK),)](
                out, positions.contiguous(), values.contiguous(), weight, out.numel(), k, BLOCK=_BLOCK, **EXACT
            )
    return out
