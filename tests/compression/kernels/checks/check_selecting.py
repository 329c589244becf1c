"""Selection kernels. Oracle: NumPy, with a stable sort of all magnitudes for the k largest, part by part."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import compression.kernels as kernels
from tests.compression.cases import largest, vectors
from tests.compression.kernels.checks.common import DEVICE, FEW, SIZES, awkward


def check_compact(x: Tensor, thresholds: Sequence[float], sizes: Sequence[int] | None = None) -> None:
    numbers, sizes = x.numpy(), [x.numel()] if sizes is None else sizes
    bounds = np.repeat(np.array(thresholds, dtype=np.float32), sizes)
    expected = np.flatnonzero((np.abs(numbers) >= bounds) & (numbers != 0))
    positions, values = kernels.compact(x.to(DEVICE), thresholds, sizes)
    assert positions.dtype == torch.int64
    assert positions.tolist() == expected.tolist()
    assert values.cpu().numpy().tobytes() == numbers[expected].tobytes()


def check_topk(x: Tensor, counts: Sequence[int], sizes: Sequence[int] | None = None) -> None:
    sizes = [x.numel()] if sizes is None else sizes
    starts = np.cumsum([0, *sizes])
    positions = kernels.topk_positions(x.to(DEVICE), counts, sizes)
    assert positions.dtype == torch.int64
    assert positions.tolist() == [
        start + i
        for start, end, k in zip(starts, starts[1:], counts, strict=False)
        for i in largest(x.numpy()[start:end], k)
    ]


@pytest.mark.parametrize("n", SIZES)
def test_compact(n: int) -> None:
    """Thresholds below, among and above the values; zero and denormal thresholds keep all that is not zero."""
    for x in awkward(n).values():
        for threshold in (0.0, 1e-45, 1.0, 3.4e38):
            check_compact(x, [threshold])


@pytest.mark.parametrize("n", SIZES)
def test_topk(n: int) -> None:
    """One, a few, about half, all but one, all."""
    for x in awkward(n).values():
        for k in {0, min(n, 1), n // 2, max(0, n - 1), n}:
            check_topk(x, [k])


@FEW
@given(x=vectors(), data=st.data())
def test_any_vector(x: Tensor, data: st.DataObject) -> None:
    """Both, on any finite values, whole and in parts, of which some are empty."""
    n = x.numel()
    cuts = sorted(data.draw(st.lists(st.integers(0, n), max_size=6)))
    for sizes in ([n], [end - start for start, end in zip([0, *cuts], [*cuts, n], strict=True)]):
        check_topk(x, [data.draw(st.integers(0, size)) for size in sizes], sizes)
        check_compact(x, [data.draw(st.floats(0, 3.4e38)) for _ in sizes], sizes)


SIZES_OF_PARTS = {
    "one coordinate each": [1] * 20,
    "empty ones": [0, 0, 5, 0, 3000, 0, 0, 1, 0],
    "around a block": [2047, 2048, 2049, 1, 4096, 4097],
    "more than are looked at together": [
        7 * (i % 37 == 2) for i in range(600)
    ],  # few have any, for the interpreter is slow
    "as many as are looked at together": [0] * 250 + [3] * 6,
    "none": [],
}


@pytest.mark.parametrize("sizes", SIZES_OF_PARTS.values(), ids=SIZES_OF_PARTS)
def test_parts(sizes: list[int]) -> None:
    """A bound of its own for each part: none, one, about half, all but one and all of it; ties, zeros, denormals."""
    vectors_of = awkward(sum(sizes))
    for x in (vectors_of[name] for name in ("ties", "denormal")):
        check_topk(x, [(n // 2, n, 0, min(1, n), max(0, n - 1))[i % 5] for i, n in enumerate(sizes)], sizes)
        check_compact(x, [(0.0, 1e-45, 0.5, 1.0, 3.4e38)[i % 5] for i in range(len(sizes))], sizes)


def test_one_tie_in_each_block() -> None:
    """Ties are counted across blocks: the lowest positions win."""
    x = torch.zeros(10_000)
    x[::1000] = 2.0
    x[5_500] = -3.0
    for k in (1, 2, 5, 10, 11, 12):
        check_topk(x, [k])


def test_views() -> None:
    """A slice that starts off alignment, and one with a step."""
    x = awkward(3000)["normal"]
    for view in (x[3:], x[::2]):
        check_topk(view, [40])
        check_compact(view, [2.0])


def test_many_shares() -> None:
    """More blocks than programs that make the histogram: each goes through several of a part."""
    x = torch.randn(9 * 2048 + 1, generator=torch.Generator().manual_seed(0))
    from compression.kernels import selecting

    before, selecting._HISTOGRAM_PROGRAMS = selecting._HISTOGRAM_PROGRAMS, 2
    try:
        check_topk(x, [100])
        check_topk(x, [100, 0, 1, 700], [5 * 2048 - 3, 0, 3, 4 * 2048 + 1])
    finally:
        selecting._HISTOGRAM_PROGRAMS = before


def test_impossible_counts_and_sizes() -> None:
    """More than a part has, or fewer than none; parts that do not make up the vector, which would be read beyond its end."""
    x = torch.ones(3, device=DEVICE)
    for counts, sizes in (([4], [3]), ([-1], [3]), ([1, 2], [2, 1])):
        with pytest.raises(ValueError, match="counts"):
            kernels.topk_positions(x, counts, sizes)
    for sizes in ([4], [1, 1]):
        with pytest.raises(ValueError, match="must add up to 3"):
            kernels.topk_positions(x, [1] * len(sizes), sizes)
        with pytest.raises(ValueError, match="must add up to 3"):
            kernels.compact(x, [0.5] * len(sizes), sizes)
