"""Windows, splits in time and scalers. Oracles: cases small enough to count by hand, and a search over all windows."""

from itertools import pairwise

import numpy as np
import pytest

from fl.data.normalise import Scaler
from fl.data.windows import cut_starts, parts_in_time, take_windows


def test_runs_by_hand() -> None:
    """Rows 0-4 and 6-8 are usable, and row 7 does not follow row 6: only 0-4 holds windows of three, and 7-8 one of two."""
    usable = np.array([1, 1, 1, 1, 1, 0, 1, 1, 1], dtype=bool)
    gap = np.zeros(9, dtype=bool)
    gap[7] = True
    assert cut_starts(usable, gap, length=3).tolist() == [0, 1, 2]
    assert cut_starts(usable, gap, length=3, step=2).tolist() == [0, 2]
    assert cut_starts(usable, gap, length=2, step=2).tolist() == [0, 2, 7]
    assert cut_starts(usable, length=3).tolist() == [0, 1, 2, 6]
    assert cut_starts(usable, gap, length=6).tolist() == []
    assert cut_starts(np.zeros(0, dtype=bool), length=1).tolist() == []


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("length", [1, 2, 5])
def test_against_every_window(seed: int, length: int) -> None:
    """Oracle: at every row, look whether the window that begins there has a missing row or a gap inside."""
    generator = np.random.default_rng(seed)
    usable, gap = generator.random(40) < 0.8, generator.random(40) < 0.1
    wanted = [
        first
        for first in range(40 - length + 1)
        if usable[first : first + length].all() and not gap[first + 1 : first + length].any()
    ]
    assert cut_starts(usable, gap, length=length).tolist() == wanted


def test_windows_hold_their_rows() -> None:
    """Oracle: the rows, counted."""
    rows = np.arange(12.0).reshape(6, 2)
    assert take_windows(rows, np.array([1, 3]), 2).tolist() == [[[2, 3], [4, 5]], [[6, 7], [8, 9]]]
    with pytest.raises(ValueError, match="must be positive, not 0 and 1"):
        cut_starts(np.ones(3, dtype=bool), length=0)


def test_parts_by_hand() -> None:
    """Twelve rows and gaps of two leave eight rows, of which the first part gets half; too few rows leave nothing."""
    assert parts_in_time(12, (2, 1, 1), gap=2) == [slice(0, 4), slice(6, 8), slice(10, 12)]
    assert parts_in_time(888, (1, 1), gap=256) == [slice(0, 316), slice(572, 888)]
    assert [own.stop - own.start for own in parts_in_time(3, (2, 1, 1), gap=2)] == [0, 0, 0]


@pytest.mark.parametrize("count", [0, 1, 7, 100, 101, 102, 1003])
def test_parts_never_meet(count: int) -> None:
    """Oracle: the definition; `gap` rows at least lie between two parts that have rows, and none lies outside."""
    parts = parts_in_time(count, (0.7, 0.1, 0.2), gap=5)
    for before, after in pairwise(parts):
        assert after.start - before.stop == 5
    filled = [own for own in parts if own.stop > own.start]
    assert all(own.start >= 0 and own.stop <= count for own in filled)


def test_scaler_by_hand() -> None:
    """Columns 1, 3 (mean 2, deviation 1) and a constant one; what is not a number stays so."""
    scale = Scaler(np.array([[1.0, 0.1], [3.0, 0.1], [1.0, 0.1], [3.0, 0.1]]))
    assert scale.mean.tolist() == [2.0, 0.1]
    assert scale.std.tolist() == [1.0, 1.0]
    scaled = scale(np.array([[4.0, 0.1], [np.nan, 1.1]]))
    assert scaled.dtype == np.float32
    assert scaled[0].tolist() == [2.0, 0.0]
    assert np.isnan(scaled[1, 0])
    assert scaled[1, 1] == pytest.approx(1.0)
