"""Learning rates by round, against the formulas."""

import math

import pytest

from compression.spec import SpecError
from fl.common.config import Config, TrainOptions
from fl.run.checks import resolve
from fl.training.schedule import first_learning_rate, learning_rate, parse_schedule


def test_schedules_follow_their_formulas():
    """constant: lr. step:2,0.1: a tenth every two rounds. cosine: lr (1 + cos(pi r / R)) / 2."""
    rates = lambda text: [learning_rate(TrainOptions(lr=0.8, rounds=4, lr_schedule=text), r) for r in range(4)]  # noqa: E731
    assert rates("constant") == [0.8] * 4
    assert rates("step:2,0.1") == pytest.approx([0.8, 0.8, 0.08, 0.08])
    assert rates("cosine") == pytest.approx([0.4 * (1 + math.cos(math.pi * r / 4)) for r in range(4)])


@pytest.mark.parametrize("text", ["cosin", "step:2", "step:0,0.1", "step:2,7", "constant:1"])
def test_wrong_schedules_are_refused(text: str):
    """Each is unknown, incomplete or out of range."""
    with pytest.raises(SpecError):
        parse_schedule(text)


@pytest.mark.parametrize(("optimizer", "rate"), [("sgd", 0.05), ("adam", 1e-3), ("adamw", 1e-3)])
def test_every_optimizer_has_a_rate_of_its_own(optimizer: str, rate: float):
    """Oracle: the table in docs/options.md, and the user's word where there is one, zero included."""
    assert first_learning_rate(TrainOptions(optimizer=optimizer)) == rate
    assert learning_rate(TrainOptions(optimizer=optimizer), 3) == rate
    assert resolve(Config(optimizer=optimizer), world_size=1, threads=1).lr == rate
    for given in (0.2, 0.0):
        assert first_learning_rate(TrainOptions(optimizer=optimizer, lr=given)) == given
