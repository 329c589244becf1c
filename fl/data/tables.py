"""Reading csv files, packed or not, without losing sight of what is missing in them."""

import csv
import gzip
import io
import math
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TypeVar

import numpy as np

from fl.data.files import UNREADABLE
from fl.errors import DataError

T = TypeVar("T")

_MISSING = frozenset({"", "na", "n/a", "nan", "null", "none", "?"})
_NO_WORD = frozenset({"", "NA", "na", "N/A", "n/a", "NaN", "nan"})
_LARGEST = float(np.finfo(np.float32).max)


@dataclass(frozen=True)
class Table:
    """The cells of one file by column, all text, each a list of N; `malformed`, bool [N], marks rows that could not be
    told apart into cells (too many or too few): their cells are empty."""

    columns: dict[str, list[str]]
    malformed: np.ndarray

    def __len__(self) -> int:
        return len(self.malformed)


def read_table(path: Path, option: str, wanted: Sequence[str] | None = None) -> Table:
    """The columns `wanted` (all if None) of a csv file with a header, `.csv` or `.csv.gz`; empty lines do not count.

    `option` opens the message of a DataError: for a file that cannot be read, lacks a column, or has a stray quote.
    """
    return _through(path, option, lambda lines: _read(lines, wanted))


def read_header(path: Path, option: str) -> list[str]:
    """The names of the columns of such a file; DataError as from `read_table`."""
    return _through(path, option, lambda lines: _header(_records(lines)))


def _through(path: Path, option: str, read: Callable[[Iterable[str]], T]) -> T:
    """What `read` makes of the lines of a file."""
    try:
        opened = gzip.open(path, "rb") if path.suffix.lower() == ".gz" else open(path, "rb")  # noqa: SIM115 (closed below)
        # a byte that is no UTF-8 spoils its own cell only
        with opened as file, io.TextIOWrapper(file, "utf-8-sig", errors="replace", newline="") as lines:
            return read(lines)
    except (*UNREADABLE, csv.Error, zlib.error) as error:
        raise DataError(f"{option}: {path} cannot be read ({error or type(error).__name__})") from None


def _read(lines: Iterable[str], wanted: Sequence[str] | None) -> Table:
    records = _records(lines)
    header = _header(records)
    names = header if wanted is None else list(wanted)
    absent = [name for name in names if name not in header]
    if absent:
        raise ValueError(f"it has no column '{absent[0]}', only {', '.join(header)}")
    at = [header.index(name) for name in names]
    cells: list[list[str]] = []
    malformed: list[bool] = []
    for first, row in records:
        if not row:
            continue
        if first and len(row) != len(header):
            raise ValueError(_stray_quote(first))
        malformed.append(len(row) != len(header))
        cells.append([""] * len(at) if malformed[-1] else [row[i].strip() for i in at])
    by_column = zip(*cells, strict=True) if cells else ([] for _ in names)
    return Table(dict(zip(names, map(list, by_column), strict=True)), np.array(malformed, dtype=bool))


def _header(records: Iterator[tuple[int, list[str]]]) -> list[str]:
    header = [name.strip() for name in next(records, (0, []))[1]]
    if not header:
        raise ValueError("it has no header")
    if len(header) == 1 and (";" in header[0] or "\t" in header[0]):
        raise ValueError(f"its header is one cell, {header[0]!r}: separate columns by commas")
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice:
        raise ValueError(f"its header names the column '{twice[0]}' twice")
    return header


def _records(lines: Iterable[str]) -> Iterator[tuple[int, list[str]]]:
    """The cells of each record, and the number of its first line if it has several, else 0.

    Only a quote can join lines. ValueError where it is not closed as it must be: it would swallow good rows.
    """
    own: list[str] = []

    def remembered() -> Iterator[str]:
        for line in lines:
            own.append(line)
            yield line

    rows = csv.reader(remembered())
    try:
        for row in rows:
            first = rows.line_num - len(own) + 1 if len(own) > 1 else 0
            if first:
                list(csv.reader(own, strict=True))
            yield first, row
            own.clear()
    except csv.Error as error:
        begin = rows.line_num - len(own) + 1
        raise ValueError(_stray_quote(begin) if len(own) > 1 else f"line {begin}: {error}") from None


def _stray_quote(line: int) -> str:
    return f"a quote in line {line} is not closed, and would swallow the lines after it"


def is_missing(cell: str) -> bool:
    """Whether the cell itself says that there is no value: empty, NA, NaN, null, none or ?."""
    return cell.lower() in _MISSING


def is_no_word(cell: str) -> bool:
    """Whether there is no value in a cell of words, where null, none and ? may be words: empty, NA, N/A or NaN."""
    return cell in _NO_WORD


def to_numbers(cells: Sequence[str]) -> np.ndarray:
    """float64 [N]; NaN where a cell is no finite number, whatever it says."""
    return np.array([_number(cell) for cell in cells], dtype=np.float64)


def _number(cell: str) -> float:
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
    """Files `pattern` (a glob without its ending: `.csv` or `.csv.gz`, capitals too) that are not hidden, by name, of the
    first folder that holds any: DIR/<folder> for each of `folders`, then DIR. Empty if there are none. DataError, which
    `option` opens, if a file is there twice, packed and unpacked: its rows would count twice.
    """
    for root in (*(data_dir / folder for folder in folders), data_dir):
        files = (path for path in root.glob(pattern + ".*") if path.name[0] != ".")
        found = sorted(path for path in files if path.name.lower().endswith((".csv", ".csv.gz")))
        for one, other in pairwise(found):
            if other.name.lower() == one.name.lower() + ".gz":
                raise DataError(f"{option}: {one.name} and {other.name} in {root} are one file twice; remove one")
        if found:
            return found
    return []
