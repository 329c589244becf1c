"""topk. Oracle: a stable sort of all magnitudes in NumPy."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tests.compression.cases import EXAMPLES, largest, vectors
from tests.compression.select.cases import BIG, WIDE, selector, wide


@EXAMPLES
@given(vectors(), st.floats(1e-9, 1))
def test_topk_is_the_stable_sort(x: Tensor, ratio: float) -> None:
    """Exactly max(1, round(R n)) positions, those of the largest magnitudes, ties to the lowest position."""
    n = x.numel()
    expected = largest(x.numpy(), min(n, max(1, round(ratio * n))))
    found = selector(f"topk:{ratio!r}").select(x, None, 0)
    assert found.dtype == torch.int64
    assert found.tolist() == expected.tolist()


@pytest.mark.parametrize("name", WIDE)
def test_topk_of_a_sample_that_misleads(name: str) -> None:
    """The sample decides how long it takes, never what is found."""
    x = wide(name)
    for ratio in (1e-9, 0.0001, 0.01, 0.2, 0.5, 0.99):
        expected = largest(x.numpy(), max(1, round(ratio * BIG)))
        assert np.array_equal(selector(f"topk:{ratio}").select(x, None, 0).numpy(), expected), ratio


@pytest.mark.parametrize("n", [32767, 32768, 32769, (1 << 18) - 1, 1 << 18, (1 << 18) + 1])
def test_topk_where_sample_and_chunks_begin(n: int) -> None:
    """Lengths around the sample's and the chunk's."""
    x = torch.randn(n, generator=torch.Generator().manual_seed(n))
    x[-1], x[0] = 100.0, -100.0
    for ratio in (1e-9, 0.01, 0.6):
        expected = largest(x.numpy(), max(1, round(ratio * n)))
        assert np.array_equal(selector(f"topk:{ratio}").select(x, None, 0).numpy(), expected)
