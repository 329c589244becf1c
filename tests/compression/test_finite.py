"""Finite or not, against looking at each value."""

import pytest
import torch

from compression.finite import all_finite

MAX = torch.finfo(torch.float32).max


@pytest.mark.parametrize(
    ("values", "finite"),
    [
        ([], True),
        ([0.0, -1.0], True),
        ([MAX, MAX, MAX], True),  # their sum overflows
        ([MAX, -MAX], True),
        ([float("nan")], False),
        ([float("inf"), float("-inf")], False),
        ([1.0, float("-inf"), MAX], False),
    ],
)
def test_all_finite(values, finite):
    """By hand."""
    assert all_finite(torch.tensor(values)) is finite
