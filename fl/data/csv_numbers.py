"""Numbers as people and programs write them: 1,525.50 and 1.525,50, 1 525 and 1'525, $12 and 12 %, 1.5D+03, (3).

Whether a point or a comma ends the whole part follows from the whole column: 7,4 is no thousands, 1,234,567 no decimals.
Where a column alone does not tell (1,525 beside 2,110), the other columns of the table do, or the user has to.
"""

import math
import re
from collections.abc import Sequence
from itertools import chain

import numpy as np

from .tables import is_missing, to_number, to_numbers

POINT, COMMA = "point", "comma"

_CURRENCY = r"(?:US|CA|AU|A|C|R)?\$|[€£¥₹₩₽₺]|kr\.?|zł|Kč|USD|EUR|GBP|CHF|SEK|NOK|DKK|PLN|CAD|AUD|BRL|INR|JPY|CNY"
_NUMBER = re.compile(
    rf"(?P<loss>\()?(?P<sign>[-+]?) ?(?P<before>{_CURRENCY})? ?(?P<minus>-?)(?P<digits>[\d.,' ]*\d[.,]?)"
    rf"(?P<exponent>[eEdD][-+]?\d+)? ?(?P<after>{_CURRENCY}|%)?(?P<end>-?)(?(loss)\))"
)
_ODD = str.maketrans({"\u2212": "-", "\u2013": "-", "\u00a0": " ", "\u202f": " ", "\u2009": " ", "\u2019": "'"})
_DIGITS = {
    mark: re.compile(rf"\d*(?:{re.escape(mark)}\d*)?|[1-9]\d{{0,2}}(?:{groups})(?:{re.escape(mark)}\d*)?")
    for mark, groups in (
        (".", r"(?:,\d{2,3})*,\d{3}|(?: \d{3})+|(?:'\d{3})+"),
        (",", r"(?:\.\d{3})+|(?: \d{3})+|(?:'\d{3})+"),
    )
}
_NO_CENTS = re.compile(r"(?<=\d)([.,])-{1,2}(?!\d)")
"""What follows a round sum: 5,- and 1.200,--."""
_EITHER = re.compile(r"[-+]?[1-9]\d{0,2}\.\d{3}")
_Values = tuple[float, float]
"""A cell with a decimal point and with a decimal comma; NaN where it then is no number."""


class Numbers:
    """A column as numbers. `mark`: POINT or COMMA, where the cells tell which; "" where it makes no difference; None where
    it does and they do not, as in `question`, the first such cell."""

    def __init__(self, cells: Sequence[str]) -> None:
        self._cells = cells
        self._values: dict[str, _Values] = {}
        self.question = ""
        self.mark: str | None = ""
        self.plain = to_numbers(cells)
        if np.isfinite(self.plain).all():
            dotted = (cell for cell in cells if "." in cell)
            first = next(dotted, "")
            if not first or any(not _EITHER.fullmatch(cell) for cell in chain([first], dotted)):
                self.mark = POINT if first else ""
                return
        distinct = dict.fromkeys(cells)
        self._values = _one_unit({cell: _read(cell) for cell in distinct if not is_missing(cell)})
        self.mark = self._decide()

    def read(self, mark: str) -> np.ndarray:
        """float64 [N], NaN where there is no number, with that decimal mark."""
        if not self._values:
            return self.plain
        at, nothing = int(mark == COMMA), (math.nan, math.nan)
        return np.array([self._values.get(cell, nothing)[at] for cell in self._cells], dtype=np.float64)

    def odd(self, numbers: np.ndarray) -> str:
        """The first cell that no program would read like this without being told, and how; empty if there is none."""
        at = np.flatnonzero(np.isfinite(numbers) & (numbers != self.plain))
        return f"'{self._cells[at[0]]}' = {numbers[at[0]]:.15g}" if len(at) else ""

    def _decide(self) -> str | None:
        values = self._values
        point, comma = (sum(not math.isnan(each[at]) for each in values.values()) for at in (0, 1))
        if point != comma:
            return POINT if point > comma else COMMA
        if any(math.isnan(one) != math.isnan(other) for one, other in values.values()):
            return POINT
        both = [cell for cell, (one, other) in values.items() if one != other and not math.isnan(one)]
        if not both:
            return ""
        self.question = both[0]
        # decimals end in 0 in all cells alike or in none: so 1,520 beside 999, 85 and 7 is no decimal
        whole = {abs(one) for one, other in values.values() if one == other} - {0}
        if len(whole) >= 3 and max(whole) < 1000 and any(re.search(r"[.,]\d\d0\b", cell) for cell in both):
            by_comma = {"," in cell for cell in both}
            if len(by_comma) == 1:
                return POINT if by_comma == {True} else COMMA
        return None


def settle(columns: dict[str, Numbers], told: str | None) -> tuple[dict[str, str], dict[str, str]]:
    """The decimal mark of each column, and of those that leave it open a cell. `told`: what the user says."""
    known = {each.mark for each in columns.values() if each.mark}
    marks, unsure = {}, {}
    for name, each in columns.items():
        mark = told if told and each.question else each.mark
        if mark is None:
            (mark,) = known if len(known) == 1 else (POINT,)
            # a point without any sign of commas is what programs write
            if len(known) != 1 and "," in each.question:
                unsure[name] = each.question
        marks[name] = mark or POINT
    return marks, unsure


def _read(cell: str) -> tuple[_Values, str]:
    """A cell's values, and its unit."""
    plain = to_number(cell)
    if not math.isnan(plain) and not _EITHER.fullmatch(cell):
        return (plain, math.nan if "." in cell else plain), ""
    found = _NUMBER.fullmatch(_NO_CENTS.sub(r"\g<1>0", cell.translate(_ODD)))
    if not found or (found["before"] and found["after"]):
        return (math.nan, math.nan), ""
    negative = [found[part] for part in ("sign", "minus", "end")].count("-") + bool(found["loss"])
    exponent = (found["exponent"] or "").lower().replace("d", "e")
    values = []
    for mark, digits in _DIGITS.items():
        if negative > 1 or not digits.fullmatch(found["digits"]):
            values.append(math.nan)
            continue
        text = re.sub(f"[^0-9{mark}]", "", found["digits"]).replace(mark, ".")
        values.append(float(f"{'-' if negative else ''}{text}{exponent}"))
    return (values[0], values[1]), found["before"] or found["after"] or ""


def _one_unit(read: dict[str, tuple[_Values, str]]) -> dict[str, _Values]:
    """The values of cells in one unit: of several the most frequent, beside which sums of money may lack theirs."""
    units = [unit for _, unit in read.values() if unit]
    unit = max(sorted(set(units)), key=units.count, default="")
    allowed = {unit} if unit == "%" else {unit, ""}
    return {cell: values if own in allowed else (math.nan, math.nan) for cell, (values, own) in read.items()}
