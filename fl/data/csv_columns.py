"""The user's own table as arrays: which columns are features, what is to be predicted, which row follows which."""

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from fl.common.errors import DataError

from .csv_cells import BY_FILE, Cells, Names
from .csv_time import describe_gaps, read_compact, read_times
from .tables import is_missing, is_no_word, refuse_huge
from .windows import find_gaps

FEW_CLASSES, MOST_CLASSES, ROWS_OF_A_CLASS = 20, 100, 10
"""Whole numbers of at most FEW_CLASSES values are taken for classes where nothing is said, of up to MOST_CLASSES where they
look like labels; see `_look_like_labels`."""

_NUMBER_OF_ROW = re.compile(
    r"X(\.\d+)?|\.\.\.1|(?i:#|level_0|instant|row[._ ]?names?|(.*[._ -])?id"
    r"|(row|obs|case|record|sample|serial|s|sr)?[._ ]?(id|no|nr|num|number|index)\.?)|.*[a-z]I[dD]"
)
"""Names of columns in which programs, and people, number the rows; those without a name, see `read_table`."""
_UNNAMED = re.compile(r"Unnamed: \d+(\.\d+)*")


@dataclass(frozen=True)
class Rows:
    """All N rows of a table: by file, then by group, then by time or else as in the file.

    `x` float64 [N, F], the features that are numbers, NaN where missing; `words`: of each other feature its words [N], ""
    where missing. `y` float64 [N], a number or the position of a class in `class_names`; NaN where missing. `group` int64
    [N], -1 where missing, or None. `time` float64 [N] or None. `sequence` int64 [N]: one file and group each. `gap_before`
    bool [N]: does not follow the row before it; `gaps` counts those where time leaps. `usable` bool [N]: nothing but words
    is missing. `features`: names of the columns of `x`; `left_out`: why each column that is no feature is none. `counted`
    and `task`, in words, are for the log, and `remarks` for the terminal.
    """

    x: np.ndarray
    words: dict[str, np.ndarray]
    y: np.ndarray
    group: np.ndarray | None
    time: np.ndarray | None
    sequence: np.ndarray
    gap_before: np.ndarray
    gaps: int
    usable: np.ndarray
    class_names: tuple[str, ...]
    features: tuple[str, ...]
    left_out: dict[str, str]
    counted: str
    task: str
    remarks: tuple[str, ...]

    @property
    def share_moments(self) -> bool:
        """Whether some rows of one sequence have the same time."""
        return self.time is not None and bool(((np.diff(self.time) == 0) & (np.diff(self.sequence) == 0)).any())


def read_rows(paths: Sequence[Path], names: Names, option: str) -> Rows:
    """The rows of these files. DataError for files, columns and values that will not do; `option` opens its message."""
    cells = Cells(paths, names, option)
    features, words, left_out = _features(cells, names)
    y, class_names, chosen, change = _target(cells, names)
    time = None if names.time is None else _times(cells, names)
    group = _groups(cells, names.group)
    for name in (*features, *(() if class_names else (names.target,))):
        at = int(np.argmax(np.nan_to_num(np.abs(cells.numbers[name]))))
        refuse_huge(cells.numbers[name][at : at + 1], name, paths[int(cells.file[at])].name, option)
    lacking = {name: ~np.isfinite(cells.numbers[name]) for name in features} | {names.target: ~np.isfinite(y)}
    if time is not None:
        lacking[str(names.time)] = ~np.isfinite(time)
    if group is not None:
        lacking[str(names.group)] = group < 0
    usable = ~(np.any(list(lacking.values()), axis=0) | cells.malformed)
    if not usable.any():
        worst = max(lacking, key=lambda name: int(lacking[name].sum()))
        hint = "; choose with features=A+B" if worst in features else ""
        raise DataError(f"{option}: every row lacks some value, most often in column '{worst}'{hint}")
    lost, task, listed = _lost_rows(cells, lacking), "regression", ""
    if class_names:
        known = class_names
        if names.classes is None:
            y, class_names = _with_rows(y, known, usable)
        if len(class_names) < 2:
            raise DataError(
                f"{option}: in column '{names.target}' all complete rows hold '{class_names[0]}'; {'; '.join(lost)}"
            )
        task, listed = f"classification, {len(class_names)} classes{chosen}", f" ({_listed(class_names)})"
        without = [name for name in known if name not in class_names]
        lost += [f"no classes, for no complete row has them: {_listed(without)}"] if without else []
    malformed, missing = int(cells.malformed.sum()), int((~usable & ~cells.malformed).sum())
    sequence = cells.file if group is None else cells.file * (int(group.max()) + 2) + group + 1
    order = np.lexsort((np.arange(len(sequence)) if time is None else time, sequence))
    sequence, time = sequence[order], None if time is None else time[order]
    gap_before = find_gaps(sequence, time, np.cumsum(cells.malformed)[order])
    gaps, leaps = (0, "") if time is None else describe_gaps(time, sequence, gap_before)
    x = np.stack([cells.numbers[name] for name in features], axis=1) if features else np.empty((len(y), 0))
    return Rows(
        x=x[order],
        words={name: np.array(_words(cells.text[name]), dtype=object)[order] for name in words},
        y=y[order],
        group=None if group is None else group[order],
        time=time,
        sequence=sequence,
        gap_before=gap_before,
        gaps=gaps,
        usable=usable[order],
        class_names=class_names,
        features=features,
        left_out=left_out,
        counted=f"{len(order)} rows in {len(paths)} file(s), of which {malformed} malformed and {missing} with missing "
        f"values{leaps and ', '}{leaps}",
        task=f"target {names.target}: {task}{_dropped(cells, names.target, y)}",
        remarks=(f"target {names.target}: {task}{listed}{change}", *cells.remarks, *lost),
    )


def _with_rows(y: np.ndarray, names: tuple[str, ...], usable: np.ndarray) -> tuple[np.ndarray, tuple[str, ...]]:
    """Classes [N] and their names without those that no usable row has, such as the word in a row of units."""
    present = np.unique(y[usable])
    place = np.searchsorted(present, y)
    found = np.isin(y, present)
    return np.where(found, place, math.nan), tuple(names[int(number)] for number in present)


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names if len(names) <= 10 else (*names[:5], "...", *names[-2:]))


def _lost_rows(cells: Cells, lacking: dict[str, np.ndarray]) -> list[str]:
    """A remark on the rows that are left out, and the first of each kind."""
    told = []
    if cells.malformed.any():
        first = cells.where(int(np.argmax(cells.malformed)))
        told.append(f"{int(cells.malformed.sum())} with more or fewer cells than the header (first {first})")
    own = {name: lost & ~cells.malformed for name, lost in lacking.items()}
    for name in sorted((name for name in own if own[name].any()), key=lambda name: -int(own[name].sum()))[:3]:
        at = int(np.argmax(own[name]))
        cell = f"'{cells.text[name][at]}' ".removeprefix("'' ") if name in cells.text else ""
        told.append(f"{int(own[name].sum())} without a value of '{name}' (first {cell}{cells.where(at)})")
    lost = np.any(list(lacking.values()), axis=0) | cells.malformed
    return [f"{int(lost.sum())} of {len(lost)} rows left out: {', '.join(told)}"] if told else []


def _features(cells: Cells, names: Names) -> tuple[tuple[str, ...], tuple[str, ...], dict[str, str]]:
    """Names of the features that are numbers, of those that are words, and why other columns are neither."""
    left_out: dict[str, str] = {}
    chosen = (*(names.features or ()), *names.categories)
    if names.features is None:
        others = {*cells.time, names.group} | (set() if names.with_target else {names.target})
        candidates = [name for name in cells.header if name not in others]
        reasons = {name: _why_not(cells, name) for name in candidates if name not in names.categories}
        left_out = {name: why for name, why in reasons.items() if why}
        chosen = tuple(name for name in candidates if name not in left_out)
    words = tuple(name for name in dict.fromkeys(chosen) if name in names.categories or not cells.is_numeric(name))
    numeric = tuple(name for name in dict.fromkeys(chosen) if name not in words)
    for name in words:
        if all(map(is_no_word, cells.text[name])):
            raise DataError(f"{cells.option}: column '{name}' holds no values, so it cannot be a feature")
    for name in numeric:
        cells.check_numbers(name, "choose features=A+B without it, or add categories=A+B to take its values as words")
    return numeric, words, left_out


def _why_not(cells: Cells, name: str) -> str:
    """Why a column is no feature unless it is asked for; empty if it is one."""
    if _UNNAMED.fullmatch(name):
        return "without a name"
    said = list(islice((cell for cell in cells.text[name] if not is_missing(cell)), 1000))
    if cells.is_numeric(name):
        if _NUMBER_OF_ROW.fullmatch(name) and _tells_rows_apart(cells, name):
            return "numbers of rows"
        return "times" if read_compact(said) is not None else ""
    if not said:
        return "empty"
    return "times" if 2 * int(np.isfinite(read_times(said)[0]).sum()) > len(said) else ""


def _tells_rows_apart(cells: Cells, name: str) -> bool:
    """Whether a column holds whole numbers, no two alike in one file; X, which may be a place, has to count up by one."""
    numbers = cells.numbers[name]
    if name[0] == "X":
        return bool((np.diff(numbers)[np.diff(cells.file) == 0] == 1).all())
    pairs = np.unique(np.stack([cells.file, numbers], axis=1), axis=0)
    return bool((numbers == np.rint(numbers)).all()) and len(pairs) == len(numbers)


def _target(cells: Cells, names: Names) -> tuple[np.ndarray, tuple[str, ...], str, str]:
    """Values to predict, names of the classes (none: regression), and in words why, and what would change it."""
    name, option = names.target, cells.option
    text, numbers, chosen, change = cells.text[name], cells.numbers[name], "", ""
    if names.classes:
        return _as_classes(cells, name, names.classes), names.classes, "", ""
    if cells.is_numeric(name):
        values, counts = np.unique(numbers[np.isfinite(numbers)], return_counts=True)
        whole = bool((values == np.rint(values)).all())
        few, labels = whole and len(values) <= FEW_CLASSES, whole and _look_like_labels(values, counts)
        if names.task == "regression" or (names.task is None and not few and not labels):
            cells.check_numbers(name, "say task=classification if they are classes")
            change = "; task=classification takes its whole numbers for classes" if whole and names.task is None else ""
            return numbers, (), "", change
        if not whole:
            raise DataError(f"{option}: task=classification needs whole numbers or words in column '{name}'")
        words = sorted({text[at] for at in np.flatnonzero(~np.isfinite(numbers)) if not is_no_word(text[at])})
        known = [*(str(int(value)) for value in values), *words]
        at = {word: float(number) for number, word in enumerate(known) if word in words}
        y = np.searchsorted(values, numbers).astype(np.float64)
        lost = np.flatnonzero(~np.isfinite(numbers))
        y[lost] = [at.get(text[row], math.nan) for row in lost]
        if names.task is None:
            chosen = f", for it has {'few whole numbers' if few else 'whole numbers that look like labels'}"
            change = "; task=regression predicts them as numbers"
    else:
        if names.task == "regression":
            raise DataError(f"{option}: task=regression needs numbers in column '{name}'")
        text = _words(text)
        known = sorted(set(text) - {""})
        at = {word: float(number) for number, word in enumerate(known)}
        y = np.array([at.get(cell, math.nan) for cell in text])
        begun = sum(bool(re.match(r"[-+(]?[$€£]?[.,]?\d", word)) for word in known)
        if names.task is None and len(known) > FEW_CLASSES and 2 * begun > len(known):
            cells.check_readable(name, numbers, "numbers", "say task=classification if they are classes")
    if not 2 <= len(known) <= max(2, len(y) // 2):
        raise DataError(
            f"{option}: column '{name}' has {len(known)} different values in {len(y)} rows, which are no classes"
        )
    return y, tuple(known), chosen, change


def _as_classes(cells: Cells, name: str, classes: tuple[str, ...]) -> np.ndarray:
    """The position of each row's class, float64 [N]; NaN where it is missing."""
    place = {word: number for number, word in enumerate(classes)}
    y = np.full(len(cells.file), math.nan)
    for at, (word, number) in enumerate(zip(_words(cells.text[name]), cells.numbers[name].tolist(), strict=True)):
        if word not in place and math.isfinite(number) and number == int(number):
            word = str(int(number))
        if word and word not in place:
            raise DataError(
                f"{cells.option}: column '{name}' holds '{word}' {cells.where(at)}, and the server's data have the classes "
                f"{_listed(classes)}"
            )
        y[at] = place.get(word, math.nan)
    return y


def _look_like_labels(values: np.ndarray, counts: np.ndarray) -> bool:
    """Labels count from 0 or 1 with few left out, each comes up often, and about as often as others. Ages begin later,
    prices leave most numbers out, and counts get rarer the larger they are."""
    dense = values[0] in (0, 1) and len(values) >= 0.9 * (values[-1] - values[0] + 1)
    often = counts.min() >= max(ROWS_OF_A_CLASS, counts.mean() / 5)
    return bool(dense and often and len(values) <= MOST_CLASSES)


def _words(cells: Sequence[str]) -> list[str]:
    """Words for classes and groups: 7.0 is 7, and nothing is empty."""
    known = {cell: "" if is_no_word(cell) else re.sub(r"^(-?\d+)\.0+$", r"\1", cell) for cell in set(cells)}
    return [known[cell] for cell in cells]


def _dropped(cells: Cells, name: str, y: np.ndarray) -> str:
    """A remark on the cells of the target that were taken for missing."""
    lost = np.flatnonzero(~np.isfinite(y) & ~cells.malformed)
    words = Counter(cells.text[name][at] or "empty" for at in lost)
    told = ", ".join(f"{word} {count} times" for word, count in words.most_common(5))
    return f" (missing: {told}{', ...' if len(words) > 5 else ''})" if told else ""


def _times(cells: Cells, names: Names) -> np.ndarray:
    """Numbers as they are; dates and times of day as seconds; NaN for neither."""
    name = str(names.time)
    if name not in cells.text:
        cells.text[name] = [" ".join(parts) for parts in zip(*(cells.text[part] for part in cells.time), strict=True)]
        cells.numbers[name] = np.full(len(cells.file), math.nan)
    text = cells.text[name]
    remedy = "every row needs a moment of its own"
    if cells.is_numeric(name):
        times = read_compact(text)
        if times is None:
            cells.check_numbers(name, remedy)
            return cells.numbers[name]
    else:
        times, either = read_times(text, names.dayfirst)
        if either:
            raise DataError(
                f"{cells.option}: nothing in column '{name}' tells day from month in '{either}' "
                f"{cells.where(text.index(either))}; say dayfirst=yes or dayfirst=no"
            )
    if not np.isfinite(times).any():
        raise DataError(f"{cells.option}: column '{name}' holds neither numbers nor times such as 2024-05-31 13:00:00")
    cells.check_readable(name, times, "times", "write them like 2024-05-31 13:00:00")
    return times


def _groups(cells: Cells, name: str | None) -> np.ndarray | None:
    """Number of the group of each row, groups in order of their names; -1 where it is missing."""
    if name is None:
        return None
    text = [cells.paths[int(number)].name for number in cells.file] if name == BY_FILE else _words(cells.text[name])
    known = sorted({cell for cell in text if not is_missing(cell)})
    at = {cell: number for number, cell in enumerate(known)}
    group = np.array([at.get(cell, -1) for cell in text], dtype=np.int64)
    group[cells.malformed] = -1
    return group
