"""The user's own table: rows of numbers, one by one or as windows over time, and a column to predict.

    csv:PATH,target=COLUMN[,features=A+B+...][,group=COLUMN][,time=COLUMN][,window=N][,horizon=H][,step=S]
        [,task=regression|classification][,test=FRACTION][,val=FRACTION]
        [,categories=A+B...][,missing=A+B...][,decimal=point|comma][,dayfirst=yes|no]

PATH is a file with a header, packed or not, its cells parted by commas, semicolons, tabs, bars or spaces, or a folder of
such files, `.csv` or `.tsv`, with the same columns. A sample is one row [F], or `window` rows [N, F] in a row of one file
and group, and the target `horizon` (0) rows after the last of them; samples begin every `step` (1) rows. docs/data.md has
examples.
"""

import dataclasses
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from compression.spec import SpecError, Stage, nearest, parse_stage
from fl.common.errors import DataError

from .cache import cached
from .csv_cells import Names
from .csv_columns import Rows, read_rows
from .csv_numbers import COMMA, POINT
from .csv_time import DAY_FIRST
from .dataset import Dataset, Split
from .normalise import Scaler
from .schema import Schema
from .split import split_validation
from .tables import ENDING, find_tables, refuse_lost
from .windows import cut_starts, parts_in_time, take_windows

_CHOICES = {"task": ("regression", "classification"), "decimal": (POINT, COMMA), "dayfirst": tuple(DAY_FIRST)}
_LISTS = {"features": "column", "categories": "column", "missing": "value"}
_KEYS = ("target", *_LISTS, "group", "time", "window", "horizon", "step", "test", "val", *_CHOICES)
_TEST, _VAL = 0.2, 0.1
MOST_WORDS = 50
"""A column of words becomes so many columns of numbers at most, and at most half as many as there are rows."""


def reader(spec: str, schema: Schema | None = None) -> Callable[[], Dataset]:
    """What loads the data set that the specification names; SpecError if it cannot be read.

    **Target**: words, whole numbers of at most 20 values, and of up to 100 that look like labels, are classes; other numbers
    are predicted as they are; `task` overrides that. **Features**: all other columns of numbers, and of words that have at
    most 50 values in the training rows, of which each becomes a column of 0 and 1; with a horizon the target's own past too.
    `features` names them instead; `categories` takes the values of those columns as words. Columns of dates, and those that
    number the rows, are none. Numbers are scaled by their mean and standard deviation over the training rows, among them
    those that --val-fraction holds out.

    **Split**: with `time` (numbers, or dates as 2024-05-31 13:00:00) at moments common to all rows: the last fraction `test`
    (0.2) to test, `val` (0.1) before it to validate. Without it, where samples are longer than a row, so in every file and
    group, in the order of their rows. As many rows (moments) as a sample has are left out between two splits. Single rows
    without `time` are drawn by a fixed seed, and validated by --val-fraction.

    **Missing values** (empty, NA, NaN, those of `missing`; where numbers are expected any word, while in a target of classes
    none, null and ? are classes), rows with too many or too few cells and, with `time`, moments left out end a window;
    nothing takes their place. More than a tenth of a column in words instead of numbers is an error. `group` (a column, or
    `@file`) gives the clients of `--partition natural`.

    What may be read in two ways is an error unless `decimal` says what the comma of 1,525 is, and `dayfirst` whether
    5/1/2019 is in January.

    With a `schema` features, their scale, words and classes are as it says.
    """
    stage = parse_stage(spec).expect(1, _KEYS)
    options = stage.options
    if "target" not in options:
        raise SpecError(f"'{spec}': say which column to predict, target=COLUMN")
    for key, choices in _CHOICES.items():
        chosen = options.get(key)
        if chosen is not None and chosen not in choices:
            raise SpecError(f"'{spec}': {key} must be {' or '.join(choices)}, not '{chosen}'{nearest(chosen, choices)}")
    window, horizon, step = _whole(stage, "window", 1, 1), _whole(stage, "horizon", 0, 0), _whole(stage, "step", 1, 1)
    in_time = "time" in options or window + horizon > 1
    if "val" in options and not in_time:
        raise SpecError(f"'{spec}': single rows without time are validated by --val-fraction, not by val")
    test, val = _fraction(stage, "test", _TEST), _fraction(stage, "val", _VAL) if in_time else 0.0
    if test + val > 0.9:
        raise SpecError(f"'{spec}': test and val leave less than a tenth to train on")
    lists = {key: tuple(options[key].split("+")) for key in _LISTS if key in options}
    for key, each in lists.items():
        if "" in each or len(set(each)) < len(each):
            raise SpecError(
                f"'{spec}': {key} must name each {'value' if key == 'missing' else 'column'} once, as in {key}=A+B"
            )
    if horizon == 0 and options["target"] in (*lists.get("features", ()), *lists.get("categories", ())):
        raise SpecError(f"'{spec}': the target can only be a feature with a horizon, its own past")
    names = Names(
        target=options["target"],
        features=lists.get("features"),
        group=options.get("group"),
        time=options.get("time"),
        task=options.get("task"),
        with_target=horizon > 0,
        categories=lists.get("categories", ()),
        missing=lists.get("missing", ()),
        decimal=options.get("decimal"),
        dayfirst=options.get("dayfirst"),
    )
    path = Path(stage.args[0])
    single = "window" not in options
    if schema is not None:
        known = schema.encoded
        names = dataclasses.replace(
            names,
            features=tuple(known["numbers"]),
            categories=tuple(known["words"]),
            task="classification" if schema.classes else "regression",
            classes=schema.class_names,
        )
    return _Table(f"--dataset {spec}", path, names, window, horizon, step, test, val, single, schema).load


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
    schema: Schema | None

    @property
    def span(self) -> int:
        """Rows from the first of a window to its target."""
        return self.window + self.horizon

    def load(self) -> Dataset:
        """The data set; DataError for files, columns and values that will not do."""
        root, files = self.path if self.path.is_dir() else self.path.parent, self._files()
        how = self.option if self.schema is None else f"{self.option}\n{self.schema.to_json()}"
        return cached(root, files, how, lambda: self._read(files))

    def _read(self, files: list[Path]) -> Dataset:
        rows = read_rows(files, self.names, self.option)
        parts, how = self._parts(rows)
        starts = {
            part: cut_starts(rows.usable & own, rows.gap_before, length=self.span, step=self.step)
            for part, own in parts.items()
        }
        if self.schema is not None:
            starts["test"] = starts["train"][:1]
        for part, found in starts.items():
            if not len(found):
                raise DataError(
                    f"{self.option}: no {part} sample of {self.span} row(s) without a gap among the "
                    f"{int((rows.usable & parts[part]).sum())} complete rows of that part{self._hint(rows)}; "
                    f"{rows.counted}; {'; '.join(rows.remarks)}"
                )
        training = rows.usable & parts["train"]
        if not rows.class_names:
            refuse_lost(rows.y[training], self.names.target, self.option)
        encoding, left_out = self._encoding(rows, training)
        columns = _encoded(rows, encoding)
        x, numbers = np.concatenate(list(columns.values()), axis=1), Scaler(rows.y[training, None])
        unused = ", ".join(f"{name} ({why})" for name, why in left_out.items())
        splits = {part: self._split(rows, found, x) for part, found in starts.items()}
        return Dataset(
            ENDING.sub("", self.path.resolve().name),
            train=splits["train"],
            test=splits["test"],
            classes=len(rows.class_names),
            groups=None if rows.group is None else torch.from_numpy(rows.group[starts["train"]]),
            validation=splits.get("validation"),
            class_names=rows.class_names,
            encoding=json.dumps(encoding),
            target=(0.0, 1.0) if rows.class_names else (float(numbers.mean[0]), float(numbers.std[0])),
            notes=(
                f"csv: {rows.counted}; features {', '.join(columns)}"
                f"{f' (left out: {unused})' if unused else ''}; {rows.task}; split {how}: "
                + ", ".join(f"{len(own)} {part}" for part, own in splits.items())
                + _absent(rows, starts["train"]),
            ),
            left_out=tuple(
                f"csv: {told}" for told in (*rows.remarks, *([f"columns left out: {unused}"] if unused else ()))
            ),
        )

    def _encoding(self, rows: Rows, training: np.ndarray) -> tuple[dict[str, Any], dict[str, str]]:
        """How features become numbers, by what the training rows tell or the schema says: `numbers`, names of columns, with
        their `mean` and `std`, and of each column of `words` those that are known; and why each column that is none is none.
        """
        sample = {"target": self.names.target, "window": self.window, "horizon": self.horizon}
        if self.schema is not None:
            known = self.schema.encoded
            mixed = [name for name in known["numbers"] if name not in rows.features]
            if mixed:
                raise DataError(f"{self.option}: column '{mixed[0]}' holds words, and numbers in the server's data")
            return {**known, **sample}, {}
        scaler = Scaler(rows.x[training]) if rows.features else Scaler.of([], [])
        left_out = dict(rows.left_out)
        found: dict[str, list[str]] = {}
        most = min(MOST_WORDS, int(training.sum()) // 2)
        for name, words in rows.words.items():
            those = sorted(set(words[training]) - {""})
            why = f"{len(those)} value(s) in the training rows, words must have 2 to {most}"
            if 2 <= len(those) <= most:
                found[name] = those
            elif name in (*(self.names.features or ()), *self.names.categories):
                raise DataError(f"{self.option}: column '{name}' cannot be a feature: {why}")
            else:
                left_out[name] = why
        if not rows.features and not found:
            raise DataError(f"{self.option}: no column besides target, group and time holds numbers, or a few words")
        numbers = {"numbers": rows.features, "mean": scaler.mean.tolist(), "std": scaler.std.tolist()}
        return {**numbers, "words": found, **sample}, left_out

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
            raise DataError(
                f"{self.option}: {self.path} must be a file, or a folder of .csv or .tsv files, packed or not"
            )
        return found

    def _parts(self, rows: Rows) -> tuple[dict[str, np.ndarray], str]:
        """The rows of each split, bool [N], and how they were found, in words. With a schema all are to train on."""
        if self.schema is not None:
            return {"train": np.ones(len(rows.y), dtype=bool)}, "not made"
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

    def _split(self, rows: Rows, starts: np.ndarray, columns: np.ndarray) -> Split:
        y = rows.y[starts + self.span - 1].astype(np.int64 if rows.class_names else np.float32)
        x = take_windows(columns, starts, self.window)
        return Split(torch.from_numpy(x[:, 0] if self.single else x), torch.from_numpy(y))


def _encoded(rows: Rows, encoding: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The features of all rows, float32 [N, ...]: numbers together, and of each column of words 0 and 1 for each of them."""
    columns = {}
    if rows.features:
        columns[", ".join(rows.features)] = Scaler.of(encoding["mean"], encoding["std"])(rows.x)
    for name, known in encoding["words"].items():
        at = {word: number for number, word in enumerate(known)}
        position = np.array([at.get(word, -1) for word in rows.words[name]])
        # a word that is not known is as good as none
        columns[name] = (position[:, None] == np.arange(len(known))).astype(np.float32)
    return columns


def _absent(rows: Rows, starts: np.ndarray) -> str:
    """A remark on groups that have no training sample, and so are no clients."""
    if rows.group is None:
        return ""
    known, left = len(np.unique(rows.group[rows.group >= 0])), len(np.unique(rows.group[starts]))
    return f"; {left} of {known} groups have training samples" if left < known else ""
