"""The comparison of arms as two tables of text, for report.md and for the console."""

import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from fl.output.summary_table import duration
from fl.training.tasks import Score

from .results import Results, Row
from .spec import Arm


class Spread(NamedTuple):
    """Mean and sample standard deviation (n - 1 in the denominator; None for a single value) of n values."""

    mean: float
    deviation: float | None
    n: int


def spread(values: Iterable[float | None]) -> Spread | None:
    """Mean and spread of the values that are not None; None if there is none."""
    known = [value for value in values if value is not None]
    if not known:
        return None
    return Spread(statistics.fmean(known), statistics.stdev(known) if len(known) > 1 else None, len(known))


@dataclass(frozen=True)
class Table:
    """A table of text."""

    title: str
    header: list[str]
    rows: list[list[str]]

    def markdown(self) -> str:
        """The table in Markdown, title included."""
        lines = [self.header, ["---"] * len(self.header), *self.rows]
        body = "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
        return f"## {self.title}\n\n{body}\n"


def tables(results: Results) -> list[Table]:
    """One row per arm: the whole run, and (where the experiment has a target) what it took to reach the target."""
    return [_whole_run(results), _to_target(results)] if results.experiment.target else [_whole_run(results)]


def _whole_run(results: Results) -> Table:
    header = ["arm", "n", "test, last", "test, best", "validation, last", "uplink", "downlink"]
    header += [*(["epsilon"] if results.private else []), *_clocks(results)]
    lines = []
    for arm in results.experiment.arms:
        rows = results.of(arm)
        line = [arm.name, str(len(rows))]
        for column in ("final_test", "best_val_test", "final_val"):
            line.append(scores(_column(rows, f"{column}_{results.score.name}"), results.score))
        ratio = _column(rows, "uplink_ratio")
        line.append(megabytes(_column(rows, "uplink_bytes")) + (f" ({ratio.mean:,.1f}x)" if ratio else ""))
        line.append(megabytes(_column(rows, "downlink_bytes")))
        if results.private:
            epsilon = _column(rows, "epsilon")
            line.append("-" if epsilon is None else f"{epsilon.mean:.3g}")
        if has_virtual_time(results):
            line.append(seconds(_column(rows, "virtual_time_s")))
        line.append(seconds(_column(rows, "seconds")))
        lines.append(line)
    return Table("Whole run", header, lines)


def _to_target(results: Results) -> Table:
    title = "To the target: not known until all seeds of its arm are finished"
    if results.target is not None:
        title = f"To {scores(Spread(results.target, None, 1), results.score)} validation {results.score.title}"
    columns = {
        "rounds_to_target": rounds,
        "uplink_bytes_to_target": megabytes,
        "downlink_bytes_to_target": megabytes,
        **({"virtual_time_to_target_s": seconds} if has_virtual_time(results) else {}),
        "time_to_target_s": seconds,
    }
    reference = results.of(reference_arm(results))
    lines = []
    for arm in results.experiment.arms:
        rows = results.of(arm)
        reached = _column(rows, "rounds_to_target")
        line = [arm.name, f"{reached.n if reached else 0} of {len(rows)}"]
        line += [words(_column(rows, name)) + _ratio(reference, rows, name) for name, words in columns.items()]
        lines.append(line)
    return Table(title, ["arm", "reached", "rounds", "uplink", "downlink", *_clocks(results)], lines)


def has_virtual_time(results: Results) -> bool:
    """Whether any of the runs had clients on a virtual clock."""
    return any(row.cells.get("virtual_time_s") is not None for row in results.rows)


def _clocks(results: Results) -> list[str]:
    return ["virtual time", "time"] if has_virtual_time(results) else ["time"]


def reference_arm(results: Results) -> Arm:
    """The arm that others are compared with: the target's, else the first."""
    target = results.experiment.target
    name = target.arm if target is not None else None
    return next((arm for arm in results.experiment.arms if arm.name == name), results.experiment.arms[0])


def _column(rows: Sequence[Row], column: str) -> Spread | None:
    return spread(row.cells.get(column) for row in rows)


def _ratio(reference: Sequence[Row], rows: Sequence[Row], column: str) -> str:
    """Ratio of the means; none where a seed did not reach the target, since the seeds that did are the lucky ones."""
    ours, theirs = _column(rows, column), _column(reference, column)
    if ours is None or theirs is None or ours.n < len(rows) or theirs.n < len(reference) or not ours.mean:
        return ""
    ratio = theirs.mean / ours.mean
    return f" ({ratio:,.1f}x)" if ratio >= 0.95 else f" ({ratio:.2g}x)"


def scores(value: Spread | None, score: Score) -> str:
    """Accuracies as per cent, 65.12 ± 0.31 %; others as they are, 0.9731 ± 0.0012."""
    if score.percent:
        return _words(value, lambda number: f"{100 * number:.2f}", " %")
    return _words(value, lambda number: f"{number:.4f}", "")


def megabytes(value: Spread | None) -> str:
    """Bytes as MB (10^6 bytes), with three decimals below 10 MB."""
    digits = 1 if value is not None and value.mean >= 1e7 else 3
    return _words(value, lambda number: f"{number / 1e6:,.{digits}f}", " MB")


def rounds(value: Spread | None) -> str:
    """A number of rounds."""
    return _words(value, lambda number: f"{number:.1f}".removesuffix(".0"), "")


def seconds(value: Spread | None) -> str:
    """Seconds as a person says them; the spread is left out: times are those of one machine at one moment."""
    return "-" if value is None else duration(value.mean)


def _words(value: Spread | None, number: Callable[[float], str], unit: str) -> str:
    if value is None:
        return "-"
    deviation = "" if value.deviation is None else f" ± {number(value.deviation) if value.deviation else 0}"
    return number(value.mean) + deviation + unit
