"""What is said on a terminal that may be gone. Oracle: nothing raises, and the run's results are there."""

import io
import os
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from compression.errors import NonFiniteError
from fl.common.errors import ConfigError, LaunchError
from fl.common.terminal import end_with_mistake, lasting_output, say
from fl.data import Dataset, Split
from fl.run.cli import main
from tests.support import flags, no_figures


def test_a_pipe_that_nobody_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    """As after `2>&1 | head -1`: the reader has gone. Neither writing, flushing nor closing raises."""
    reader, writer = os.pipe()
    os.close(reader)
    stream = os.fdopen(writer, "w")
    monkeypatch.setattr(sys, "stderr", stream)
    with lasting_output():
        for _ in range(3):
            sys.stderr.write("words\n" * 10_000)
            say("a sentence")
    assert sys.stderr is stream
    stream.close()


def test_names_that_the_terminal_cannot_show(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bytes of a file's name that are no UTF-8, and letters that ASCII lacks, become escapes."""
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="ascii"))
    with lasting_output():
        sys.stdout.write(f"{os.fsdecode(b'caf' + bytes([0xE9]))} and é\n")
    assert written.getvalue() == b"caf\\udce9 and \\xe9\n"


def test_a_run_without_standard_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As after `2>&-`: Python has no stream. The run is whole, its progress bar goes nowhere."""
    options = {"limit_train": 40, "clients": 2, "rounds": 1, "output_dir": tmp_path, "run_name": "a"}
    words = [word for word in flags(**options) if word != "--quiet"]
    monkeypatch.setattr(sys, "stderr", None)
    with no_figures():
        main(words)
    assert (tmp_path / "a" / "summary.json").exists()
    assert sys.stderr is None


def partly_used(folder: Path) -> Dataset:
    """A data set of which something is left out."""
    x, y = torch.zeros(8, 4), torch.arange(8) % 2
    return Dataset("own", Split(x, y), Split(x, y), classes=2, left_out=("3 of 11 samples have no label",))


def test_what_is_left_out_is_said_aloud(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The data set's sentence is on standard error, with --quiet too, and in run.log."""
    own = {"dataset": f"{__name__}:partly_used", "model": "mlp", "val_fraction": 0}
    with no_figures():
        main(flags(**own, clients=2, rounds=1, output_dir=tmp_path, run_name="a"))
    assert "data: 3 of 11 samples have no label\n" in capsys.readouterr().err
    assert "data: 3 of 11 samples have no label\n" in (tmp_path / "a" / "run.log").read_text()


@pytest.mark.parametrize(
    ("local_rank", "error", "told"),
    [
        ("0", ConfigError("x"), ["error: x\n"]),
        ("1", ConfigError("x"), ["waits", "error: x\n"]),
        ("1", LaunchError("x"), ["error: x\n"]),
        ("1", NonFiniteError("x"), ["error: x\n"]),
    ],
)
def test_the_first_rank_of_a_machine_tells_of_a_mistake_before_another_ends(
    monkeypatch: pytest.MonkeyPatch, local_rank: str, error: Exception, told: list[str]
) -> None:
    """A launcher that sees one rank end kills the others, and with them the sentence. What only one rank can know is told
    at once."""
    heard: list[str] = []
    monkeypatch.setenv("RANK", local_rank)
    monkeypatch.setenv("LOCAL_RANK", local_rank)
    monkeypatch.setattr(time, "sleep", lambda seconds: heard.append("waits"))
    monkeypatch.setattr(sys, "stderr", SimpleNamespace(write=heard.append))
    with pytest.raises(SystemExit) as ended:
        end_with_mistake(error)
    assert (ended.value.code, heard) == (2, told)


def test_a_value_as_long_as_a_file_is_told_in_part(capsys: pytest.CaptureFixture[str]) -> None:
    """A million digits, in several lines: one line, from which the option and what would be right can be read."""
    with pytest.raises(SystemExit):
        end_with_mistake(ConfigError(f"--rounds {'9' * 500_000}\n{'9' * 500_000} must be a whole number"))
    told = capsys.readouterr().err
    assert told.startswith("error: --rounds 999")
    assert told.endswith(" must be a whole number\n")
    assert len(told) < 3000
    assert told.count("\n") == 1
