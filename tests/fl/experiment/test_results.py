"""Targets, means, spreads and tables. Oracle: numbers worked out by hand."""

import csv
import json
import math
from pathlib import Path
from typing import Any

import pytest

from fl.common.errors import ConfigError
from fl.common.files import write_json
from fl.experiment.matrix import Run, matrix
from fl.experiment.report import report, write_report
from fl.experiment.results import TIMES, Point, Results, curve_of, reach, read_results
from fl.experiment.runs import _write_results
from fl.experiment.spec import parse_experiment
from fl.experiment.tables import Spread, spread, tables
from fl.training.tasks import BITS_PER_BYTE, R2
from tests.fl.experiment.test_spec import changed


def _metrics(*rounds: tuple[float | None, float | None, int, int, float]) -> list[dict[str, float | None]]:
    names = ("val_accuracy", "test_accuracy", "uplink_bytes", "downlink_bytes", "time_s")
    return [{"round": float(at), **dict(zip(names, cells, strict=True))} for at, cells in enumerate(rounds)]


CURVE = curve_of(
    _metrics(
        (None, None, 10, 100, 1.0),
        (0.4, 0.9, 20, 200, 2.0),
        (None, None, 30, 300, 3.0),
        (0.7, 0.1, 40, 400, 4.0),
        (0.6, 0.2, 50, 500, 5.0),
    )
)


def test_a_curve_holds_evaluated_rounds_and_all_bytes() -> None:
    """Bytes and times of the rounds without evaluation are in the sums."""
    assert [
        Point(1, 0.4, 0.9, 30, 300, 3.0),
        Point(3, 0.7, 0.1, 100, 1000, 10.0),
        Point(4, 0.6, 0.2, 150, 1500, 15.0),
    ] == CURVE


@pytest.mark.parametrize(
    ("target", "round_"), [(0.4, 1), (0.41, 3), (0.7, 3), (0.71, None), (0.9, None), (0.0, 1), (None, None)]
)
def test_a_target_is_reached_on_validation_alone(target: float | None, round_: int | None) -> None:
    """The first evaluated round with at least so much; a test accuracy of 0.9 in round 1 helps nobody."""
    point = reach(CURVE, target)
    assert (point.round if point else None) == round_


def test_a_score_that_falls_reaches_its_target_from_above() -> None:
    """Bits per byte: the first round with as few, or fewer; a round with more is no better."""
    curve = [Point(at, bits, bits, 1, 1, 1.0) for at, bits in enumerate((4.0, 3.5, 3.0))]
    found = [reach(curve, target, BITS_PER_BYTE) for target in (3.5, 3.2, 2.0)]
    assert [point and point.round for point in found] == [1, 2, None]


@pytest.mark.parametrize("value", [0, -1.0, math.inf, "3", True])
def test_a_target_of_bits_that_is_none(value: object) -> None:
    """It may be above 1, as an accuracy may not."""
    assert parse_experiment(changed(target={"val_bits_per_byte": 2.5})).target.value == 2.5
    with pytest.raises(ConfigError, match="must be a number above 0"):
        parse_experiment(changed(target={"val_bits_per_byte": value}))


def test_rounds_without_validation_reach_nothing() -> None:
    """A run without validation data has test accuracies only."""
    assert reach(curve_of(_metrics((None, 0.9, 1, 1, 1.0))), 0.1) is None


def test_mean_and_spread() -> None:
    """1, 2, 6: mean 3, squared deviations 4 + 1 + 9 over n - 1 = 2 give the square root of 7; None is not counted."""
    assert spread([1, None, 2, 6]) == Spread(3.0, math.sqrt(7), 3)
    assert spread([5.0]) == Spread(5.0, None, 1)
    assert spread([None]) is None
    assert spread([]) is None


def _finish(run: Run, accuracies: list[float], sent: int) -> None:
    """A run folder as rank 0 would leave it: so many bytes up and ten times as many down a round, a second each."""
    run.folder.mkdir(parents=True)
    rows = _metrics(*((value, value + 0.01, sent, 10 * sent, 1.0) for value in accuracies))
    with open(run.folder / "metrics.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    best = max(range(len(rows)), key=lambda at: (accuracies[at], -at))
    summary: dict[str, Any] = {
        "rounds": len(rows),
        "final_test_accuracy": accuracies[-1] + 0.01,
        "final_val_accuracy": accuracies[-1],
        "best_val_round": best,
        "best_val_accuracy": accuracies[best],
        "best_val_test_accuracy": accuracies[best] + 0.01,
        "total_uplink_bytes": sent * len(rows),
        "total_downlink_bytes": 10 * sent * len(rows),
        "uplink_ratio": 1e6 / sent,
        "seconds": float(len(rows)),
        "model_sha256": f"{run.folder.name}-sha",
        "device": "cpu",
        "torch": "2.x",
        "world_size": 1,
    }
    write_json(run.folder / "summary.json", summary)
    write_json(run.folder / "machine.json", {"cpu": "a CPU"})


@pytest.fixture
def runs(tmp_path: Path) -> tuple[Run, ...]:
    """Two arms with two seeds: dense ends at 0.6 and 0.8, so the target is 0.7 - 0.1 = 0.6."""
    experiment = parse_experiment(changed(target={"arm": "dense", "minus": 0.1}))
    return matrix(experiment, data_dir="data", output_dir=str(tmp_path), threads=None)


def _results(runs: tuple[Run, ...], tmp_path: Path) -> Results:
    return read_results(parse_experiment(changed(target={"arm": "dense", "minus": 0.1})), runs, tmp_path)


def _finish_all(runs: tuple[Run, ...]) -> None:
    for run, accuracies in zip(runs, ([0.2, 0.6], [0.65, 0.8], [0.1, 0.61], [0.1, 0.2]), strict=True):
        _finish(run, accuracies, 1_000_000 if run.arm.name == "dense" else 10_000)


def test_target_relative_to_an_arm(runs: tuple[Run, ...], tmp_path: Path) -> None:
    """Mean of 0.6 and 0.8, minus 0.1: reached after 2 and 1 rounds by dense; by one seed of the other arm."""
    _finish_all(runs)
    results = _results(runs, tmp_path)
    assert results.target == pytest.approx(0.6, abs=1e-15)
    cells = [row.cells for row in results.rows]
    assert [row.get("rounds_to_target") for row in cells] == [2, 1, 2, None]
    assert [row.get("uplink_bytes_to_target") for row in cells] == [2_000_000, 1_000_000, 20_000, None]
    assert [row.get("downlink_bytes_to_target") for row in cells] == [20_000_000, 10_000_000, 200_000, None]
    assert [row.get("time_to_target_s") for row in cells] == [2.0, 1.0, 2.0, None]


def test_a_relative_target_waits_for_all_seeds(runs: tuple[Run, ...], tmp_path: Path) -> None:
    """Until then it would depend on which runs happen to be there."""
    _finish(runs[0], [0.6], 10)
    _finish(runs[2], [0.9], 10)
    results = _results(runs, tmp_path)
    assert results.target is None
    assert len(results.rows) == 2
    assert results.missing == [runs[1], runs[3]]
    text = report(results)
    assert "Not finished yet" in text
    assert runs[1].folder.name in text


def test_csv_files(runs: tuple[Run, ...], tmp_path: Path) -> None:
    """Columns in the documented order, times last; floats read back exactly; what was not reached is empty."""
    _finish_all(runs)
    _results(runs, tmp_path).write_tables()
    with open(tmp_path / "results.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == [
        *("arm", "seed", "uplink", "lr", "rounds", "final_test_accuracy", "final_val_accuracy", "best_val_accuracy"),
        *("best_val_round", "best_val_test_accuracy", "uplink_bytes", "downlink_bytes", "uplink_ratio"),
        *("virtual_time_s", "target_val_accuracy", "rounds_to_target", "uplink_bytes_to_target"),
        *("downlink_bytes_to_target", "virtual_time_to_target_s", "model_sha256"),
        *("time_to_target_s", "seconds"),
    ]
    assert tuple(list(rows[0])[-2:]) == TIMES
    assert [(row["arm"], row["seed"], row["lr"]) for row in rows] == [
        *(("dense", "0", "0.1"), ("dense", "3", "0.1"), ("topk 1 %", "0", "0.01"), ("topk 1 %", "3", "0.01")),
    ]
    assert float(rows[0]["final_test_accuracy"]) == 0.6 + 0.01
    assert rows[3]["uplink_bytes_to_target"] == rows[3]["time_to_target_s"] == ""
    assert (tmp_path / "curves.csv").read_text().splitlines()[:3] == [
        "arm,seed,round,val_accuracy,test_accuracy,uplink_bytes,downlink_bytes,virtual_time_s",
        "dense,0,0,0.2,0.21000000000000002,1000000,10000000,",
        "dense,0,1,0.6,0.61,2000000,20000000,",
    ]


def test_tables_and_report(runs: tuple[Run, ...], tmp_path: Path) -> None:
    """Means ± spreads by hand: 0.6 and 0.8 are 70.00 ± 14.14 %, 2 and 1 MB are 1.500 ± 0.707 MB."""
    _finish_all(runs)
    results = _results(runs, tmp_path)
    whole, to_target = tables(results)
    assert whole.rows[0] == [
        *("dense", "2", "71.00 ± 14.14 %", "71.00 ± 14.14 %", "70.00 ± 14.14 %"),
        *("2.000 ± 0 MB (1.0x)", "20.0 ± 0 MB", "2.0 s"),
    ]
    assert to_target.title == "To 60.00 % validation accuracy"
    assert to_target.rows == [
        ["dense", "2 of 2", "1.5 ± 0.7 (1.0x)", "1.500 ± 0.707 MB (1.0x)", "15.0 ± 7.1 MB (1.0x)", "1.5 s (1.0x)"],
        ["topk 1 %", "1 of 2", "2", "0.020 MB", "0.200 MB", "2.0 s"],
    ]
    path = write_report(results)
    text = path.read_text()
    for words in ("# good", "A sentence.", "Seeds: 0, 3", "* dataset: `digits`", "| topk 1 % | `topk:0.01` | `0.01` |"):
        assert words in text
    for words in ("* CPU: `a CPU`", "* torch: `2.x`", "* threads: `1`"):
        assert words in text
    assert (tmp_path / "accuracy.png").read_bytes().startswith(b"\x89PNG")


def test_private_runs_have_their_epsilon(runs: tuple[Run, ...], tmp_path: Path) -> None:
    """A column of results.csv and of the report, empty for the arm without noise; without private runs there is none."""
    _finish_all(runs)
    for run in runs[2:]:
        path = run.folder / "summary.json"
        write_json(path, {**json.loads(path.read_text()), "epsilon": 4.1849})
    results = _results(runs, tmp_path)
    results.write_tables()
    with open(tmp_path / "results.csv", newline="") as file:
        assert [row["epsilon"] for row in csv.DictReader(file)] == ["", "", "4.1849", "4.1849"]
    whole, _ = tables(results)
    assert [line[whole.header.index("epsilon")] for line in whole.rows] == ["-", "4.18"]


def test_a_ratio_is_given_where_all_seeds_reached(runs: tuple[Run, ...], tmp_path: Path) -> None:
    """1.5 MB against 15 kB on average: 100 times; a round more or less tells in the rounds' ratio."""
    for run, accuracies in zip(runs, ([0.2, 0.6], [0.65, 0.8], [0.1, 0.61], [0.7, 0.2]), strict=True):
        _finish(run, accuracies, 1_000_000 if run.arm.name == "dense" else 10_000)
    _, to_target = tables(_results(runs, tmp_path))
    assert to_target.rows[1][1:4] == ["2 of 2", "1.5 ± 0.7 (1.0x)", "0.015 ± 0.007 MB (100.0x)"]


def test_a_regression_is_compared_by_its_r2(runs: tuple[Run, ...], tmp_path: Path) -> None:
    """The same runs under the names of R2: the same figures, not in per cent; an accuracy as the target is refused."""
    _finish_all(runs)
    for run in runs:
        for name in ("metrics.csv", "summary.json"):
            path = run.folder / name
            path.write_text(path.read_text().replace("accuracy", "r2"))
    results = _results(runs, tmp_path)
    assert results.score == R2
    whole, to_target = tables(results)
    assert whole.rows[0][2:5] == ["0.7100 ± 0.1414", "0.7100 ± 0.1414", "0.7000 ± 0.1414"]
    assert to_target.title == "To 0.6000 validation R2"
    assert to_target.rows[0][1:3] == ["2 of 2", "1.5 ± 0.7 (1.0x)"]
    results.write_tables()
    assert "final_test_r2,final_val_r2,best_val_r2" in (tmp_path / "results.csv").read_text().splitlines()[0]
    assert "val_r2,test_r2" in (tmp_path / "curves.csv").read_text().splitlines()[0]
    assert "The target is a validation R2" in write_report(results).read_text()
    assert (tmp_path / "r2.png").read_bytes().startswith(b"\x89PNG")
    assert read_results(parse_experiment(changed(target={"val_r2": 0.6})), runs, tmp_path).target == 0.6
    with pytest.raises(ConfigError, match="target and arms cannot be compared: they go by R2 and accuracy"):
        read_results(parse_experiment(changed(target={"val_accuracy": 0.6})), runs, tmp_path)


def test_arms_of_different_tasks_are_refused(runs: tuple[Run, ...], tmp_path: Path) -> None:
    """An accuracy and an R2 are not comparable."""
    _finish_all(runs)
    path = runs[0].folder / "summary.json"
    path.write_text(path.read_text().replace("accuracy", "r2"))
    with pytest.raises(ConfigError, match="arms cannot be compared: they go by R2 and accuracy"):
        _results(runs, tmp_path)


def test_a_figure_that_fails(
    runs: tuple[Run, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The tables are there, and a sentence says what is not."""
    _finish_all(runs)
    monkeypatch.setattr("fl.experiment.report.draw_accuracy", lambda *_: 1 / 0)
    assert len(_write_results(_results(runs, tmp_path).experiment, runs, tmp_path).rows) == len(runs)
    assert (tmp_path / "results.csv").exists()
    said = "figure or report of the experiment could not be written (ZeroDivisionError: division by zero); the same command"
    assert said in capsys.readouterr().err
