"""The option `--algorithm` and what goes with it. Oracle: the table of each algorithm's needs."""

import dataclasses
from typing import Any

import pytest
import torch

from compression.spec import SpecError
from fl.algorithms.base import Algorithm
from fl.algorithms.feddyn import FedDyn
from fl.algorithms.fednova import FedNova
from fl.algorithms.fedprox import FedProx
from fl.algorithms.make import make_algorithm
from fl.algorithms.scaffold import Scaffold
from fl.algorithms.spec import parse_algorithm
from fl.common.config import Config
from fl.common.errors import ConfigError
from fl.run.rules import check_rules
from tests.fl.algorithms.quadratic import LAYOUT

PLAIN = Config(uplink="none", momentum=0.0)
OTHERS = ("fedprox:0.1", "fednova", "scaffold", "feddyn:0.1")


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("fedavg", Algorithm),
        ("fedprox:0", FedProx),
        ("fednova", FedNova),
        ("scaffold", Scaffold),
        ("feddyn:1e-2", FedDyn),
    ],
)
def test_makes(text: str, kind: type[Algorithm]) -> None:
    """Each by its name, and all of them fit a plain run."""
    check_rules(dataclasses.replace(PLAIN, algorithm=text))
    assert type(make_algorithm(text, LAYOUT, torch.device("cpu"), clients=4, momentum=0.0)) is kind


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("fedprx:1", "did you mean 'fedprox'"),
        ("SCAFOLD", "did you mean 'scaffold'"),
        ("fedprox", "as in fedprox:0.01"),
        ("fedprox:1,2", "not 2"),
        ("fedprox:-1", "MU must lie between 0"),
        ("fedprox:much", "MU must be a number"),
        ("feddyn:0", "ALPHA must lie between"),
        ("fednova:0.9", "takes 0 argument"),
        ("scaffold,option=1", "has no option 'option'"),
    ],
)
def test_refuses_what_cannot_be_read(text: str, words: str) -> None:
    """With the nearest right word."""
    with pytest.raises(SpecError, match=words):
        parse_algorithm(text)


@pytest.mark.parametrize(
    ("option", "value", "refused"),
    [
        ("precision", "fp16", OTHERS),
        ("mode", "step", OTHERS),
        ("mode", "buffered:4", ("scaffold", "feddyn:0.1")),
        ("mode", "async:0.6", ("fednova", "scaffold", "feddyn:0.1")),
        ("exchange", "hook", OTHERS),
        ("engine", "deepspeed", OTHERS),
        ("deepspeed_config", "some.json", OTHERS),
        ("optimizer", "adam", ("fednova", "scaffold")),
        ("momentum", 0.9, ("scaffold",)),
        ("clip_norm", 1.0, ("scaffold",)),
        ("weight_decay", 0.1, ()),
        ("prune", "width:0.5", OTHERS),
        ("prune", "magnitude:0.5", ("fednova", "scaffold", "feddyn:0.1")),
        ("uplink", "topk:0.01", ("scaffold", "feddyn:0.1")),
        ("uplink", "powersgd:2", ("scaffold", "feddyn:0.1")),
        ("uplink", "int8", ()),
        ("server", "fedadam", ("feddyn:0.1",)),
        ("server_lr", 0.5, ("feddyn:0.1",)),
        ("server_lr", 1.0, ()),
    ],
)
def test_refuses_what_does_not_fit(option: str, value: Any, refused: tuple[str, ...]) -> None:
    """In one sentence that names the option, the value and the algorithm; every other algorithm takes it."""
    config = dataclasses.replace(PLAIN, **{option: value})
    for text in ("fedavg", *OTHERS):
        if text not in refused:
            check_rules(dataclasses.replace(config, algorithm=text))
            continue
        with pytest.raises(ConfigError, match=f"does not go with --algorithm {text}: .*use|{text}: .*sgd") as error:
            check_rules(dataclasses.replace(config, algorithm=text))
        assert option == "deepspeed_config" or f"--{option.replace('_', '-')} " in str(error.value)


def test_a_sparse_uplink_without_a_residual_fits() -> None:
    """The sums make up for what is not sent."""
    for text in OTHERS:
        check_rules(dataclasses.replace(PLAIN, algorithm=text, uplink="topk:0.01", error_feedback="none"))
