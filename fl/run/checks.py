"""Everything that can be refused before a run starts, and the defaults that depend on other options."""

import dataclasses
import math
import os
from collections.abc import Callable
from typing import Any

from compression.feedback import read_feedback
from compression.grammar import read_codec
from compression.spec import SpecError
from fl.algorithms.spec import parse_algorithm
from fl.clock.adaptive import parse_uplink_shares
from fl.clock.profiles import parse_profiles, profiles
from fl.comm.warmup import check_warmup
from fl.common.config import Config, check_types
from fl.common.errors import ConfigError
from fl.common.mode import mode_of, parse_mode
from fl.common.names import readable
from fl.common.paths import LONGEST_NAME
from fl.common.sizes import parse_size
from fl.data import check_dataset, is_natural, is_text
from fl.data.augment_spec import read_augment
from fl.data.partition import check_partition
from fl.models import check_model, context_of
from fl.models.bits import MAX_BITS, MIN_BITS
from fl.output.trackers import check_trackers
from fl.pruning.capacity import parse_capabilities, parse_recovery
from fl.pruning.schedule import parse_prune_schedule
from fl.pruning.spec import parse_pruning
from fl.rounds.sampling import parse_sampling
from fl.rounds.staleness import parse_staleness
from fl.server.privacy_spec import check_accountant, parse_dp
from fl.server.rules import parse_aggregate
from fl.server.spec import server_learning_rate, server_optimizers
from fl.training.schedule import first_learning_rate, parse_schedule

from .rules import check_rules

_CLIENTS_OF_ONE_HOST = 4


def check_given(config: Config, explicit: frozenset[str] = frozenset()) -> None:
    """`check_options` of what the user gave, before what a run that goes on has stored is known."""
    # A run that goes on has a copy of this file.
    check_options(config if config.resume is None else dataclasses.replace(config, init=None), explicit)


def check_options(config: Config, explicit: frozenset[str] = frozenset()) -> None:
    """Refuse values out of range, unreadable specifications and combinations that cannot work, whatever the ranks.

    `explicit`: names of the options that the user gave, as opposed to defaults. Raises ConfigError.
    """
    check_types(config)
    _check_ranges(config)
    _check_specs(config)
    if config.run_name is not None and ("/" in config.run_name or config.run_name in ("", ".", "..")):
        raise ConfigError(f"--run-name '{config.run_name}' must be the name of one folder inside --output-dir")
    if config.run_name is not None and config.resume in (None, "auto"):
        _check_run_name(config.run_name)
    if 0 < config.qat < MIN_BITS:
        raise ConfigError(f"--qat {config.qat} must be 0 (off) or {MIN_BITS} to {MAX_BITS} bits")
    check_rules(config, explicit)


def _check_run_name(name: str) -> None:
    if readable(name) != name:
        raise ConfigError(f"--run-name '{readable(name)}' must hold no control character, and be UTF-8")
    if len(os.fsencode(name)) > LONGEST_NAME:
        raise ConfigError(
            f"--run-name {name[:40]}... must have at most {LONGEST_NAME} bytes, not {len(os.fsencode(name))}"
        )


def _check_ranges(config: Config) -> None:
    for field in dataclasses.fields(config):
        value, low, high = getattr(config, field.name), field.metadata["low"], field.metadata["high"]
        if value is None or isinstance(value, (str, bool)):
            continue
        if isinstance(value, float) and not math.isfinite(value):
            raise ConfigError(f"--{field.name.replace('_', '-')} {value} must be a finite number")
        if (low is not None and not value >= low) or (high is not None and not value <= high):
            wanted = f"at least {low:g}" if high is None else f"between {low:g} and {high:g}"
            raise ConfigError(f"--{field.name.replace('_', '-')} {value} must be {wanted}")


def _check_specs(config: Config) -> None:
    checks: dict[str, Callable[[Any], object]] = {
        "partition": check_partition,
        "uplink": read_codec,
        "uplink_shares": parse_uplink_shares,
        "downlink": read_codec,
        "error_feedback": lambda text: read_feedback(text, read_codec(config.uplink)),
        "uplink_warmup": lambda rounds: check_warmup(rounds, read_codec(config.uplink)),
        "lr_schedule": parse_schedule,
        "algorithm": parse_algorithm,
        "prune": lambda spec: spec == "none" or parse_pruning(spec),
        "prune_schedule": parse_prune_schedule,
        "sampling": parse_sampling,
        "profiles": parse_profiles,
        "mode": parse_mode,
        "staleness": parse_staleness,
        "capabilities": parse_capabilities,
        "recover": parse_recovery,
        "server": lambda name: server_optimizers[name],
        "aggregate": parse_aggregate,
        "dp": parse_dp,
        "state_budget": lambda text: text == "auto" or parse_size(text),
        "augment": lambda spec: spec == "auto" or read_augment(spec),
    }
    for name, check in checks.items():
        try:
            check(getattr(config, name))
        except SpecError as error:
            raise ConfigError(f"--{name.replace('_', '-')} {error}") from None
    check_dataset(config)
    check_model(config)
    check_trackers(config)
    check_accountant(config)
    if config.hook is not None:
        from fl.comm.ddp_hooks import check_hook

        check_hook(config.hook)


def resolve(config: Config, *, world_size: int, threads: int, explicit: frozenset[str] = frozenset()) -> Config:
    """Fill in the defaults that depend on other options or on the ranks; refuse what does not fit the ranks.

    `clients` stays None where only the data can tell: with `--partition natural`, whose groups are the clients.
    """
    mode = mode_of(config)
    one_each = not mode.sees_each_update
    hosts, left_over = divmod(world_size, config.ranks_per_client)
    if left_over:
        raise ConfigError(f"--ranks-per-client {config.ranks_per_client} must divide the number of ranks, {world_size}")
    if config.server_shards > world_size:
        raise ConfigError(f"--server-shards {config.server_shards} is more than the number of ranks, {world_size}")
    clients = config.clients
    if clients is None and (one_each or not is_natural(config)):
        clients = hosts if one_each or hosts > 1 else _CLIENTS_OF_ONE_HOST
    if clients is not None:
        config = with_clients(config, clients)
    if one_each and not clients == world_size == config.clients_per_round:
        name = "--exchange hook" if mode.has_server else f"--mode {mode.name}"
        raise ConfigError(
            f"{name} means one client per rank, all in every round: --clients {clients} and --clients-per-round "
            f"{config.clients_per_round} must both be {world_size}, the number of ranks"
        )
    epochs = config.local_epochs
    if epochs is None and config.local_steps is None:
        epochs = 1
    return dataclasses.replace(
        config,
        context=(config.context or context_of(config.model)) if is_text(config) else None,
        local_epochs=epochs,
        lr=first_learning_rate(config),
        server_lr=mode.alpha if mode.name == "async" else server_learning_rate(config),
        threads=threads,
        engine=config.engine if mode.has_server else "ddp",
        uplink="none" if config.hook is not None else config.uplink,
    )


def with_clients(config: Config, clients: int) -> Config:
    """`config` for so many clients, all of them in every round by default; ConfigError if a round needs more."""
    per_round = config.clients_per_round or clients
    if per_round > clients:
        raise ConfigError(f"--clients-per-round {per_round} is more than --clients {clients}")
    if config.min_clients is not None and config.min_clients > per_round:
        raise ConfigError(f"--min-clients {config.min_clients} is more than --clients-per-round {per_round}")
    profiles(config.profiles, clients, config.seed)  # a file that does not fit is refused now
    mode = parse_mode(config.mode)
    if mode.latest and mode.buffer_size > clients:
        raise ConfigError(f"--mode {config.mode} counts clients: there are only --clients {clients}")
    rule, number = parse_aggregate(config.aggregate)
    fewest, buffered = rule.fewest(number), mode.name == "buffered"
    if (mode.buffer_size if buffered else per_round) < fewest:
        given = f"--mode {config.mode}" if buffered else f"--clients-per-round {per_round}"
        raise ConfigError(
            f"--aggregate {config.aggregate} needs at least {fewest} updates in a round: {given} has fewer"
        )
    privacy = parse_dp(config.dp)
    if privacy is not None and privacy.delta >= 1 / clients:
        raise ConfigError(
            f"--dp {config.dp}: delta must be below 1 / --clients {clients}; a larger one lets a whole client be published"
        )
    return dataclasses.replace(config, clients=clients, clients_per_round=per_round)
