"""threshold and prune. Oracle: comparison of all magnitudes with the bound in NumPy."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tests.compression.cases import EXAMPLES, vectors
from tests.compression.select.cases import BIG, WIDE, selector, wide


@EXAMPLES
@given(vectors(), st.sampled_from([1e-38, 1e-40 * 100, 1e-3, 0.5, 1.0, 2.0, 65504.0, 1e38]))
def test_threshold_is_a_comparison(x: Tensor, threshold: float) -> None:
    """|x| >= T, with T in fp32."""
    expected = np.flatnonzero(np.abs(x.numpy()) >= np.float32(threshold))
    assert selector(f"threshold:{threshold!r}").select(x, None, 0).tolist() == expected.tolist()


@pytest.mark.parametrize("name", WIDE)
def test_threshold_of_long_vectors(name: str) -> None:
    """Over several chunks, and never a zero."""
    x = wide(name)
    for threshold in (1e-38, 1e-3, 1.0):
        expected = np.flatnonzero(np.abs(x.numpy()) >= np.float32(threshold))
        assert np.array_equal(selector(f"threshold:{threshold}").select(x, None, 0).numpy(), expected)


@EXAMPLES
@given(vectors(), st.floats(0, 1))
def test_prune_keeps_the_upper_part(x: Tensor, sparsity: float) -> None:
    """Up to 32,768 coordinates the quantile is exact: the (1 - S) n largest and what ties with the smallest of them;
    never a zero."""
    magnitudes = np.abs(x.numpy())
    found = selector(f"prune:{sparsity!r}").select(x, None, 0).numpy()
    bound = np.sort(magnitudes)[::-1][max(1, round((1 - sparsity) * x.numel())) - 1] if x.numel() else 0
    assert found.tolist() == np.flatnonzero((magnitudes >= bound) & (magnitudes > 0)).tolist()


@pytest.mark.parametrize("sparsity", [0.0, 0.5, 0.9, 0.99, 0.999])
@pytest.mark.parametrize("name", ["normal", "sorted", "first block", "denormal", "huge"])
def test_prune_by_a_sampled_quantile(name: str, sparsity: float) -> None:
    """The kept fraction is 1 - S within five standard deviations of a sample of 32,768."""
    x = wide(name)
    if name == "huge":
        x = x * torch.rand(BIG, generator=torch.Generator().manual_seed(0))
    found = selector(f"prune:{sparsity}").select(x, None, 0).numpy()
    spread = 5 * np.sqrt(sparsity * (1 - sparsity) / (1 << 15)) + 1e-4
    assert abs(found.size / BIG - (1 - sparsity)) <= spread
    magnitudes = np.abs(x.numpy())
    assert magnitudes[found].min() >= np.delete(magnitudes, found).max(initial=0)
