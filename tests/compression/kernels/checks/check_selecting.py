"""Selection kernels. Oracle: NumPy, with a stable sort of all magnitudes for the k largest."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import compression.kernels as kernels
from tests.compression.cases import largest, vectors
from tests.compression.kernels.checks.common import DEVICE, FEW, SIZES, awkward


def check_compact(x: Tensor, threshold: float) -> None:
    numbers = x.numpy()
    expected = np.flatnonzero((np.abs(numbers) >= np.float32(threshold)) & (numbers != 0))
    positions, values = kernels.compact(x.to(DEVICE), threshold)
    assert positions.dtype == torch.int64
    assert positions.tolist() == expected.tolist()
    assert values.cpu().numpy().tobytes() == numbers[expected].tobytes()


def check_topk(x: Tensor, k: int) -> None:
    positions = kernels.topk_positions(x.to(DEVICE), k)
    assert positions.dtype == torch.int64
    assert positions.tolist() == largest(x.numpy(), k).tolist()


def check_kth(x: Tensor, k: int) -> None:
    bound = kernels.kth_magnitude(x.to(DEVICE), k)
    assert bound.shape == ()
    assert bound.dtype == torch.float32
    assert bound.item() == np.sort(np.abs(x.numpy()))[-k]


@pytest.mark.parametrize("n", SIZES)
def test_compact(n: int) -> None:
    """Thresholds below, among and above the values; zero and denormal thresholds keep all that is not zero."""
    for x in awkward(n).values():
        for threshold in (0.0, 1e-45, 1.0, 3.4e38):
            check_compact(x, threshold)


@pytest.mark.parametrize("n", SIZES)
def test_topk(n: int) -> None:
    """One, a few, about half, all but one, all."""
    for x in awkward(n).values():
        for k in {0, min(n, 1), n // 2, max(0, n - 1), n}:
            check_topk(x, k)


@FEW
@given(x=vectors(), data=st.data())
def test_any_vector(x: Tensor, data: st.DataObject) -> None:
    """All three, on any finite values."""
    k = data.draw(st.integers(0, x.numel()))
    check_topk(x, k)
    if k:
        check_kth(x, k)
    check_compact(x, data.draw(st.floats(0, 3.4e38)))


def test_one_tie_in_each_block() -> None:
    """Ties are counted across blocks: the lowest positions win."""
    x = torch.zeros(10_000)
    x[::1000] = 2.0
    x[5_500] = -3.0
    for k in (1, 2, 5, 10, 11, 12):
        check_topk(x, k)


def test_views() -> None:
    """A slice that starts off alignment, and one with a step."""
    x = awkward(3000)["normal"]
    for view in (x[3:], x[::2]):
        check_topk(view, 40)
        check_compact(view, 2.0)


def test_many_shares() -> None:
    """More blocks than programs that make the histogram: each goes through several."""
    x = torch.randn(5 * 2048 + 1, generator=torch.Generator().manual_seed(0))
    from compression.kernels import selecting

    before, selecting._HISTOGRAM_PROGRAMS = selecting._HISTOGRAM_PROGRAMS, 2
    try:
        check_topk(x, 100)
    finally:
        selecting._HISTOGRAM_PROGRAMS = before


def test_impossible_k() -> None:
    """The k-th largest of fewer than k, or the 0-th, is an error."""
    for k in (0, 4, -1):
        with pytest.raises(ValueError, match="k must be from 1 to 3"):
            kernels.kth_magnitude(torch.ones(3, device=DEVICE), k)
