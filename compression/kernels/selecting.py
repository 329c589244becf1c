"""Selection by magnitude. Magnitudes are compared as bit patterns: those of non-negative floats are ordered as whole
numbers, denormals included, whatever a device does with them in arithmetic. Vectors are finite.

A vector consists of parts, one after the other, of which each has a bound of its own, such as the layers of a model; however
many they are, each kernel is launched once, and a program has a piece of one part.

The k-th largest is found digit by digit from the top, a histogram of 8-bit digits in each of four passes (radix select;
Alabi et al. 2012). Only whole numbers are added atomically, so the result never depends on an order.
"""

from collections.abc import Sequence
from itertools import accumulate, chain

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..placement import HOST, move
from .launch import EXACT, blocks, on_device_of

_BLOCK = 2048
_HISTOGRAM_PROGRAMS = 1024  # each goes through its share of x before it adds to the common histogram
_SHIFTS = (24, 16, 8, 0)
_BINS = tl.constexpr(256)  # cheap in every version of Triton: some spend instructions on each bin
_MANY = tl.constexpr(256)  # parts looked at together
_MAGNITUDE = tl.constexpr(0x7FFFFFFF)


@triton.jit
def _part(firsts, parts):
    """The part of which this program has a piece: the last one whose first program is not after it."""
    part = tl.full([], -1, tl.int32)
    for start in range(0, parts, _MANY):
        i = start + tl.arange(0, _MANY)
        first = tl.load(firsts + i, mask=i < parts, other=0x7FFFFFFF)
        part += tl.sum((first <= tl.program_id(0)).to(tl.int32), 0)
    return part


@triton.jit
def _spare_before(state, part):
    """How many of those that equal their part's bound are kept in the parts before."""
    spare = tl.zeros([], tl.int64)
    for start in range(0, part, _MANY):
        i = start + tl.arange(0, _MANY)
        spare += tl.sum(tl.load(state + 2 * i + 1, mask=i < part, other=0), 0)
    return spare


@triton.jit
def _narrow(histogram, state, next_state):
    """state = digits found, the rank among what agrees with them, whose next digits the histogram counts: one digit more.

    Of the digit above all others, which is zero in every pattern, there is no count.
    """
    digits = tl.arange(0, _BINS)
    rank = tl.load(state + 1)
    counts = tl.load(histogram + digits)
    not_below = tl.cumsum(counts, 0, reverse=True)
    digit = tl.maximum(tl.sum((not_below >= rank).to(tl.int32), 0) - 1, 0)
    found = tl.load(state) * _BINS + digit
    tl.store(next_state, found)
    tl.store(next_state + 1, rank - tl.sum(tl.where(digits > digit, counts, 0), 0))
    return found


@triton.jit(do_not_specialize=["shift"])
def _count_digits(
    patterns, begins, firsts, histograms, next_histograms, states, next_states, parts, share, shift, BLOCK: tl.constexpr
):
    """Find one digit more, every program for itself, and count the digit at `shift` of what agrees with those found."""
    part = _part(firsts, parts)
    found = _narrow(histograms + part * _BINS, states + part * 2, next_states + part * 2)
    begin = tl.load(begins + part) + (tl.program_id(0) - tl.load(firsts + part)) * share * BLOCK
    end = tl.load(begins + part + 1)
    counts = tl.zeros([_BINS], dtype=tl.int32)
    for piece in range(share):
        i = begin + piece * BLOCK + tl.arange(0, BLOCK)
        upper = (tl.load(patterns + i, mask=i < end, other=0) & _MAGNITUDE) >> shift
        counts += tl.histogram(upper & (_BINS - 1), _BINS, mask=(i < end) & ((upper >> 8) == found))
    tl.atomic_add(next_histograms + part * _BINS + tl.arange(0, _BINS), counts.to(tl.int64), mask=counts > 0)


@triton.jit
def _last_digit(histograms, states, next_states):
    """Find the last digit, a part a program."""
    part = tl.program_id(0)
    _narrow(histograms + part * _BINS, states + part * 2, next_states + part * 2)


@triton.jit
def _count_kept(patterns, begins, firsts, state, greater, equal, parts, BLOCK: tl.constexpr):
    """Per block: how many magnitudes are above the bound of its part, and how many equal it."""
    part = _part(firsts, parts)
    i = tl.load(begins + part) + (tl.program_id(0) - tl.load(firsts + part)) * BLOCK + tl.arange(0, BLOCK)
    end = tl.load(begins + part + 1)
    bound = tl.load(state + 2 * part)
    magnitude = tl.load(patterns + i, mask=i < end, other=0) & _MAGNITUDE
    tl.store(greater + tl.program_id(0), tl.sum(((magnitude > bound) & (i < end)).to(tl.int32), 0))
    tl.store(equal + tl.program_id(0), tl.sum(((magnitude == bound) & (i < end)).to(tl.int32), 0))


@triton.jit
def _write_kept(
    patterns, begins, firsts, state, greater_ends, equal_ends, positions, values, parts, BLOCK: tl.constexpr
):
    """Write what is above its part's bound, and the first `spare` of what equals it, each to its place among them."""
    part = _part(firsts, parts)
    first = tl.load(firsts + part)
    i = tl.load(begins + part) + (tl.program_id(0) - first) * BLOCK + tl.arange(0, BLOCK)
    end = tl.load(begins + part + 1)
    bound = tl.load(state + 2 * part)
    spare = tl.load(state + 2 * part + 1)
    pattern = tl.load(patterns + i, mask=i < end, other=0)
    magnitude = pattern & _MAGNITUDE
    greater = ((magnitude > bound) & (i < end)).to(tl.int32)
    equal = ((magnitude == bound) & (i < end)).to(tl.int32)
    greater_start = tl.load(greater_ends + tl.program_id(0)) - tl.sum(greater, 0)
    equal_start = tl.load(equal_ends + tl.program_id(0)) - tl.sum(equal, 0)
    equal_start -= tl.load(equal_ends + first - 1, mask=first > 0, other=0)
    greater_before = greater_start + tl.cumsum(greater, 0) - greater
    equal_before = equal_start + tl.cumsum(equal, 0) - equal
    keep = (greater == 1) | ((equal == 1) & (equal_before < spare))
    place = greater_before + _spare_before(state, part) + tl.minimum(equal_before, spare)
    tl.store(positions + place, i, mask=keep)
    tl.store(values + place, pattern, mask=keep)


def compact(x: Tensor, thresholds: Sequence[float], sizes: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Positions, ascending int64 [k], and values, fp32 [k], of the coordinates of fp32 [n] that are not zero and whose
    magnitude is at least the threshold of their part, rounded to fp32. `sizes`: of the parts. The host waits once, for k."""
    bounds = torch.tensor(thresholds, dtype=torch.float32, device=HOST).clamp_(min=0).view(torch.int32)
    parts = _Parts(x, sizes, [(max(1, bound) - 1, 0) for bound in bounds.tolist()])
    return parts.compact(parts.state, None)


def topk_positions(x: Tensor, counts: Sequence[int], sizes: Sequence[int]) -> Tensor:
    """Ascending positions, int64 [sum(counts)], of the largest magnitudes of each part of fp32 [n], so many of each; the
    lowest positions first among equals. `sizes`: of the parts. The host does not wait."""
    if any(not 0 <= count <= size for count, size in zip(counts, sizes, strict=True)):
        raise ValueError(f"counts {list(counts)} of parts of {list(sizes)}")
    parts = _Parts(x, sizes, [(0, count) for count in counts])
    if not any(counts):
        return torch.empty(0, dtype=torch.int64, device=x.device)
    return parts.compact(parts.largest(), sum(counts))[0]


class _Parts:
    """The parts of a vector, fp32 [n], the programs that have a piece of each, and two numbers of each: `state`, int64."""

    def __init__(self, x: Tensor, sizes: Sequence[int], state: Sequence[tuple[int, int]]) -> None:
        if sum(sizes) != x.numel() or len(state) != len(sizes):
            raise ValueError(f"{len(state)} bounds for parts of {list(sizes)}, which must add up to {x.numel()}")
        self.patterns = x.contiguous().view(torch.int32)
        self.count = len(sizes)
        self.share = max(1, blocks(x.numel(), _BLOCK * _HISTOGRAM_PROGRAMS))
        shares, pieces = ([blocks(size, _BLOCK * share) for size in sizes] for share in (self.share, 1))
        self.shares, self.blocks = sum(shares), sum(pieces)
        starts = [accumulate(each, initial=0) for each in (sizes, shares, pieces)]
        numbers = torch.tensor([*chain(*starts, *state)], dtype=torch.int64, device=HOST)
        self.begins, self.first_shares, self.first_blocks, self.state = move(numbers, x.device).split(
            [len(sizes) + 1] * 3 + [2 * len(sizes)]
        )

    def largest(self) -> Tensor:
        """For `state` = (0, k) of each part: the bit pattern of its k-th largest magnitude, and how many of those that equal
        it are among the k largest."""
        steps, device = len(_SHIFTS) + 1, self.patterns.device
        zeros = torch.zeros(steps * self.count * (_BINS.value + 2), dtype=torch.int64, device=device)
        histograms = zeros[: steps * self.count * _BINS.value].view(steps, -1)
        states = [self.state, *zeros[histograms.numel() :].view(steps, -1)]
        with on_device_of(self.patterns):
            for i, shift in enumerate(_SHIFTS):
                given = (self.patterns, self.begins, self.first_shares, *histograms[i : i + 2], *states[i : i + 2])
                _count_digits[(self.shares,)](*given, self.count, self.share, shift, BLOCK=_BLOCK, **EXACT)
            _last_digit[(self.count,)](histograms[-1], *states[-2:], **EXACT)
        return states[-1]

    def compact(self, state: Tensor, k: int | None) -> tuple[Tensor, Tensor]:
        """Positions and values of what `state` (bound, spare) keeps of each part; `k`: how many these are, if known."""
        device = self.patterns.device
        if not self.blocks:
            return torch.empty(0, dtype=torch.int64, device=device), torch.empty(0, dtype=torch.float32, device=device)
        given = (self.patterns, self.begins, self.first_blocks, state)
        counts = torch.empty(2, self.blocks, dtype=torch.int32, device=device)
        with on_device_of(self.patterns):
            _count_kept[(self.blocks,)](*given, *counts, self.count, BLOCK=_BLOCK, **EXACT)
            ends = counts.cumsum(1, dtype=torch.int64)
            kept = int(ends[0, -1]) if k is None else k
            positions = torch.empty(kept, dtype=torch.int64, device=device)
            values = torch.empty(kept, dtype=torch.float32, device=device)
            if kept:
                to = (positions, values.view(torch.int32))
                _write_kept[(self.blocks,)](*given, *ends, *to, self.count, BLOCK=_BLOCK, **EXACT)
        return positions, values
