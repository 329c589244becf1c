"""The learning rate by round or by step: the options `--lr` and `--lr-schedule`."""

import math
from collections.abc import Callable

from compression.spec import SpecError, Stage, nearest, parse_stage
from fl.common.config import TrainOptions

_KEYS = {"constant": ("warmup",), "cosine": ("warmup", "floor"), "step": ()}


def parse_schedule(text: str) -> Stage:
    """Check a schedule: constant, cosine or step:EVERY,FACTOR by round, or with named arguments by step; SpecError
    otherwise."""
    stage = parse_stage(text)
    if stage.name not in _KEYS:
        raise SpecError(f"there is no learning-rate schedule '{stage.name}'{nearest(stage.name, _KEYS)}")
    stage.expect(2 if stage.name == "step" else 0, _KEYS[stage.name])
    if "warmup" in stage.options and stage.option("warmup", 0, 10**9) % 1:
        raise SpecError(f"'{stage}': warmup must be a whole number of steps, not {stage.options['warmup']}")
    if "floor" in stage.options:
        stage.option("floor", 0, 1)
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

    The rounds of fine-tuning that come after have one rate. Where every step has a rate of its own, it is the highest.
    """
    lr = first_learning_rate(options)
    if round_ >= options.rounds:
        return lr * options.finetune_lr
    stage = parse_schedule(options.lr_schedule)
    if stage.name == "cosine" and not stage.options:
        return lr * (1 + math.cos(math.pi * round_ / options.rounds)) / 2
    if stage.name == "step":
        return lr * float(stage.args[1]) ** (round_ // int(stage.args[0]))
    return lr


def step_schedule(options: TrainOptions, steps: int) -> Callable[[int], float] | None:
    """The local learning rate by step, numbered over the whole run, of a client that takes so many `steps` a round; None
    where all steps of a round have one rate.

    It grows in equal parts over the steps of the warm-up, from none before the first one, and then is constant or falls as
    half a cosine to the floor, a fraction of `--lr`, which the last step has (the schedule of nanoGPT).
    """
    stage = parse_schedule(options.lr_schedule)
    if not stage.options:
        return None
    lr, last = first_learning_rate(options), options.rounds * steps - 1
    warmup = int(float(stage.options.get("warmup", 0)))
    floor = float(stage.options.get("floor", 0)) if stage.name == "cosine" else 1.0

    def rate(step: int) -> float:
        if step > last:
            return lr * options.finetune_lr
        if step < warmup:
            return lr * (step + 1) / (warmup + 1)
        fallen = (step - warmup) / max(1, last - warmup)
        return lr * (floor + (1 - floor) * (1 + math.cos(math.pi * fallen)) / 2)

    return rate
