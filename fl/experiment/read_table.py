"""results.csv and curves.csv as they were written: whatever is damaged is one sentence that names file and line."""

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fl.common.errors import ConfigError


@dataclass(frozen=True)
class Cells:
    """A line of a table, by column; `where` begins the message of every ConfigError."""

    where: str
    cells: dict[str, str]

    def text(self, column: str) -> str:
        """The cell as it is; ConfigError without such a column."""
        if column not in self.cells:
            raise ConfigError(f"{self.where}: there is no column '{column}'")
        return self.cells[column]

    def number(self, column: str) -> float | None:
        """None for an empty cell; ConfigError for something else than a number."""
        text = self.text(column)
        try:
            return float(text) if text else None
        except ValueError:
            raise ConfigError(f"{self.where}: {column} must be a number, not '{text}'") from None

    def whole(self, column: str) -> int:
        """ConfigError for something else than a whole number."""
        text = self.text(column)
        try:
            return int(text)
        except ValueError:
            raise ConfigError(f"{self.where}: {column} must be a whole number, not '{text}'") from None


@dataclass(frozen=True)
class TableFile:
    """A csv file: its header, and the lines below it, of which there is at least one."""

    path: Path
    header: list[str]
    lines: list[list[str]]

    def rows(self) -> Iterator[Cells]:
        """The lines; ConfigError for one of another length than the header."""
        for number, line in enumerate(self.lines, start=2):
            where = f"{self.path}, line {number}"
            if len(line) != len(self.header):
                raise ConfigError(f"{where} has {len(line)} cells where the header has {len(self.header)}")
            yield Cells(where, dict(zip(self.header, line, strict=True)))


def read_table(path: Path) -> TableFile:
    """ConfigError for a file that cannot be read, or that holds no results."""
    try:
        with open(path, newline="", encoding="utf-8") as file:
            header, *lines = list(csv.reader(file)) or [[]]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"{path} cannot be read ({getattr(error, 'strerror', None) or error})") from None
    if not lines:
        raise ConfigError(f"{path} holds no results, so there is nothing to draw")
    return TableFile(path, header, lines)
