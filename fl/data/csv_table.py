"""The user's own table: rows of numbers, one by one or as windows over time, and a column to predict.

    csv:PATH,target=COLUMN[,features=A+B+...][,group=COLUMN][,time=COLUMN][,window=N][,horizon=H][,step=S]
        [,task=regression|classification][,test=FRACTION][,val=FRACTION]

PATH is a `.csv` or `.csv.gz` file with a header, or a folder of such files with the same columns. A sample is one row [F],
or `window` rows [N, F] in a row of one file and group, and the target `horizon` (0) rows after the last of them; samples
begin every `step` (1) rows. docs/data.md has examples.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from compression.spec import SpecError, Stage, nearest, parse_stage
from fl.data.csv_columns import Names, Rows, read_rows
from fl.data.dataset import Dataset, Split
from fl.data.scaler import Scaler
from fl.data.split import split_validation
from fl.data.tables import find_tables, refuse_lost
from fl.data.windows import cut_starts, parts_in_time, take_windows
from fl.errors import DataError

_KEYS = ("target", "features", "group", "time", "window", "horizon", "step", "task", "test", "val")
_TASKS = ("regression", "classification")
_TEST, _VAL = 0.2, 0.1


def reader(spec: str) -> Callable[[], Dataset]:
    """What loads the data set that the specification names; SpecError if it cannot be read.

    **Target**: words, or whole numbers of at most 20 values, are classes; other numbers are predicted as they are; `task`
    overrides that. **Features**: all other columns of numbers, and with a horizon the target's own past; `features` names
    them instead. All are scaled by their mean and standard deviation over the training rows, among them those that
    --val-fraction holds out.

    **Split**: with `time` (numbers, or dates as 2024-05-31 13:00:00) at moments common to all rows: the last fraction `test`
    (0.2) to test, `val` (0.1) before it to validate. Without it, where samples are longer than a row, so in every file and
    group, in the order of their rows. As many rows (moments) as a sample has are left out between two splits. Single rows
    without `time` are drawn by a fixed seed, and validated by --val-fraction.

    **Missing values** (empty, NA, NaN; where numbers are expected any word, while in a target of classes none, null and ?
    are classes), rows with too many or too few cells and, with `time`, moments left out end a window; nothing takes their
    place. `group` (a column, or `@file`) gives the clients of `--partition natural`.
    """
    stage = parse_stage(spec).expect(1, _KEYS)
    options = stage.options
    if "target" not in options:
        raise SpecError(f"'{spec}': say which column to predict, target=COLUMN")
    task = options.get("task")
    if task is not None and task not in _TASKS:
        raise SpecError(f"'{spec}': task must be {' or '.join(_TASKS)}, not '{task}'{nearest(task, _TASKS)}")
    window, horizon, step = _whole(stage, "window", 1, 1), _whole(stage, "horizon", 0, 0), _whole(stage, "step", 1, 1)
    in_time = "time" in options or window + horizon > 1
    if "val" in options and not in_time:
        raise SpecError(f"'{spec}': single rows without time are validated by --val-fraction, not by val")
    test, val = _fraction(stage, "test", _TEST), _fraction(stage, "val", _VAL) if in_time else 0.0
    if test + val > 0.9:
        raise SpecError(f"'{spec}': test and val leave less than a tenth to train on")
    features = tuple(options["features"].split("+")) if "features" in options else None
    if features is not None and ("" in features or len(set(features)) < len(features)):
        raise SpecError(f"'{spec}': features must name each column once, as in features=A+B")
    if features is not None and horizon == 0 and options["target"] in features:
        raise SpecError(f"'{spec}': the target can only be a feature with a horizon, its own past")
    names = Names(
        target=options["target"],
        features=features,
        group=options.get("group"),
        time=options.get("time"),
        task=task,
        with_target=horizon > 0,
    )
    path = Path(stage.args[0])
    single = "window" not in options
    return _Table(f"--dataset {spec}", path, names, window, horizon, step, test, val, single).load


def _whole(stage: Stage, key: str, low: int, default: int) -> int:
    value = stage.option(key, low, 1_000_000) if key in stage.options else default
    if value != int(value):
        raise SpecError(f"'{stage}': {key} must be a whole number, not {stage.options[key]}")
    return int(value)


def _fraction(stage: Stage, key: str, default: float) -> float:
    return stage.option(key, 0.01, 0.8) if key in stage.options else default


@dataclass(frozen=True)
class _Table:
    """A specification that has been read; `option` opens every message. With `single`, samples are rows [F]."""

    option: str
    path: Path
    names: Names
    window: int
    horizon: int
    step: int
    test: float
    val: float
    single: bool

    @property
    def span(self) -> int:
        """Rows from the first of a window to its target."""
        return self.window + self.horizon

    def load(self) -> Dataset:
        """The data set; DataError for files, columns and values that will not do."""
        rows = read_rows(self._files(), self.names, self.option)
        parts, how = self._parts(rows)
        starts = {
            part: cut_starts(rows.usable & own, rows.gap_before, length=self.span, step=self.step)
            for part, own in parts.items()
        }
        for part, found in starts.items():
            if not len(found):
                raise DataError(
                    f"{self.option}: no {part} sample of {self.span} row(s) without a gap among the "
                    f"{int((rows.usable & parts[part]).sum())} complete rows of that part{self._hint(rows)}; {rows.note}"
                )
        training = rows.usable & parts["train"]
        if not rows.class_names:
            refuse_lost(rows.y[training], self.names.target, self.option)
        scale, numbers = Scaler(rows.x[training]), Scaler(rows.y[training, None])
        splits = {part: self._split(rows, found, scale) for part, found in starts.items()}
        return Dataset(
            self.path.resolve().name.removesuffix(".gz").removesuffix(".csv"),
            train=splits["train"],
            test=splits["test"],
            classes=len(rows.class_names),
            groups=None if rows.group is None else torch.from_numpy(rows.group[starts["train"]]),
            validation=splits.get("validation"),
            class_names=rows.class_names,
            target=(0.0, 1.0) if rows.class_names else (float(numbers.mean[0]), float(numbers.std[0])),
            notes=(
                f"csv: {rows.note}; split {how}: "
                + ", ".join(f"{len(own)} {part}" for part, own in splits.items())
                + _absent(rows, starts["train"]),
            ),
        )

    def _hint(self, rows: Rows) -> str:
        """What may leave a split without samples."""
        longest = int(np.unique(rows.sequence[rows.usable], return_counts=True)[1].max())
        if rows.share_moments:
            return "; rows of several things at one moment need group=COLUMN"
        if rows.group is not None and longest < max(2, self.span):
            return f"; no group of column '{self.names.group}' has more than {longest} complete row(s)"
        return "; leave time= out to take rows as they follow each other" if rows.gaps and self.span > 1 else ""

    def _files(self) -> list[Path]:
        if self.path.is_file():
            return [self.path]
        found = find_tables(self.path, (), "*", self.option)
        if not found:
            raise DataError(f"{self.option}: {self.path} must be a file, or a folder of .csv or .csv.gz files")
        return found

    def _parts(self, rows: Rows) -> tuple[dict[str, np.ndarray], str]:
        """The rows of each split, bool [N], and how they were found, in words."""
        if rows.time is None and self.span == 1:
            at = np.flatnonzero(rows.usable)
            _, groups = np.unique(np.zeros(len(at)) if rows.group is None else rows.group[at], return_inverse=True)
            _, drawn = split_validation(len(at), self.test, 0, groups)
            test = np.zeros(len(rows.y), dtype=bool)
            test[at[drawn]] = True
            return {"train": ~test, "test": test}, "at random"
        shares = {"train": 1 - self.test - self.val, "validation": self.val, "test": self.test}
        gap = 0 if self.span == 1 else self.span
        parts = {part: np.zeros(len(rows.y), dtype=bool) for part in shares}
        if rows.time is not None:
            moments = np.unique(rows.time[rows.usable])
            for part, own in zip(shares, parts_in_time(len(moments), tuple(shares.values()), gap), strict=True):
                parts[part] = np.isin(rows.time, moments[own])
            return parts, f"by {self.names.time}"
        for sequence in np.unique(rows.sequence):
            at = np.flatnonzero(rows.sequence == sequence)
            for part, own in zip(shares, parts_in_time(len(at), tuple(shares.values()), gap), strict=True):
                parts[part][at[own]] = True
        return parts, "by the order of rows"

    def _split(self, rows: Rows, starts: np.ndarray, scale: Scaler) -> Split:
        y = rows.y[starts + self.span - 1].astype(np.int64 if rows.class_names else np.float32)
        x = take_windows(scale(rows.x), starts, self.window)
        return Split(torch.from_numpy(x[:, 0] if self.single else x), torch.from_numpy(y))


def _absent(rows: Rows, starts: np.ndarray) -> str:
    """A remark on groups that have no training sample, and so are no clients."""
    if rows.group is None:
        return ""
    known, left = len(np.unique(rows.group[rows.group >= 0])), len(np.unique(rows.group[starts]))
    return f"; {left} of {known} groups have training samples" if left < known else ""
