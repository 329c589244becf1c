"""The command line, YAML file and environment say the same things in the same words."""

import dataclasses
import os
import re

import pytest
import yaml

from fl.advise.__main__ import main as advise
from fl.algorithms.spec import ALGORITHMS
from fl.common.config import Config
from fl.common.errors import ConfigError
from fl.data import DATASETS
from fl.data.partition import PARTITIONS
from fl.deploy.__main__ import main as deploy
from fl.models import MODELS
from fl.pruning.spec import METHODS
from fl.run.checks import check_options
from fl.run.cli import main, make_parser, parse
from fl.server.rules import aggregators
from fl.server.spec import server_optimizers
from tests.support import ROOT


def test_every_option_is_on_the_command_line_with_its_default_and_help():
    """The oracle is the dataclass itself."""
    parser = make_parser()
    by_name = {action.dest: action for action in parser._actions}
    for field in dataclasses.fields(Config):
        action = by_name[field.name]
        assert f"--{field.name.replace('_', '-')}" in action.option_strings
        assert action.help
    config, explicit = parse([])
    assert (config, explicit) == (Config(), frozenset())


def test_command_line_beats_environment_beats_nothing_and_each_counts_as_given(tmp_path, monkeypatch):
    """lr from the file, momentum from the environment, rounds from the command line, underscores allowed."""
    path = tmp_path / "preset.yaml"
    path.write_text("lr: 0.3\nrounds: 7\nuplink: topk:0.5+bf16\n")
    monkeypatch.setenv("LEANFED_MOMENTUM", "0.1")
    config, explicit = parse(["--config", str(path), "--rounds", "3", "--batch_size", "5", "--quiet"])
    assert (config.lr, config.momentum, config.rounds, config.batch_size) == (0.3, 0.1, 3, 5)
    assert config.uplink == "topk:0.5+bf16"
    assert explicit == {"lr", "momentum", "rounds", "batch_size", "uplink", "quiet"}


def test_a_file_named_on_the_command_line_beats_the_environment(tmp_path, monkeypatch):
    """The same option in both."""
    path = tmp_path / "preset.yaml"
    path.write_text("rounds: 7\n")
    monkeypatch.setenv("LEANFED_ROUNDS", "3")
    assert parse(["--config", str(path)])[0].rounds == 7
    assert parse([])[0].rounds == 3


def test_the_command_line_beats_its_file_wherever_it_stands(tmp_path):
    """Before the file and behind it; of two files the later counts."""
    first, second = tmp_path / "a.yaml", tmp_path / "b.yaml"
    first.write_text("rounds: 7\nlr: 0.3\n")
    second.write_text("rounds: 8\n")
    for argv in (["--lr", "0.1", "--config", str(first)], [f"--config={first}", "--lr=0.1"]):
        assert parse(argv)[0].lr == 0.1
    assert parse(["--config", str(first), "--config", str(second)])[0] == Config(rounds=8, lr=0.3)


def test_a_file_that_the_environment_names_is_beaten_by_other_variables(tmp_path, monkeypatch):
    """LEANFED_CONFIG, then LEANFED_LR."""
    path = tmp_path / "a.yaml"
    path.write_text("rounds: 7\nlr: 0.3\n")
    monkeypatch.setenv("LEANFED_CONFIG", str(path))
    monkeypatch.setenv("LEANFED_LR", "1e-3")
    assert parse([]) == (Config(rounds=7, lr=0.001), frozenset({"rounds", "lr"}))


@pytest.mark.parametrize(
    ("line", "value"),
    [
        *(("lr: 1e-3", 0.001), ("lr: 5e5", 5e5), ("lr: +.5", 0.5), ("lr: .inf", float("inf")), ("lr: 2", 2.0)),
        *(
            ("seed: 0o17", 15),
            ("seed: 010", 10),
            ("rounds: 1_000", 1000),
            ("clients: null", None),
            ("clients: ~", None),
        ),
        *(("run_name: off", "off"), ("run_name: 007", "007"), ("run_name: 1.50", "1.50"), ("run_name: 1e3", "1e3")),
        *(("run_name: 2024-01-01", "2024-01-01"), ("run_name: null", None), ("run_name: 'a: b'", "a: b")),
        *(("quiet: yes", True), ("quiet: Off", False), ("download: 'false'", False), ("batch-size: 3", 3)),
    ],
)
def test_values_in_a_file_mean_what_the_option_takes(tmp_path, line, value):
    """Numbers as in YAML 1.2 where a number is wanted, the text as it stands where text is, yes and off for a switch; and
    the same in a variable of the environment."""
    path = tmp_path / "a.yaml"
    path.write_text(line)
    name = line.partition(":")[0].replace("-", "_")
    config, explicit = parse(["--config", str(path)])
    assert (getattr(config, name), explicit) == (value, {name})


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "must hold options"),
        ("# nothing\n", "must hold options"),
        ("- lr: 1\n", "must hold options"),
        ("lr: 1\nlr: 2\n", "'lr' is given twice"),
        ("batch-size: 1\nbatch_size: 2\n", "'batch_size' is given twice"),
        ("lr: [1, 2]", "lr must have one value"),
        ("config: b.yaml", "no option 'config'"),
        ("rounds: 1:30", "--rounds 1:30 must be a whole number"),
        ("rounds: 1e1", "--rounds 1e1 must be a whole number"),
        ("rounds: true", "--rounds true must be a whole number"),
        ("lr: 0,5", "--lr 0,5 must be a number"),
        ("quiet: 1", "--quiet 1 must be true or false"),
        ("output_dir: null", "--output-dir null must be text"),
        ("server: null", "--server null must be"),
    ],
)
def test_a_file_that_cannot_be_meant_is_refused_in_one_sentence(tmp_path, text, words):
    """It names the file or the option."""
    path = tmp_path / "a.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=words) as caught:
        parse(["--config", str(path)])
    assert "\n" not in str(caught.value)


def test_print_config_can_be_read_back(tmp_path, capsys):
    """What --print_config prints is a --config file of the same options."""
    with pytest.raises(SystemExit) as stopped:
        parse(["--print_config", "--lr", "0.7", "--no-download"])
    assert stopped.value.code == 0
    path = tmp_path / "printed.yaml"
    path.write_text(capsys.readouterr().out)
    assert yaml.safe_load(path.read_text())["lr"] == 0.7
    assert parse(["--config", str(path)])[0] == Config(lr=0.7, download=False)


def test_presets_are_readable():
    """Every file in configs/ parses."""
    folder = os.path.join(os.path.dirname(__file__), "..", "..", "..", "configs")
    names = [name for name in os.listdir(folder) if name.endswith(".yaml")]
    assert names
    for name in names:
        parse(["--config", os.path.join(folder, name)])


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--uplnk", "none"], ["--uplnk", "--uplink"]),
        (["--rounds", "many"], ["--rounds many", "whole number"]),
        (["--clients", "few"], ["--clients few", "whole number"]),
        (["--lr", "x"], ["--lr x", "a number"]),
        (["--late", "carri"], ["--late carri", "drop, carry", "'carry'"]),
        (["--config", "/no/such.yaml"], ["--config", "/no/such.yaml"]),
    ],
)
def test_what_cannot_be_read_is_refused_in_one_sentence(argv, words):
    """The sentence names the option, the value and what would be right."""
    with pytest.raises(ConfigError) as caught:
        parse(argv)
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)


def test_unknown_keys_in_file_and_environment_are_refused(tmp_path, monkeypatch):
    """A misspelt key is not a dead key."""
    path = tmp_path / "bad.yaml"
    path.write_text("roundz: 3\n")
    with pytest.raises(ConfigError, match=r"'roundz'.*'rounds'"):
        parse(["--config", str(path)])
    monkeypatch.setenv("LEANFED_UPLNK", "none")
    with pytest.raises(ConfigError, match=r"LEANFED_UPLNK names no option; did you mean 'LEANFED_UPLINK'\?$"):
        parse([])


def test_a_users_mistake_ends_in_one_line_and_status_2(capsys):
    """No traceback, nothing on stdout."""
    with pytest.raises(SystemExit) as stopped:
        main(["--rounds", "0"])
    printed = capsys.readouterr()
    assert stopped.value.code == 2
    assert printed.err == "error: --rounds 0 must be at least 1\n"
    assert printed.out == ""


@pytest.mark.parametrize(
    ("words", "variables", "sentence"),
    [
        ([], {"QUIET": ""}, "--quiet '' must be true or false (set by LEANFED_QUIET)"),
        ([], {"LR": ""}, "--lr '' must be a number (set by LEANFED_LR)"),
        ([], {"ROUNDS": "0"}, "--rounds 0 must be at least 1 (set by LEANFED_ROUNDS)"),
        ([], {"LATE": "x"}, "--late x must be one of drop, carry (set by LEANFED_LATE)"),
        ([], {"CONFIG": "/none.yaml"}, "No such file or directory) (set by LEANFED_CONFIG)"),
        (["--rou", "0"], {"ROUNDS": "3"}, "--rounds 0 must be at least 1"),
        (["--config", "FILE"], {"ROUNDS": "3"}, "--rounds 0 must be at least 1"),
        (["--rounds=0"], {"LR": "1"}, "--rounds 0 must be at least 1"),
    ],
)
def test_a_mistake_in_a_variable_is_told_as_one(words, variables, sentence, tmp_path, monkeypatch, capsys):
    """Of the options that a sentence is about, those that the environment sets, unless what beats it gives them too."""
    file = tmp_path / "a.yaml"
    file.write_text("rounds: 0\n")
    for name, value in variables.items():
        monkeypatch.setenv(f"LEANFED_{name}", value)
    with pytest.raises(SystemExit):
        main([str(file) if word == "FILE" else word for word in words])
    assert capsys.readouterr().err.endswith(f"{sentence}\n")


@pytest.mark.parametrize("program", [advise, deploy])
def test_a_mistake_in_a_variable_with_the_programs_that_take_options_of_a_run(program, tmp_path, monkeypatch, capsys):
    """As with a run itself."""
    monkeypatch.setenv("LEANFED_ROUNDS", "0")
    with pytest.raises(SystemExit):
        program(["--link", "10"] if program is advise else [str(tmp_path / "app")])
    assert capsys.readouterr().err == "error: --rounds 0 must be at least 1 (set by LEANFED_ROUNDS)\n"


def test_local_steps_over_a_file_with_local_epochs(tmp_path):
    """The user gave one of the two: the sentence says how to switch the other off, and that works."""
    for kept, other in (("local_epochs", "local-steps"), ("local_steps", "local-epochs")):
        path = tmp_path / "preset.yaml"
        path.write_text(f"{kept}: 1\n")
        given = ["--config", str(path), f"--{other}", "3"]
        off = f"--{kept.replace('_', '-')} null"
        with pytest.raises(ConfigError, match=off):
            check_options(*parse(given))
        config, explicit = parse([*given, *off.split()])
        check_options(config, explicit)
        assert (getattr(config, kept), getattr(config, other.replace("-", "_"))) == (None, 3)


@pytest.mark.parametrize(
    ("option", "names", "page"),
    [
        ("algorithm", ALGORITHMS, "docs/clock.md"),
        ("dataset", DATASETS, "docs/data.md"),
        ("model", MODELS, "README.md"),
        ("partition", PARTITIONS, "docs/options.md"),
        ("prune", METHODS, "docs/pruning.md"),
        ("server", server_optimizers, "docs/options.md"),
        ("aggregate", aggregators, "docs/options.md"),
    ],
)
def test_every_name_is_in_the_help_and_in_a_table_of_the_docs(option, names, page):
    """Oracle: the list by which the option's parser knows names."""
    text = next(action.help for action in make_parser()._actions if action.dest == option)
    table = "\n".join(line for line in (ROOT / page).read_text().splitlines() if line.startswith("|"))
    for name in names:
        assert re.search(rf"\b{name}\b", text), f"--help does not name {name}"
        assert re.search(rf"\b{name}\b", table), f"no table of {page} names {name}"


@pytest.mark.parametrize("flag", ["--lr", "--rounds", "--rou", "--server_lr"])
@pytest.mark.parametrize(
    "text", ["1:30", "190:20:30.15", "no", "yes", "true", "1__0", "0b11", "1,5", "\u0663", "inf", "~", "!!int 3"]
)
def test_what_is_no_number_is_refused(flag: str, text: str) -> None:
    """Of which YAML 1.1 makes numbers: 90, say, or a switch. Both ways to write an option."""
    for words in ([flag, text], [f"{flag}={text}"]):
        with pytest.raises(ConfigError, match=rf"^--[a-z-]+ {re.escape(text)} must be a (whole )?number$"):
            parse(words)


@pytest.mark.parametrize("text", ["010", "+7", "10_000", "0x1F"])
def test_numbers_are_read_as_in_files(text, tmp_path):
    """Oracle: the same text in a configuration."""
    (tmp_path / "a.yaml").write_text(f"rounds: {text}\n")
    from_file = parse(["--config", str(tmp_path / "a.yaml")])
    assert parse(["--rounds", text]) == parse([f"--rounds={text}"]) == from_file
    assert parse(["--lr", "-1", "--rounds", text])[0].lr == -1
