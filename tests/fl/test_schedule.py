"""Learning rates by round, against the formulas."""

import math

import pytest

from compression.spec import SpecError
from fl.config import TrainOptions
from fl.schedule import learning_rate, parse_schedule


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
