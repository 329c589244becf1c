"""When to prune how much: the option `--prune-schedule`.

constant                    the whole sparsity S from round 0
oneshot:ROUND               S from ROUND on
cubic:BEGIN,END,EVERY       S (1 - (1 - p)^3) with p = (round - BEGIN) / (END - BEGIN): Zhu & Gupta 2017, "To prune, or
                            not to prune", equation 1, with initial sparsity 0
linear:BEGIN,END,EVERY      S p
iterative:BEGIN,END,EVERY   density falls by the same factor at each of the N steps, (1 - S)^(i/N) after step i:
                            Frankle & Carbin 2019, "The lottery ticket hypothesis", iterative pruning

Steps are at BEGIN, BEGIN + EVERY, ... and always at END; before BEGIN nothing is pruned, and between steps the sparsity of
the last one holds. The step at BEGIN is already one of iterative's N; for cubic and linear p is 0 there, and so is the
sparsity.
"""

from dataclasses import replace

from compression.spec import SpecError, Stage, nearest, parse_stage

from .spec import Pruning

_ARGUMENTS = {"constant": (), "cubic": (0, 1, 2), "linear": (0, 1, 2), "oneshot": (0,), "iterative": (0, 1, 2)}
_WORDS = ("BEGIN", "END", "EVERY")


def parse_prune_schedule(text: str) -> Stage:
    """Read and check `--prune-schedule`; rounds count from 0. SpecError for what cannot be meant."""
    stage = parse_stage(text)
    if stage.name not in _ARGUMENTS:
        raise SpecError(f"there is no pruning schedule '{stage.name}'{nearest(stage.name, _ARGUMENTS)}")
    positions = _ARGUMENTS[stage.name]
    stage.expect(len(positions))
    if stage.name == "oneshot":
        stage.integer(0, 0, "ROUND")
    elif positions:
        begin, end, _ = (stage.integer(i, 1 if word == "EVERY" else 0, word) for i, word in enumerate(_WORDS))
        if end <= begin:
            raise SpecError(f"'{text}': END must lie after BEGIN = {begin}, not at {end}; oneshot:{begin} is one step")
    return stage


def sparsity_at(schedule: Stage, final_sparsity: float, round_: int) -> float:
    """The sparsity in [0, final_sparsity] that holds in round `round_`, the step at its beginning included.

    It never falls from round to round, and is `final_sparsity` itself, to the bit, from END (or ROUND) on.
    """
    begin, end, every = _times(schedule)
    if round_ < begin:
        return 0.0
    if round_ >= end:
        return final_sparsity
    steps_done = (round_ - begin) // every
    if schedule.name == "iterative":
        steps = -(-(end - begin) // every) + 1
        return 1 - (1 - final_sparsity) ** ((steps_done + 1) / steps)
    p = steps_done * every / (end - begin)
    return final_sparsity * (p if schedule.name == "linear" else 1 - (1 - p) ** 3)


def changes_at(schedule: Stage, round_: int) -> bool:
    """Whether round `round_` begins with a step, that is whether the mask is chosen anew before it."""
    begin, end, every = _times(schedule)
    return round_ == end or (begin <= round_ < end and (round_ - begin) % every == 0)


def pruning_at(pruning: Pruning, schedule: Stage, round_: int) -> Pruning:
    """`pruning` with the sparsities that hold in round `round_`: those of the overrides follow the same schedule."""
    return replace(
        pruning,
        sparsity=sparsity_at(schedule, pruning.sparsity, round_),
        overrides={name: sparsity_at(schedule, sparsity, round_) for name, sparsity in pruning.overrides.items()},
    )


def _times(schedule: Stage) -> tuple[int, int, int]:
    """BEGIN, END and EVERY; those of a schedule of one step are that step, twice, and 1."""
    if schedule.name == "constant":
        return 0, 0, 1
    times = [int(word) for word in schedule.args]
    return (times[0], times[0], 1) if schedule.name == "oneshot" else (times[0], times[1], times[2])
