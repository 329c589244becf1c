"""The cells of the user's own table, by column: as text, and as numbers where they are some."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from compression.spec import closest, nearest
from fl.common.errors import DataError

from .csv_numbers import Numbers, settle
from .tables import holds_numbers, is_missing, read_table, to_number

BY_FILE = "@file"
"""Stands for a column that holds the name of the file."""

MOST_UNREADABLE = 0.1
"""Of the rows, and of a column's cells, so many may be left out as unreadable: beyond that something is misread."""


@dataclass(frozen=True)
class Names:
    """Names of columns, and how to read them. `features` None: all that hold numbers or words; `target`'s own earlier values
    too if `with_target`. `categories`: features whose values are words, whatever they look like.

    `group` may be `@file`. `time` may be a date's and a clock's column, A+B. `task`: "regression", "classification" or,
    where the values decide, None. `decimal`: "point", "comma" or, where the columns decide, None; `dayfirst`: "yes", "no" or
    None likewise. `missing`: cells that hold no value. `classes`: the target's, where they are known already; none: it
    holds numbers.
    """

    target: str
    features: tuple[str, ...] | None = None
    group: str | None = None
    time: str | None = None
    task: str | None = None
    with_target: bool = False
    categories: tuple[str, ...] = ()
    decimal: str | None = None
    dayfirst: str | None = None
    missing: tuple[str, ...] = ()
    classes: tuple[str, ...] | None = None


class Cells:
    """All files' cells by column, as `text` and as `numbers` (float64 [N], NaN for none), and of each row its file and line,
    int64 [N], and whether it is `malformed`, bool [N].

    `time`: names of the columns that tell the time. `remarks`: sentences on how the files were read. DataError for files
    and columns that are not there, and where too many rows are malformed; `option` opens its message.
    """

    def __init__(self, paths: Sequence[Path], names: Names, option: str) -> None:
        self.paths, self.option = paths, option
        tables = [read_table(paths[0], option)]
        self.header = list(tables[0].columns)
        self.time = [] if names.time is None else [names.time] if names.time in self.header else names.time.split("+")
        group = [] if names.group in (None, BY_FILE) else [str(names.group)]
        others = [names.target, *self.time, *group]
        for name in (*others, *(names.features or ()), *names.categories):
            if name not in self.header:
                raise DataError(f"{option}: {paths[0].name} has no column '{name}'{_instead(name, self.header)}")
        if names.features is not None:
            self.header = list(dict.fromkeys([*names.features, *names.categories, *others]))
        tables += [read_table(path, option, self.header) for path in paths[1:]]
        self.file = np.repeat(np.arange(len(tables)), [len(table) for table in tables])
        self.line = np.concatenate([table.lines for table in tables])
        self.malformed = np.concatenate([table.malformed for table in tables])
        self._check_rows()
        self.text = {name: tables[0].columns[name] for name in self.header}
        for table in tables[1:]:
            for name, column in self.text.items():
                column += table.columns[name]
        columns = {name: Numbers(cells) for name, cells in self.text.items()}
        marks, self._unsure = settle(columns, names.decimal)
        self.numbers = {name: column.read(marks[name]) for name, column in columns.items()}
        odd = [told for name, own in self.numbers.items() if (told := columns[name].odd(own)) and self.is_numeric(name)]
        self._forget(names.missing)
        self.remarks = [
            f"{path.name}: {table.remark}" for path, table in zip(paths, tables, strict=True) if table.remark
        ]
        self.remarks += [
            f"{path.name}: columns that {paths[0].name} lacks are left out: {', '.join(table.others)}"
            for path, table in zip(paths, tables, strict=True)
            if table.others and names.features is None
        ]
        if odd:
            self.remarks.append(
                f"numbers in {len(odd)} column(s) are read as {', '.join(odd[:5])}{', ...' if odd[5:] else ''}"
            )

    def _check_rows(self) -> None:
        if not len(self.file):
            raise DataError(f"{self.option}: there are no rows below the header")
        bad = np.flatnonzero(self.malformed)
        if len(bad) > MOST_UNREADABLE * len(self.file):
            many = "every row has" if len(bad) == len(self.file) else f"{len(bad)} of {len(self.file)} rows have"
            raise DataError(
                f"{self.option}: {many} more or fewer cells than the header, first that {self.where(bad[0])}"
            )

    def _forget(self, missing: Sequence[str]) -> None:
        """Empty the cells that hold one of these words or numbers."""
        values = [value for value in map(to_number, missing) if math.isfinite(value)]
        for name, cells in self.text.items() if missing else ():
            told = np.isin(self.numbers[name], values) | np.array([cell in missing for cell in cells])
            self.numbers[name][told] = math.nan
            self.text[name] = ["" if none else cell for cell, none in zip(cells, told.tolist(), strict=True)]

    def where(self, at: int) -> str:
        """The line and the file of a row."""
        return f"in line {self.line[at]} of {self.paths[int(self.file[at])].name}"

    def unreadable(self, name: str, values: np.ndarray) -> list[int]:
        """Rows whose cell in a column says something, but has none of its `values`, float64 [N]."""
        cells = self.text[name]
        return [at for at in np.flatnonzero(~np.isfinite(values)).tolist() if not is_missing(cells[at])]

    def is_numeric(self, name: str) -> bool:
        """Whether most of the cells that say something say a number."""
        numbers = self.numbers[name]
        return int(np.isfinite(numbers).sum()) > len(self.unreadable(name, numbers))

    def check_readable(self, name: str, values: np.ndarray, what: str, remedy: str) -> None:
        """DataError if more than MOST_UNREADABLE of what a column says has none of its `values`, float64 [N]."""
        bad = self.unreadable(name, values)
        given = int(np.isfinite(values).sum()) + len(bad)
        if len(bad) > MOST_UNREADABLE * given:
            raise DataError(
                f"{self.option}: {len(bad)} of {given} cells of column '{name}' are no {what}, first "
                f"'{self.text[name][bad[0]]}' {self.where(bad[0])}; {remedy}"
            )

    def check_numbers(self, name: str, remedy: str) -> None:
        """DataError for a column of numbers that is misread in part, or could be read in two ways."""
        cell = self._unsure.get(name)
        if cell:
            raise DataError(
                f"{self.option}: nothing in column '{name}' tells whether the comma of '{cell}' "
                f"{self.where(self.text[name].index(cell))} parts thousands or decimals; say decimal=point or decimal=comma"
            )
        self.check_readable(name, self.numbers[name], "numbers", remedy)
        self._suspect(name)

    def _suspect(self, name: str) -> None:
        """Remark on -200, -9999, 999 and so on, where they come up again and again, far from all other numbers."""
        numbers = self.numbers[name][np.isfinite(self.numbers[name])]
        for far in (numbers.min(initial=0), numbers.max(initial=0)):
            if not re.fullmatch(r"-99|-\d{3,}|9{3,}", f"{far:.15g}"):
                continue
            others = numbers[numbers != far]
            times = len(numbers) - len(others)
            if times > 1 and (others / far < 0.5).all():
                self.remarks.append(
                    f"column '{name}' holds {far:.15g} {times} times: if that stands for a missing value, say "
                    f"missing={far:.15g}"
                )


def _instead(name: str, header: Sequence[str]) -> str:
    """What may have been meant by a name that is no column's."""
    if holds_numbers(header) and not closest(name, header):
        return f": its first line holds numbers ({', '.join(header[:3])}, ...), and should name the columns"
    return nearest(name, header)
