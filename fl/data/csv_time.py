"""The time column of the user's own table: what its cells say, and how regular they are."""

import math
import re
from collections.abc import Sequence
from datetime import datetime, timezone

import numpy as np

from .tables import is_missing

_ORDERS = ("ymd", "dmy", "mdy")
"""In which day, month and year may come; where the column does not tell, DAY_FIRST does."""
DAY_FIRST = {"yes": "dmy", "no": "mdy"}

_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_CLOCK = (
    r"(?:(?:[T ,]+|:)(?P<hour>\d{1,2})(?:[:.h]?(?P<minute>\d\d)(?:[:.]?(?P<second>\d\d)(?:[.,](?P<fraction>\d{1,9}))?)?)?"
    r" ?(?P<half>[AaPp])?(?(half)\.?[Mm]\.?) ?(?P<zone>Z|UTC|GMT|[-+]\d\d(?::?\d\d)?)?)?"
)
_DAY = r"(?:(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun)[a-z]*,? )?"
_FORMS = tuple(
    re.compile(_DAY + form + _CLOCK, re.IGNORECASE)
    for form in (
        r"(?P<a>\d{1,4})(?P<between>[-/. ])(?P<b>\d{1,2}|[a-z]{3,9})\.?(?P=between)(?P<c>\d{1,4})",
        r"(?P<b>[a-z]{3,9})\.? (?P<a>\d{1,2}),? (?P<c>\d{4})",
        r"(?P<a>\d{1,2})(?P<b>[a-z]{3})(?P<c>\d{4})",
        r"(?P<a>\d{4})(?P<b>\d\d)(?P<c>\d\d)",
        r"(?P<c>\d{4})[-/. M]?(?P<b>\d{1,2}|[a-z]{3,9})(?P<a>)",
        r"(?P<b>\d{1,2}|[a-z]{3,9})[-/. ](?P<c>\d{4})(?P<a>)",
    )
)


def read_times(cells: Sequence[str], dayfirst: str | None = None) -> tuple[np.ndarray, str]:
    """Dates and times of day as seconds since 1970, float64 [N], in UTC where no zone is given; NaN for anything else.

    Also the first cell that may be two dates where the column does not tell day from month, else "". `dayfirst`: "yes" or
    "no", or None to go by the column.
    """
    known = {cell: _read(cell) for cell in dict.fromkeys(cells)}
    each = np.array([known[cell] for cell in cells], dtype=np.float64).reshape(len(cells), len(_ORDERS))
    if dayfirst:
        return each[:, _ORDERS.index(DAY_FIRST[dayfirst])], ""
    readable = np.isfinite(each).sum(0)
    best = each[:, readable == readable.max()]
    differ = np.flatnonzero((best != best[:, :1]).any(1) & np.isfinite(best).any(1))
    return best[:, 0], cells[int(differ[0])] if len(differ) else ""


def read_compact(cells: Sequence[str]) -> np.ndarray | None:
    """The same for cells of which nearly all are dates of digits alone, as 201901, 20190105 or 201901051300; None where they
    are not, as seconds since 1970 are none."""
    digits = [cell.removesuffix(".0") for cell in cells]
    known = {cell: _compact(cell) for cell in dict.fromkeys(digits)}
    times = np.array([known[cell] for cell in digits], dtype=np.float64)
    given = sum(not is_missing(cell) for cell in digits)
    return times if 0 < 0.9 * given <= np.isfinite(times).sum() else None


def _read(cell: str) -> tuple[float, ...]:
    """A cell in each of the orders."""
    iso = _iso(cell)
    if not math.isnan(iso):
        return (iso,) * len(_ORDERS)
    found = next(filter(None, (form.fullmatch(cell) for form in _FORMS)), None)
    if found is None:
        return (math.nan,) * len(_ORDERS)
    seconds = _clock(found)
    a, b, c = (found[part].lower() for part in "abc")
    if not a or b.isalpha():  # a month alone begins with its first day
        month = b if b.isdigit() else _MONTHS.index(b[:3]) + 1 if b[:3] in _MONTHS else 0
        day = _day(a, month, c) if len(a) > 2 else _day(c, month, a or "1")
        return (day + seconds,) * len(_ORDERS)
    if len(a) > 2:
        return (_day(a, b, c) + seconds,) * len(_ORDERS)
    first = math.nan if len(c) > 2 else _day(a, b, c)
    return first + seconds, _day(c, b, a) + seconds, _day(c, a, b) + seconds


def _iso(cell: str) -> float:
    try:
        moment = datetime.fromisoformat(cell.removesuffix("Z"))
    except ValueError:
        return math.nan
    return moment.replace(tzinfo=moment.tzinfo or timezone.utc).timestamp()


def _day(year: str, month: str | int, day: str) -> float:
    """Seconds from 1970 to that day; years of two digits lie between 1969 and 2068. NaN if there is none."""
    full = int(year) if len(year) == 4 else int(year) + (1900 if int(year) >= 69 else 2000)
    if len(year) not in (2, 4) or len(day) > 2:
        return math.nan
    try:
        return datetime(full, int(month), int(day), tzinfo=timezone.utc).timestamp()
    except ValueError:
        return math.nan


def _clock(found: re.Match[str]) -> float:
    """Seconds from midnight UTC; 24:00 is the end of a day. NaN if there is no such time."""
    hour, minute, second = (int(found[part] or 0) for part in ("hour", "minute", "second"))
    if found["half"]:
        hour = hour % 12 + 12 * (found["half"] in "Pp") if 1 <= hour <= 12 else 99
    if minute > 59 or second > 59 or 3600 * hour + 60 * minute + second > 86_400:
        return math.nan
    zone = re.fullmatch(r"([-+])(\d\d):?(\d\d)?", found["zone"] or "")
    ahead = int(f"{zone[1]}1") * (3600 * int(zone[2]) + 60 * int(zone[3] or 0)) if zone else 0
    return 3600 * hour + 60 * minute + second + float(f"0.{found['fraction'] or 0}") - ahead


def _compact(cell: str) -> float:
    if len(cell) not in (6, 8, 10, 12, 14) or not re.fullmatch(r"(?:19|20)\d+", cell):
        return math.nan
    day = _day(cell[:4], cell[4:6], cell[6:8] or "1")
    hour, minute, second = (int(cell[at : at + 2] or 0) for at in (8, 10, 12))
    return day + 3600 * hour + 60 * minute + second if hour < 24 and minute < 60 and second < 60 else math.nan


def describe_gaps(time: np.ndarray, sequence: np.ndarray, gap_before: np.ndarray) -> tuple[int, str]:
    """How often time leaps within a sequence, and that in words, with the usual step in the unit of `time`.

    `time`: float64 [N], NaN where missing, and `sequence`, int64 [N], are in order; `gap_before` is what `find_gaps` found
    in them. A row at the moment of the one before is no leap, and is told apart.
    """
    known = np.isfinite(time)
    inside = np.diff(sequence[known]) == 0
    steps, leaps = np.diff(time[known]), gap_before[known][1:] & inside
    gaps, repeated = int((leaps & (steps > 0)).sum()), int((inside & (steps == 0)).sum())
    usual = f" (the usual step is {np.median(steps[inside & (steps > 0)]):.10g})" if gaps else ""
    again = f" and {repeated} row(s) at the moment of the one before" if repeated else ""
    return gaps, f"{gaps} gap(s) in time{usual}{again}"
