"""Clients that attack in every round, with and without a rule that withstands them: here on digits, and as measured on MNIST
by `make attacks`."""

import contextlib
import csv

import pytest
import torch

from benchmarks.attacks import ATTACKS, OPTIONS, RESULTS, RULES, accuracy, attacked
from fl.common.config import Config
from fl.models.update import Job, Update

_DIGITS = {"dataset": "digits", "model": "tests.user_code:norm_model", "rounds": 6, "local_steps": 8, "lr": 0.1}
_WITHSTAND = ("median", "trimmed:0.2", "krum:2", "multikrum:2")


def _accuracy(attack: str, rule: str) -> float:
    with attacked(attack, (3, 7)) if attack else contextlib.nullcontext():
        return accuracy(Config(**{**OPTIONS, **_DIGITS, "aggregate": rule}))[0]


@pytest.fixture(scope="module")
def clean() -> float:
    """The accuracy of the mean that nobody attacks."""
    return _accuracy("", "mean")


@pytest.mark.parametrize(("attack", "rule"), [("sign flip", "krum:2"), ("statistics", "median")])
def test_a_rule_withstands_what_the_mean_does_not(attack: str, rule: str, clean: float) -> None:
    """Two of ten clients: with the rule nearly nothing is lost, with the mean much of what was learnt."""
    assert _accuracy(attack, rule) > clean - 0.15
    assert _accuracy(attack, "mean") < clean - 0.2


def test_what_an_attacker_sends() -> None:
    """Oracle: the docstring of `ATTACKS`; noise is new in every round."""
    sent = {}
    for name, attack in ATTACKS.items():
        update = Update(3, torch.arange(1.0, 101), torch.ones(4), 10, 0.5, 0.1)
        attack(update, Job(3, 7, 7))
        sent[name] = update
    honest = torch.arange(1.0, 101)
    assert torch.equal(sent["sign flip"].values, -5 * honest)
    assert torch.equal(sent["scaling"].values, 10 * honest)
    assert float(sent["noise"].values.norm()) == pytest.approx(100 * float(honest.norm()), rel=1e-4)
    assert abs(float(torch.cosine_similarity(sent["noise"].values, honest, dim=0))) < 0.3
    assert torch.equal(sent["statistics"].buffers, torch.full((4,), 100.0))
    assert torch.equal(sent["label flip"].values, honest)
    later = Update(3, torch.arange(1.0, 101), torch.ones(4), 10, 0.5, 0.1)
    ATTACKS["noise"](later, Job(3, 8, 8))
    assert not torch.equal(later.values, sent["noise"].values)


def test_flipped_labels_are_trained_on(clean: float) -> None:
    """If all clients flip theirs, the model says 9 - y: hardly a test sample is right."""
    with attacked("label flip", range(10)):
        assert accuracy(Config(**{**OPTIONS, **_DIGITS}))[0] < 0.1 < clean


def test_on_mnist_the_rules_stay_within_three_points() -> None:
    """The committed table of `make attacks`, flipped signs: every rule that is to withstand a fifth of the clients is within
    3 points of the mean without an attack, which itself falls by more than 20."""
    with open(RESULTS) as file:
        found = {(row["attack"], row["rule"]): float(row["accuracy"]) for row in csv.DictReader(file)}
    assert found.keys() == {(attack, rule) for attack in ("none", *ATTACKS) for rule in RULES}
    best = found["none", "mean"]
    for rule in _WITHSTAND:
        assert found["sign flip", rule] >= best - 0.03
    assert found["sign flip", "mean"] < best - 0.2
