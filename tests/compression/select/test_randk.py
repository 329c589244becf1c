"""randk. Oracles: the count, and the frequency at which each coordinate is kept."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.compression.cases import EXAMPLES
from tests.compression.select.cases import selector


@EXAMPLES
@given(st.integers(0, 300), st.floats(1e-9, 1), st.integers(0, 2**63 - 1))
def test_positions_ascend_and_follow_from_the_key_alone(n: int, ratio: float, key: int) -> None:
    """max(1, round(R n)) different positions within range, the same for any values."""
    one = selector(f"randk:{ratio!r}")
    found = one.select(torch.zeros(n), None, key)
    assert found.dtype == torch.int64
    assert found.numel() == min(n, max(1, round(ratio * n)))
    assert sorted(set(found.tolist())) == found.tolist()
    assert all(0 <= position < n for position in found.tolist())
    assert torch.equal(found, selector(f"randk:{ratio!r}").select(torch.arange(float(n)), None, key))


@pytest.mark.parametrize("ratio", [0.01, 0.1, 0.5])
def test_every_coordinate_is_kept_equally_often(ratio: float) -> None:
    """Over 4,000 keys each of 1,000 coordinates is kept R * 4,000 times, within six standard deviations."""
    n, keys = 1000, 4000
    one, x = selector(f"randk:{ratio}"), torch.zeros(1000)
    counts = np.bincount(np.concatenate([one.select(x, None, key).numpy() for key in range(keys)]), minlength=n)
    assert np.abs(counts - ratio * keys).max() <= 6 * np.sqrt(keys * ratio * (1 - ratio))


def test_only_randk_is_seeded() -> None:
    """Other selectors give the same positions for any key."""
    x = torch.randn(1000, generator=torch.Generator().manual_seed(0))
    for text in ("topk:0.1", "prune:0.9", "threshold:1"):
        one = selector(text)
        assert not one.seeded
        assert torch.equal(one.select(x, None, 1), one.select(x, None, 2))
    one = selector("randk:0.1")
    assert one.seeded
    assert not torch.equal(one.select(x, None, 1), one.select(x, None, 2))
