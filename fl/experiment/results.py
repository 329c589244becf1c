"""What the finished runs of an experiment came to: results.csv and curves.csv."""

import csv
import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from fl.common.errors import ConfigError
from fl.output.record import read_metrics
from fl.training.tasks import ACCURACY, Score, score_of

from .matrix import Run
from .spec import Arm, Experiment

_TO_TARGET = (
    "rounds_to_target",
    "uplink_bytes_to_target",
    "downlink_bytes_to_target",
    "virtual_time_to_target_s",
)
TIMES = ("time_to_target_s", "seconds")
"""The columns of results.csv that differ when the same experiment is run again: the last ones."""


def _from_summary(score: Score) -> dict[str, str]:
    """Columns of results.csv, and where each is in summary.json."""
    judged = [f"{name}_{score.name}" for name in ("final_test", "final_val", "best_val")]
    same = ("rounds", *judged, "best_val_round", f"best_val_test_{score.name}")
    sent = {"uplink_bytes": "total_uplink_bytes", "downlink_bytes": "total_downlink_bytes"}
    return {**{name: name for name in same}, **sent, "uplink_ratio": "uplink_ratio"}


class Point(NamedTuple):
    """An evaluated round of a run: the score on the validation and on the test split, with what was sent and how long it
    took from the beginning to its end.

    `virtual_time_s`: when it was on the clients' virtual clock, if the run had one.
    """

    round: int
    validation: float | None
    test: float | None
    uplink_bytes: int
    downlink_bytes: int
    time_s: float
    virtual_time_s: float | None = None


def curve_of(metrics: Iterable[Mapping[str, float | None]]) -> list[Point]:
    """The evaluated rounds among the rows of metrics.csv, bytes and times added up over all rounds so far."""
    points: list[Point] = []
    metrics = list(metrics)
    columns = score_of(metrics[0] if metrics else ()).columns
    uplink, downlink, time_s = 0, 0, 0.0
    for row in metrics:
        uplink += int(row["uplink_bytes"] or 0)
        downlink += int(row["downlink_bytes"] or 0)
        time_s += row["time_s"] or 0.0
        validation, test = (row[column] for column in columns)
        if validation is not None or test is not None:
            virtual = row.get("virtual_time_s")
            points.append(Point(int(row["round"] or 0), validation, test, uplink, downlink, time_s, virtual))
    return points


def reach(curve: Iterable[Point], target: float | None, score: Score = ACCURACY) -> Point | None:
    """The first evaluated round as good as the target, or better, on *validation* data; None if there is none."""
    if target is None:
        return None
    known = (point for point in curve if point.validation is not None)
    return next((point for point in known if score.gain(point.validation or 0.0) >= score.gain(target)), None)


@dataclass(frozen=True)
class Row:
    """A finished run: its `cells` by column of results.csv, its curve, summary.json, and the CPU it ran on."""

    run: Run
    cells: dict[str, Any]
    curve: list[Point]
    summary: dict[str, Any]
    cpu: str


@dataclass(frozen=True)
class Results:
    """All finished runs, in the order of the file; `target` is a validation `score`, None where it is not known yet."""

    experiment: Experiment
    folder: Path
    rows: list[Row]
    missing: list[Run]
    target: float | None
    score: Score = ACCURACY

    def of(self, arm: Arm) -> list[Row]:
        """The finished runs of an arm."""
        return [row for row in self.rows if row.run.arm.name == arm.name]

    @property
    def private(self) -> bool:
        """Whether any of the runs was made with `--dp`."""
        return any("epsilon" in row.summary for row in self.rows)

    def write_tables(self) -> None:
        """Write results.csv and curves.csv; floats so that they read back exactly, None as an empty cell."""
        vary, (validation, test) = self.experiment.vary, self.score.columns
        target = (f"target_{validation}", *_TO_TARGET)
        judged = (*_from_summary(self.score), *(("epsilon",) if self.private else ()))
        columns = dict.fromkeys(("arm", "seed", *vary, *judged, "virtual_time_s", *target, "model_sha256", *TIMES))
        _write(self.folder / "results.csv", list(columns), [row.cells for row in self.rows])
        names = {"validation": validation, "test": test}
        columns = dict.fromkeys(("arm", "seed", *(names.get(name, name) for name in Point._fields if name != "time_s")))
        points = [
            {
                "arm": row.run.arm.name,
                "seed": row.run.seed,
                **{names.get(name, name): value for name, value in point._asdict().items()},
            }
            for row in self.rows
            for point in row.curve
        ]
        _write(self.folder / "curves.csv", list(columns), points)


def read_results(experiment: Experiment, runs: Sequence[Run], folder: Path) -> Results:
    """The results of those of `runs` that are finished, from their folders; they go to `folder`."""
    finished = [run for run in runs if (run.folder / "summary.json").exists()]
    summaries = {run.folder: json.loads((run.folder / "summary.json").read_text()) for run in finished}
    score = one_score(experiment, map(score_of, summaries.values()))
    target = _target_of(experiment, runs, summaries, score)
    rows = []
    for run in finished:
        summary = summaries[run.folder]
        curve = curve_of(read_metrics(run.folder))
        cells = {"arm": run.arm.name, "seed": run.seed, **run.arm.varied}
        cells |= {column: summary[key] for column, key in _from_summary(score).items()}
        cells |= {name: summary.get(name) for name in ("model_sha256", "seconds", "epsilon")}
        cells |= {"virtual_time_s": curve[-1].virtual_time_s if curve else None}
        cells |= {f"target_{score.columns[0]}": target, **_to_target(reach(curve, target, score))}
        machine = run.folder / "machine.json"
        cpu = json.loads(machine.read_text())["cpu"] if machine.exists() else "unknown"
        rows.append(Row(run, cells, curve, summary, cpu))
    return Results(experiment, folder, rows, [run for run in runs if run.folder not in summaries], target, score)


def one_score(experiment: Experiment, scores: Iterable[Score]) -> Score:
    """What runs with these scores are compared by; ConfigError if they have different tasks, or the target asks for
    another score."""
    found = list(dict.fromkeys(scores))
    target = experiment.target
    wanted = [target.score] if target is not None and target.value is not None else []
    several = list(dict.fromkeys(found + wanted))
    if len(several) > 1:
        where = "target and arms" if len(found) == 1 else "arms"
        words = " and ".join(score.title for score in several)
        raise ConfigError(f"{experiment.name}: {where} cannot be compared: they go by {words}")
    return several[0] if several else ACCURACY


def _target_of(
    experiment: Experiment, runs: Sequence[Run], summaries: Mapping[Path, dict[str, Any]], score: Score
) -> float | None:
    """The target on validation data; None without one, or until all seeds of the arm that sets it are finished."""
    target = experiment.target
    if target is None:
        return None
    if target.value is not None:
        return target.value
    own = [summaries.get(run.folder, {}).get(f"final_{score.columns[0]}") for run in runs if run.arm.name == target.arm]
    known = [value for value in own if value is not None]
    return score.gain(score.gain(statistics.fmean(known)) - target.minus) if len(known) == len(own) else None


def _to_target(point: Point | None) -> dict[str, Any]:
    if point is None:
        return {}
    return {
        "rounds_to_target": point.round + 1,
        "uplink_bytes_to_target": point.uplink_bytes,
        "downlink_bytes_to_target": point.downlink_bytes,
        "virtual_time_to_target_s": point.virtual_time_s,
        "time_to_target_s": point.time_s,
    }


def _write(path: Path, columns: list[str], rows: list[dict[str, Any]]) -> None:
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n", extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
