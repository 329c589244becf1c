"""The experiment file: what is read, and every mistake as one sentence. Oracle: the rules of docs/experiments.md."""

import copy
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from fl.common.errors import ConfigError
from fl.experiment.spec import Target, parse_experiment, read_experiment
from tests.support import ROOT

GOOD: dict[str, Any] = {
    "name": "good",
    "description": "A sentence.",
    "base": {"dataset": "digits", "model": "lenet5", "lr": 0.1},
    "vary": ["uplink", "lr"],
    "arms": {"dense": {"uplink": "none"}, "topk 1 %": {"uplink": "topk:0.01", "lr": "1e-2"}},
    "seeds": [0, 3],
    "target": {"arm": "dense", "minus": 0.005},
}
_GONE = object()


def changed(**keys: Any) -> dict[str, Any]:
    """A good file with other values; `_GONE` removes a key."""
    values = copy.deepcopy(GOOD) | keys
    return {key: value for key, value in values.items() if value is not _GONE}


def test_a_good_file_is_read() -> None:
    """Arms take from base what they leave out; 1e-2, text to YAML 1.1, is a number."""
    experiment = parse_experiment(changed())
    dense, topk = experiment.arms
    assert dense.varied == {"uplink": "none", "lr": 0.1}
    assert topk.varied == {"uplink": "topk:0.01", "lr": 0.01}
    assert topk.given == {"dataset": "digits", "model": "lenet5", "uplink": "topk:0.01", "lr": 0.01}
    assert [arm.folder for arm in experiment.arms] == ["dense", "topk_1"]
    assert (experiment.seeds, experiment.vary) == ((0, 3), ("uplink", "lr"))
    assert experiment.target == Target(arm="dense", minus=0.005)


def test_what_may_be_left_out() -> None:
    """Description and target; and one arm alone varies nothing."""
    arms: dict[str, Any] = {"only": {}}
    experiment = parse_experiment(changed(description=_GONE, target=_GONE, vary=[], arms=arms))
    assert (experiment.description, experiment.target, experiment.arms[0].varied) == ("", None, {})
    assert parse_experiment(changed(target={"val_accuracy": 1})).target == Target(1.0)


MISTAKES: dict[str, tuple[dict[str, Any], list[str]]] = {
    "unknown key": ({"sedes": [1]}, ["no key 'sedes'", "did you mean 'seeds'?"]),
    "no name": ({"name": _GONE}, ["'name' is missing"]),
    "no arms": ({"arms": _GONE}, ["'arms' is missing"]),
    "name is a path": ({"name": "a/b"}, ["name 'a/b'", "letters"]),
    "name is a number": ({"name": 3}, ["name 3"]),
    "description": ({"description": ["x"]}, ["description ['x']", "text"]),
    "base is a list": ({"base": ["lr"]}, ["base must be a mapping", "['lr']"]),
    "base is empty": ({"base": None}, ["base must be a mapping", "None"]),
    "base, unknown option": ({"base": {"clint": 3}}, ["base", "'clint'", "did you mean 'clients'?"]),
    "base, wrong value": ({"base": {"lr": 0.1, "clients": 0}}, ["--clients 0", "at least 1"]),
    "base, wrong type": ({"base": {"lr": 0.1, "rounds": "many"}}, ["--rounds 'many'", "int"]),
    "base, contradiction": ({"base": {"lr": 1, "local_epochs": 1, "local_steps": 1}}, ["--local-epochs", "contradict"]),
    "base, the runner's own": ({"base": {"data_dir": "x"}}, ["base sets 'data_dir'", "--data-dir"]),
    "vary is a word": ({"vary": "uplink"}, ["vary 'uplink'", "[uplink]"]),
    "vary, unknown": ({"vary": ["uplnk"]}, ["vary", "'uplnk'", "did you mean 'uplink'?"]),
    "vary, twice": ({"vary": ["uplink", "lr", "lr"]}, ["'lr' twice"]),
    "arms is a list": ({"arms": ["dense"]}, ["arms must be a mapping", "['dense']"]),
    "arms is empty": ({"arms": {}}, ["arms {}", "at least one arm"]),
    "arm name is a number": ({"arms": {1: {"uplink": "none"}}}, ["the key 1", "quotes"]),
    "arm without a letter": ({"arms": {"%": {"uplink": "none"}}}, ["'%'", "a letter or a digit"]),
    "arm is a word": ({"arms": {"dense": "none"}}, ["arms, 'dense' must be a mapping", "'none'"]),
    "arm, unknown option": (
        {"arms": {"dense": {"upling": "none"}}},
        ["'dense'", "'upling'", "did you mean 'uplink'?"],
    ),
    "arm, wrong value": (
        {"arms": {"dense": {"uplink": "none"}, "b": {"uplink": "topk:7", "lr": 1}}},
        ["'b'", "--uplink 'topk:7'"],
    ),
    "arms share a folder": (
        {"arms": {"a b": {"uplink": "none"}, "A_b": {"uplink": "fp16", "lr": 1}}},
        ["'A_b' and 'a b'", "folder"],
    ),
    "private, with the default seed": (
        {"base": {"dp": "clip:1,noise=1,delta=1e-5", "lr": 1}},
        ["'dense'", "--seed 0 does not go with --dp"],
    ),
    "seeds is a number": ({"seeds": 3}, ["seeds 3", "[0, 1, 2]"]),
    "seeds is empty": ({"seeds": []}, ["seeds []"]),
    "seed is negative": ({"seeds": [-1]}, ["seeds [-1]", "at least 0"]),
    "seed is no number": ({"seeds": [True]}, ["seeds [True]"]),
    "seed twice": ({"seeds": [1, 1]}, ["seeds [1, 1]", "different"]),
    "target is a number": ({"target": 0.6}, ["target must be a mapping", "0.6"]),
    "target, unknown key": ({"target": {"accuracy": 0.6}}, ["'accuracy'", "did you mean 'val_accuracy'?"]),
    "target, both": ({"target": {"val_accuracy": 0.6, "arm": "dense"}}, ["either val_accuracy"]),
    "target, half": ({"target": {"arm": "dense"}}, ["both arm and minus"]),
    "target in per cent": ({"target": {"val_accuracy": 65}}, ["val_accuracy 65", "0.65"]),
    "target, minus": ({"target": {"arm": "dense", "minus": "half"}}, ["minus 'half'"]),
    "target, unknown arm": ({"target": {"arm": "dens", "minus": 0}}, ["'dens'", "did you mean 'dense'?"]),
    "target without validation": ({"base": {"lr": 1, "val_fraction": 0}}, ["val_fraction 0", "target"]),
    "not a mapping": ({}, []),
}


@pytest.mark.parametrize("name", list(MISTAKES))
def test_every_mistake_is_one_sentence(name: str) -> None:
    """Key, value and what would be right."""
    keys, words = MISTAKES[name]
    with pytest.raises(ConfigError) as caught:
        parse_experiment(changed(**keys) if keys else ["name"])
    for word in words:
        assert word in str(caught.value)
    assert "\n" not in str(caught.value)


LIKE_FOR_LIKE: dict[str, tuple[dict[str, Any], list[str]]] = {
    "sets what is not in vary": (
        {"vary": ["uplink"]},
        ["'topk 1 %' sets lr 0.01", "vary lists (uplink)", "put it in base"],
    ),
    "leaves out what is in vary": (
        {"base": {"dataset": "digits"}},
        ["'dense' does not set lr", "every arm"],
    ),
    "two arms alike": (
        {"arms": {"one": {"uplink": "fp16"}, "two": {"uplink": "fp16", "lr": 0.1}}},
        ["'two' has the same options as 'one'"],
    ),
    "varies nothing": (
        {"arms": {"one": {"uplink": "none"}, "two": {"uplink": "fp16"}}},
        ["'lr'", "0.1 in every arm"],
    ),
}
RUNNERS = ("seed", "run_name", "resume", "output_dir", "quiet", "data_dir")


@pytest.mark.parametrize("name", list(LIKE_FOR_LIKE))
def test_arms_differ_only_in_what_they_declare(name: str) -> None:
    """Refused: the sentence names the arm and the option."""
    keys, words = LIKE_FOR_LIKE[name]
    with pytest.raises(ConfigError) as caught:
        parse_experiment(changed(**keys))
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize("option", RUNNERS)
def test_the_runners_own_options_cannot_be_set(option: str) -> None:
    """Neither in vary, nor in an arm, nor in base."""
    arms = {"one": {"uplink": "none", option: 1}, "two": {"uplink": "fp16", option: 2}}
    for keys in ({"vary": ["uplink", option]}, {"arms": arms}, {"base": {option: 1}}):
        with pytest.raises(ConfigError, match=f"sets '{option}', which the runner sets itself"):
            parse_experiment(changed(**keys))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("name: [", ["is not YAML"]),
        ("name: x\nname: y", ["'name' is given twice"]),
        ("arms:\n  dense: {uplink: none}\n  dense: {uplink: fp16}", ["'dense' is given twice"]),
    ],
)
def test_a_file_that_cannot_be_read(tmp_path: Path, text: str, words: list[str]) -> None:
    """The file is named; a key given twice is not settled silently."""
    path = tmp_path / "experiment.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        read_experiment(path)
    for word in [str(path), *words]:
        assert word in str(caught.value)
    with pytest.raises(ConfigError, match="cannot be read"):
        read_experiment(tmp_path / "nowhere.yaml")


def test_the_files_that_come_with_the_program(tmp_path: Path) -> None:
    """All of experiments/, and the one in docs/experiments.md, are good."""
    page = (ROOT / "docs" / "experiments.md").read_text()
    shown = re.search(r"```yaml\n(.*?)```", page, flags=re.DOTALL)
    assert shown
    parse_experiment(yaml.safe_load(shown[1]))
    files = sorted((ROOT / "experiments").glob("*.yaml"))
    assert files
    for path in files:
        read_experiment(path)
