"""From rows in time to windows of a fixed length: never across a gap, a missing row, or the border of two splits."""

import numpy as np


def cut_starts(usable: np.ndarray, gap_before: np.ndarray | None = None, *, length: int, step: int = 1) -> np.ndarray:
    """First rows of all windows of `length` rows, int64 [W], ascending; every `step` rows within a run of usable ones.

    `usable`: bool [N], rows in order of time. `gap_before`: bool [N], where a row does not follow the one before it. Both
    end a run, and a new run starts its windows at its own first row. The rows of one split alone are cut by making the
    others unusable, so no window ever has rows of two.
    """
    if length < 1 or step < 1:
        raise ValueError(f"length and step of a window must be positive, not {length} and {step}")
    usable = np.asarray(usable, dtype=bool)
    starts_run = usable.copy()
    starts_run[1:] &= ~usable[:-1] if gap_before is None else ~usable[:-1] | gap_before[1:]
    ends_run = usable.copy()
    ends_run[:-1] = usable[:-1] & (~usable[1:] | starts_run[1:])
    firsts, ends = np.flatnonzero(starts_run), np.flatnonzero(ends_run) + 1
    counts = np.maximum(0, (ends - firsts - length) // step + 1)  # windows of each run
    number = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)  # of a window within its run
    return np.repeat(firsts, counts) + step * number


def take_windows(rows: np.ndarray, starts: np.ndarray, length: int) -> np.ndarray:
    """The windows [W, length, F] of `rows` [N, F] that begin at `starts` (int64 [W]), as a copy."""
    return rows[starts[:, None] + np.arange(length)]


def parts_in_time(count: int, fractions: tuple[float, ...], gap: int) -> list[slice]:
    """`count` rows in order of time as consecutive parts of about these fractions, `gap` rows between two parts unused.

    The gap is taken from what is shared out, so parts stay in proportion; with fewer rows than gaps all parts are empty.
    """
    shared = max(0, count - gap * (len(fractions) - 1))
    ends = np.rint(np.cumsum(fractions) / np.sum(fractions) * shared).astype(int)
    starts = np.concatenate([[0], ends[:-1]])
    return [
        slice(int(first) + gap * i, int(end) + gap * i) for i, (first, end) in enumerate(zip(starts, ends, strict=True))
    ]


def find_gaps(sequence: np.ndarray, time: np.ndarray | None, lost: np.ndarray) -> np.ndarray:
    """Which rows do not follow the one before, bool [N]: those of another sequence (int64 [N], in runs), and those at
    another distance in `time` [N] than is usual in theirs. Where only the order tells (None), those after a malformed
    row, of which it is not known whose it was; `lost`, int64 [N], counts these so far.
    """
    gap = np.ones(len(sequence), dtype=bool)
    gap[1:] = np.diff(sequence) != 0
    if time is None:
        gap[1:] |= np.diff(lost) != 0
        return gap
    for own in np.split(np.arange(len(sequence)), np.flatnonzero(gap)[1:]):
        steps = np.diff(time[own])
        usual = np.median(steps[steps > 0]) if (steps > 0).any() else 0.0
        gap[own[1:]] = ~((steps > 0) & (steps < 1.5 * usual))
    return gap
