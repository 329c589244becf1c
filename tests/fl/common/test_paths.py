"""`~` and variables in paths, wherever an option comes from."""

import dataclasses
from pathlib import Path

import pytest

from fl import train
from fl.common.config import Config
from fl.common.errors import ConfigError
from fl.common.paths import expand, expand_paths
from fl.experiment.matrix import matrix
from fl.experiment.spec import parse_experiment, read_experiment
from fl.export import export_run
from fl.run.cli import main
from tests.support import QUICK, flags, no_figures


@pytest.fixture(autouse=True)
def _home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("SCRATCH", f"{tmp_path}/s")
    monkeypatch.setenv("EMPTY", "")


@pytest.mark.parametrize(
    ("name", "given", "inside"),
    [
        ("output_dir", "~/runs", "HOME/runs"),
        ("data_dir", "$SCRATCH/data", "HOME/s/data"),
        ("init", "${SCRATCH}x/w.safetensors", "HOME/sx/w.safetensors"),
        ("deepspeed_config", "~/ds.json", "HOME/ds.json"),
        ("resume", "~/runs/a", "HOME/runs/a"),
        ("resume", "auto", "auto"),
        ("resume", None, None),
        ("dataset", "csv:~/t.csv,target=a", "csv:HOME/t.csv,target=a"),
        ("dataset", "imagefolder:$SCRATCH", "imagefolder:HOME/s"),
        ("dataset", "my_parts:digits", "my_parts:digits"),
        ("sampling", "~/up.csv", "HOME/up.csv"),
        ("sampling", "diurnal:9,0.5", "diurnal:9,0.5"),
        ("capabilities", "$SCRATCH/c.csv", "HOME/s/c.csv"),
        ("profiles", "~/p.csv,compute=1e9..1e11", "HOME/p.csv,compute=1e9..1e11"),
        ("profiles", "~/p.csv,sparse", "HOME/p.csv,sparse"),
        ("profiles", "mix:good=0.5+2g=0.5", "mix:good=0.5+2g=0.5"),
        ("run_name", "~x", "~x"),
        ("output_dir", "a~b/~c", "a~b/~c"),
    ],
)
def test_every_option_that_holds_a_path_is_expanded(tmp_path, name, given, inside):
    """As a shell would expand them; a run's name and specifications without a path stay as they are."""
    wanted = inside and inside.replace("HOME", str(tmp_path))
    assert getattr(expand_paths(Config(**{name: given})), name) == wanted


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("$NO_SUCH/x", "variable NO_SUCH"),
        ("a/${NO_SUCH}", "variable NO_SUCH"),
        ("$EMPTY/runs", "variable EMPTY"),
        ("${HOME/x", r"\$NAME"),
        ("${HOME:-x}", r"\$NAME"),
        ("~nobody_at_all/x", "user nobody_at_all"),
    ],
)
def test_what_has_no_value_is_refused(path, words):
    """Not kept as it is: a folder called ~ or $NO_SUCH would be made."""
    with pytest.raises(ConfigError, match=rf"--init .*{words}"):
        expand(path, "--init")


def test_command_line_file_environment_and_python_lead_to_the_same_folder(tmp_path, monkeypatch):
    """Four runs, each with the folder said elsewhere: all are in the home folder, and none below the current one."""
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    options = {"rounds": 1, "local_steps": 1, "limit_train": 60, "limit_test": 20}
    (here / "preset.yaml").write_text("output_dir: ~/runs\n")
    with no_figures():
        main(flags(**options, run_name="words", output_dir="~/runs"))
        main([*flags(**options, run_name="file"), "--config", "$HOME/here/preset.yaml"])
        summary = train(**QUICK, **options, run_name="python", output_dir="$HOME/runs")
        monkeypatch.setenv("LEANFED_OUTPUT_DIR", "~/runs")
        main(flags(**options, run_name="environment"))
    assert {path.name for path in (tmp_path / "runs").iterdir()} == {"words", "file", "environment", "python"}
    assert [path.name for path in here.iterdir()] == ["preset.yaml"]
    export_run("~/runs/python", "$SCRATCH/export")
    assert (tmp_path / "s" / "export").is_dir()
    assert summary["folder"] == str(tmp_path / "runs" / "python")


def test_experiments_expand_too(tmp_path):
    """The file's own name, the options in it and the folders on the command line."""
    text = "name: e\nbase: {dataset: 'csv:~/t.csv,target=a'}\nvary: []\narms: {one: {}}\nseeds: [0]\n"
    (tmp_path / "e.yaml").write_text(text)
    experiment = read_experiment(Path("~/e.yaml"))
    run = matrix(experiment, data_dir="$SCRATCH", output_dir="~/runs", threads=1)[0]
    assert run.folder == tmp_path / "runs" / "e" / "one-seed0"
    assert (run.config.dataset, run.config.data_dir) == (f"csv:{tmp_path}/t.csv,target=a", f"{tmp_path}/s")
    values = {"name": "e", "base": {"init": "$NO_SUCH"}, "vary": [], "arms": {"one": {}}, "seeds": [0]}
    with pytest.raises(ConfigError, match=r"arms, 'one': --init .*NO_SUCH"):
        parse_experiment(values)


def test_every_option_whose_help_speaks_of_a_file_or_folder_is_one(tmp_path):
    """A new option that holds a path cannot be forgotten: the oracle is its help text."""
    paths = {field.name for field in dataclasses.fields(Config) if field.metadata["path"]}
    told = {field.name for field in dataclasses.fields(Config) if _speaks_of_a_path(field.metadata["help"])}
    assert told - paths == {"run_name", "tensorboard", "profile"}  # a name, and switches


def _speaks_of_a_path(text: str) -> bool:
    return any(word in text for word in ("file", "folder", "PATH"))


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("a" * 256, "each name in it at most 255"),
        ("~/" + "\u00e9" * 128, "each name in it at most 255"),
        ("ab/" * 1500, "at most 4095 bytes"),
        ("a\0b", "the character NUL"),
        ("a\ud800b", "half a surrogate pair"),
    ],
)
def test_what_no_file_system_has_is_refused(path, says):
    """Before anything looks for it; the sentence can be printed, and is short."""
    with pytest.raises(ConfigError, match=f"^--init .*{says}") as caught:
        expand(path, "--init")
    assert len(str(caught.value).encode()) < 200


def test_the_longest_names_that_there_are():
    """255 bytes are fine, and so is a byte that is no UTF-8."""
    assert expand("a" * 255, "--init") == "a" * 255
    assert expand("caf\udce9", "--init") == "caf\udce9"
