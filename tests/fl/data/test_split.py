"""Oracle: the definition of a split, and counts by hand."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from fl.data.split import split_validation


@given(count=st.integers(1, 500), fraction=st.floats(0, 0.5), seed=st.integers(0, 2**63 - 1))
def test_two_sorted_disjoint_parts(count, fraction, seed):
    """Oracle: the definition; a positive fraction holds something out unless that would leave nothing."""
    train, val = split_validation(count, fraction, seed)
    assert train.dtype == val.dtype == np.int64
    assert (np.diff(train) > 0).all()
    assert (np.diff(val) > 0).all()
    assert np.array_equal(np.sort(np.concatenate((train, val))), np.arange(count))
    assert len(train) > 0
    assert (len(val) > 0) == (fraction > 0 and count > 1)


def test_counts_and_seed():
    """Oracle by hand: a tenth of 1,438 is 144; the same seed gives the same samples, another one others."""
    train, val = split_validation(1438, 0.1, 0)
    assert (len(train), len(val)) == (1294, 144)
    assert np.array_equal(val, split_validation(1438, 0.1, 0)[1])
    assert not np.array_equal(val, split_validation(1438, 0.1, 1)[1])
