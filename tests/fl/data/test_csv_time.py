"""Time in the user's own table. Oracles: tables small enough to follow by hand."""

from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from fl.common.config import DataOptions
from fl.common.errors import DataError
from fl.data import Dataset, load_dataset
from fl.data.csv_time import describe_gaps, read_compact, read_times
from fl.data.windows import find_gaps


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
    times, _ = read_times(["1970-01-02", "1970-01-01 00:01:00Z", "2024-05-31T13:00:00+02:00", "noon", ""])
    assert times[:3].tolist() == [86400, 60, 1717153200]
    assert np.isnan(times[3:]).all()


NEW_YEAR = 1546300800
"""2019 begins, in UTC."""


@pytest.mark.parametrize(
    ("cells", "days"),
    [
        (["2019-1-5", "2019-12-31"], [4, 364]),
        (["2019/01/05", "2019.1.6"], [4, 5]),
        (["5/1/2019", "13/1/2019"], [4, 12]),
        (["1/5/2019", "1/13/2019"], [4, 12]),
        (["1/5/19", "1/13/19"], [4, 12]),
        (["5.1.2019 6:00", "31.1.2019 24:00"], [4.25, 31]),
        (["1/5/2019 6:00 PM", "1/13/2019 12:00:00 AM"], [4.75, 12]),
        (["05-Jan-2019", "6 FEB 19", "January 7, 2019", "08Jan2019:06:00:00"], [4, 36, 6, 7.25]),
        (["Sat, 05 Jan 2019 06:00:00 GMT", "2019-01-05 06:00:00 UTC", "2019-01-05T08:00:00+0200"], [4.25] * 3),
        (["20190105 0600", "20190105T060000"], [4.25] * 2),
        (["2019-01", "2019M2", "Mar 2019", "4/2019"], [0, 31, 59, 90]),
        (["05/01/2019 18.00.00", "13/01/2019 06.00.00"], [4.75, 12.25]),
        (["2/2/2019", "30/2/2019", "2019-02-29", "2019-01-01 25:00", "13:00 PM"], [32, *[np.nan] * 4]),
    ],
)
def test_dates_as_they_are_written(cells: list[str], days: list[float]) -> None:
    """Oracle: days since new year of 2019, by the calendar; what is none is missing. The column tells day from month."""
    times, either = read_times(cells)
    assert np.array_equal((times - NEW_YEAR) / 86400, days, equal_nan=True)
    assert not either


def test_day_or_month() -> None:
    """The 2nd of May or the 5th of February: the first cell that may be both is named, unless the user says."""
    cells = ["1/1/2019", "2/5/2019"]
    assert read_times(cells)[1] == "2/5/2019"
    assert [(read_times(cells, first)[0][1] - NEW_YEAR) / 86400 for first in ("yes", "no")] == [121, 35]
    assert read_times(["19-01-05", "20-12-31"])[1] == "19-01-05"


def test_dates_of_digits_alone() -> None:
    """Oracle: the calendar. Seconds since 1970, years and numbers of days are no dates, for some would not be in it."""
    for cells in (["20190105", "20190206"], ["20190105.0", "20190206.0", ""], ["2019010500", "2019020600"]):
        times = read_compact(cells)
        assert times is not None
        assert ((times[:2] - NEW_YEAR) / 86400).tolist() == [4, 36]
    months = read_compact(["201901", "201903"])
    assert months is not None
    assert ((months - NEW_YEAR) / 86400).tolist() == [0, 59]
    assert read_compact(["1546300800", "1546387200"]) is None
    assert read_compact(["2019", "2020"]) is None
    assert read_compact(["20190131", "20190132"]) is None


def test_a_series_by_dates_of_digits(tmp_path: Path) -> None:
    """Ninety days in a row, at the end of a month too; the date and the hour may lie in two columns, as UCI's air quality
    has them."""
    moments = [datetime(2019, 1, 1) + timedelta(days=n) for n in range(90)]
    path = tmp_path / "t.csv"
    path.write_text("at,v\n" + "".join(f"{at:%Y%m%d},{n % 7}.5\n" for n, at in enumerate(moments)))
    words = "target=v,features=v,window=2,horizon=1"
    assert "0 gap(s) in time" in load_dataset(DataOptions(dataset=f"csv:{path},{words},time=at"), seed=0).notes[0]
    moments = [datetime(2004, 3, 10, 18) + timedelta(hours=n) for n in range(90)]
    path.write_text("Date;Time;v\n" + "".join(f"{at:%d/%m/%Y;%H.%M.%S};{n % 7},5\n" for n, at in enumerate(moments)))
    data = load_dataset(DataOptions(dataset=f"csv:{path},{words},time=Date+Time"), seed=0)
    assert "0 gap(s) in time; features v; target v: regression; split by Date+Time: " in data.notes[0]
