"""Files that strangers give, to the whole program. Oracle: one sentence on stderr that names the option and the file, exit
status 2, nothing made, and an end at all: pipes and devices have none."""

import os
from pathlib import Path

import pytest

from fl.run.cli import main
from tests.support import flags


def refused(argv: list[str], folder: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """The sentence with which the program refuses these options."""
    with pytest.raises(SystemExit) as caught:
        main([*flags(), "--output-dir", str(folder / "out"), "--run-name", "run", *argv])
    assert caught.value.code == 2
    assert not (folder / "out").exists()
    told = capsys.readouterr().err
    assert told.startswith("error: ")
    assert told.count("\n") == 1
    return told


_READERS = {
    "--config": ["--config", "{}"],
    "--sampling": ["--sampling", "{}"],
    "--profiles": ["--profiles", "{}"],
    "--capabilities": ["--capabilities", "{}", "--prune", "width:1"],
    "--init": ["--init", "{}"],
    "--deepspeed-config": ["--deepspeed-config", "{}"],
    "--dataset csv": ["--dataset", "csv:{},target=y"],
}


@pytest.mark.parametrize("option", _READERS)
def test_a_pipe_is_not_waited_for(option: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file's name that is a pipe nobody writes to."""
    path = tmp_path / "pipe.csv"
    os.mkfifo(path)
    told = refused([word.format(path) for word in _READERS[option]], tmp_path, capsys)
    assert option.split()[0] in told
    assert "pipe.csv" in told
    assert refused(["--config", "/dev/zero"], tmp_path, capsys) == (
        "error: --config /dev/zero: cannot be read (it is a pipe or a device, not a file)\n"
    )


@pytest.mark.parametrize(
    ("name", "dataset"),
    [
        ("femnist.npz", "femnist"),
        ("train/a.json", "femnist"),
        ("fer2013.npz", "emotion"),
        ("fer2013.csv", "emotion"),
        ("MNIST/raw/train-images-idx3-ubyte", "mnist"),
        ("PRSA_Data_a.csv", "temperature"),
        ("subjecta-relaxed-1.csv", "mental_state"),
        ("cats/a.png", "imagefolder:{}"),
    ],
)
def test_a_pipe_among_the_data_is_not_waited_for(
    name: str, dataset: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In the place of a file of every data set that is read by this program itself."""
    for other in ("test/b.json", "cats/b.png", "dogs/c.png"):
        (tmp_path / other).parent.mkdir(exist_ok=True)
        (tmp_path / other).write_text("{}")
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    os.mkfifo(tmp_path / name)
    options = ["--dataset", dataset.format(tmp_path), "--data-dir", str(tmp_path), "--no-download"]
    assert f"--dataset {dataset}".format(tmp_path) in refused(options, tmp_path, capsys)
