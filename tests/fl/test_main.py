"""The command `leanfed`. Oracles: the files in the folder, and the rule that a user's mistake is one sentence."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fl.output.__main__ import main
from tests.fl.output.figures.run_folder import NAMES, make_run
from tests.support import PYTHON, program

pytestmark = pytest.mark.slow


def test_the_report_of_any_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without a summary, so cut short: the page is written; with --figures six files too, and all are named."""
    folder = make_run(tmp_path / "run")
    main([str(folder)])
    assert capsys.readouterr().out.splitlines() == [str(folder / "report.html")]
    assert not list(folder.glob("*.png"))
    (folder / "report.html").unlink()
    main([str(folder), "--figures"])
    assert capsys.readouterr().out.splitlines() == [str(folder / name) for name in (*NAMES, "report.html")]
    assert all((folder / name).is_file() for name in (*NAMES, "report.html"))


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], "the following arguments are required: RUN_FOLDER"),
        (["nowhere"], "metrics.csv does not exist; a report needs the metrics of at least one round"),
        (["$NOWHERE_AT_ALL"], "there is no environment variable NOWHERE_AT_ALL"),
        (["run", "--figure"], "unrecognized arguments: --figure"),
    ],
)
def test_mistakes(words: list[str], sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    """One line on standard error, exit status 2."""
    with pytest.raises(SystemExit) as end:
        main(words)
    assert end.value.code == 2
    told = capsys.readouterr().err
    assert told.startswith("error: ")
    assert told.count("\n") == 1
    assert sentence in told


def test_a_folder_in_which_nothing_can_be_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """report.html is a folder: the disk's mistake, exit status 1."""
    folder = make_run(tmp_path / "run")
    (folder / "report.html").mkdir()
    with pytest.raises(SystemExit) as end:
        main([str(folder)])
    assert end.value.code == 1
    assert f"the report of {folder} cannot be written" in capsys.readouterr().err


def test_the_command_finds_modules_in_the_current_folder(tmp_path: Path) -> None:
    """A command's first place to look for modules is its own folder. Oracle: the refusal speaks of what the module lacks,
    so it was found."""
    (tmp_path / "mine.py").write_text("")
    (tmp_path / "bin").mkdir()
    command = tmp_path / "bin" / "leanfed"
    command.write_text("from fl.__main__ import main\nmain()\n")
    result = subprocess.run(
        [sys.executable, str(command), "--model", "mine:net"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 2
    assert "mine" in result.stderr
    assert "there is no module" not in result.stderr


def test_main_py_finds_the_program(tmp_path: Path) -> None:
    """`python main.py report RUN` is `leanfed report RUN`."""
    folder = make_run(tmp_path / "run")
    assert program(PYTHON, "report", str(folder)).stdout == f"{folder / 'report.html'}\n"
