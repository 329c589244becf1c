"""The score of a task: the one metric by which rounds are compared, a plateau is seen and a target is reached.

Everything that reads a finished run asks here which columns hold it: `val_<name>` and `test_<name>` in metrics.csv,
`final_test_<name>` and others in summary.json.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

Value = TypeVar("Value", float, np.ndarray)


@dataclass(frozen=True)
class Score:
    """A metric. `name`: in columns; `title`: in words; `percent`: whether it is told in per cent; `most`: its best value,
    None for one that is better the lower it is."""

    name: str
    title: str
    percent: bool
    most: float | None = 1.0

    @property
    def columns(self) -> tuple[str, str]:
        """Its columns of metrics.csv, on the validation and on the test split."""
        return f"val_{self.name}", f"test_{self.name}"

    def words(self, value: float) -> str:
        """A value as people say it: 97.31%, or 0.9731."""
        return f"{value:.2%}" if self.percent else f"{value:.4f}"

    def gain(self, value: Value) -> Value:
        """One value, or an array of them, so that higher is better; and back."""
        return value if self.most is not None else -value


ACCURACY = Score("accuracy", "accuracy", percent=True)
R2 = Score("r2", "R2", percent=False)
BITS_PER_BYTE = Score("bits_per_byte", "bits per byte", percent=False, most=None)
SCORES = {score.name: score for score in (ACCURACY, R2, BITS_PER_BYTE)}


def score_of(names: Iterable[str]) -> Score:
    """The score of the run whose metrics.csv has these columns, or whose summary.json these keys; accuracy by default."""
    known = set(names)
    own = {score: (score.columns[0], f"final_{score.columns[0]}") for score in SCORES.values()}
    return next((score for score, names in own.items() if not known.isdisjoint(names)), ACCURACY)
