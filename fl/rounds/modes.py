"""The option `--mode`.

sync          a round waits for all of its clients
buffered:K    the server steps for every K updates that arrive (FedBuff)
async:ALPHA   the server mixes in every client's model as it arrives (FedAsync)
step          a gradient exchange every step, as DDP does
"""

from compression.spec import SpecError, Stage, nearest, parse_stage
from fl.common.config import Config
from fl.common.errors import ConfigError
from fl.pruning.spec import parse_pruning

_ARGUMENTS = {"sync": 0, "step": 0, "buffered": 1, "async": 1}


def parse_mode(text: str) -> Stage:
    """Read `--mode`; SpecError for what cannot be meant."""
    stage = parse_stage(text)
    if stage.name not in _ARGUMENTS:
        raise SpecError(f"{text}: there is no such mode{nearest(stage.name, _ARGUMENTS)}")
    stage.expect(_ARGUMENTS[stage.name])
    if stage.name == "buffered":
        stage.integer(0, 1, "the size of the buffer")
    elif stage.name == "async":
        stage.number(0, 1e-6, 1, "ALPHA")
    return stage


def waits(config: Config) -> bool:
    """Whether a synchronous round waits for all of its clients."""
    return not config.deadline and config.over_select == 1


def has_levels(config: Config) -> bool:
    """Whether clients hold nested parts of sizes of their own."""
    if config.prune == "none":
        return False
    pruning = parse_pruning(config.prune)
    return pruning.by == "server" and (pruning.method == "width" or config.capabilities != "none")


def is_buffered(config: Config) -> bool:
    """Whether updates are taken as they arrive, in virtual time."""
    return config.mode.startswith(("buffered", "async")) or (config.mode == "sync" and not waits(config))


def takes_time(config: Config) -> bool:
    """Whether rounds take virtual time."""
    return (
        is_buffered(config) or config.profiles != "none" or config.server_up_limit > 0 or config.server_down_limit > 0
    )


def check_mode(config: Config) -> None:
    """ConfigError for a mode that cannot be read, or for options that do not go with it."""
    try:
        mode = parse_mode(config.mode)
    except SpecError as error:
        raise ConfigError(f"--mode {error}") from None
    if not waits(config):
        _check_deadline(config)
    _check_lost(config)
    if config.buffer != "all" and mode.name != "buffered":
        raise ConfigError(f"--buffer {config.buffer} is about --mode buffered:K, not {config.mode}")
    if config.staleness != "constant" and (mode.name == "step" or (mode.name == "sync" and config.late == "drop")):
        raise ConfigError(
            f"--staleness {config.staleness}: with --mode {config.mode} and --late {config.late} nothing comes late; use "
            "buffered:K, or --deadline with --late carry"
        )
    if not is_buffered(config):
        return
    refused = {
        f"--exchange {config.exchange}": config.exchange != "server",
        f"--prune {config.prune}": config.prune != "none" and (mode.name == "async" or not has_levels(config)),
    }
    late = "" if waits(config) else " and a deadline or over-selection"
    for option, wrong in refused.items():
        if wrong:
            raise ConfigError(
                f"{option} does not go with --mode {config.mode}{late}, where updates come from different versions; of the "
                "ways to prune, parts of clients' own size do (--capabilities), where updates are buffered"
            )
    if mode.name == "async" and (config.server != "fedavg" or config.server_lr not in (None, float(mode.args[0]))):
        raise ConfigError(
            f"--server {config.server} and --server-lr {config.server_lr} do not go with --mode {config.mode}: the server "
            "mixes models by ALPHA; use fedavg, and leave the learning rate out"
        )


def _check_lost(config: Config) -> None:
    """Who is waited for, and given up on, is known where updates come in their own time."""
    ends = config.mode == "sync" and not waits(config) and config.late == "drop"
    for name, value in (("lost", config.lost), ("timeout", config.timeout)):
        if value and not is_buffered(config):
            raise ConfigError(
                f"--{name} {value:g}: a round that waits for all would never end without a lost client; use --deadline, "
                "or --mode buffered:K or async:ALPHA"
            )
    if config.timeout and ends:
        raise ConfigError(
            f"--timeout {config.timeout:g}: --late drop gives up on clients at the end of a round already"
        )
    if config.lost and ends and not config.deadline:
        raise ConfigError(
            f"--lost {config.lost:g} needs a --deadline: with --over-select alone the server would wait for lost clients"
        )
    if config.lost and not ends and not config.timeout:
        raise ConfigError(
            f"--lost {config.lost:g} needs a --timeout, after which the place of a lost client is free again"
        )
    if config.timeout and config.profiles == "none":
        raise ConfigError(f"--timeout {config.timeout:g} needs clients that take time: --profiles must not be none")


def _check_deadline(config: Config) -> None:
    given = f"--deadline {config.deadline:g}" if config.deadline else f"--over-select {config.over_select:g}"
    if config.mode != "sync":
        raise ConfigError(f"{given} is about rounds that wait: --mode {config.mode} must be sync")
    if config.profiles == "none":
        raise ConfigError(f"{given} needs clients that differ in time: --profiles must not be none")
    if config.algorithm.startswith(("scaffold", "feddyn")):
        raise ConfigError(
            f"{given} does not go with --algorithm {config.algorithm}, which needs all of a round's updates"
        )
