"""Experiments that cannot run, or not to their end. Oracle: one sentence, and what had been done by then."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from fl.common.errors import ConfigError, DiskError, RoundError
from fl.experiment.__main__ import main
from tests.end_to_end.experiments import FILE, perform, rows, write
from tests.support import ROOT


def test_a_run_that_failed_before_its_first_checkpoint_may_be_corrected(tmp_path: Path) -> None:
    """A learning rate that diverges in the first round, then another one in the file: nothing has to be deleted."""
    keys: dict[str, Any] = {"seeds": [0], "arms": {"dense": {"uplink": "none"}}, "vary": ["uplink"]}
    with pytest.raises(RoundError, match="dense"):
        perform(tmp_path, keys={**keys, "base": {**FILE["base"], "lr": 1e30}})
    assert (tmp_path / "out" / "tiny" / "dense-seed0" / "config.json").exists()
    assert len(rows(perform(tmp_path, keys=keys))) == 1


def test_a_run_that_diverges_does_not_stop_the_others(tmp_path: Path) -> None:
    """The first arm diverges, the second is in the tables, and the error names the first."""
    arms = {"wild": {"lr": 1e30}, "tame": {"lr": 0.05}}
    with pytest.raises(RoundError, match="arm 'wild', seed 0"):
        perform(tmp_path, keys={"seeds": [0], "arms": arms, "vary": ["lr"], "target": {"val_accuracy": 0.1}})
    results = next(tmp_path.rglob("results.csv"))
    assert [row.split(",")[0] for row in results.read_text().splitlines()[1:]] == ["tame"]


def test_options_that_do_not_fit_the_ranks_are_refused_before_the_first_run(count: list[str], tmp_path: Path) -> None:
    """Also where only the last arm is wrong."""
    arms = {"good": {"clients_per_round": 1}, "bad": {"clients_per_round": 9}}
    keys = {"vary": ["clients_per_round"], "arms": arms, "target": {"val_accuracy": 0.5}}
    with pytest.raises(ConfigError, match=r"arms, 'bad': --clients-per-round 9"):
        perform(tmp_path, keys=keys)
    assert count == []


def test_a_varied_option_without_difference_is_refused(tmp_path: Path) -> None:
    """The sentence names the file."""
    with pytest.raises(ConfigError, match=r"tiny\.yaml: vary lists 'model'"):
        perform(tmp_path, keys={"arms": {"dense": {"uplink": "none"}, "half": {"uplink": "fp16"}}})


def test_an_error_in_a_run_names_the_run(tmp_path: Path) -> None:
    """A data set that is not there, before anything has run."""
    keys = {"base": {**FILE["base"], "dataset": "mnist", "download": False}}
    with pytest.raises(Exception, match=r"arm 'dense', seed 0: .*mnist") as caught:
        perform(tmp_path, keys=keys, data_dir=str(tmp_path / "none"))
    assert type(caught.value).__name__ == "DataError"


def test_a_run_folder_that_cannot_be_written_to(tmp_path: Path) -> None:
    """A file has its name: one sentence, which names the arm."""
    folder = tmp_path / "out" / "tiny" / "dense-seed0"
    folder.parent.mkdir(parents=True)
    folder.write_text("")
    with pytest.raises(DiskError, match=r"arm 'dense', seed 0: .*dense-seed0 cannot be used \(File exists\)"):
        perform(tmp_path, keys={"seeds": [0], "arms": {"dense": {"uplink": "none"}}, "vary": ["uplink"]})


def test_a_target_of_another_task_is_refused_before_the_first_run(count: list[str], tmp_path: Path) -> None:
    """R2 for classes."""
    with pytest.raises(ConfigError, match="target and arms cannot be compared: they go by accuracy and R2"):
        perform(tmp_path, keys={"target": {"val_r2": 0.5}})
    assert count == []


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], ["FILE.yaml"]),
        (["FILE", "--onyl", "dense"], ["--onyl", "did you mean '--only'?"]),
        (["FILE", "--only", "dens"], ["--only dens", "did you mean 'dense'?"]),
        (["FILE", "--seeds", "x"], ["--seeds", "'x'"]),
        (["FILE", "--threads", "0"], ["--threads 0", "at least 1"]),
        (["nowhere.yaml"], ["nowhere.yaml", "cannot be read"]),
        (["FILE", "--results", "FILE"], ["tiny.yaml", "folder"]),
    ],
)
def test_mistakes_on_the_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], told: list[str]
) -> None:
    """One line on stderr and exit status 2; nothing is run."""
    path = str(write(tmp_path))
    words = [path if word == "FILE" else word for word in words]
    with pytest.raises(SystemExit) as caught:
        main([*words, *(["--output-dir", str(tmp_path / "out")] if words else [])])
    assert caught.value.code == 2
    line = capsys.readouterr().err
    assert line.startswith("error: ")
    assert line.count("\n") == 1
    for word in told:
        assert word in line
    assert not list((tmp_path / "out").glob("*/*"))


def test_importing_starts_nothing() -> None:
    """No process group, no pictures library."""
    code = (
        "import sys, fl.experiment, fl.experiment.__main__, torch; assert 'matplotlib' not in sys.modules; "
        "assert not torch.distributed.is_initialized()"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=120)
