"""Temperature. Oracles: stations written by hand, the published counts of the real ones, what a changed row may change."""

import gzip
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
import torch

from fl.common.config import DataOptions
from fl.common.errors import DataError
from fl.data import Dataset, Split, load_dataset
from fl.data.temperature import HORIZON, LENGTH, load, persistence

HEADER = '"No","year","month","day","hour","PM2.5","TEMP","PRES","DEWP","RAIN","wd","WSPM","station"'
HOURS = 400
TRAIN, VALIDATION, TEST = 176, 88, 88
"""What 400 hours less two days make of 2 : 1 : 1."""


def lines(first: float = 0.0, count: int = HOURS, begin: datetime = datetime(2015, 1, 1)) -> list[str]:
    """So many hours from new year on; at hour n: first + n degrees, pressure 1000, dew point -n, wind n / 2."""
    moments = [begin + timedelta(hours=n) for n in range(count)]
    return [
        f'{n + 1},{at.year},{at.month},{at.day},{at.hour},NA,{first + n},1000,{-n},0,"N",{n / 2},"X"'
        for n, at in enumerate(moments)
    ]


def write(folder: Path, station: str, rows: list[str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    text = "\n".join([HEADER, *rows]) + "\n"
    (folder / f"PRSA_Data_{station}_2015.csv.gz").write_bytes(gzip.compress(text.encode()))


def test_by_hand(tmp_path: Path) -> None:
    """176 training hours make 152 samples of 25. The first predicts hour 24, the first to test hour 176 + 88 + 2 * 24 + 24.
    PM2.5 is missing everywhere, which does not matter; the constant pressure is 0 everywhere."""
    write(tmp_path / "temperature", "A", lines())
    write(tmp_path / "temperature", "B", lines(50.0))
    data = load(tmp_path, False)
    assert data.validation is not None
    assert data.groups is not None
    assert data.train.x.shape == (2 * 152, 24, 4)
    assert (len(data.validation), len(data.test)) == (2 * 64, 2 * 64)
    assert torch.bincount(data.groups).tolist() == [152, 152]
    assert data.train.y[0] == 24
    assert data.train.y[152] == 74
    assert data.test.y[[0, -1]].tolist() == [336, 449]
    both = np.concatenate([np.arange(TRAIN), np.arange(TRAIN) + 50.0])
    assert data.target == (pytest.approx(both.mean()), pytest.approx(both.std()))
    assert torch.allclose(data.train.x[0, :, 0], torch.tensor((np.arange(24) - both.mean()) / both.std()).float())
    assert not data.train.x[:, :, 1].any()
    assert data.classes == 0


def test_no_row_is_in_two_splits(tmp_path: Path) -> None:
    """Oracle: every hour has a temperature of its own, so those in windows and targets tell which hours a split has used:
    all of its own 176, 88 and 88, a day apart."""
    write(tmp_path, "A", lines())
    data = load(tmp_path, False)
    assert data.validation is not None
    used = []
    for split in (data.train, data.validation, data.test):
        degrees = split.x[:, :, 0].double() * data.target[1] + data.target[0]
        used.append({*degrees.round().int().flatten().tolist(), *split.y.int().tolist()})
    assert used == [set(range(176)), set(range(200, 288)), set(range(312, 400))]


def test_all_stations_share_one_calendar(tmp_path: Path) -> None:
    """B begins 100 hours before A: of 500 hours less two days 226 train, 113 validate and 113 test. In them lie 126, 113 and
    113 of A's hours, and 226, 113 and 13 of B's, each less the 24 before its first target."""
    write(tmp_path, "A", lines())
    write(tmp_path, "B", lines(1000.0, begin=datetime(2015, 1, 1) - timedelta(hours=100)))
    data = load(tmp_path, False)
    assert data.validation is not None
    targets = [split.y.int().tolist() for split in (data.train, data.validation, data.test)]
    assert targets[0] == [*range(24, 126), *range(1024, 1226)]
    assert targets[1] == [*range(150 + 24, 263), *range(1250 + 24, 1363)]
    assert targets[2] == list(range(287 + 24, 400))


def test_persistence_by_hand() -> None:
    """Guesses 10 + 2 * (1, 2, 3) = 12, 14, 16 of 12, 15, 18: mean error 1; squares 0, 1, 4 of a spread of 18."""
    x = torch.zeros(3, 24, 4)
    x[:, -1, 0] = torch.tensor([1.0, 2.0, 3.0])
    mae, r2 = persistence(Split(x, torch.tensor([12.0, 15.0, 18.0])), (10.0, 2.0))
    assert (mae, r2) == (pytest.approx(1.0), pytest.approx(1 - 5 / 18))


@pytest.mark.parametrize("changed", ["test", "validation"])
def test_held_out_rows_never_reach_the_training_part(tmp_path: Path, changed: str) -> None:
    """Changing every row of one held-out split changes no training sample, no target and no scaler; the other held-out split
    stays as well, to the bit."""
    first = {"validation": TRAIN + 24, "test": TRAIN + VALIDATION + 48}[changed]
    write(tmp_path / "one", "A", lines())
    rows = lines()
    for n in range(first, first + 88):
        cells = rows[n].split(",")
        cells[6:9] = ["-99", "12345", "77"]
        rows[n] = ",".join(cells)
    write(tmp_path / "other", "A", rows)
    one, other = load(tmp_path / "one", False), load(tmp_path / "other", False)
    assert one.validation is not None
    assert other.validation is not None
    assert torch.equal(one.train.x, other.train.x)
    assert torch.equal(one.train.y, other.train.y)
    assert one.target == other.target
    assert torch.equal(one.test.x, other.test.x) == (changed != "test")
    assert torch.equal(one.validation.x, other.validation.x) == (changed != "validation")


def test_missing_rows_end_a_window_and_are_counted(tmp_path: Path) -> None:
    """Of the 176 training hours, 60 has no temperature, 100 a word for it, 130 is not there and 140 lacks cells: runs of 60,
    39, 29, 9 and 35 hours are left, which make 36, 15, 5, 0 and 11 samples; no target is one of the lost hours."""
    rows = lines()
    rows[60] = rows[60].replace(",60.0,", ",NA,")
    rows[100] = rows[100].replace(",100.0,", ",warm,")
    rows[140] = "141,2015,1"
    del rows[130]
    write(tmp_path, "A", rows)
    data = load(tmp_path, False)
    assert len(data.train) == 36 + 15 + 5 + 11
    assert {60.0, 100.0, 130.0, 140.0}.isdisjoint(data.train.y.tolist())
    # every target is one hour, and so one degree, after the last of its window
    mae, _ = persistence(data.train, data.target)
    assert mae == pytest.approx(1.0, abs=1e-4)
    assert "1 stations, 399 rows, of which 1 malformed and 2 with missing values" in data.notes[0]


def test_an_hour_that_is_there_twice_ends_a_window(tmp_path: Path) -> None:
    """Hour 60 comes a second time, 500 degrees warmer: 61 rows of the 177 to train on are before it, which make 37 samples,
    and 116 from it on, which make 92; none has both."""
    rows = lines()
    rows.insert(61, rows[60].replace(",60.0,", ",560.0,"))
    write(tmp_path, "A", rows)
    data = load(tmp_path, False)
    assert data.train.y.int().tolist() == [*range(24, 61), *range(60 + 24, 176)]


def test_impossible_times_are_missing(tmp_path: Path) -> None:
    """The 30th of February, hour 24, half an hour and month 0 are no times: each of the four rows ends a window."""
    rows = lines()
    for n, (position, value) in {30: (3, "0"), 60: (2, "13"), 90: (4, "24"), 120: (4, "0.5")}.items():
        cells = rows[n].split(",")
        cells[position] = value
        rows[n] = ",".join(cells)
    rows[150] = rows[150].replace("2015,1,7,", "2015,2,30,", 1)
    write(tmp_path, "A", rows)
    data = load(tmp_path, False)
    assert "0 malformed and 5 with missing values" in data.notes[0]
    assert len(data.train) == 6 + 5 + 5 + 5 + 5 + 1


def test_refusals(tmp_path: Path) -> None:
    """Oracle: the words of the messages."""
    with pytest.raises(DataError, match=r"put there UCI's files PRSA_Data_\*\.csv"):
        load(tmp_path, False)
    write(tmp_path, "A", lines(count=70))
    with pytest.raises(DataError, match="no train window of 25 hours without a missing value"):
        load(tmp_path, False)
    write(tmp_path, "A", ["1,2,3"])
    with pytest.raises(DataError, match=r"no row in .* has year, month, day and hour"):
        load(tmp_path, False)
    (tmp_path / "PRSA_Data_A_2015.csv.gz").write_bytes(b"\x1f\x8b nothing packed")
    with pytest.raises(DataError, match=r"PRSA_Data_A_2015\.csv\.gz cannot be read"):
        load(tmp_path, False)


@pytest.fixture(scope="module")
def real(real_data: Path) -> Dataset:
    """The real data set, with its groups."""
    return load_dataset(DataOptions(dataset="temperature", data_dir=str(real_data), partition="natural"), seed=0)


@pytest.mark.slow
def test_real_counts(real: Dataset) -> None:
    """Oracle: six stations of 35,064 hours each, of which two years train, one validates and one tests, less what is missing
    and two days; the training columns are scaled by themselves; persistence is hard to beat an hour ahead."""
    assert real.validation is not None
    assert real.groups is not None
    quarter = 6 * 35_064 // 4
    for split, parts in ((real.train, 2), (real.validation, 1), (real.test, 1)):
        assert 0.96 * parts * quarter < len(split) < parts * quarter
    assert torch.bincount(real.groups).shape == (6,)
    assert real.train.x.mean((0, 1)).abs().max() < 0.03
    assert (real.train.x.std((0, 1)) - 1).abs().max() < 0.03
    assert "210384 rows, of which 0 malformed and 222 with missing values" in real.notes[0]
    mae, r2 = persistence(real.test, real.target)
    assert 0.5 < mae < 1.5
    assert r2 > 0.98


def test_no_real_row_is_in_two_splits(real: Dataset) -> None:
    """Oracle: six rows of four values on end come up once in the data (a day has no weather to four digits twice), so
    stretches of that length, target's rows apart, are in one split only."""
    assert real.validation is not None

    def stretches(x: torch.Tensor) -> set[bytes]:
        return {piece.tobytes() for first in (0, LENGTH - 6) for piece in x[:, first : first + 6].contiguous().numpy()}

    train, validation, test = (stretches(part.x) for part in (real.train, real.validation, real.test))
    assert min(len(train), len(validation), len(test)) > 40_000
    assert train.isdisjoint(validation)
    assert train.isdisjoint(test)
    assert validation.isdisjoint(test)
    assert HORIZON == 1


def test_a_mistyped_year_and_a_huge_value(tmp_path: Path) -> None:
    """One row of 2099 stretches the calendar that all splits share: the message tells from when to when it goes. A number
    that would be the scale of its column: the column and the file."""
    rows = lines()
    rows[-1] = rows[-1].replace("2015", "2099", 1)
    write(tmp_path / "year", "A", rows)
    with pytest.raises(
        DataError, match="and has them from 2015-01-01 to 2099-01-17: if that is too long, a date is mistyped"
    ):
        load(tmp_path / "year", False)
    rows = lines()
    rows[7] = rows[7].replace(",1000,", ",1e300,")
    write(tmp_path / "huge", "A", rows)
    with pytest.raises(DataError, match=r"column 'PRES' of .*PRSA_Data_A_2015\.csv\.gz holds a number of size 1e\+300"):
        load(tmp_path / "huge", False)
