"""accuracy.png once more, from results.csv and curves.csv: the runs themselves are not needed."""

from pathlib import Path

from fl.common.errors import ConfigError
from fl.training.tasks import score_of

from .matrix import matrix
from .read_table import read_table
from .results import Point, Results, Row
from .spec import Experiment


def redraw(experiment: Experiment, folder: Path) -> Path:
    """Draw the figure of the results in `folder`; its path. ConfigError if its tables are not those of the experiment."""
    from .figure import draw_accuracy

    results = read_tables(experiment, folder)
    path = folder / f"{results.score.name}.png"
    draw_accuracy(results, path)
    return path


def read_tables(experiment: Experiment, folder: Path) -> Results:
    """What `Results.write_tables` wrote, as far as the figure needs it: curves and the target."""
    points = read_table(folder / "curves.csv")
    score = score_of(points.header)
    validation, test = score.columns
    finished = read_table(folder / "results.csv")
    runs = {
        (run.arm.name, run.seed): run
        for run in matrix(experiment, data_dir="data", output_dir=str(folder), threads=None)
    }
    curves: dict[tuple[str, int], list[Point]] = {}
    for row in points.rows():
        point = Point(
            round=row.whole("round"),
            validation=row.number(validation),
            test=row.number(test),
            uplink_bytes=row.whole("uplink_bytes"),
            downlink_bytes=row.whole("downlink_bytes"),
            time_s=0.0,
            virtual_time_s=row.number("virtual_time_s") if "virtual_time_s" in points.header else None,
        )
        curves.setdefault((row.text("arm"), row.whole("seed")), []).append(point)
    strange = next((name for name in curves if name not in runs), None)
    if strange is not None:
        raise ConfigError(
            f"{folder} has results of arm '{strange[0]}' with seed {strange[1]}, which the experiment has not"
        )
    _refuse_cut(points.path, curves)
    rows = [
        Row(run, {"virtual_time_s": curves[name][-1].virtual_time_s}, curves[name], {}, "")
        for name, run in runs.items()
        if name in curves
    ]
    target = next(finished.rows()).number(f"target_{validation}")
    missing = [run for name, run in runs.items() if name not in curves]
    return Results(experiment, folder, rows, missing, target, score)


def _refuse_cut(path: Path, curves: dict[tuple[str, int], list[Point]]) -> None:
    """ConfigError unless all seeds of an arm were evaluated in the same rounds: the figure shows their mean."""
    first: dict[str, tuple[int, list[int]]] = {}
    for (arm, seed), curve in curves.items():
        own = [point.round for point in curve]
        other, rounds = first.setdefault(arm, (seed, own))
        if own != rounds:
            raise ConfigError(f"{path}: arm '{arm}' has other rounds with seed {seed} than with seed {other}")
