"""Learning rates by round and by step, against the formulas."""

import math

import pytest

from compression.spec import SpecError
from fl.common.config import Config, TrainOptions
from fl.run.checks import resolve
from fl.training.schedule import first_learning_rate, learning_rate, parse_schedule, step_schedule


def test_schedules_follow_their_formulas():
    """constant: lr. step:2,0.1: a tenth every two rounds. cosine: lr (1 + cos(pi r / R)) / 2."""
    rates = lambda text: [learning_rate(TrainOptions(lr=0.8, rounds=4, lr_schedule=text), r) for r in range(4)]  # noqa: E731
    assert rates("constant") == [0.8] * 4
    assert rates("step:2,0.1") == pytest.approx([0.8, 0.8, 0.08, 0.08])
    assert rates("cosine") == pytest.approx([0.4 * (1 + math.cos(math.pi * r / 4)) for r in range(4)])


def _by_step(text: str, rounds: int, steps: int, finetune_rounds: int = 0) -> list[float]:
    rate = step_schedule(TrainOptions(lr=0.8, rounds=rounds, finetune_lr=0.25, lr_schedule=text), steps)
    assert rate is not None
    return [rate(step) for step in range((rounds + finetune_rounds) * steps)]


def test_schedules_by_step_follow_their_formula():
    """nanoGPT's, of 12 steps with 3 of warm-up: (step + 1) / 4, then half a cosine over the 8 intervals that are left."""
    up = [0.2, 0.4, 0.6]
    down = [0.1 + 0.9 * (1 + math.cos(math.pi * at / 8)) / 2 for at in range(9)]
    assert _by_step("cosine:warmup=3,floor=0.1", 3, 4) == pytest.approx(up + [0.8 * part for part in down])
    assert _by_step("cosine:warmup=3,floor=0.1", 3, 4)[-1] == pytest.approx(0.08)
    assert _by_step("constant:warmup=3", 3, 4) == pytest.approx(up + [0.8] * 9)
    assert _by_step("cosine:floor=0", 1, 3) == pytest.approx([0.8, 0.4, 0.0])
    assert _by_step("cosine:warmup=9", 2, 2) == pytest.approx([0.08, 0.16, 0.24, 0.32]), "it ends in the warm-up"
    assert _by_step("cosine:warmup=0", 1, 1) == [0.8]
    assert _by_step("cosine:warmup=3", 3, 4, finetune_rounds=1)[12:] == pytest.approx([0.2] * 4)
    assert step_schedule(TrainOptions(lr_schedule="cosine"), 4) is None
    assert learning_rate(TrainOptions(lr=0.8, rounds=4, lr_schedule="cosine:warmup=3"), 2) == 0.8


@pytest.mark.parametrize(
    "text",
    [
        *(
            "cosin",
            "step:2",
            "step:0,0.1",
            "step:2,7",
            "constant:1",
            "cosine:100",
            "constant:floor=0.1",
            "step:2,0.1,warmup=3",
        ),
        *("cosine:warmup=1.5", "cosine:warmup=-1", "cosine:floor=2", "cosine:warmup", "cosine:wormup=3"),
    ],
)
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
