"""What figures read of a run folder: whole lines, and a sentence for whatever is malformed."""

import csv
import io
import re
from pathlib import Path

import pytest
from rich.console import Console

from fl.common.errors import DataError
from fl.output.figures.run_data import read_phases, read_run
from fl.output.record import PHASE_TIMES
from fl.output.report import write_report
from fl.output.summary_table import phase_table
from tests.fl.output.figures.run_folder import METRICS, add_layers, make_run


@pytest.mark.slow
def test_a_round_that_is_not_whole_is_left_out(tmp_path: Path) -> None:
    """Killed between two layers, or before the first round was over."""
    folder = add_layers(make_run(tmp_path / "run"), ["a", "b"])
    whole = (folder / "layers.csv").read_text()
    (folder / "layers.csv").write_text(whole + "4,a,100,100,0.0,100,0.0,0.01\n4,b,1")
    read = read_run(folder).layers
    assert read is not None
    assert read["round"].tolist() == [[0, 0], [1, 1], [2, 2], [3, 3]]
    (folder / "layers.csv").write_text(whole.splitlines()[0] + "\n")
    assert read_run(folder).layers is None
    assert len(write_report(folder, dpi=30)) == 6


def test_a_line_cut_short_is_left_out(tmp_path: Path) -> None:
    """A run killed while writing a row is drawn up to the row before."""
    folder = make_run(tmp_path / "run")
    with (folder / "metrics.csv").open("a") as file:
        file.write("4,5.5,3")
    assert read_run(folder).rounds == 4


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("client_eval.csv", "round,client\n0,1\n", "not a table of clients' scores"),
        ("client_eval.csv", "round,client,samples,score,loss\n0,1,2,x,3\n", "not a table of clients' scores"),
        ("metrics.csv", None, "metrics.csv does not exist"),
        ("metrics.csv", "round,train_s\n", "no column 'time_s'"),
        ("metrics.csv", METRICS + "\n" + ",".join(["x"] * 25) + "\n", "holds 'x'"),
        ("clients.csv", "round,client\n0,1\n", "no column 'rank'"),
        ("clients.csv", "client,rank,arrive_s\n0,0,1.5\n", "no column 'start_s'"),
        ("layers.csv", "round,layer\n", "no column 'size'"),
        ("metrics.csv", "", "metrics.csv is empty, without a header"),
        ("metrics.csv", METRICS + "\n\udcff", "metrics.csv cannot be read"),
        ("config.json", "{", "config.json is not valid JSON"),
        ("partition.json", '{"labels": [[1, 2], [3]]}', "partition.json must hold"),
    ],
)
def test_malformed_files_are_named(tmp_path: Path, name: str, text: str | None, words: str) -> None:
    """Oracle: the house rule that an error says which file and what is wrong."""
    folder = make_run(tmp_path / "run")
    (folder / name).unlink() if text is None else (folder / name).write_text(text, errors="surrogateescape")
    with pytest.raises(DataError, match=words):
        write_report(folder)


def _phases(folder: Path, rows: list[tuple[int, int, float, float, float]]) -> Path:
    """phases.csv of `rows`: round, rank, `time_s`, and seconds of `forward` and `server`."""
    with (folder / "phases.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, PHASE_TIMES, restval=0.0)
        writer.writeheader()
        for row in rows:
            writer.writerow(dict(zip(("round", "rank", "time_s", "forward_s", "server_s"), row, strict=True)))
    return folder


def test_phases_are_added_up(tmp_path: Path) -> None:
    """Rounds 3 and 4, on two ranks and, resumed, on one: sums over rank 0's rows, and over the means of each round."""
    rows = [(3, 0, 6.0, 2.0, 4.0), (3, 1, 6.0, 6.0, 0.0), (4, 0, 4.0, 3.0, 1.0)]
    found = read_phases(_phases(tmp_path, rows))
    assert found is not None
    assert (found.first, found.last, found.total) == (3, 4, 10.0)
    assert {name: seconds for name, seconds in found.server.items() if seconds} == {"forward": 5.0, "server": 5.0}
    assert {name: seconds for name, seconds in found.mean.items() if seconds} == {"forward": 7.0, "server": 3.0}
    printed = io.StringIO()
    Console(file=printed, width=80).print(phase_table(found))
    assert "rounds 3 to 4, 10.0 s" in printed.getvalue()
    assert re.search(r"forward +│ +5.000 │ +50.0% │ +7.000", printed.getvalue())


def test_phases_that_are_not_there(tmp_path: Path) -> None:
    """No file, a file without a row, and one of something else."""
    assert read_phases(tmp_path) is None
    assert read_phases(_phases(tmp_path, [])) is None
    (tmp_path / "phases.csv").write_text("round,rank\n1,0\n")
    with pytest.raises(DataError, match="has no column 'time_s'"):
        read_phases(tmp_path)
