"""Selection by magnitude. Magnitudes are compared as bit patterns: those of non-negative floats are ordered as whole
numbers, denormals included, whatever a device does with them in arithmetic. Vectors are finite.

The k-th largest is found digit by digit from the top, a histogram of 8-bit digits in each of four passes (radix select;
Alabi et al. 2012). Only whole numbers are added atomically, so the result never depends on an order.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .launch import EXACT, blocks, on_device_of

_BLOCK = 2048
_HISTOGRAM_PROGRAMS = 1024  # each goes through its share of x before it adds to the common histogram
_SHIFTS = (24, 16, 8, 0)
_BINS = tl.constexpr(256)  # cheap in every version of Triton: some spend instructions on each bin
_MAGNITUDE = tl.constexpr(0x7FFFFFFF)


@triton.jit
def _narrow(step, next_step):
    """step = digits found, the rank among what agrees with them, a histogram of their next digits. Finds one digit more."""
    digits = tl.arange(0, _BINS)
    rank = tl.load(step + 1)
    counts = tl.load(step + 2 + digits)
    not_below = tl.cumsum(counts, 0, reverse=True)
    digit = tl.sum((not_below >= rank).to(tl.int32), 0) - 1
    found = tl.load(step) * _BINS + digit
    tl.store(next_step, found)
    tl.store(next_step + 1, rank - tl.sum(tl.where(digits > digit, counts, 0), 0))
    return found


@triton.jit(do_not_specialize=["shift"])
def _count_digits(patterns, step, next_step, n, share, shift, BLOCK: tl.constexpr):
    """Find one digit more, every program for itself, and count the digit at `shift` of what agrees with those found."""
    found = _narrow(step, next_step)
    counts = tl.zeros([_BINS], dtype=tl.int32)
    for part in range(share):
        i = (tl.program_id(0).to(tl.int64) * share + part) * BLOCK + tl.arange(0, BLOCK)
        upper = (tl.load(patterns + i, mask=i < n, other=0) & _MAGNITUDE) >> shift
        counts += tl.histogram(upper & (_BINS - 1), _BINS, mask=(i < n) & ((upper >> 8) == found))
    tl.atomic_add(next_step + 2 + tl.arange(0, _BINS), counts.to(tl.int64), mask=counts > 0)


@triton.jit
def _last_digit(step, next_step):
    """Find the last digit."""
    _narrow(step, next_step)


@triton.jit
def _count_kept(patterns, state, greater, equal, n, BLOCK: tl.constexpr):
    """Per block: how many magnitudes are above the bound, and how many equal it."""
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    bound = tl.load(state)
    magnitude = tl.load(patterns + i, mask=i < n, other=0) & _MAGNITUDE
    tl.store(greater + tl.program_id(0), tl.sum(((magnitude > bound) & (i < n)).to(tl.int32), 0))
    tl.store(equal + tl.program_id(0), tl.sum(((magnitude == bound) & (i < n)).to(tl.int32), 0))


@triton.jit
def _write_kept(patterns, state, greater_ends, equal_ends, positions, values, n, BLOCK: tl.constexpr):
    """Write what is above the bound, and the first `spare` of what equals it, each to its place among them."""
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    bound = tl.load(state)
    spare = tl.load(state + 1)
    pattern = tl.load(patterns + i, mask=i < n, other=0)
    magnitude = pattern & _MAGNITUDE
    greater = ((magnitude > bound) & (i < n)).to(tl.int32)
    equal = ((magnitude == bound) & (i < n)).to(tl.int32)
    greater_start = tl.load(greater_ends + tl.program_id(0)) - tl.sum(greater, 0)
    equal_start = tl.load(equal_ends + tl.program_id(0)) - tl.sum(equal, 0)
    greater_before = greater_start + tl.cumsum(greater, 0) - greater
    equal_before = equal_start + tl.cumsum(equal, 0) - equal
    keep = (greater == 1) | ((equal == 1) & (equal_before < spare))
    place = greater_before + tl.minimum(equal_before, spare)
    tl.store(positions + place, i, mask=keep)
    tl.store(values + place, pattern, mask=keep)


def compact(x: Tensor, threshold: float) -> tuple[Tensor, Tensor]:
    """Positions, ascending int64 [k], and values, fp32 [k], of the coordinates of fp32 [n] with a magnitude of at least
    `threshold` (rounded to fp32) that are not zero. The host waits once, for k."""
    bound = torch.tensor(max(threshold, 0.0), dtype=torch.float32, device="cpu")
    smallest = max(1, int(bound.view(torch.int32)))
    state = torch.zeros(2, dtype=torch.int64, device=x.device)
    state[:1].fill_(smallest - 1)
    return _compact(x, state, None)


def kth_magnitude(x: Tensor, k: int) -> Tensor:
    """The k-th largest magnitude of fp32 [n], 1 <= k <= n, exactly: fp32 [] on the device of `x`, without waiting for it."""
    return _kth(x, k)[:1].to(torch.int32).view(torch.float32).squeeze(0)


def topk_positions(x: Tensor, k: int) -> Tensor:
    """Ascending positions, int64 [k], of the k largest magnitudes of fp32 [n]; the lowest positions first among equals.
    The host does not wait. Requires 0 <= k <= n."""
    if k == x.numel():
        return torch.arange(k, device=x.device)
    if not k:
        return torch.empty(0, dtype=torch.int64, device=x.device)
    return _compact(x, _kth(x, k), k)[0]


def _kth(x: Tensor, k: int) -> Tensor:
    """(bit pattern of the k-th largest magnitude, how many of those that equal it are among the k largest): int64 [2]."""
    n = x.numel()
    if not 1 <= k <= n:
        raise ValueError(f"k must be from 1 to {n}, not {k}")
    patterns = x.contiguous().view(torch.int32)
    steps = torch.zeros(len(_SHIFTS) + 2, 2 + _BINS.value, dtype=torch.int64, device=x.device)
    steps[0, 1:3].fill_(k)  # the digit above all others is zero in each of at least k patterns
    share = blocks(n, _BLOCK * _HISTOGRAM_PROGRAMS)
    grid = (blocks(n, _BLOCK * share),)
    with on_device_of(x):
        for i, shift in enumerate(_SHIFTS):
            _count_digits[grid](patterns, steps[i], steps[i + 1], n, share, shift, BLOCK=_BLOCK, **EXACT)
        _last_digit[(1,)](steps[-2], steps[-1], **EXACT)
    return steps[-1, :2]


def _compact(x: Tensor, state: Tensor, k: int | None) -> tuple[Tensor, Tensor]:
    """Positions and values of what `state` (bound, spare) keeps; `k`: how many these are, where that is known."""
    n = x.numel()
    patterns = x.contiguous().view(torch.int32)
    counts = torch.empty(2, blocks(n, _BLOCK), dtype=torch.int32, device=x.device)
    if not n:
        return torch.empty(0, dtype=torch.int64, device=x.device), x.new_empty(0)
    with on_device_of(x):
        grid = (counts.shape[1],)
        _count_kept[grid](patterns, state, counts[0], counts[1], n, BLOCK=_BLOCK, **EXACT)
        ends = counts.cumsum(1, dtype=torch.int64)
        kept = int(ends[0, -1]) if k is None else k
        positions = torch.empty(kept, dtype=torch.int64, device=x.device)
        values = torch.empty(kept, dtype=torch.float32, device=x.device)
        if kept:
            raw = values.view(torch.int32)
            _write_kept[grid](patterns, state, ends[0], ends[1], positions, raw, n, BLOCK=_BLOCK, **EXACT)
    return positions, values
