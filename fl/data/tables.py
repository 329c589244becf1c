"""Reading csv files, packed or not, without losing sight of what is missing in them."""

import csv
import gc
import io
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import compress, islice, pairwise
from pathlib import Path
from typing import Any

import numpy as np

from fl.common.errors import DataError
from fl.common.text_file import CANNOT_READ, read_text

_MISSING = frozenset(
    {
        "",
        "na",
        "n/a",
        "n.a.",
        "nan",
        "-nan",
        "<na>",
        "nat",
        "nil",
        "null",
        "none",
        "?",
        "-",
        "--",
        "\u2013",
        "\u2014",
        ".",
        "\\n",
    }
    | {"#n/a", "#na", "#div/0!", "#value!", "#ref!", "#null!", "#num!", "1.#qnan", "-1.#ind", "1.#ind"}
)
_NO_WORD = frozenset({"", "NA", "na", "N/A", "n/a", "NaN", "nan", "<NA>", "#N/A", "NaT"})
_LARGEST = float(np.finfo(np.float32).max)
_SEPARATORS = "\t;|, "
"""What may part cells; where two do equally well, the first."""
ENDING = re.compile(r"\.[ct]sv(\.gz|\.bz2|\.xz|\.zip)?$", re.IGNORECASE)
_LOOK_AT = 200


@dataclass(frozen=True)
class Table:
    """The cells of one file by column, all text, each a list of N.

    `malformed`, bool [N], marks rows that could not be told apart into cells (too many or too few): their cells are empty.
    `lines`, int64 [N], is where rows begin in the file, from 1. `remark`: how the file was decoded, where that is a guess.
    `others`: names of the columns that were not asked for.
    """

    columns: dict[str, list[str]]
    malformed: np.ndarray
    lines: np.ndarray
    remark: str = ""
    others: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.malformed)


@dataclass(frozen=True)
class _Records:
    """Cells by row, the lines in which the rows begin, int64 [N], and whether they have `several` lines, bool [N]."""

    rows: list[list[str]]
    lines: np.ndarray
    several: np.ndarray

    def widths(self) -> np.ndarray:
        """How many cells each row has, int64 [N]."""
        return np.fromiter(map(len, self.rows), np.int64, len(self.rows))

    def only(self, which: np.ndarray) -> "_Records":
        """The rows for which that holds, bool [N]."""
        return _Records(list(compress(self.rows, which.tolist())), self.lines[which], self.several[which])

    def below(self, at: int) -> "_Records":
        """The rows after row `at`."""
        return _Records(self.rows[at + 1 :], self.lines[at + 1 :], self.several[at + 1 :])


def read_table(path: Path, option: str, wanted: Sequence[str] | None = None) -> Table:
    """The columns `wanted` (all if None) of a file with a header, as spreadsheets, R, pandas and NumPy write it.

    Empty lines and comments (#) do not count, nor do empty columns without a name; others are named as in pandas,
    `Unnamed: 0`, and so are R's names of rows, for which the header has no cell. `option` opens the message of a
    DataError: for a file that cannot be read, lacks a column, or has a stray quote.
    """
    collected = gc.isenabled()
    gc.disable()  # it would walk the rows, so many small lists, again and again: half the time of a large table
    try:
        text, remark = read_text(path)
        return _read(text, remark, wanted)
    except CANNOT_READ as error:
        raise DataError(f"{option}: {path} cannot be read ({error or type(error).__name__})") from None
    finally:
        if collected:
            gc.enable()


def _read(text: str, remark: str, wanted: Sequence[str] | None) -> Table:
    separator = _separator(text)
    records = _records(text, separator)
    told = records.widths() > 0
    # as spreadsheets end; in between it is a row without values
    told[next((at for at in range(len(told), 0, -1) if any(records.rows[at - 1])), 0) :] = False
    records = records.only(told)
    if records.rows and re.fullmatch("sep=.?", records.rows[0][0]):
        records = records.below(0)
    names, records = _header(records, separator)
    if not names:
        raise ValueError("it has no header")
    width = len(names)
    malformed = records.widths() != width
    if (malformed & records.several).any():
        raise ValueError(_stray_quote(int(records.lines[malformed & records.several][0])))
    comments = np.zeros_like(malformed)
    for at in np.flatnonzero(malformed).tolist():
        comments[at] = records.rows[at][0][:1] == "#"
        records.rows[at] = [""] * width
    records, malformed = records.only(~comments), malformed[~comments]
    spaced = not text.isascii() or any(mark in text for mark in '" \t\v\f')
    by_column = [list(map(str.strip, column) if spaced else column) for column in zip(*records.rows, strict=True)]
    by_column = by_column or [[] for _ in names]
    columns = {
        name or f"Unnamed: {at}": cells
        for at, (name, cells) in enumerate(zip(names, by_column, strict=True))
        if name or any(cells)
    }
    if wanted is None:
        wanted = list(columns)
    absent = [name for name in wanted if name not in columns]
    if absent:
        raise ValueError(f"it has no column '{absent[0]}', only {', '.join(columns)}")
    return Table(
        {name: columns[name] for name in wanted},
        malformed,
        records.lines,
        remark,
        tuple(name for name in columns if name not in wanted),
    )


def _separator(text: str) -> str:
    """What parts the cells: what gives the header several, and most rows as many. Words are parted by spaces too."""
    head = list(islice(io.StringIO(text, newline=""), _LOOK_AT))
    told = re.fullmatch(r'"?sep=(.)"?\s*', head[0]) if head else None
    if told:
        return told[1]
    best, most = ",", 0.0
    for mark in _SEPARATORS:
        rows = [
            row for row in csv.reader(head, delimiter=mark, skipinitialspace=True) if any(row) and row[0][:1] != "#"
        ]
        width = len(rows[0]) if rows else 0
        share = sum(len(row) in (width, width + 1) for row in rows) / len(rows) if width > 1 else 0.0
        if share > max(most, 0.5 * (mark == " ")):
            best, most = mark, share
    return best


def _header(records: _Records, separator: str) -> tuple[list[str], _Records]:
    """The names of the columns, as many as most rows have cells, and the records below them."""
    rows = records.rows
    at = next((at for at, row in enumerate(rows) if any(row) and row[0][:1] != "#"), len(rows))
    if at and (at == len(rows) or _goes_on(rows[at - 1], rows[at])):
        at -= 1
    if not rows:
        return [], records
    names, records = [name.strip() for name in rows[at]], records.below(at)
    names[0] = names[0].lstrip("# ") or names[0]
    twice = [name for name, count in Counter(names).items() if count > 1 and name]
    if twice:
        numbers = "; its first line holds numbers, and should name the columns" if holds_numbers(names) else ""
        raise ValueError(f"its header names the column '{min(twice)}' twice{numbers}")
    usual = Counter(map(len, records.rows)).most_common(1)[0][0] if records.rows else len(names)
    if usual == len(names) + 1:
        # a separator at the end of every row, or R's names of rows
        longer = records.only(records.widths() == usual)
        trailing = not any(row[-1].strip() for row in longer.rows)
        if not trailing and not _name_rows([row[0] for row in longer.rows], separator):
            raise ValueError(
                f"line {longer.lines[0]} and others have one cell more than the header, and the first are no names of rows; "
                "put cells with a comma or a space of their own in quotes"
            )
        names = [*names, ""] if trailing else ["", *names]
    while len(names) > usual and not names[-1]:
        names.pop()
    return names, records


def _name_rows(cells: list[str], separator: str) -> bool:
    """Whether these may be R's names of rows, of which no two are alike. Between commas numbers must also count up by one:
    12,5 may be one number."""
    if len(set(cells)) < len(cells):
        return False
    numbers = to_numbers(cells)
    return separator != "," or bool(np.isnan(numbers).any() or (np.diff(numbers) == 1).all())


def _goes_on(comment: list[str], row: list[str]) -> bool:
    """Whether a comment is the header of the row below it, as NumPy writes it."""
    return len(comment) == len(row) and bool(np.isfinite(to_numbers(row)).any())


def _records(text: str, separator: str) -> _Records:
    """The records of a file, empty ones too. Only a quote can join lines: ValueError where it is not closed as it must be,
    for it would swallow good rows."""
    own: list[str] = []

    def remembered() -> Iterator[str]:
        for line in io.StringIO(text, newline=""):
            own.append(line)
            yield line

    def split(lines: Iterable[str], strict: bool = False) -> Any:
        return csv.reader(lines, delimiter=separator, skipinitialspace=True, strict=strict)

    if '"' not in text:
        rows = list(split(io.StringIO(text, newline="")))
        return _Records(rows, np.arange(1, len(rows) + 1), np.zeros(len(rows), dtype=bool))
    rows, sizes = [], []
    reader = split(remembered())
    try:
        for row in reader:
            if len(own) > 1:
                list(split(own, strict=True))
            rows.append(row)
            sizes.append(len(own))
            own.clear()
    except csv.Error as error:
        begin = reader.line_num - len(own) + 1
        raise ValueError(_stray_quote(begin) if len(own) > 1 else f"line {begin}: {error}") from None
    lines = np.array(sizes, dtype=np.int64)
    return _Records(rows, 1 + np.cumsum(lines) - lines, lines > 1)


def _stray_quote(line: int) -> str:
    return f"a quote in line {line} is not closed, and would swallow the lines after it"


def is_missing(cell: str) -> bool:
    """Whether the cell itself says that there is no value: empty, NA, NaN, null, none, ?, -, or an error of Excel."""
    return cell.lower() in _MISSING


def is_no_word(cell: str) -> bool:
    """Whether there is no value in a cell of words, where null, none, ? and - may be words: empty, NA, N/A or NaN."""
    return cell in _NO_WORD


def to_numbers(cells: Sequence[str]) -> np.ndarray:
    """float64 [N]; NaN where a cell is no finite number, whatever it says."""
    try:
        numbers = np.fromiter(map(float, cells), np.float64, len(cells))
    except ValueError:
        numbers = np.array([to_number(cell) for cell in cells], dtype=np.float64)
    else:
        if "_" in "".join(cells):  # which float() passes over
            numbers[["_" in cell for cell in cells]] = math.nan
    numbers[np.isinf(numbers)] = math.nan
    return numbers


def holds_numbers(header: Sequence[str]) -> bool:
    """Whether a first line is a row of the table rather than its header: a fourth of it, at least, are numbers."""
    return 4 * int(np.isfinite(to_numbers(header)).sum()) >= len(header)


def to_number(cell: str) -> float:
    """NaN if the cell is no finite number."""
    try:
        value = float(cell)
    except ValueError:
        return math.nan
    return value if math.isfinite(value) and "_" not in cell else math.nan


def refuse_huge(numbers: np.ndarray, column: str, file: str, option: str) -> None:
    """DataError, which `option` opens, if a number [N] is beyond fp32: it would be the scale of its column alone."""
    largest = float(np.nanmax(np.abs(numbers), initial=0.0))
    if largest > _LARGEST:
        raise DataError(
            f"{option}: column '{column}' of {file} holds a number of size {largest:g}; numbers must lie within "
            f"{_LARGEST:.1e}"
        )


def refuse_lost(numbers: np.ndarray, column: str, option: str) -> None:
    """DataError, which `option` opens, if fp32 would blur finite numbers, float64 [N]: if rounding to it moves them by more
    than a thousandth of their standard deviation (root mean squares). All equal, they may be what they like."""
    largest, spread = float(np.abs(numbers).max()), float(numbers.std())
    moved = float(np.sqrt(np.mean((numbers - numbers.astype(np.float32)) ** 2)))
    if numbers.min() < numbers.max() and moved > 1e-3 * spread:
        raise DataError(
            f"{option}: column '{column}': its spread {spread:.3g} is lost beside {largest:.3g} in fp32; subtract a "
            "constant first"
        )


def find_tables(data_dir: Path, folders: Sequence[str], pattern: str, option: str) -> list[Path]:
    """Files `pattern` (a glob without its ending: `.csv` or `.tsv`, packed or not, capitals too) that are not hidden, by
    name, of the first folder that holds any: DIR/<folder> for each of `folders`, then DIR. Empty if there are none.
    DataError, which `option` opens, if a file is there twice, packed and unpacked: its rows would count twice.
    """
    for root in (*(data_dir / folder for folder in folders), data_dir):
        files = (path for path in root.glob(pattern + ".*") if path.name[0] != ".")
        found = sorted(path for path in files if ENDING.search(path.name))
        for one, other in pairwise(found):
            if other.name.lower().startswith(one.name.lower() + "."):
                raise DataError(f"{option}: {one.name} and {other.name} in {root} are one file twice; remove one")
        if found:
            return found
    return []
