"""The time column of the user's own table: what its cells say, and how regular they are."""

import math
from collections.abc import Sequence
from datetime import datetime, timezone

import numpy as np


def read_times(cells: Sequence[str]) -> np.ndarray:
    """Dates and times of day as seconds since 1970, float64 [N], in UTC where no zone is given; NaN for anything else."""
    return np.array([_seconds(cell) for cell in cells], dtype=np.float64)


def _seconds(cell: str) -> float:
    try:
        moment = datetime.fromisoformat(cell.removesuffix("Z"))
    except ValueError:
        return math.nan
    return moment.replace(tzinfo=moment.tzinfo or timezone.utc).timestamp()


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
