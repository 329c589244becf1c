"""Which folder a run goes on with, and what may be said anew."""

import dataclasses
import json
import os
import time

import pytest
import torch

from fl.common.config import Config
from fl.common.errors import ConfigError
from fl.common.ranks import Ranks
from fl.run.folder import continue_options, create_folder

STORED = Config(run_name="mine", rounds=5, lr=0.3, uplink="topk:0.5", threads=2)


@pytest.fixture
def folder(tmp_path):
    """A run folder with a checkpoint, as far as its options matter."""
    path = tmp_path / "mine"
    (path / "checkpoints").mkdir(parents=True)
    (path / "checkpoints" / "manifest-000003.json").write_text("{}")
    (path / "config.json").write_text(json.dumps(dataclasses.asdict(STORED)))
    return path


def test_stored_options_apply_and_rounds_may_grow(folder):
    """lr and threads come from the folder though the defaults differ; the new number of rounds counts."""
    config, found = continue_options(Config(resume=str(folder), rounds=9), frozenset({"resume", "rounds"}))
    assert found == folder
    assert (config.lr, config.threads, config.uplink, config.rounds) == (0.3, 2, "topk:0.5", 9)
    assert (config.output_dir, config.run_name) == (str(folder.parent), "mine")


def test_the_same_command_line_again_is_fine_and_another_value_is_not(folder):
    """The error names the option and both values."""
    again = Config(resume="auto", output_dir=str(folder.parent), run_name="mine", lr=0.3)
    given = frozenset({"resume", "output_dir", "run_name", "lr"})
    assert continue_options(again, given)[1] == folder
    with pytest.raises(ConfigError, match=r"--lr 0.4 .*0.3"):
        continue_options(dataclasses.replace(again, lr=0.4), given)


@pytest.mark.parametrize("schedule", ["cosine", "cosine:warmup=3"])
def test_a_cosine_schedule_keeps_its_rounds(folder, schedule):
    """Its rates depend on how many rounds there are."""
    stored = dataclasses.replace(STORED, lr_schedule=schedule)
    (folder / "config.json").write_text(json.dumps(dataclasses.asdict(stored)))
    with pytest.raises(ConfigError, match="cosine"):
        continue_options(Config(resume=str(folder), rounds=9), frozenset({"resume", "rounds"}))


def test_a_finished_run_without_checkpoints_is_not_overwritten(tmp_path):
    """--checkpoint-every 0 left nothing to go on from, but a summary."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "summary.json").write_text("{}")
    with pytest.raises(ConfigError, match="finished run"):
        continue_options(Config(resume="auto", output_dir=str(tmp_path), run_name="mine"), frozenset())


def test_auto_starts_afresh_where_there_is_no_checkpoint_and_a_path_is_refused(tmp_path):
    """An absent folder, and one in which no round was finished."""
    (tmp_path / "mine").mkdir()
    for name in ("mine", "other"):
        config = Config(resume="auto", output_dir=str(tmp_path), run_name=name)
        assert continue_options(config, frozenset()) == (config, None)
        with pytest.raises(ConfigError, match="no checkpoint"):
            continue_options(Config(resume=str(tmp_path / name)), frozenset())


@pytest.mark.parametrize("text", ["{", '{"colour": 3}', "[]", '{"finetune_rounds": "x"}'])
def test_a_damaged_config_is_named(folder, text):
    """One sentence with the path of the file."""
    (folder / "config.json").write_text(text)
    with pytest.raises(ConfigError, match=r"config\.json"):
        continue_options(Config(resume=str(folder)), frozenset())


def test_a_foreign_hook_cannot_be_resumed(folder):
    """Its state is nowhere on disk."""
    (folder / "config.json").write_text(json.dumps(dataclasses.asdict(dataclasses.replace(STORED, hook="a:b"))))
    with pytest.raises(ConfigError, match="--hook a:b"):
        continue_options(Config(resume=str(folder)), frozenset())


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("dataset", "shutil:rmtree"),
        ("model", "package.module:function"),
        ("uplink", "my_codecs:codec"),
        ("downlink", "my_codecs:codec"),
        ("deepspeed_config", "/elsewhere/deepspeed.json"),
    ],
)
def test_a_run_folder_names_no_code_that_is_executed(folder, name, value):
    """What can execute code counts only if the user says it again, with the same value; the sentence says what to repeat."""
    (folder / "config.json").write_text(json.dumps(dataclasses.asdict(dataclasses.replace(STORED, **{name: value}))))
    flag = f"--{name.replace('_', '-')}"
    with pytest.raises(ConfigError, match=f"config.json names {flag} {value}, .*: say {flag} {value} again"):
        continue_options(Config(resume=str(folder)), frozenset({"resume"}))
    again = Config(resume=str(folder), **{name: value})
    assert getattr(continue_options(again, frozenset({"resume", name}))[0], name) == value
    with pytest.raises(ConfigError, match=f"{flag} other:function differs from {value}"):
        continue_options(dataclasses.replace(again, **{name: "other:function"}), frozenset({"resume", name}))


@pytest.mark.parametrize("name", ["metrics.csv", "run.log", "checkpoints/manifest-000001.json"])
@pytest.mark.parametrize("make", [lambda path: path.symlink_to("/dev/null"), lambda path: path.mkdir(), os.mkfifo])
def test_what_is_no_file_is_not_written_to(folder, name, make):
    """A link, by which somebody's file would be cut to the length of the record; a folder; a pipe, which would not end."""
    make(folder / name)
    with pytest.raises(ConfigError, match=rf"^--resume .*{name} is no file of its own"):
        continue_options(Config(resume=str(folder)), frozenset({"resume"}))


def test_checkpoints_are_not_written_elsewhere(folder, tmp_path):
    """Where a link leads, old ones would be deleted."""
    (folder / "checkpoints").rename(tmp_path / "other")
    (folder / "checkpoints").symlink_to(tmp_path / "other")
    with pytest.raises(ConfigError, match=r"^--resume .*checkpoints is a link"):
        continue_options(Config(resume=str(folder)), frozenset({"resume"}))


def test_the_users_own_files_are_no_code(folder):
    """csv:PATH looks like module:function where the path has no ending."""
    (folder / "config.json").write_text(
        json.dumps(dataclasses.asdict(dataclasses.replace(STORED, dataset="csv:table")))
    )
    assert continue_options(Config(resume=str(folder)), frozenset({"resume"}))[0].dataset == "csv:table"


def test_nothing_is_downloaded_into_a_folder_that_only_config_json_names(folder):
    """A data folder that the user has named, or that the defaults name, may be written to as ever."""
    stored = dataclasses.replace(STORED, data_dir="/elsewhere")
    (folder / "config.json").write_text(json.dumps(dataclasses.asdict(stored)))
    found, _ = continue_options(Config(resume=str(folder)), frozenset({"resume"}))
    assert (found.data_dir, found.download) == ("/elsewhere", False)
    for own in ({"data_dir": "/elsewhere"}, {"download": True}):
        found, _ = continue_options(Config(resume=str(folder), **own), frozenset({"resume", *own}))
        assert (found.data_dir, found.download) == ("/elsewhere", True)


def test_a_cache_that_only_config_json_names_is_not_used(folder):
    """It would be written to."""
    stored = dataclasses.replace(STORED, cache_dir="/elsewhere")
    (folder / "config.json").write_text(json.dumps(dataclasses.asdict(stored)))
    for given, wanted in (({}, None), ({"cache_dir": "/mine"}, "/mine")):
        found, _ = continue_options(Config(resume=str(folder), **given), frozenset({"resume", *given}))
        assert found.cache_dir == wanted


RANKS = Ranks(0, 1, 0, 1, torch.device("cpu"), torch.device("cpu"), "python", 1)


def test_runs_that_start_in_one_second_have_folders_of_their_own(tmp_path, monkeypatch):
    """A clock that stands still, as for the jobs of an array: three folders, and no two the same."""
    monkeypatch.setattr(time, "time", lambda: 1e9)
    config = Config(output_dir=str(tmp_path), dataset="csv:/a/" + 300 * "long" + "/table.csv,target=y")
    made = [create_folder(config, RANKS) for _ in range(3)]
    assert [folder.name for folder, _ in made] == [name for _, name in made]
    assert sorted(tmp_path.iterdir()) == sorted(folder for folder, _ in made)
    assert [name.partition("20010909-014640")[2] for _, name in made] == ["", "-2", "-3"]


def test_a_name_that_the_user_gave_is_not_changed(tmp_path):
    """The second run of that name is refused; --resume auto takes the folder over."""
    config = Config(output_dir=str(tmp_path), run_name="mine")
    assert create_folder(config, RANKS) == (tmp_path / "mine", "mine")
    with pytest.raises(ConfigError, match=r"--run-name mine: .* exists"):
        create_folder(config, RANKS)
    assert create_folder(dataclasses.replace(config, resume="auto"), RANKS) == (tmp_path / "mine", "mine")
    with pytest.raises(ConfigError, match="--output-dir"):
        create_folder(dataclasses.replace(config, output_dir="/dev/null/x"), RANKS)
