"""Raw EEG of a headband with four electrodes, of people who relax, do nothing in particular (neutral) or concentrate.

Bird, Manso, Ribeiro, Ekart and Faria 2018, "A study on mental state classification using EEG-based brain-machine
interface": files `subject<S>-<state>-<session>.csv`, columns `timestamps` (seconds), four electrodes in microvolts at about
256 Hz, and `Right AUX`, which is not connected.

A sample is a window of 256 rows, one second. Windows of one session overlap and share its noise, so a split by window would
test on what was trained on. Here session 1 trains; of every later session the first half validates and the second half
tests, with the rows of one window between them unused.

What the numbers cannot show: concentration was recorded with one noisy electrode (AF8, or AF7 of subject c) and, but for
subject c, on another day than the rest. Part of what tells it from the others is that. Nor are sessions far apart in time:
by their timestamps, recordings follow each other within 9 to 12 seconds in places, those of different subjects too, so the
held-out session may share a wearing of the headband with a training session, which may flatter the test accuracy.
"""

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from fl.common.errors import DataError

from .dataset import Dataset, Split
from .normalise import Scaler
from .tables import find_tables, read_table, refuse_huge, to_numbers
from .windows import cut_starts, parts_in_time, take_windows

CHANNELS = ("TP9", "AF7", "AF8", "TP10")
STATES = ("relaxed", "neutral", "concentrating")
LENGTH, STEP = 256, 128
FOLDERS = ("mental_state", "eeg_mental_state")
GAP_S = 0.02
"""Rows are 4 ms apart; one that comes later than this, or not later at all, does not follow the one before it."""

_NAME = re.compile(r"subject(?P<subject>[a-z0-9]+)-(?P<state>[a-z]+)-(?P<session>0*[1-9][0-9]*)\.csv(\.gz)?")


@dataclass(frozen=True)
class Recording:
    """One session of one person in one state: `rows` in microvolts, float64 [N, 4], NaN where a value is missing.

    `parts`: the rows of each split, "train" or "validation" and "test". `starts`: the first rows of its windows.
    `malformed` rows had too many or too few cells; `gaps`: how often a row does not follow the one before it.
    """

    path: Path
    subject: str
    state: int
    rows: np.ndarray
    malformed: int
    gaps: int
    parts: dict[str, slice]
    starts: dict[str, np.ndarray]

    @property
    def usable(self) -> np.ndarray:
        """Rows without a missing value, bool [N]."""
        return np.isfinite(self.rows).all(1)

    def usable_of(self, part: str) -> np.ndarray:
        """The usable rows of one split, [M, 4]; none if this session has no such split."""
        own = self.parts.get(part, slice(0))
        return self.rows[own][self.usable[own]]

    def starts_of(self, part: str) -> np.ndarray:
        """First rows of the windows of one split, int64 [W]."""
        return self.starts.get(part, np.zeros(0, dtype=np.int64))


def load(data_dir: Path, download: bool) -> Dataset:
    """The data set from DIR/mental_state, DIR/eeg_mental_state or DIR; there is nothing to download.

    x float32 [N, 256, 4], scaled by each electrode's mean and standard deviation over all rows of training sessions; the
    groups are the subjects. DataError for missing or unreadable files, and where a split has no window.
    """
    recordings = read_recordings(data_dir)
    for part in ("train", "validation", "test"):
        if not any(len(each.starts_of(part)) for each in recordings):
            raise DataError(
                f"--dataset mental_state: {recordings[0].path.parent} has no {part} window of {LENGTH} rows; it needs "
                "sessions 1 (to train on) and sessions 2 (to validate and test on)"
            )
    scale = Scaler(np.concatenate([each.usable_of("train") for each in recordings]))
    subjects = sorted({each.subject for each in recordings})
    groups = [np.full(len(each.starts_of("train")), subjects.index(each.subject)) for each in recordings]
    return Dataset(
        "mental_state",
        train=_split(recordings, "train", scale),
        test=_split(recordings, "test", scale),
        classes=len(STATES),
        groups=torch.from_numpy(np.concatenate(groups).astype(np.int64)),
        validation=_split(recordings, "validation", scale),
        class_names=STATES,
        notes=(_note(recordings),),
    )


def read_recordings(data_dir: Path) -> list[Recording]:
    """All sessions, by name of file in lower or upper case, cut into windows.

    DataError for missing or unreadable files, for names that cannot be read, and for a session that is there twice.
    """
    paths = find_tables(data_dir, FOLDERS, "[sS][uU][bB][jJ][eE][cC][tT]*-*", "--dataset mental_state")
    first: dict[tuple[str, str, int], Path] = {}
    recordings = []
    for path in paths:
        name = _NAME.fullmatch(path.name.lower())
        if not name:
            raise DataError(
                f"--dataset mental_state: {path} must be called subject<S>-<state>-<session>.csv (or .csv.gz), sessions "
                "counting from 1"
            )
        other = first.setdefault((name["subject"], name["state"], int(name["session"])), path)
        if other != path:
            raise DataError(f"--dataset mental_state: {other} and {path.name} are one session twice; remove one")
        recordings.append(_read(path, name))
    if not recordings:
        raise DataError(
            f"--dataset mental_state: no recordings in {data_dir / FOLDERS[0]}, {data_dir / FOLDERS[1]} or {data_dir}, and "
            "none can be downloaded; put there files such as subjecta-relaxed-1.csv (or .csv.gz)"
        )
    return recordings


def _read(path: Path, name: re.Match[str]) -> Recording:
    if name["state"] not in STATES:
        raise DataError(f"--dataset mental_state: {path.name} must name one of {', '.join(STATES)}")
    table = read_table(path, "--dataset mental_state", ("timestamps", *CHANNELS))
    times, *channels = (to_numbers(cells) for cells in table.columns.values())
    for column, numbers in zip(CHANNELS, channels, strict=True):
        refuse_huge(numbers, column, str(path), "--dataset mental_state")
    rows = np.stack(channels, axis=1)
    rows[np.isnan(times)] = np.nan
    usable = np.isfinite(rows).all(1)
    gap = np.zeros(len(rows), dtype=bool)
    between = np.diff(times)
    # false for a row without a time, which ends a window by itself
    gap[1:] = (between > GAP_S) | (between <= 0)
    parts = _parts(len(rows), int(name["session"]))
    starts = {}
    for part, own in parts.items():
        inside = np.zeros(len(rows), dtype=bool)
        inside[own] = True
        starts[part] = cut_starts(usable & inside, gap, length=LENGTH, step=STEP)
    return Recording(
        path,
        subject=name["subject"],
        state=STATES.index(name["state"]),
        rows=rows,
        malformed=int(table.malformed.sum()),
        gaps=int(gap.sum()),
        parts=parts,
        starts=starts,
    )


def _parts(count: int, session: int) -> dict[str, slice]:
    if session == 1:
        return {"train": slice(0, count)}
    validation, test = parts_in_time(count, (1, 1), gap=LENGTH)
    return {"validation": validation, "test": test}


def _split(recordings: list[Recording], part: str, scale: Scaler) -> Split:
    windows = [take_windows(scale(each.rows), each.starts_of(part), LENGTH) for each in recordings]
    labels = [np.full(len(each.starts_of(part)), each.state) for each in recordings]
    return Split(torch.from_numpy(np.concatenate(windows)), torch.from_numpy(np.concatenate(labels).astype(np.int64)))


def _note(recordings: list[Recording]) -> str:
    rows = sum(len(each.rows) for each in recordings)
    malformed = sum(each.malformed for each in recordings)
    missing = sum(int((~each.usable).sum()) for each in recordings) - malformed
    empty = sum(not len(starts) for each in recordings for starts in each.starts.values())
    windows = {part: sum(len(each.starts_of(part)) for each in recordings) for part in ("train", "validation", "test")}
    return (
        f"mental_state: {len(recordings)} sessions, {rows} rows, of which {malformed} malformed and {missing} with missing "
        f"values; {sum(each.gaps for each in recordings)} gaps in time; windows: "
        + ", ".join(f"{count} {part}" for part, count in windows.items())
        + f"; {empty} parts of sessions too short for one"
    )
