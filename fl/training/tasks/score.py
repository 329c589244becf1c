"""The score of a task: the one metric by which rounds are compared, a plateau is seen and a target is reached.

Everything that reads a finished run asks here which columns hold it: `val_<name>` and `test_<name>` in metrics.csv,
`final_test_<name>` and others in summary.json.
"""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Score:
    """A metric of which 1 is the best. `name`: in columns; `title`: in words; `percent`: whether it is told in per cent."""

    name: str
    title: str
    percent: bool

    @property
    def columns(self) -> tuple[str, str]:
        """Its columns of metrics.csv, on the validation and on the test split."""
        return f"val_{self.name}", f"test_{self.name}"

    def words(self, value: float) -> str:
        """A value as people say it: 97.31%, or 0.9731."""
        return f"{value:.2%}" if self.percent else f"{value:.4f}"


ACCURACY = Score("accuracy", "accuracy", percent=True)
R2 = Score("r2", "R2", percent=False)
SCORES = {score.name: score for score in (ACCURACY, R2)}


def score_of(names: Iterable[str]) -> Score:
    """The score of the run whose metrics.csv has these columns, or whose summary.json these keys; accuracy by default."""
    known = set(names)
    own = {score: (score.columns[0], f"final_{score.columns[0]}") for score in SCORES.values()}
    return next((score for score, names in own.items() if not known.isdisjoint(names)), ACCURACY)
