"""What a client reports, as it travels and as it is believed."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compression import PayloadError
from fl.comm.message import COLUMNS, SECTIONS, Bounds, ClientReport, read_report

_BOUNDS = Bounds(samples=100, kept=1000, sizes={"mask": 10, "squares": 20, "update": 5000, "buffers": 30})
_REPORT = ClientReport(7, 100, 0.5, 1.5, 1000, {"mask": 10, "update": 5000}, moved=True, halved=True)
_NAMES = ("samples", "loss", "seconds", "kept", "moved", "halved", *SECTIONS)


def _row(**cells: float) -> list[float]:
    row = dict(zip(_NAMES, _REPORT.row(), strict=True))
    assert row.keys() >= cells.keys()
    return list((row | cells).values())


def test_a_report_at_its_bounds_is_believed() -> None:
    """The largest of everything that can be true."""
    assert read_report(7, _row(), _BOUNDS) == _REPORT


@pytest.mark.parametrize(
    ("cells", "words"),
    [
        ({"samples": 101}, "samples = 101, which must be a whole number from 1 to 100"),
        ({"samples": 0}, "samples = 0"),
        ({"samples": -100}, "samples = -100"),
        ({"samples": 1e300}, "samples = 1e\\+300"),
        ({"samples": 1.5}, "samples = 1.5"),
        ({"samples": math.nan}, "samples = nan"),
        ({"samples": math.inf}, "samples = inf"),
        ({"kept": 1001}, "kept = 1001"),
        ({"kept": -1}, "kept = -1"),
        ({"moved": 2}, "moved = 2"),
        ({"halved": math.nan}, "halved = nan"),
        ({"update": 2**31}, "bytes of update = 2147483648, which must be a whole number from 0 to 5000"),
        ({"update": -5}, "bytes of update = -5"),
        ({"mask": 1e12}, "bytes of mask"),
        ({"buffers": 31}, "bytes of buffers"),
        ({"loss": math.nan}, "a training loss of nan: lower the learning rate"),
        ({"loss": -math.inf}, "a training loss of -inf"),
        ({"seconds": -1}, "-1 seconds of training"),
        ({"seconds": math.nan}, "nan seconds"),
        ({"seconds": math.inf}, "inf seconds"),
    ],
)
def test_numbers_that_cannot_be_true_are_refused(cells: dict[str, float], words: str) -> None:
    """Each in turn, by what it is."""
    with pytest.raises(PayloadError, match=words):
        read_report(7, _row(**cells), _BOUNDS)


@given(st.lists(st.floats(width=64), min_size=COLUMNS, max_size=COLUMNS))
def test_any_row_is_believed_or_refused(row: list[float]) -> None:
    """Any float64 there is: a report within its bounds, or PayloadError."""
    try:
        report = read_report(7, row, _BOUNDS)
    except PayloadError:
        return
    assert 1 <= report.samples <= 100
    assert 0 <= report.kept <= 1000
    assert math.isfinite(report.train_loss)
    assert all(0 <= size <= _BOUNDS.sizes[name] for name, size in report.sizes.items())
