"""`--redraw`: the figure from the tables alone. Oracle: what was written; and each damage as one sentence."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fl.common.errors import ConfigError
from fl.experiment.__main__ import main
from fl.experiment.figure import draw_accuracy
from fl.experiment.matrix import matrix
from fl.experiment.redraw import read_tables, redraw
from fl.experiment.results import Point, Results, Row
from fl.experiment.spec import parse_experiment
from fl.training.tasks import ACCURACY, R2, Score
from tests.fl.experiment.test_spec import changed

EXPERIMENT = parse_experiment(changed())


def _write(folder: Path, score: Score = ACCURACY, target: float | None = 0.1 + 0.2) -> Results:
    """Results of all runs but the last: three points each, of which the first has no validation score."""
    *finished, last = matrix(EXPERIMENT, data_dir="data", output_dir=str(folder), threads=None)
    rows = []
    for at, run in enumerate(finished):
        curve = [
            Point(round_, None if round_ == 1 else 1 / (3 + round_ + at), 0.5, 10 * round_, 20 * round_, 0.0, virtual)
            for round_, virtual in ((1, None), (2, 0.1), (4, 0.7))
        ]
        cells = {"arm": run.arm.name, "seed": run.seed, f"target_{score.columns[0]}": target}
        rows.append(Row(run, cells, curve, {}, ""))
    results = Results(EXPERIMENT, folder, rows, [last], target, score)
    results.write_tables()
    return results


@pytest.mark.parametrize("score", [ACCURACY, R2])
@pytest.mark.parametrize("target", [0.1 + 0.2, None])
def test_what_was_written_is_read(tmp_path: Path, score: Score, target: float | None) -> None:
    """The same curves to the last bit, runs, target and score."""
    written = _write(tmp_path, score, target)
    read = read_tables(EXPERIMENT, tmp_path)
    assert [row.curve for row in read.rows] == [row.curve for row in written.rows]
    assert [(row.run.arm, row.run.seed) for row in read.rows] == [(row.run.arm, row.run.seed) for row in written.rows]
    assert [(run.arm.name, run.seed) for run in read.missing] == [("topk 1 %", 3)]
    assert (read.target, read.score) == (target, score)


def test_the_figure(tmp_path: Path) -> None:
    """A png called by the score, in place of what was there."""
    _write(tmp_path, R2)
    (tmp_path / "r2.png").write_text("old")
    assert redraw(EXPERIMENT, tmp_path) == tmp_path / "r2.png"
    assert (tmp_path / "r2.png").read_bytes()[:4] == b"\x89PNG"


def test_a_score_that_one_seed_lacks(tmp_path: Path) -> None:
    """R2 of a run that diverges for a while is not defined: the figure has the rounds that all seeds have."""
    written = _write(tmp_path, R2)
    curve = written.rows[0].curve
    curve[1] = curve[1]._replace(validation=None)
    written.write_tables()
    draw_accuracy(written, tmp_path / "own.png")
    assert redraw(EXPERIMENT, tmp_path).read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize("timed", [True, False])
def test_the_same_figure_again(tmp_path: Path, timed: bool) -> None:
    """Drawn from the tables alone it is the runner's own, byte for byte, with the panel of virtual time or without."""
    written = _write(tmp_path)
    for row in written.rows:
        row.cells["virtual_time_s"] = 0.7 if timed else None
        if not timed:
            row.curve[:] = [point._replace(virtual_time_s=None) for point in row.curve]
    written.write_tables()
    draw_accuracy(written, tmp_path / "own.png")
    assert redraw(EXPERIMENT, tmp_path).read_bytes() == (tmp_path / "own.png").read_bytes()


def test_tables_without_virtual_time(tmp_path: Path) -> None:
    """curves.csv of an older version has no such column."""
    _write(tmp_path)
    lines = (tmp_path / "curves.csv").read_text().splitlines()
    (tmp_path / "curves.csv").write_text("\n".join(line.rpartition(",")[0] for line in lines))
    assert {point.virtual_time_s for row in read_tables(EXPERIMENT, tmp_path).rows for point in row.curve} == {None}


def _other(old: str, new: str) -> Callable[[str], str]:
    return lambda text: text.replace(old, new, 1)


@pytest.mark.parametrize(
    ("name", "damage", "said"),
    [
        (
            "curves.csv",
            _other("dense,0,2,0.2,", "dense,0,2,a fifth,"),
            "line 3: val_accuracy must be a number, not 'a fifth'",
        ),
        ("curves.csv", _other("dense,0,1,", "dense,0,1.5,"), "line 2: round must be a whole number, not '1.5'"),
        ("curves.csv", _other("dense,0,1,", "dense,,1,"), "line 2: seed must be a whole number, not ''"),
        ("curves.csv", _other("uplink_bytes", "up"), "line 2: there is no column 'uplink_bytes'"),
        ("curves.csv", lambda text: text[: text.rindex("0.5") + 3], "line 10 has 5 cells where the header has 8"),
        ("curves.csv", _other("dense,3,4,0.125,", "dense,3,5,0.125,"), "other rounds with seed 3 than with"),
        ("curves.csv", lambda text: text.splitlines()[0], "curves.csv holds no results"),
        ("curves.csv", lambda text: "", "curves.csv holds no results"),
        ("curves.csv", _other("dense,0", "sparse,0"), "has results of arm 'sparse' with seed 0"),
        ("results.csv", _other("target_val_accuracy", "target"), "line 2: there is no column 'target_val_accuracy'"),
        ("results.csv", lambda text: text.splitlines()[0], "results.csv holds no results"),
    ],
)
def test_damaged_tables(tmp_path: Path, name: str, damage: Callable[[str], str], said: str) -> None:
    """One sentence that names the file, and the figure that was there stays."""
    _write(tmp_path)
    (tmp_path / "accuracy.png").write_text("old")
    path = tmp_path / name
    path.write_text(damage(path.read_text()))
    with pytest.raises(ConfigError) as caught:
        redraw(EXPERIMENT, tmp_path)
    assert said in str(caught.value)
    assert str(tmp_path) in str(caught.value)
    assert (tmp_path / "accuracy.png").read_text() == "old"


def test_no_tables(tmp_path: Path, capsys: Any) -> None:
    """As a user sees it: one line and exit status 2; a file that is no text likewise."""
    file = tmp_path / "good.yaml"
    file.write_text("name: good\nbase: {dataset: digits}\nvary: []\narms: {only: {}}\nseeds: [0]\n")
    arguments = [str(file), "--redraw", "--results", str(tmp_path)]
    for said in ("curves.csv cannot be read (No such file or directory)", "curves.csv cannot be read ('utf-8'"):
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        assert ended.value.code == 2
        assert said in capsys.readouterr().err
        (tmp_path / "curves.csv").write_bytes(b"\xff\xfe")
