"""The user's own table as arrays: which columns are numbers, what is to be predicted, which row follows which."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from compression.spec import nearest
from fl.data.csv_time import describe_gaps, read_times
from fl.data.tables import is_missing, is_no_word, read_header, read_table, refuse_huge, to_numbers
from fl.data.windows import find_gaps
from fl.errors import DataError

BY_FILE = "@file"
"""Stands for a column that holds the name of the file."""

FEW_CLASSES = 20
"""Whole numbers of at most so many values are taken for classes where nothing is said."""


@dataclass(frozen=True)
class Names:
    """Names of columns. `features` None: all that hold numbers; `target`'s own earlier values too if `with_target`.

    `group` may be `@file`. `task`: "regression", "classification" or, where the values decide, None.
    """

    target: str
    features: tuple[str, ...] | None = None
    group: str | None = None
    time: str | None = None
    task: str | None = None
    with_target: bool = False


@dataclass(frozen=True)
class Rows:
    """All N rows of a table: by file, then by group, then by time or else as in the file.

    `x` float64 [N, F]; `y` float64 [N], a number or the position of a class in `class_names`; NaN where missing. `group`
    int64 [N], -1 where missing, or None. `time` float64 [N] or None. `sequence` int64 [N]: one file and group each.
    `gap_before` bool [N]: does not follow the row before it; `gaps` counts those where time leaps. `usable` bool [N]:
    nothing is missing.
    """

    x: np.ndarray
    y: np.ndarray
    group: np.ndarray | None
    time: np.ndarray | None
    sequence: np.ndarray
    gap_before: np.ndarray
    gaps: int
    usable: np.ndarray
    class_names: tuple[str, ...]
    note: str

    @property
    def share_moments(self) -> bool:
        """Whether some rows of one sequence have the same time."""
        return self.time is not None and bool(((np.diff(self.time) == 0) & (np.diff(self.sequence) == 0)).any())


class _Cells:
    """All files' cells by column, as text and as numbers; `file` int64 [N] and `malformed` bool [N]."""

    def __init__(self, paths: Sequence[Path], names: Names, option: str) -> None:
        group = None if names.group == BY_FILE else names.group
        others = [name for name in (names.target, names.time, group) if name is not None]
        self.header = read_header(paths[0], option)
        for name in (*others, *(names.features or ())):
            if name not in self.header:
                raise DataError(f"{option}: {paths[0].name} has no column '{name}'{nearest(name, self.header)}")
        if names.features is not None:
            self.header = list(dict.fromkeys([*names.features, *others]))
        tables = [read_table(path, option, self.header) for path in paths]
        self.text = {name: [cell for table in tables for cell in table.columns[name]] for name in self.header}
        self.numbers = {name: to_numbers(cells) for name, cells in self.text.items()}
        self.file = np.repeat(np.arange(len(tables)), [len(table) for table in tables])
        self.malformed = np.concatenate([table.malformed for table in tables])
        if not len(self.file):
            raise DataError(f"{option}: there are no rows below the header")
        if self.malformed.all():
            raise DataError(f"{option}: every row has more or fewer cells than the header")

    def is_numeric(self, name: str) -> bool:
        """Whether most of the cells that say something say a number."""
        given = sum(not is_missing(cell) for cell in self.text[name])
        return given > 0 and 2 * int(np.isfinite(self.numbers[name]).sum()) > given


def read_rows(paths: Sequence[Path], names: Names, option: str) -> Rows:
    """The rows of these files. DataError for files, columns and values that will not do; `option` opens its message."""
    cells = _Cells(paths, names, option)
    features, left_out = _features(cells, names, option)
    y, class_names, task = _target(cells, names, option)
    time = None if names.time is None else _times(cells, names.time, option)
    group = _groups(cells, names.group, paths)
    for name in (*features, *(() if class_names else (names.target,))):
        at = int(np.argmax(np.nan_to_num(np.abs(cells.numbers[name]))))
        refuse_huge(cells.numbers[name][at : at + 1], name, paths[int(cells.file[at])].name, option)
    x = np.stack([cells.numbers[name] for name in features], axis=1)
    usable = np.isfinite(x).all(1) & np.isfinite(y)
    if time is not None:
        usable &= np.isfinite(time)
    if group is not None:
        usable &= group >= 0
    malformed = int(cells.malformed.sum())
    if not usable.any():
        lacking = {name: int((~np.isfinite(cells.numbers[name])).sum()) for name in features}
        lacking[names.target] = int((~np.isfinite(y)).sum())
        if time is not None:
            lacking[str(names.time)] = int((~np.isfinite(time)).sum())
        if group is not None:
            lacking[str(names.group)] = int((group < 0).sum())
        worst = max(lacking, key=lacking.__getitem__)
        hint = "; choose with features=A+B" if worst in features else ""
        raise DataError(f"{option}: every row lacks some value, most often in column '{worst}'{hint}")
    sequence = cells.file if group is None else cells.file * (int(group.max()) + 2) + group + 1
    order = np.lexsort((np.arange(len(sequence)) if time is None else time, sequence))
    sequence, time = sequence[order], None if time is None else time[order]
    gap_before = find_gaps(sequence, time, np.cumsum(cells.malformed)[order])
    gaps, leaps = (0, "") if time is None else describe_gaps(time, sequence, gap_before)
    return Rows(
        x=x[order],
        y=y[order],
        group=None if group is None else group[order],
        time=time,
        sequence=sequence,
        gap_before=gap_before,
        gaps=gaps,
        usable=usable[order],
        class_names=class_names,
        note=f"{len(order)} rows in {len(paths)} file(s), of which {malformed} malformed and "
        f"{int((~usable).sum()) - malformed} with missing values{leaps and ', '}{leaps}; "
        f"features {', '.join(features)}{left_out}; target {names.target}: {task}{_dropped(cells, names.target, y)}",
    )


def _features(cells: _Cells, names: Names, option: str) -> tuple[tuple[str, ...], str]:
    """Names of the features, and a remark on columns that are none."""
    if names.features is not None:
        for name in names.features:
            if not cells.is_numeric(name):
                raise DataError(f"{option}: column '{name}' holds no numbers, so it cannot be a feature")
        return names.features, ""
    others = {names.time, names.group} | (set() if names.with_target else {names.target})
    candidates = [name for name in cells.header if name not in others]
    numeric = tuple(name for name in candidates if cells.is_numeric(name))
    if not numeric:
        raise DataError(f"{option}: no column besides target, group and time holds numbers")
    rest = [name for name in candidates if name not in numeric]
    return numeric, f" (left out, not numbers: {', '.join(rest)})" if rest else ""


def _target(cells: _Cells, names: Names, option: str) -> tuple[np.ndarray, tuple[str, ...], str]:
    """Values to predict, names of the classes (none: regression), and a remark on the choice."""
    text, numbers = cells.text[names.target], cells.numbers[names.target]
    if cells.is_numeric(names.target):
        values = np.unique(numbers[np.isfinite(numbers)])
        whole = bool((values == np.rint(values)).all())
        if names.task == "regression" or (names.task is None and not (whole and len(values) <= FEW_CLASSES)):
            return numbers, (), "regression"
        if not whole:
            raise DataError(f"{option}: task=classification needs whole numbers or words in column '{names.target}'")
        words = sorted({cell for cell, number in zip(text, numbers, strict=True) if _is_word(cell, number)})
        known = [*(str(int(value)) for value in values), *words]
        at = {word: float(number) for number, word in enumerate(known) if word in words}
        y = np.array([at.get(cell, math.nan) for cell in text])
        y = np.where(np.isfinite(numbers), np.searchsorted(values, numbers), y)
        chosen = f", among them {', '.join(words)}" if words else ""
        chosen += "" if names.task else ", for it has few whole numbers"
    else:
        chosen = ""
        if names.task == "regression":
            raise DataError(f"{option}: task=regression needs numbers in column '{names.target}'")
        known = sorted({cell for cell in text if not is_no_word(cell)})
        at = {name: float(number) for number, name in enumerate(known)}
        y = np.array([at.get(cell, math.nan) for cell in text])
    if not 2 <= len(known) <= max(2, len(y) // 2):
        raise DataError(
            f"{option}: column '{names.target}' has {len(known)} different values in {len(y)} rows, which are no classes"
        )
    return y, tuple(known), f"classification, {len(known)} classes{chosen}"


def _is_word(cell: str, number: float) -> bool:
    return not math.isfinite(number) and not is_no_word(cell)


def _dropped(cells: _Cells, name: str, y: np.ndarray) -> str:
    """A remark on the cells of the target that were taken for missing."""
    lost = np.flatnonzero(~np.isfinite(y) & ~cells.malformed)
    words = Counter(cells.text[name][at] or "empty" for at in lost)
    told = ", ".join(f"{word} {count} times" for word, count in words.most_common(5))
    return f" (missing: {told}{', ...' if len(words) > 5 else ''})" if told else ""


def _times(cells: _Cells, name: str, option: str) -> np.ndarray:
    """Numbers as they are; dates and times of day as seconds; NaN for neither."""
    times = cells.numbers[name] if cells.is_numeric(name) else read_times(cells.text[name])
    if not np.isfinite(times).any():
        raise DataError(f"{option}: column '{name}' holds neither numbers nor times such as 2024-05-31 13:00:00")
    return times


def _groups(cells: _Cells, name: str | None, paths: Sequence[Path]) -> np.ndarray | None:
    """Number of the group of each row, groups in order of their names; -1 where it is missing."""
    if name is None:
        return None
    text = [paths[int(number)].name for number in cells.file] if name == BY_FILE else cells.text[name]
    known = sorted({cell for cell in text if not is_missing(cell)})
    at = {cell: number for number, cell in enumerate(known)}
    group = np.array([at.get(cell, -1) for cell in text], dtype=np.int64)
    group[cells.malformed] = -1
    return group
