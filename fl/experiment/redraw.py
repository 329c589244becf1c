"""accuracy.png once more, from results.csv and curves.csv: the runs themselves are not needed."""

import csv
from collections.abc import Iterator
from pathlib import Path

from ..errors import ConfigError
from ..tasks import score_of
from .figure import draw_accuracy
from .matrix import matrix
from .results import Point, Results, Row
from .spec import Experiment


def redraw(experiment: Experiment, folder: Path) -> Path:
    """Draw the figure of the results in `folder`; its path. ConfigError if its tables are not those of the experiment."""
    results = read_tables(experiment, folder)
    path = folder / f"{results.score.name}.png"
    draw_accuracy(results, path)
    return path


def read_tables(experiment: Experiment, folder: Path) -> Results:
    """What `Results.write_tables` wrote, as far as the figure needs it: curves and the target."""
    cells, points = (list(_rows(folder / name)) for name in ("results.csv", "curves.csv"))
    score = score_of(points[0] if points else ())
    validation, test = score.columns
    runs = {
        (run.arm.name, run.seed): run
        for run in matrix(experiment, data_dir="data", output_dir=str(folder), threads=None)
    }
    curves: dict[tuple[str, int], list[Point]] = {}
    for row in points:
        point = Point(
            round=int(row["round"]),
            validation=_number(row[validation]),
            test=_number(row[test]),
            uplink_bytes=int(row["uplink_bytes"]),
            downlink_bytes=int(row["downlink_bytes"]),
            time_s=0.0,
            virtual_time_s=_number(row.get("virtual_time_s") or ""),
        )
        curves.setdefault((row["arm"], int(row["seed"])), []).append(point)
    strange = next((name for name in curves if name not in runs), None)
    if strange is not None:
        raise ConfigError(
            f"{folder} has results of arm '{strange[0]}' with seed {strange[1]}, which the experiment has not"
        )
    rows = [Row(run, {}, curves[name], {}, "") for name, run in runs.items() if name in curves]
    target = _number(next((row[f"target_{validation}"] for row in cells), ""))
    missing = [run for name, run in runs.items() if name not in curves]
    return Results(experiment, folder, rows, missing, target, score)


def _rows(path: Path) -> Iterator[dict[str, str]]:
    try:
        with open(path, newline="", encoding="utf-8") as file:
            yield from csv.DictReader(file)
    except OSError as error:
        raise ConfigError(f"{path} cannot be read ({error.strerror})") from None


def _number(cell: str) -> float | None:
    return float(cell) if cell else None
