"""Combinations of `--prune` and other options that cannot work, refused before a run starts."""

from compression import make_codec
from fl.common.config import Config
from fl.common.errors import ConfigError
from fl.pruning.schedule import parse_prune_schedule
from fl.pruning.spec import SMALLER, Pruning, parse_pruning


def check_pruning(config: Config) -> None:
    """Refuse what cannot work; every option can be read by itself. Raises ConfigError."""
    if config.prune == "none":
        _check_unpruned(config)
        return
    pruning = parse_pruning(config.prune)
    if config.mode == "step" or config.exchange == "hook":
        raise ConfigError(f"--prune {config.prune} needs --mode sync and --exchange server, which know masks")
    if pruning.by == "after":
        _check_weights(config, pruning.method)
    else:
        _check_ranking(config, pruning)
    if pruning.by != "after" or config.finetune_rounds:
        _check_codecs(config)
    if pruning.method in SMALLER:
        _check_smaller(config, pruning)
    if pruning.method == "prunefl":
        _check_prunefl(config, pruning)
    _check_ratios(config, pruning)


def _check_unpruned(config: Config) -> None:
    for name, value, usual in (
        ("capabilities", config.capabilities, "none"),
        ("recover", config.recover, "none"),
        ("part-mean", config.part_mean, "holders"),
        ("prune-rewind", config.prune_rewind, False),
    ):
        if value != usual:
            raise ConfigError(f"--{name} {value} is about what clients hold of the model: --prune must not be none")


def _check_ranking(config: Config, pruning: Pruning) -> None:
    schedule = parse_prune_schedule(config.prune_schedule)
    if pruning.method == "gradient" and pruning.by == "client":
        raise ConfigError(f"--prune {config.prune}: a client that has not trained has no gradients; use snip,by=client")
    if pruning.by == "server" and "gradient" in (pruning.method, pruning.score):
        begins = int(schedule.args[0]) if schedule.args else 0
        if begins == 0 and (config.capabilities == "none" or schedule.name in ("constant", "oneshot")):
            raise ConfigError(
                f"--prune {config.prune} ranks by the updates of earlier rounds: --prune-schedule "
                f"{config.prune_schedule} must begin after round 0, as in oneshot:3"
            )
    if pruning.method == "snip" and pruning.by == "server" and config.capabilities != "none":
        raise ConfigError(
            f"--prune {config.prune}: the server has no data to make masks of different sizes from; with --capabilities "
            "use snip:S,by=client"
        )


def _check_codecs(config: Config) -> None:
    """Inside a mask there are no matrices."""
    for name in ("uplink", "downlink"):
        if make_codec(getattr(config, name)).by_shape:
            raise ConfigError(f"--{name} {getattr(config, name)} codes whole matrices and cannot be used inside a mask")


def _check_smaller(config: Config, pruning: Pruning) -> None:
    if config.engine == "deepspeed" or config.deepspeed_config is not None:
        raise ConfigError(
            f"--prune {config.prune} trains smaller models, and DeepSpeed's engine is made for one: --engine must be "
            "ddp or accelerate"
        )
    if config.error_feedback.startswith("dgc") and pruning.shift == "rolling":
        raise ConfigError(
            f"--error-feedback {config.error_feedback} needs parts that stay: shift=rolling must be static"
        )
    if pruning.method == "width" and config.prune_schedule != "constant":
        raise ConfigError(
            f"--prune-schedule {config.prune_schedule}: the widths of --prune {config.prune} follow from the "
            "clients' capabilities; it must be constant"
        )


def _check_prunefl(config: Config, pruning: Pruning) -> None:
    if pruning.by != "server" or config.capabilities != "none" or config.prune_rewind:
        raise ConfigError(f"--prune {config.prune} has one mask for all: leave out --capabilities and --prune-rewind")
    if config.prune_schedule != "constant":
        raise ConfigError(
            f"--prune-schedule {config.prune_schedule}: --prune {config.prune} changes its mask every {pruning.every} "
            "rounds; say every=ROUNDS there"
        )
    if config.precision == "fp16":
        raise ConfigError(f"--precision fp16 scales gradients, which --prune {config.prune} adds up: use bf16 or fp32")
    if config.engine == "deepspeed" or config.deepspeed_config is not None:
        raise ConfigError(f"--prune {config.prune} looks at every gradient: --engine must be ddp or accelerate")


def _check_ratios(config: Config, pruning: Pruning) -> None:
    if config.capabilities.startswith(("equal_time", "online")) and config.profiles == "none":
        raise ConfigError(f"--capabilities {config.capabilities} goes by --profiles, which must not be none")
    if config.capabilities != "none" and pruning.by == "after":
        raise ConfigError(
            f"--capabilities {config.capabilities} needs masks before training: --prune {config.prune} must not have "
            "by=after"
        )
    if config.capabilities.startswith("online") and pruning.by != "server":
        raise ConfigError(f"--capabilities {config.capabilities} needs nested parts: --prune must be by=server")
    leveled = pruning.by == "server" and (config.capabilities != "none" or pruning.method == "width")
    if config.part_mean != "holders" and not (leveled or pruning.by == "client"):
        raise ConfigError(
            f"--part-mean {config.part_mean} is about clients that hold different parts: it needs --capabilities, width or "
            "by=client"
        )
    if config.recover != "none" and not (leveled and config.capabilities != "none"):
        raise ConfigError(
            f"--recover {config.recover} lets the parts of smaller clients grow: it needs --capabilities and a --prune "
            "by=server"
        )
    if config.recover.startswith("plateau") and not config.val_fraction:
        raise ConfigError(
            f"--recover {config.recover} looks at the validation accuracy: --val-fraction must be above 0"
        )
    if config.prune_rewind and (leveled or pruning.by != "server"):
        raise ConfigError("--prune-rewind is for one mask of all clients: --prune METHOD:S without --capabilities")


def _check_weights(config: Config, method: str) -> None:
    """Clients that prune after training send weights: those that are not zero, at any precision."""
    codec = make_codec(config.uplink)
    if codec.sparse or codec.warm:
        raise ConfigError(
            f"--uplink {config.uplink} chooses what to send of an update, and --prune {config.prune} sends weights: "
            "use a value format (none, bf16, int8+zstd)"
        )
    if config.error_feedback != "none":
        raise ConfigError(
            f"--prune {config.prune} sends weights, of which nothing is left over: --error-feedback "
            f"{config.error_feedback} must be none"
        )
    if method not in ("magnitude", "random", "filters"):
        raise ConfigError(f"--prune {config.prune}: after training, magnitude, random and filters can be used")
