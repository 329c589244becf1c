"""clients.csv of a run folder: what every client of a round computed and transferred."""

import csv
import math
from dataclasses import dataclass
from pathlib import Path

from fl.common.errors import DataError
from fl.output.record import TIMES

_COLUMNS = ("round", "client", "rank", "samples", "train_s", "uplink_bytes", "downlink_bytes", *TIMES)


@dataclass(frozen=True)
class ClientRow:
    """A client in a round. `samples` is 0 for one that was dropped; `train_flops`: the operations of its training, NaN
    where they are not known; `own_s`: seconds of computing on the run's own virtual clock, NaN without one."""

    client: int
    samples: int
    train_s: float
    train_flops: float
    up_bytes: int
    down_bytes: int
    own_s: float

    @property
    def link_bytes(self) -> int:
        """Both ways."""
        return self.up_bytes + self.down_bytes


def read_clients(folder: Path) -> dict[int, list[ClientRow]]:
    """The rows by round. A last line cut short by a kill is left out; DataError for anything else that is no such table."""
    path = folder / "clients.csv"
    try:
        with open(path, newline="", encoding="utf-8") as file:
            header, *lines = list(csv.reader(file)) or [[]]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} cannot be read ({error})") from None
    for column in _COLUMNS:
        if column not in header:
            raise DataError(f"{path} has no column '{column}'; was it written by another version?")
    if lines and len(lines[-1]) < len(header):
        lines.pop()
    by_round: dict[int, list[ClientRow]] = {}
    for number, line in enumerate(lines, start=2):
        where = f"{path}, line {number}:"
        if len(line) != len(header):
            raise DataError(f"{where} {len(line)} cells where the header has {len(header)}")
        cells = {"train_flops": "", **dict(zip(header, line, strict=True))}  # not there in earlier versions
        row = ClientRow(
            client=_whole(cells, "client", where),
            samples=_whole(cells, "samples", where, empty=0.0),
            train_s=_number(cells, "train_s", where, empty=0.0),
            train_flops=_number(cells, "train_flops", where, empty=math.nan),
            up_bytes=_whole(cells, "uplink_bytes", where),
            down_bytes=_whole(cells, "downlink_bytes", where),
            own_s=_number(cells, "sent_s", where, empty=math.nan) - _number(cells, "ready_s", where, empty=math.nan),
        )
        by_round.setdefault(_whole(cells, "round", where), []).append(row)
    return by_round


def _number(cells: dict[str, str], column: str, where: str, empty: float | None = None) -> float:
    """`empty`: what an empty cell stands for, if it may be empty."""
    text = cells[column]
    if not text and empty is not None:
        return empty
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise DataError(f"{where} {column} must be a number of 0 or more, not '{text}'")
    return value


def _whole(cells: dict[str, str], column: str, where: str, empty: float | None = None) -> int:
    value = _number(cells, column, where, empty)
    if not value.is_integer():
        raise DataError(f"{where} {column} must be a whole number, not '{cells[column]}'")
    return int(value)
