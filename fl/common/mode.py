"""The option `--mode`, and the properties of a run's rounds.

sync                   a round waits for all of its clients, or with `--deadline` and `--over-select` for some
buffered:K[,latest]    the server steps for every K updates that arrive (FedBuff); with `latest` a client that arrives
                       twice has its later update in the buffer (PR-FL)
async:ALPHA            the server mixes in every client's model as it arrives (FedAsync)
step                   a gradient exchange every step, as DDP does
"""

from dataclasses import dataclass, replace

from compression.spec import SpecError, nearest, parse_stage

from .config import Config

MODES = {"sync": "sync", "buffered": "buffered:K[,latest]", "async": "async:ALPHA", "step": "step"}
"""How each mode is written."""
_LATEST = "latest"


@dataclass(frozen=True)
class Mode:
    """Properties of a run's rounds.

    `name`: sync, buffered, async or step. `buffer_size`: updates that the server waits for, where it does not wait for
    all; `latest`: a later update of a client takes the place of an earlier one in the buffer. `alpha`: the weight, in
    (0, 1], of a client's model where models are mixed. `waits_for_all`: whether a round ends when all of its clients have
    sent their updates; otherwise these are taken as they arrive, in virtual time. `drops_late`: whether rounds that do not
    wait for all give up on the others. `has_server`: whether clients send updates to a server, or gradients to each
    other; `sees_each_update`: whether the server gets a payload of every client. `takes_time`: whether clients take virtual
    time in rounds that wait for all.
    """

    name: str
    buffer_size: int = 1
    latest: bool = False
    alpha: float = 1.0
    waits_for_all: bool = True
    drops_late: bool = False
    has_server: bool = True
    sees_each_update: bool = True
    takes_time: bool = False


def parse_mode(text: str) -> Mode:
    """Read `--mode`; SpecError for what cannot be meant."""
    stage = parse_stage(text, (_LATEST,))
    if stage.name not in MODES:
        raise SpecError(f"{text}: there is no such mode{nearest(stage.name, MODES)}")
    stage.expect(1 if ":" in MODES[stage.name] else 0)
    if stage.flags and stage.name != "buffered":
        raise SpecError(f"{text}: {_LATEST} is about --mode buffered:K, not {stage.name}")
    if stage.name == "buffered":
        size = stage.integer(0, 1, "the size of the buffer")
        return Mode(stage.name, buffer_size=size, latest=_LATEST in stage.flags, waits_for_all=False)
    if stage.name == "async":
        return Mode(stage.name, alpha=stage.number(0, 1e-6, 1, "ALPHA"), waits_for_all=False)
    has_server = stage.name != "step"
    return Mode(stage.name, has_server=has_server, sees_each_update=has_server)


def mode_of(config: Config) -> Mode:
    """The mode that `--mode` and the other options about rounds ask for; SpecError as `parse_mode`."""
    mode = parse_mode(config.mode)
    ends_early = mode.name == "sync" and (config.deadline > 0 or config.over_select > 1)
    waits_for_all = mode.waits_for_all and not ends_early
    takes_time = config.profiles != "none" or config.server_up_limit > 0 or config.server_down_limit > 0
    return replace(
        mode,
        waits_for_all=waits_for_all,
        drops_late=ends_early and config.late == "drop",
        sees_each_update=mode.sees_each_update and config.exchange == "server",
        takes_time=waits_for_all and takes_time,
    )
