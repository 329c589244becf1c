"""Oracle: the definition of a split, and counts by hand."""

import dataclasses

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from fl.data import Dataset, Split
from fl.data.split import divide, split_validation


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


def test_a_validation_split_of_its_own_is_used_whole():
    """Oracle: the split itself, and all training samples, whatever the fraction; without one, `split_validation`."""
    some = Split(torch.arange(40, dtype=torch.float32)[:, None], torch.arange(40) % 2)
    own = Split(torch.zeros(7, 1), torch.zeros(7, dtype=torch.int64))
    data = Dataset("x", some, some, classes=2, groups=torch.arange(40) % 4)
    train, validation = divide(dataclasses.replace(data, validation=own), 0.5, 0)
    assert validation is own
    assert np.array_equal(train, np.arange(40))
    train, validation = divide(data, 0.25, 3)
    expected = split_validation(40, 0.25, 3, np.arange(40) % 4)
    assert np.array_equal(train, expected[0])
    assert validation.x[:, 0].tolist() == expected[1].tolist()
