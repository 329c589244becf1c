"""Random numbers as of `compression.draws` (SplitMix64 at a counter), and stochastic rounding with them in one pass."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .launch import EXACT, blocks, on_device_of

_BLOCK = 1024
_GOLDEN = tl.constexpr(0x9E3779B97F4A7C15)
_FIRST = tl.constexpr(0xBF58476D1CE4E5B9)
_SECOND = tl.constexpr(0x94D049BB133111EB)


@triton.jit
def _draw(key, counter):
    """Number `counter` of `key`, fp32 in [0, 1): its top 24 bits."""
    z = key.to(tl.uint64) + (counter + 1).to(tl.uint64) * _GOLDEN
    z = (z ^ (z >> 30)) * _FIRST
    z = (z ^ (z >> 27)) * _SECOND
    z = z ^ (z >> 31)
    return (z >> 40).to(tl.int32).to(tl.float32) * 5.9604644775390625e-08


@triton.jit(do_not_specialize=["key", "start"])
def _uniform(out, key, start, n, BLOCK: tl.constexpr):
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out + i, _draw(key, i + start), mask=i < n)


@triton.jit(do_not_specialize=["key", "start", "levels"])
def _round(values, scales, codes, key, start, n, per_scale, levels, BLOCK: tl.constexpr):
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    scale = tl.load(scales + i // per_scale, mask=i < n, other=1.0)
    value = tl.load(values + i, mask=i < n, other=0.0)
    # Plain `/` is an approximation on the GPU.
    exact = tl.div_rn(value, tl.where(scale == 0.0, 1.0, scale)) * levels.to(tl.float32)
    # Not tl.floor, which takes denormals for zero on the GPU.
    toward_zero = exact.to(tl.int32)
    low = toward_zero - (toward_zero.to(tl.float32) > exact).to(tl.int32)
    up = (_draw(key, i + start) < exact - low.to(tl.float32)).to(tl.int32)
    tl.store(codes + i, (low + levels + up).to(tl.uint8), mask=i < n)


def uniform(key: int, n: int, device: torch.device | str, start: int = 0, out: Tensor | None = None) -> Tensor:
    """As `compression.draws.uniform`, in one pass: numbers `start` to `start + n - 1` of `key`, fp32 [n] in [0, 1)."""
    out = torch.empty(n, dtype=torch.float32, device=device) if out is None else out
    if n:
        with on_device_of(out):
            _uniform[(blocks(n, _BLOCK),)](out, key, start, n, BLOCK=_BLOCK, **EXACT)
    return out


def round_stochastic(
    values: Tensor, scales: Tensor, key: int, levels: int, per_scale: int, start: int, codes: Tensor
) -> Tensor:
    """Codes of values with one scale for each `per_scale` of them, as int8, int4 and qsgd need them; fills `codes`.

    For value i, x = value / scale * levels (a scale of zero counts as one) and u = number start + i of `key`:
    code = levels + floor(x) + (u < x - floor(x)). `values` finite fp32 [k]; `scales` fp32 [ceil(k / per_scale)], none below
    its values' magnitudes; `levels` 1 to 127; `codes` uint8 [k], contiguous.
    """
    k = values.numel()
    if scales.numel() != blocks(k, per_scale) or codes.numel() != k or not codes.is_contiguous():
        raise ValueError(
            f"{scales.numel()} scales and {codes.numel()} codes do not fit {k} values, {per_scale} a scale"
        )
    if k:
        with on_device_of(values):
            _round[(blocks(k, _BLOCK),)](
                values.contiguous(), scales.contiguous(), codes, key, start, k, per_scale, levels, BLOCK=_BLOCK, **EXACT
            )
    return codes
