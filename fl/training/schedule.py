"""The learning rate by round: the options `--lr` and `--lr-schedule`."""

import math

from compression.spec import SpecError, Stage, nearest, parse_stage
from fl.common.config import TrainOptions

_KNOWN = ("constant", "cosine", "step")


def parse_schedule(text: str) -> Stage:
    """Check a schedule: constant, cosine, or step:EVERY,FACTOR; SpecError otherwise."""
    stage = parse_stage(text)
    if stage.name not in _KNOWN:
        raise SpecError(f"there is no learning-rate schedule '{stage.name}'{nearest(stage.name, _KNOWN)}")
    stage.expect(2 if stage.name == "step" else 0)
    if stage.name == "step":
        stage.integer(0, 1, "the number of rounds")
        stage.number(1, 0, 1, "the factor")
    return stage


def first_learning_rate(options: TrainOptions) -> float:
    """`--lr`, or what suits the optimizer."""
    if options.lr is not None:
        return options.lr
    return 0.05 if options.optimizer == "sgd" else 1e-3


def learning_rate(options: TrainOptions, round_: int) -> float:
    """The local learning rate of a round: cosine falls to zero after the last round (Loshchilov & Hutter 2017).

    The rounds of fine-tuning that come after have one rate.
    """
    lr = first_learning_rate(options)
    if round_ >= options.rounds:
        return lr * options.finetune_lr
    stage = parse_schedule(options.lr_schedule)
    if stage.name == "cosine":
        return lr * (1 + math.cos(math.pi * round_ / options.rounds)) / 2
    if stage.name == "step":
        return lr * float(stage.args[1]) ** (round_ // int(stage.args[0]))
    return lr
