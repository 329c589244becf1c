"""Time in the user's own table. Oracles: tables small enough to follow by hand."""

from pathlib import Path

import numpy as np
import pytest

from fl.config import DataOptions
from fl.data import Dataset, load_dataset
from fl.data.csv_time import describe_gaps, read_times
from fl.data.windows import find_gaps
from fl.errors import DataError


def read(path: Path, words: str) -> Dataset:
    """What a run would get of the columns `at`, `name` and `v`."""
    return load_dataset(DataOptions(dataset=f"csv:{path},target=v,time=at,group=name,{words}"), seed=0)


def write(path: Path, moments: dict[str, list[int]]) -> Path:
    """A row for each moment, in seconds, of each name; values do not matter."""
    rows = [
        f"2024-05-01 {at // 3600:02}:{at // 60 % 60:02}:00,{name},{at / 7}" for name in moments for at in moments[name]
    ]
    path.write_text("\n".join(["at,name,v", *rows]) + "\n")
    return path


def test_gaps_are_counted(tmp_path: Path) -> None:
    """Of two things observed every minute one misses two minutes, apart, and one has a minute twice. That the second
    begins after the first has ended is no gap."""
    minutes = {"a": [*range(10), *range(11, 30), *range(31, 60)], "b": [*range(50), 49, *range(50, 60)]}
    path = write(tmp_path / "t.csv", {name: [60 * n for n in own] for name, own in minutes.items()})
    note = read(path, "window=2,horizon=1").notes[0]
    assert (
        "0 with missing values, 2 gap(s) in time (the usual step is 60) and 1 row(s) at the moment of the one before; "
        in note
    )


def test_gaps_that_leave_no_sample(tmp_path: Path) -> None:
    """Twenty times three minutes, ten minutes apart: windows of three and the row after span a gap, so it is said how many
    there are, what the usual step is, and what to do; which then helps. Too long a window without gaps gets no such hint."""
    path = write(tmp_path / "t.csv", {"a": [60 * (10 * n + k) for n in range(20) for k in range(3)]})
    with pytest.raises(DataError, match="no train sample") as caught:
        read(path, "window=3,horizon=1")
    assert "; leave time= out to take rows as they follow each other; " in str(caught.value)
    assert ", 19 gap(s) in time (the usual step is 60); " in str(caught.value)
    words = f"csv:{path},target=v,window=3,horizon=1,features=v"
    assert len(load_dataset(DataOptions(dataset=words), seed=0).train) > 20
    with pytest.raises(DataError, match="no train sample") as caught:
        read(write(tmp_path / "t.csv", {"a": [60 * n for n in range(60)]}), "window=59,horizon=1")
    assert "leave time=" not in str(caught.value)


def test_without_time_there_are_none(tmp_path: Path) -> None:
    """Nothing is said of gaps where no column tells the time."""
    path = write(tmp_path / "t.csv", {"a": [60 * n for n in range(60)]})
    assert "gap" not in load_dataset(DataOptions(dataset=f"csv:{path},target=v,features=v,horizon=1"), seed=0).notes[0]


def test_rows_of_unknown_time_are_no_gaps() -> None:
    """They come last, and are missing values."""
    time, sequence = np.array([0.0, 1, 2, 5, np.nan, np.nan]), np.array([0, 0, 0, 0, 0, 1])
    gap_before = find_gaps(sequence, time, np.zeros(6, dtype=np.int64))
    assert describe_gaps(time, sequence, gap_before) == (1, "1 gap(s) in time (the usual step is 1)")


def test_times() -> None:
    """Oracle: the calendar; 13:00 in Rome in summer is 11:00 UTC."""
    times = read_times(["1970-01-02", "1970-01-01 00:01:00Z", "2024-05-31T13:00:00+02:00", "noon", ""])
    assert times[:3].tolist() == [86400, 60, 1717153200]
    assert np.isnan(times[3:]).all()
