"""`leanfed compare` on damaged run folders. Oracle: one sentence that names the file, never a traceback."""

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fl.common.errors import DataError
from fl.compare.__main__ import compare, main
from tests.fl.compare.test_compare import make_run


def _edit(path: Path, change: Callable[[list[dict[str, str]]], list[dict[str, str]]]) -> None:
    with open(path, newline="") as file:
        rows = change(list(csv.DictReader(file)))
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def _without(*columns: str) -> Callable[[Path], None]:
    return lambda path: _edit(
        path, lambda rows: [{name: row[name] for name in row if name not in columns} for row in rows]
    )


def _with(**cells: str) -> Callable[[Path], None]:
    return lambda path: _edit(path, lambda rows: [rows[0] | cells, *rows[1:]])


@pytest.mark.parametrize(
    ("damage", "link", "said"),
    [
        (lambda path: path.unlink(), "4", "clients.csv cannot be read"),
        (lambda path: path.write_bytes(b"\xff\xfe"), "4", "clients.csv cannot be read"),
        (lambda path: path.write_text(""), "4", "clients.csv has no column 'round'"),
        (_without("client"), "4", "clients.csv has no column 'client'"),
        (_without("rank"), "4", "clients.csv has no column 'rank'"),
        (_with(client="first"), "4", "clients.csv, line 2: client must be a number of 0 or more, not 'first'"),
        (_with(client="0.5"), "4", "line 2: client must be a whole number, not '0.5'"),
        (_with(client=""), "4", "line 2: client must be a number of 0 or more, not ''"),
        (_with(train_s="nan"), "4", "line 2: train_s must be a number of 0 or more, not 'nan'"),
        (_with(uplink_bytes="-1"), "4", "line 2: uplink_bytes must be a number of 0 or more, not '-1'"),
        (_with(samples="few"), "fair", "line 2: samples must be a number of 0 or more, not 'few'"),
        (_with(sent_s=""), "own", "clients.csv has rows without ready_s and sent_s"),
        (
            lambda path: path.write_text(path.read_text().replace("\n0,", "\n0,0,0,0,")),
            "4",
            "15 cells where the header",
        ),
    ],
)
def test_damaged_clients(tmp_path: Path, capsys: Any, damage: Callable[[Path], object], link: str, said: str) -> None:
    """No file, no such column, something else than a number: exit status 2 before anything is written."""
    folders = [make_run(tmp_path / name, accuracy=(0.4, 0.5), up=5, down=5, own_s=7.0) for name in ("a", "b")]
    damage(folders[1] / "clients.csv")
    with pytest.raises(SystemExit) as ended:
        main([*map(str, folders), "--link", link, "--output", str(tmp_path / "out")])
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("link", ["4", "fair", "own"])
def test_a_round_without_its_clients_is_not_free(tmp_path: Path, link: str) -> None:
    """Of 5 MB a round each, one run lost the rows of its last round: without them it would be sooner on every link."""
    folders = [make_run(tmp_path / name, accuracy=(0.4, 0.5), up=5_000_000, down=0, own_s=7.0) for name in ("a", "b")]
    _edit(folders[1] / "clients.csv", lambda rows: rows[:1])
    with pytest.raises(DataError, match=r"clients\.csv has 0 rows of round 1, in which metrics\.csv counts 1 or more"):
        compare(folders, link, None, None)


def test_a_round_without_one_of_its_clients(tmp_path: Path) -> None:
    """Two took part, and one row is left; a last line that a kill cut short counts as none."""
    folders = [make_run(tmp_path / name, accuracy=(0.5,), up=5, down=5, train_s=(1.0, 2.0)) for name in ("a", "b")]
    for folder in folders:
        _edit(folder / "metrics.csv", lambda rows: [rows[0] | {"clients": "2"}])
    assert compare(folders, "4", None, None).runs[1].costs[0].compute_s == 2.0
    whole = (folders[1] / "clients.csv").read_text()
    (folders[1] / "clients.csv").write_text(whole[: whole.rindex("10,2.0") + 5])
    with pytest.raises(DataError, match=r"has 1 rows of round 0, in which metrics\.csv counts 2 or more"):
        compare(folders, "4", None, None)


def _constant(folder: Path, **config: Any) -> Path:
    """A regression whose validation targets are all the same: it has losses, and no R2."""
    make_run(folder, accuracy=("", ""), up=5, down=5, **config)

    def change(rows: list[dict[str, str]]) -> list[dict[str, str]]:
        other = {"val_r2": "", "test_r2": "0.5", "val_loss": "0.25"}
        return [{name: row[name] for name in row if "accuracy" not in name} | other for row in rows]

    _edit(folder / "metrics.csv", change)
    return folder


def test_a_constant_target(tmp_path: Path) -> None:
    """It was evaluated, and R2 is not defined; but of different data sets that is what is said first."""
    folders = [_constant(tmp_path / name) for name in ("a", "b")]
    with pytest.raises(DataError, match="a was evaluated on validation data, but R2 is not defined there"):
        compare(folders, "4", None, None)
    other = make_run(tmp_path / "other", accuracy=(0.5,), up=5, down=5, dataset="mnist")
    for pair in ([folders[0], other], [other, folders[0]]):
        with pytest.raises(DataError, match="their scores cannot be compared"):
            compare(pair, "4", None, None)


@pytest.mark.parametrize("inside", ["", "further"])
def test_an_output_that_is_a_file(tmp_path: Path, capsys: Any, inside: str) -> None:
    """One line, and the file stays."""
    folders = [make_run(tmp_path / name, accuracy=(0.5,), up=5, down=5) for name in ("a", "b")]
    (tmp_path / "taken").write_text("mine")
    with pytest.raises(SystemExit) as ended:
        main([*map(str, folders), "--link", "4", "--output", str(tmp_path / "taken" / inside)])
    assert ended.value.code == 2
    assert "taken" in (said := capsys.readouterr().err)
    assert "must be a folder to write to" in said
    assert (tmp_path / "taken").read_text() == "mine"
