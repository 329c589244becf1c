"""EEG. Oracles: recordings written by hand, row ranges and raw values of the real ones."""

import gzip
from pathlib import Path

import numpy as np
import pytest
import torch

from fl.common.config import DataOptions
from fl.common.errors import DataError
from fl.data import Dataset, load_dataset
from fl.data.mental_state import CHANNELS, LENGTH, STATES, load, read_recordings

HEADER = "timestamps,TP9,AF7,AF8,TP10,Right AUX"


def lines(count: int, first: float = 0.0) -> list[str]:
    """So many rows 4 ms apart; in row n the electrodes hold n, n + 0.25, -n and 7, the last column noise."""
    return [
        f"{1000 + 0.004 * n:.3f},{first + n},{first + n + 0.25},{-first - n},7,{(n * 37) % 100}" for n in range(count)
    ]


def write(folder: Path, name: str, rows: list[str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    text = "\n".join([HEADER, *rows]) + "\n"
    if name.endswith(".gz"):
        (folder / name).write_bytes(gzip.compress(text.encode()))
    else:
        (folder / name).write_text(text)


def make(folder: Path, *, train: list[str] | None = None, later: list[str] | None = None) -> None:
    """Two subjects, one state each, two sessions."""
    for subject, state in (("a", "relaxed"), ("b", "concentrating")):
        write(folder, f"subject{subject}-{state}-1.csv", lines(512) if train is None else train)
        write(folder, f"subject{subject}-{state}-2.csv.gz", lines(900, 5000.0) if later is None else later)


@pytest.mark.parametrize("place", ["mental_state", "eeg_mental_state", "."])
def test_by_hand(tmp_path: Path, place: str) -> None:
    """512 training rows make windows at 0, 128 and 256. Of 900 later ones 322 validate and 322 test, a window at their
    first row each, 256 rows between them unused. Columns have mean 0 and deviation 1 over the training rows, though windows
    count the middle rows more than once; the constant one is 0 everywhere, and Right AUX is left out."""
    make(tmp_path / place)
    data = load(tmp_path, False)
    assert data.validation is not None
    assert data.groups is not None
    assert (data.train.x.shape, data.validation.x.shape, data.test.x.shape) == ((6, 256, 4), (2, 256, 4), (2, 256, 4))
    assert data.groups.tolist() == [0, 0, 0, 1, 1, 1]
    assert (data.train.y.tolist(), data.test.y.tolist()) == ([0, 0, 0, 2, 2, 2], [0, 2])
    assert (data.classes, data.class_names) == (3, STATES)
    deviation = np.std(np.arange(512))
    first = torch.tensor((np.arange(256) - 255.5) / deviation, dtype=torch.float32)
    assert torch.allclose(data.train.x[0, :, 0], first)
    assert torch.allclose(data.train.x[4, :, 2], -first - 128 / deviation)
    assert not data.train.x[:, :, 3].any()
    start_of_test = 5000 + 322 + 256
    assert data.test.x[0, 0, 0].item() == pytest.approx((start_of_test - 255.5) / deviation)
    assert data.validation.x[1, 255, 1].item() == pytest.approx((5255 - 255.5) / deviation)


def test_gaps_and_bad_rows_end_a_window_and_are_counted(tmp_path: Path) -> None:
    """Of 3 * 256 rows, row 256 lacks a cell, row 513 a value, and after row 640 time jumps: each run is 256, 256 and 127 and
    127 rows long, so only the first two hold a window, and nothing is made up for the others."""
    rows = lines(768)
    rows[256] = "1001.024,1,2,3"
    rows[513] = rows[513].replace(",7,", ",NA,")
    rows[641:] = [row.replace("100", "200", 1) for row in rows[641:]]
    make(tmp_path, train=rows)
    data = load(tmp_path, False)
    assert len(data.train) == 4
    assert data.train.x[0, 0, 0] < data.train.x[1, 0, 0]
    (note,) = data.notes
    assert "4 sessions, 3336 rows, of which 2 malformed and 2 with missing values; 2 gaps in time" in note
    assert "windows: 4 train, 2 validation, 2 test; 0 parts" in note


@pytest.mark.parametrize(
    ("time", "windows", "counted"),
    [
        ("1001.020", 2, "and 0 with missing values; 1 gaps in time"),
        ("NA", 1, "and 1 with missing values; 0 gaps in time"),
    ],
)
def test_a_time_that_is_there_twice_or_not_at_all(tmp_path: Path, time: str, windows: int, counted: str) -> None:
    """Of 512 rows, row 256 has the time of row 255, so it begins a run of 256 rows, or none, so 255 are left after it: not
    enough for a window. In order they would make three."""
    rows = lines(512)
    rows[256] = rows[256].replace("1001.024", time, 1)
    make(tmp_path)
    write(tmp_path, "subjecta-relaxed-1.csv", rows)
    data = load(tmp_path, False)
    assert data.train.y.tolist() == [0] * windows + [2] * 3
    assert counted in data.notes[0]


def test_short_sessions_are_counted_and_nothing_is_padded(tmp_path: Path) -> None:
    """A later session of 700 rows has halves of 222, too short for a window; with only such there is nothing to test on."""
    make(tmp_path)
    write(tmp_path, "subjecta-relaxed-2.csv.gz", lines(700))
    assert load(tmp_path, False).notes[0].endswith("1 test; 2 parts of sessions too short for one")
    write(tmp_path, "subjectb-concentrating-2.csv.gz", lines(0))
    with pytest.raises(DataError, match="has no validation window of 256 rows; it needs sessions 1"):
        load(tmp_path, False)


def test_refusals(tmp_path: Path) -> None:
    """Oracle: the words of the messages."""
    with pytest.raises(DataError, match=r"put there files such as subjecta-relaxed-1\.csv"):
        load(tmp_path, False)
    write(tmp_path, "subjecta-asleep-1.csv", lines(300))
    with pytest.raises(DataError, match=r"subjecta-asleep-1\.csv must name one of relaxed, neutral, concentrating"):
        load(tmp_path, False)
    (tmp_path / "subjecta-asleep-1.csv").write_text("timestamps,TP9\n1,2\n")
    (tmp_path / "subjecta-asleep-1.csv").rename(tmp_path / "subjecta-relaxed-1.csv")
    with pytest.raises(DataError, match=r"cannot be read \(it has no column 'AF7', only timestamps, TP9\)"):
        load(tmp_path, False)


def test_one_session_in_two_files(tmp_path: Path) -> None:
    """A session that is there packed and unpacked would be counted twice: it is refused."""
    make(tmp_path)
    write(tmp_path, "subjecta-relaxed-1.csv.gz", lines(512))
    with pytest.raises(DataError, match=r"relaxed-1\.csv and subjecta-relaxed-1\.csv\.gz in .* are one file twice"):
        load(tmp_path, False)


def test_no_real_train_window_overlaps_a_held_out_one(real_data: Path) -> None:
    """Oracle: the row ranges of all windows, per file: no row of a training window is in a window of another split, nor one
    of validation in one of the test windows; and no window crosses a jump in time."""
    recordings = read_recordings(real_data)
    assert len(recordings) == 24
    for each in recordings:
        used = {part: np.zeros(len(each.rows), dtype=bool) for part in ("train", "validation", "test")}
        for part, mask in used.items():
            for start in each.starts_of(part):
                assert each.usable[start : start + LENGTH].sum() == LENGTH
                mask[start : start + LENGTH] = True
        assert not (used["train"] & (used["validation"] | used["test"])).any()
        assert not (used["validation"] & used["test"]).any()
        assert used["train"].any() != used["test"].any(), "a session has one purpose: to train, or not to"
    jumps = [each.gaps for each in recordings if each.path.name.startswith("subjectb-relaxed-2")]
    assert jumps == [9]


@pytest.fixture(scope="module")
def real(real_data: Path) -> Dataset:
    """The real data set, with its groups."""
    options = DataOptions(dataset="mental_state", data_dir=str(real_data), partition="natural")
    return load_dataset(options, seed=0)


def test_no_stretch_of_real_training_values_is_held_out(real: Dataset) -> None:
    """Oracle without the loader's own bookkeeping: no 32 successive rows of any training window occur, value for value, in a
    window of validation or test, nor any of validation in the test windows."""
    assert real.validation is not None

    def stretches(x: torch.Tensor) -> set[bytes]:
        pieces = x.unfold(1, 32, 1).permute(0, 1, 3, 2).contiguous().flatten(0, 1).flatten(1)
        return {piece.tobytes() for piece in pieces.numpy()}

    train, validation, test = (stretches(part.x) for part in (real.train, real.validation, real.test))
    assert len(train) > 100_000
    assert train.isdisjoint(validation)
    assert train.isdisjoint(test)
    assert validation.isdisjoint(test)


def test_real_counts(real: Dataset) -> None:
    """Oracle: the folder's own listing: four subjects, all of whom train in all three states; no row is damaged, and one
    session has nine gaps. The electrodes are scaled by the training rows."""
    assert real.groups is not None
    pairs = set(zip(real.groups.tolist(), real.train.y.tolist(), strict=True))
    assert pairs == {(subject, state) for subject in range(4) for state in range(3)}
    assert "0 malformed and 0 with missing values; 9 gaps in time" in real.notes[0]
    assert real.sample_shape == (LENGTH, len(CHANNELS))
    assert real.train.x.mean((0, 1)).abs().max() < 0.05
    assert (real.train.x.std((0, 1)) - 1).abs().max() < 0.05


def test_names_in_other_letters(tmp_path: Path) -> None:
    """A session counts however its name is written, but once; one whose name cannot be read is not passed over."""
    make(tmp_path)
    first = load(tmp_path, False)
    (tmp_path / "subjecta-relaxed-1.csv").rename(tmp_path / "SUBJECTA-Relaxed-1.csv")
    again = load(tmp_path, False)
    assert torch.equal(again.train.x, first.train.x)
    write(tmp_path, "subjecta-relaxed-01.csv", lines(512))
    with pytest.raises(
        DataError, match=r"SUBJECTA-Relaxed-1\.csv and subjecta-relaxed-01\.csv are one session twice; remove one"
    ):
        load(tmp_path, False)


@pytest.mark.parametrize(
    "name", ["subjecta-relaxed-0", "subjecta-relaxed-one", "subjecta-relaxed", "subject_a-relaxed-1"]
)
def test_names_that_cannot_be_read(tmp_path: Path, name: str) -> None:
    """Oracle: the file and the form of name that is wanted."""
    make(tmp_path)
    write(tmp_path, f"{name}.csv", lines(512))
    with pytest.raises(DataError, match=rf"{name}\.csv must be called subject<S>-<state>-<session>\.csv"):
        load(tmp_path, False)


def test_a_huge_value(tmp_path: Path) -> None:
    """One cell that would be the scale of its electrode: the electrode and the file."""
    make(tmp_path)
    write(tmp_path, "subjecta-relaxed-1.csv", [*lines(511), "1002.044,1,1e200,3,7,0"])
    with pytest.raises(DataError, match=r"column 'AF7' of .*subjecta-relaxed-1\.csv holds a number of size 1e\+200"):
        load(tmp_path, False)
