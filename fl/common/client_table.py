"""A csv file with one line for each client, as a user writes it."""

import csv
import io
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from .errors import ConfigError
from .names import readable
from .text_file import CANNOT_READ, read_text

T = TypeVar("T")


def read_clients(
    option: str, path: Path, columns: Sequence[str], clients: int, make: Callable[[str, list[str]], T]
) -> tuple[T, ...]:
    """What `make` makes of each client's line, [clients], in the order of their numbers; empty lines do not count.

    The first of `columns` is `client`. `make` gets the beginning of an error message, which names the option, the file and
    the line, and the other cells. ConfigError for a file that is not such a table, in which every client is there once.
    """
    found: dict[int, T] = {}
    (first, header), *rows = read_lines(option, path) or [(1, [""])]
    if header != list(columns):
        raise ConfigError(
            f"{option} {path}, line {first}: the columns must be {','.join(columns)}, not '{','.join(header)}'"
        )
    for line, row in rows:
        where = f"{option} {path}, line {line}:"
        client, *cells = _cells(where, row, columns, clients)
        if int(client) in found:
            raise ConfigError(f"{where} client {client} is there twice")
        found[int(client)] = make(where, cells)
    missing = next((client for client in range(clients) if client not in found), None)
    if missing is not None:
        raise ConfigError(f"{option} {path}: client {missing} is missing; each of the {clients} clients needs a line")
    return tuple(found[client] for client in range(clients))


def read_lines(option: str, path: Path) -> list[tuple[int, list[str]]]:
    """The number and the cells of each line of a csv file that is not empty; ConfigError if it cannot be read."""
    try:
        reader = csv.reader(io.StringIO(read_text(path)[0], newline=""))
        return [(reader.line_num, [readable(cell.strip()) for cell in row]) for row in reader if row]
    except CANNOT_READ as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"{option} {path}: not a readable csv file ({reason})") from None


def _cells(where: str, row: list[str], columns: Sequence[str], clients: int) -> list[str]:
    if len(row) != len(columns):
        raise ConfigError(f"{where} a line is {','.join(columns)}, not '{','.join(row)}'")
    if not re.fullmatch("[0-9]{1,9}", row[0]) or int(row[0]) >= clients:
        raise ConfigError(f"{where} client must be a number from 0 to {clients - 1}, not '{row[0]}'")
    return row
