"""The user's own table. Oracles: tables small enough to follow by hand, the words of the messages."""

from pathlib import Path

import numpy as np
import pytest
import torch

from fl.common.errors import DataError
from fl.data import Dataset
from tests.fl.data.csv_files import read, write


def degrees(data: Dataset, part: str) -> list[list[float]]:
    """The first feature of each window, unscaled by the target's scale (they are one column)."""
    split = getattr(data, part)
    return (split.x[:, :, 0].double() * data.target[1] + data.target[0]).round().tolist()


def test_windows_by_hand(tmp_path: Path) -> None:
    """26 hours at one station. Windows of two hours and the hour after need three rows, and so many are unused between two
    splits: 20 are shared out, and by default two of them would validate, too few. Else 12, 4 and 4."""
    rows = [f"2024-05-{1 + n // 24:02} {n % 24:02}:00,north,{n},{2 * n},fog" for n in range(26)]
    path = write(tmp_path / "t.csv", "at,station,temp,wind,sky", rows)
    spec = "target=temp,time=at,group=station,window=2,horizon=1"
    with pytest.raises(DataError, match=r"no validation sample of 3 row\(s\) without a gap"):
        read(path, spec)
    data = read(path, f"{spec},val=0.2", "natural")
    assert data.validation is not None
    assert data.groups is not None
    # 60 %, 20 % and 20 % of the 20 rows: 0-11, 15-18 and 22-25
    assert degrees(data, "train") == [[n, n + 1] for n in range(10)]
    assert data.train.y.tolist() == [n + 2 for n in range(10)]
    assert (degrees(data, "validation"), data.validation.y.tolist()) == ([[15, 16], [16, 17]], [17, 18])
    assert (degrees(data, "test"), data.test.y.tolist()) == ([[22, 23], [23, 24]], [24, 25])
    assert data.target == (pytest.approx(5.5), pytest.approx(np.std(np.arange(12))))
    assert torch.allclose(data.train.x[:, :, 0], data.train.x[:, :, 1], atol=1e-6), (
        "wind is twice temp, so it scales to it"
    )
    assert data.groups.tolist() == [0] * 10
    assert data.classes == 0
    assert data.notes == (
        "csv: 26 rows in 1 file(s), of which 0 malformed and 0 with missing values, 0 gap(s) in time; features temp, wind "
        "(left out: sky (1 value(s) in the training rows, words must have 2 to 6)); "
        "target temp: regression; split by at: 10 train, 2 validation, 2 test",
    )


def test_missing_and_malformed_rows_end_windows(tmp_path: Path) -> None:
    """Forty rows in order: row 5 has no wind, row 12 a word for it, row 20 too many cells. 34 rows are shared out, 65 % of
    them train: rows 0-21. Windows of two and the row after lie in 0-4, 6-11 and 13-19: 3 + 4 + 5 samples."""
    rows = [f"{n},{n}" for n in range(40)]
    rows[5], rows[12], rows[20] = "5,NA", "12,calm", "20,20,20"
    path = write(tmp_path / "t.csv", "temp,wind", rows)
    data = read(path, "target=temp,window=2,horizon=1,val=0.15")
    assert len(data.train) == 3 + 4 + 5
    assert {5.0, 12.0, 20.0}.isdisjoint({hour for window in degrees(data, "train") for hour in window})
    assert all(b - a == 1 for a, b in degrees(data, "train"))
    assert "40 rows in 1 file(s), of which 1 malformed and 2 with missing values" in data.notes[0]


def test_a_malformed_row_within_a_group_ends_its_windows(tmp_path: Path) -> None:
    """Forty rows of one group in order, the twelfth with a cell too many: its group is unknown, and no window may join 11
    and 13 as if they were neighbours. 34 rows are shared out, 65 % of them train: 22 rows of 39 in the group."""
    rows = [f"{n},north" for n in range(40)]
    rows[12] = "12,north,12"
    path = write(tmp_path / "t.csv", "temp,station", rows)
    windows = degrees(read(path, "target=temp,group=station,window=2,horizon=1,val=0.15", "natural"), "train")
    assert [10, 11] not in windows, "its target would be row 13"
    assert [9, 10] in windows
    assert [13, 14] in windows
    assert all(b - a == 1 for a, b in windows)


@pytest.mark.parametrize("label", ["none", "null", "?", "unknown"])
def test_words_for_nothing_are_classes(tmp_path: Path, label: str) -> None:
    """In a target of words only empty cells, NA and NaN are missing, and the log counts them by name."""
    values = ["mild", label, "mild", label, "", "NA"] * 4
    data = read(write(tmp_path / "t.csv", "x,y", [f"{n},{value}" for n, value in enumerate(values)]), "target=y")
    assert data.class_names == tuple(sorted(["mild", label]))
    assert len(data.train) + len(data.test) == 16
    assert "target y: classification, 2 classes (missing: empty 4 times, NA 4 times)" in data.notes[0]


@pytest.mark.parametrize("task", ["", ",task=classification"])
def test_words_beside_numbers_of_classes(tmp_path: Path, task: str) -> None:
    """Classes 1 and 10, written in several ways, and `unknown` and `none` after them; what is empty is missing."""
    values = ["10", "1", "1.0", "10", "1", "unknown", "none", ""] * 4
    rows = [f"{n % 8},{value}" for n, value in enumerate(values)]
    data = read(write(tmp_path / "t.csv", "x,y", rows), f"target=y{task}")
    assert data.class_names == ("1", "10", "none", "unknown")
    x, y = torch.cat([data.train.x, data.test.x]).flatten(), torch.cat([data.train.y, data.test.y])
    assert y[x.argsort(stable=True)].tolist() == [label for label in (1, 0, 0, 1, 0, 3, 2) for _ in range(4)]
    assert "4 classes" in data.notes[0]
    assert "(1, 10, none, unknown)" in data.left_out[0]
    assert "(missing: empty 4 times)" in data.notes[0]


def test_rows_that_all_have_other_cells_than_the_header(tmp_path: Path) -> None:
    """Oracle: the words of the message, not a complaint about columns without numbers."""
    with pytest.raises(DataError, match="every row has more or fewer cells than the header"):
        read(write(tmp_path / "t.csv", "x,y", ["1,2,3,4"] * 9), "target=y")


def test_the_log_tells_which_words_were_no_numbers(tmp_path: Path) -> None:
    """Of a target of numbers what is none is missing, by name."""
    rows = [f"{n},{'broken' if n % 10 == 0 else n / 7}" for n in range(40)]
    assert (
        "target y: regression (missing: broken 4 times)"
        in read(write(tmp_path / "t.csv", "x,y", rows), "target=y").notes[0]
    )


def test_groups_without_training_samples_are_told(tmp_path: Path) -> None:
    """A station that opens in the last fifth of the time is no client, which the log says; with all in training it is
    silent."""
    rows = [f"{n},old,{n},{2 * n}" for n in range(100)] + [f"{n},new,{n},{n}" for n in range(90, 100)]
    path = write(tmp_path / "t.csv", "t,station,v,w", rows)
    assert (
        read(path, "target=v,features=w,time=t,group=station", "natural")
        .notes[0]
        .endswith("; 1 of 2 groups have training samples")
    )
    write(path, "t,station,v,w", rows[:100])
    assert "groups" not in read(path, "target=v,features=w,time=t,group=station", "natural").notes[0]


def test_a_window_longer_than_the_file(tmp_path: Path) -> None:
    """The rows that there are, not a hint at a fault that the file does not have."""
    path = write(tmp_path / "t.csv", "t,v,w", [f"{n},{n},{n}" for n in range(50)])
    with pytest.raises(
        DataError, match=r"no train sample of 100 row\(s\) without a gap among the 0 complete rows"
    ) as caught:
        read(path, "target=v,time=t,window=100")
    assert "group=COLUMN" not in str(caught.value)


def test_time_orders_rows_and_shows_gaps(tmp_path: Path) -> None:
    """Two stations, every 60 s, rows shuffled; the south lacks a minute, the north has one twice. No window spans either."""
    minutes = {"north": [*range(12), 12, 12, *range(13, 40)], "south": [*range(8), *range(9, 40)]}
    rows = [f"{60 * n},{name},{n if name == 'north' else 100 + n}" for name, own in minutes.items() for n in own]
    order = np.random.default_rng(0).permutation(len(rows))
    path = write(tmp_path / "t.csv", "s,name,v", [rows[at] for at in order])
    data = read(path, "target=v,time=s,group=name,window=2,horizon=1,val=0.2", "natural")
    assert data.groups is not None
    # moments: 40 less 6 unused, of which 20 train: minutes 0-19
    north, south = (torch.tensor(degrees(data, "train"))[data.groups == group] for group in (0, 1))
    assert north.max() < 20
    assert (north.diff(dim=1) == 1).all()
    assert (south.diff(dim=1) == 1).all()
    assert south[:, 0].tolist() == [100, 101, 102, 103, 104, 105, *range(109, 118)]
    assert north[:, 0].tolist() == [*range(11), *range(12, 18)]


def test_single_rows_at_random(tmp_path: Path) -> None:
    """Ten rows of each of two kinds, drawn by a fixed seed: a fifth of each kind tests, each row is in one split, and the
    scale is that of the training rows."""
    rows = [f"{n},{'cat' if n < 10 else 'dog'},{'a' if n % 2 else 'b'}" for n in range(20)]
    path = write(tmp_path / "t.csv", "weight,kind,owner", rows)
    data, again = read(path, "target=kind,group=owner", "natural"), read(path, "target=kind,group=owner", "natural")
    assert data.groups is not None
    assert data.validation is None
    assert (data.classes, data.class_names) == (2, ("cat", "dog"))
    assert (data.train.x.shape, data.test.x.shape) == ((16, 1), (4, 1))
    assert data.groups.tolist().count(0) == 8
    assert torch.equal(data.test.x, again.test.x)
    assert data.train.x.mean() == pytest.approx(0, abs=1e-6)
    assert data.train.x.std(correction=0) == pytest.approx(1)
    # weights 0-19 in one scale: each comes up once, and the label follows from it
    x = torch.cat([data.train.x, data.test.x]).flatten()
    assert torch.allclose(x.sort().values.diff(), x.sort().values.diff()[0].expand(19))
    assert torch.equal(torch.cat([data.train.y, data.test.y])[x.argsort()], torch.tensor([0] * 10 + [1] * 10))


def test_a_folder_of_files_is_never_one_sequence(tmp_path: Path) -> None:
    """Two files of 30 rows: each is cut and split for itself, and is a client with group=@file."""
    for number, name in enumerate(("b.csv", "a.csv")):
        write(tmp_path / "own" / name, "v,unused", [f"{100 * number + n},x" for n in range(30)])
    data = read(
        tmp_path / "own", "target=v,features=v,window=3,horizon=1,step=2,test=0.3,val=0.3,group=@file", "natural"
    )
    assert data.groups is not None
    # 30 less two gaps of four are 22 rows: 9, 6 or 7 of each part
    assert degrees(data, "train") == [[first + n for n in range(3)] for first in (100, 102, 104, 0, 2, 4)]
    assert data.groups.tolist() == [0, 0, 0, 1, 1, 1]
    assert data.name == "own"


def test_columns_of_some_files_only(tmp_path: Path) -> None:
    """A column that the first file lacks cannot be used, which is told unless the features are chosen."""
    write(tmp_path / "t" / "a.csv", "x,y", [f"{n},{n / 7}" for n in range(30)])
    write(tmp_path / "t" / "b.csv", "x,z,y", [f"{n},5,{n / 7}" for n in range(30)])
    told = "csv: b.csv: columns that a.csv lacks are left out: z"
    data = read(tmp_path / "t", "target=y")
    assert told in data.left_out
    assert data.train.x.shape == (48, 1)
    assert told not in read(tmp_path / "t", "target=y,features=x").left_out


def test_rows_and_windows_of_one_row(tmp_path: Path) -> None:
    """Without window= samples are rows [F], with a horizon too; with window=1 they are the same rows as windows [1, F]."""
    path = write(tmp_path / "t.csv", "v,w", [f"{n},{n * n}" for n in range(40)])
    rows, windows = (read(path, f"target=v{words}") for words in ("", ",window=1"))
    assert (rows.sample_shape, windows.sample_shape) == ((1,), (1, 1))
    assert torch.equal(rows.train.x, windows.train.x[:, 0])
    ahead, windows = (read(path, f"target=v,horizon=1{words}") for words in ("", ",window=1"))
    assert (ahead.sample_shape, windows.sample_shape) == ((2,), (1, 2))
    assert torch.equal(ahead.test.x, windows.test.x[:, 0])


def test_real_stations(real_data: Path, tmp_path: Path) -> None:
    """Two stations of four years as one table: a client each, the windows of a day every six hours and the day after."""
    for path in sorted((real_data / "beijing_air").iterdir())[:2]:
        (tmp_path / path.name).symlink_to(path)
    spec = "target=TEMP,features=TEMP+DEWP,group=station,window=24,horizon=24,step=6"
    data = read(tmp_path, spec, "natural")
    assert data.groups is not None
    assert torch.bincount(data.groups).shape == (2,)
    assert data.sample_shape == (24, 2)
    assert "70128 rows in 2 file(s), of which 0 malformed" in data.notes[0]
