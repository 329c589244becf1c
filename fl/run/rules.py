"""Combinations of options that cannot work: one table, checked before a run starts."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from compression.grammar import read_codec
from fl.algorithms.spec import ALGORITHMS, parse_algorithm
from fl.clock.profiles import parse_profiles
from fl.common.config import Config
from fl.common.errors import ConfigError
from fl.common.mode import mode_of
from fl.data import is_text
from fl.models import RESNETS
from fl.pruning.schedule import parse_prune_schedule
from fl.pruning.spec import SMALLER, WEIGHT_SCORES, Pruning, parse_pruning
from fl.server.rules import aggregators, parse_aggregate
from fl.server.spec import server_optimizers
from fl.training.schedule import step_schedule

_UNPRUNED = Pruning("none", 0.0, by="nobody")


class Options:
    """The options of a run by their names, those with a language of their own read, and what rules often ask of them.

    `together`: whether the algorithm needs all updates of a round; `ends_early`: whether rounds end before all their clients
    have sent; `dgc`: whether error feedback corrects momentum; `deepspeed`: whether DeepSpeed makes the local steps;
    `rate_by_step`: whether each of a client's steps has a learning rate of its own; `selects`: whether the uplink leaves out
    what could come later; `limited`: whether clients differ in what they can hold; `has_levels`: whether they hold nested
    parts of their own size; `masked`: whether there are rounds in which clients train under a mask; `first_mask`: where
    these begin; `rule`: what aggregates the updates, whether it `averages` them, and `fewest_updates` how many it needs in a
    round; `differ`: whether clients hold different parts of the model.
    `own_momentum`: the option that gives the server's optimizer momentum, with its value, or nothing.
    """

    def __init__(self, config: Config, explicit: frozenset[str] = frozenset()) -> None:
        """`config`: each option can be read. `explicit`: names of those that the user gave, as opposed to defaults."""
        self.config, self.explicit = config, explicit
        self.mode = mode_of(config)
        self.algorithm = parse_algorithm(config.algorithm).name
        self.together = ALGORITHMS[self.algorithm].together
        self.pruning = _UNPRUNED if config.prune == "none" else parse_pruning(config.prune)
        self.prune_schedule = parse_prune_schedule(config.prune_schedule)
        self.profiles = parse_profiles(config.profiles)
        self.uplink, self.downlink = read_codec(config.uplink), read_codec(config.downlink)
        self.ends_early = config.deadline > 0 or config.over_select > 1
        self.dgc = config.error_feedback.startswith("dgc")
        self.deepspeed = config.engine == "deepspeed" or config.deepspeed_config is not None
        self.rate_by_step = step_schedule(config, 1) is not None
        self.selects = self.uplink.sparse or self.uplink.warm or self.uplink.density is not None
        self.limited = config.capabilities != "none"
        self.has_levels = self.pruning.by == "server" and (self.pruning.method == "width" or self.limited)
        self.masked = self.pruning.by in ("server", "client") or (
            self.pruning.by == "after" and config.finetune_rounds > 0
        )
        self.first_mask = int(self.prune_schedule.args[0]) if self.prune_schedule.args else 0
        self.differ = self.has_levels or self.pruning.by == "client"
        self.rule, number = parse_aggregate(config.aggregate)
        self.averages = self.rule is aggregators["mean"]
        self.fewest_updates = self.rule.fewest(number)
        momentum = server_optimizers[config.server].own_momentum
        value = getattr(config, momentum) if momentum else 0.0
        self.own_momentum = f"--{momentum.replace('_', '-')} {value:g}" if momentum and value else ""

    def __getattr__(self, name: str) -> Any:
        return getattr(self.config, name)

    def words(self) -> dict[str, Any]:
        """What the texts of rules may name: the options as they were given, `--prune` read, and when rounds end."""
        config = self.config
        early = f"--deadline {config.deadline:g}" if config.deadline else f"--over-select {config.over_select:g}"
        rounds = f"--mode {config.mode} and {early}" if self.ends_early else f"--mode {config.mode}"
        own = {"early": early, "rounds": rounds, "pruning": self.pruning, "own_momentum": self.own_momentum}
        return {**dataclasses.asdict(config), **own, "fewest_updates": self.fewest_updates}


Rule = tuple[str, Callable[[Options], Any], str]
"""An option with its value, when that cannot work, and what would be right; the two texts are one sentence."""


def check_rules(config: Config, explicit: frozenset[str] = frozenset(), rules: Sequence[Rule] | None = None) -> None:
    """ConfigError for the first combination of options that cannot work; SpecError for one that cannot be read.

    `explicit`: names of the options that the user gave, as opposed to defaults. `rules`: by default those of every run.
    """
    options = Options(config, explicit)
    for option, wrong, right in RULES if rules is None else rules:
        if wrong(options):
            raise ConfigError(f"{option} {right}".format_map(options.words()))


def _algorithm(option: str, wrong: Callable[[Options], Any], right: str) -> Rule:
    return f"{option} does not go with --algorithm {{algorithm}}:", wrong, right


def _aggregate(option: str, wrong: Callable[[Options], Any], right: str) -> Rule:
    return (
        f"{option} does not go with --aggregate {{aggregate}}:",
        lambda o: not o.averages and wrong(o),
        right,
    )


def _dp(option: str, wrong: Callable[[Options], Any], right: str) -> Rule:
    return f"{option} does not go with --dp {{dp}}:", lambda o: o.config.dp != "none" and wrong(o), right


def _dgc(wrong: Callable[[Options], Any], right: str) -> Rule:
    """DGC's momentum correction takes the place of every other momentum (Lin et al. 2018, section 3.2)."""
    return "--error-feedback {error_feedback}", lambda o: o.dgc and wrong(o), right


def _step(option: str, wrong: Callable[[Options], Any]) -> Rule:
    return (
        "--mode step exchanges gradients between all ranks, without a server, through DDP's own hook:",
        lambda o: o.mode.name == "step" and wrong(o),
        f"{option} has no meaning there",
    )


def _fragments() -> tuple[Rule, ...]:
    """What needs all of a client's update, or makes something else of what a round does not exchange."""
    needs: tuple[tuple[str, Callable[[Options], Any], str], ...] = (
        ("--mode {mode}", lambda o: o.mode.name != "sync" or o.ends_early, "use sync, without a deadline"),
        ("--exchange {exchange}", lambda o: o.exchange != "server", "use server"),
        ("--prune {prune}", lambda o: o.prune != "none", "use none"),
        ("--algorithm {algorithm}", lambda o: o.algorithm != "fedavg", "use fedavg"),
        ("--aggregate {aggregate}", lambda o: not o.averages, "use mean"),
        ("--dp {dp}", lambda o: o.dp != "none", "it clips whole updates: use none"),
        ("--server-shards {server_shards}", lambda o: o.server_shards > 1, "use 1"),
        (
            "--state-dtype {state_dtype}",
            lambda o: o.state_dtype != "fp32",
            "it would round clients' own weights every round: use fp32",
        ),
        ("--uplink {uplink}", lambda o: o.uplink.by_shape, "it codes whole matrices: use topk, or a value format"),
        (
            "--downlink {downlink}",
            lambda o: o.downlink.by_shape,
            "it codes whole matrices: use topk, or a value format",
        ),
        (
            "--error-feedback {error_feedback}",
            lambda o: o.error_feedback not in ("none", "residual"),
            "what waits for its turn would fade: use residual",
        ),
    )
    return tuple(
        (
            f"{option} does not go with --fragments {{fragments}} and --merge {{merge:g}}:",
            lambda o, wrong=wrong: (o.fragments > 1 or o.merge) and wrong(o),
            right,
        )
        for option, wrong, right in needs
    )


_VERSIONS = (
    "updates come from different versions there; of the ways to prune, parts of clients' own size do (--capabilities), "
    "where updates are buffered"
)
_WHOLE = "every client must hold the whole model; use none"

# fmt: off
RULES: tuple[Rule, ...] = (
    # What runs, and how updates travel.
    ("--local-epochs and --local-steps", lambda o: o.local_epochs is not None and o.local_steps is not None,
     "contradict each other: give one of them, and switch off what a configuration file gives, with "
     "--local-epochs null or --local-steps null"),
    ("--ranks-per-client {ranks_per_client} needs a server that sees each client's update:",
     lambda o: o.ranks_per_client > 1 and not o.mode.sees_each_update,
     "--mode must not be step, nor --exchange hook"),
    ("--engine {engine} shares out a client among its ranks:", lambda o: o.engine == "fsdp" and o.ranks_per_client == 1,
     "--ranks-per-client must be at least 2"),
    ("--engine {engine} has each gradient in parts, and --prune {prune} masks whole ones:",
     lambda o: o.engine == "fsdp" and o.prune != "none", "use --engine ddp or accelerate"),
    ("--engine {engine} takes one batch a step, and --accumulate is {accumulate}:",
     lambda o: o.engine == "fsdp" and o.accumulate > 1, "use --engine ddp or accelerate"),
    ("--engine {engine} has moments in parts, which --local-state {local_state} cannot keep:",
     lambda o: o.engine == "fsdp" and o.local_state == "keep", "use --engine ddp or accelerate"),
    ("--ranks-per-client {ranks_per_client} does not go with --precision fp16, which may skip steps:",
     lambda o: o.ranks_per_client > 1 and o.precision == "fp16", "use bf16 or fp32"),
    ("--ranks-per-client {ranks_per_client} does not go with --prune {prune}:",
     lambda o: o.ranks_per_client > 1 and o.pruning.method == "prunefl",
     "it squares the gradient of a whole batch, and each rank has that of a share; use another method"),
    ("--accumulate {accumulate}: DeepSpeed's engine takes one batch a step;",
     lambda o: o.accumulate > 1 and o.deepspeed, "use --engine ddp or accelerate"),
    ("--accumulate {accumulate} does not go with --precision fp16, which looks at the gradient of a whole step:",
     lambda o: o.accumulate > 1 and o.precision == "fp16", "use bf16 or fp32"),
    ("--accumulate {accumulate} does not go with --prune {prune}:",
     lambda o: o.accumulate > 1 and o.pruning.method == "prunefl",
     "it squares the gradient of a whole step; use another method"),
    ("--local-state {local_state} is about clients of a server:",
     lambda o: o.local_state == "keep" and not o.mode.sees_each_update, "--mode must not be step, nor --exchange hook"),
    ("--local-state {local_state}: DeepSpeed's engine makes its optimizer anew for each client;",
     lambda o: o.local_state == "keep" and o.deepspeed, "use --engine ddp or accelerate"),
    ("--local-state {local_state} does not go with --prune {prune}:",
     lambda o: o.local_state == "keep" and o.pruning.method in SMALLER,
     "moments are those of the whole model; use magnitude"),
    ("--server-shards {server_shards} does not go with --mode {mode}:",
     lambda o: o.server_shards > 1 and o.mode.name in ("step", "async"),
     "its server mixes whole models, if it has one; use sync or buffered:K"),
    ("--server-shards {server_shards} does not go with --exchange hook:",
     lambda o: o.server_shards > 1 and not o.mode.sees_each_update, "it has no server; use server"),
    ("--server-shards {server_shards} does not go with --aggregate {aggregate}, which compares whole updates:",
     lambda o: o.server_shards > 1 and not o.rule.by_coordinate, "use mean, median or trimmed:F"),
    ("--server-shards {server_shards} does not go with --dp {dp}, which clips whole updates:",
     lambda o: o.server_shards > 1 and o.config.dp != "none", "use one shard"),
    ("--server-shards {server_shards} does not go with --algorithm {algorithm}:",
     lambda o: o.server_shards > 1 and o.together, "its server keeps whole vectors; use fedavg, fedprox:MU or fednova"),
    ("--server-shards {server_shards} does not go with --prune {prune}:",
     lambda o: o.server_shards > 1 and o.prune != "none", _WHOLE),
    ("--resume auto", lambda o: o.resume == "auto" and o.run_name is None,
     "needs --run-name: the name of the run to go on with if it has a checkpoint"),
    ("--stem {stem} is for resnet18 and resnet50,", lambda o: o.stem != "cifar" and o.model not in RESNETS,
     "not for --model {model}"),
    ("--norm {norm} is for resnet18 and resnet50,", lambda o: o.norm != "batch" and o.model not in RESNETS,
     "not for --model {model}"),
    ("--context {context} is for text,", lambda o: "context" in o.explicit and o.context and not is_text(o.config),
     "not for --dataset {dataset}"),
    ("--engine {engine} cannot use --deepspeed-config {deepspeed_config}:",
     lambda o: o.deepspeed_config is not None and o.engine in ("ddp", "accelerate", "fsdp"), "remove one of them"),
    ("--hook {hook}", lambda o: o.hook is not None and o.exchange != "hook",
     "works with --exchange hook, not --exchange {exchange}"),
    ("--hook and --uplink {uplink}", lambda o: o.hook is not None and "uplink" in o.explicit and o.config.uplink != "none",
     "both say how updates travel: give one of them"),
    ("--uplink-warmup {uplink_warmup} and --error-feedback {error_feedback}",
     lambda o: o.hook is not None and (o.uplink_warmup or o.dgc),
     "are for the codec of --uplink; a --hook of your own does without: leave them out"),
    ("--uplink-shares {uplink_shares} goes by how fast clients send:",
     lambda o: o.uplink_shares != "none" and o.config.profiles == "none", "--profiles must not be none"),
    ("--uplink-shares {uplink_shares}", lambda o: o.uplink_shares != "none" and o.uplink.density is None,
     "needs an uplink with a kept fraction, such as topk:0.01, not --uplink {uplink}"),
    ("--uplink-shares {uplink_shares}", lambda o: o.uplink_shares != "none" and not o.mode.sees_each_update,
     "needs --exchange server, where each client's payload has a size of its own"),

    *_fragments(),
    ("--overlap", lambda o: o.overlap and o.fragments == 1,
     "needs --fragments of at least 2: what a round exchanges comes back before its next turn"),

    # Rounds that do not wait for everybody.
    ("{early} is about rounds that wait:", lambda o: o.ends_early and o.mode.name != "sync",
     "--mode {mode} must be sync"),
    ("{early} does not go with --algorithm {algorithm},", lambda o: o.ends_early and o.together,
     "which needs all of a round's updates"),
    ("--lost {lost:g}: a round that waits for all would never end without a lost client;",
     lambda o: o.lost and o.mode.waits_for_all, "use --deadline, or --mode buffered:K or async:ALPHA"),
    ("--lost {lost:g} needs a --deadline:", lambda o: o.lost and o.mode.drops_late and not o.deadline,
     "with --over-select alone the server would wait for lost clients"),
    ("--lost {lost:g} needs a --timeout,", lambda o: o.lost and not o.mode.drops_late and not o.timeout,
     "after which the place of a lost client is free again"),
    ("--timeout {timeout:g}: a round that waits for all gives up on nobody;",
     lambda o: o.timeout and o.mode.waits_for_all, "use --deadline, or --mode buffered:K or async:ALPHA"),
    ("--timeout {timeout:g}:", lambda o: o.timeout and o.mode.drops_late,
     "--late drop gives up on clients at the end of a round already"),
    ("--timeout {timeout:g} needs clients that take time:", lambda o: o.timeout and o.config.profiles == "none",
     "--profiles must not be none"),
    ("--staleness {staleness}: with --mode {mode} and --late {late} nothing comes late;",
     lambda o: o.staleness != "constant" and (o.mode.waits_for_all or o.mode.drops_late),
     "use buffered:K, or --deadline with --late carry"),
    ("--profiles {profiles}: sparse shortens computing in rounds that wait for all their clients;",
     lambda o: o.profiles.sparse and not o.mode.waits_for_all, "leave it out with {rounds}"),
    ("--exchange {exchange} does not go with {rounds}:",
     lambda o: not o.mode.waits_for_all and o.exchange != "server", _VERSIONS),
    ("--prune {prune} does not go with {rounds}:",
     lambda o: not o.mode.waits_for_all and o.prune != "none" and (o.mode.name == "async" or not o.has_levels),
     _VERSIONS),
    ("--server {server} and --server-lr {server_lr} do not go with --mode {mode}: the server mixes models by ALPHA;",
     lambda o: o.mode.name == "async" and (o.server != "fedavg" or o.server_lr not in (None, o.mode.alpha)),
     "use fedavg, and leave the learning rate out"),

    # What clients hold of the model.
    ("--capabilities {capabilities} is about what clients hold of the model:",
     lambda o: o.prune == "none" and o.limited,
     "--prune must not be none"),
    ("--recover {recover} is about what clients hold of the model:",
     lambda o: o.prune == "none" and o.recover != "none",
     "--prune must not be none"),
    ("--prune {prune}", lambda o: o.prune != "none" and not o.mode.sees_each_update,
     "needs --mode sync and --exchange server, which know masks"),
    ("--uplink {uplink} chooses what to send of an update, and --prune {prune} sends weights:",
     lambda o: o.pruning.by == "after" and o.selects, "use a value format (none, bf16, int8+zstd)"),
    ("--prune {prune} sends weights, of which nothing is left over:",
     lambda o: o.pruning.by == "after" and o.error_feedback != "none",
     "--error-feedback {error_feedback} must be none"),
    ("--prune {prune}:",
     lambda o: o.pruning.by == "after" and o.pruning.method not in WEIGHT_SCORES,
     f"after training, one of {', '.join(WEIGHT_SCORES)} can be used"),
    ("--prune {prune}: a client that has not trained has no gradients;",
     lambda o: o.pruning.by == "client" and o.pruning.method == "gradient", "use snip,by=client"),
    ("--prune {prune} ranks by the updates of earlier rounds:",
     lambda o: (o.pruning.by == "server" and "gradient" in (o.pruning.method, o.pruning.score) and o.first_mask == 0
                and (not o.limited or o.prune_schedule.name in ("constant", "oneshot"))),
     "--prune-schedule {prune_schedule} must begin after round 0, as in oneshot:3"),
    ("--prune {prune}: the server has no data to make masks of different sizes from;",
     lambda o: o.pruning.by == "server" and o.pruning.method == "snip" and o.limited,
     "with --capabilities use snip:S,by=client"),
    ("--uplink {uplink}", lambda o: o.masked and o.uplink.by_shape,
     "codes whole matrices and cannot be used inside a mask"),
    ("--downlink {downlink}", lambda o: o.masked and o.downlink.by_shape,
     "codes whole matrices and cannot be used inside a mask"),
    ("--prune {prune} trains smaller models, and DeepSpeed's engine is made for one:",
     lambda o: o.pruning.method in SMALLER and o.deepspeed, "--engine must be ddp or accelerate"),
    ("--error-feedback {error_feedback} needs parts that stay:", lambda o: o.dgc and o.pruning.shift == "rolling",
     "shift=rolling must be static"),
    ("--prune-schedule {prune_schedule}: the widths of --prune {prune} follow from the clients' capabilities;",
     lambda o: o.pruning.method == "width" and o.prune_schedule.name != "constant", "it must be constant"),
    ("--prune {prune} has one mask for all:", lambda o: o.pruning.method == "prunefl" and o.limited,
     "leave out --capabilities"),
    ("--prune-schedule {prune_schedule}: --prune {prune} changes its mask every {pruning.every} rounds;",
     lambda o: o.pruning.method == "prunefl" and o.prune_schedule.name != "constant", "say every=ROUNDS there"),
    ("--precision fp16 scales gradients, which --prune {prune} adds up:",
     lambda o: o.pruning.method == "prunefl" and o.precision == "fp16", "use bf16 or fp32"),
    ("--prune {prune} looks at every gradient:", lambda o: o.pruning.method == "prunefl" and o.deepspeed,
     "--engine must be ddp or accelerate"),
    ("--capabilities {capabilities} goes by --profiles,",
     lambda o: o.capabilities.startswith(("equal_time", "online")) and o.config.profiles == "none",
     "which must not be none"),
    ("--capabilities {capabilities} needs masks before training:", lambda o: o.limited and o.pruning.by == "after",
     "--prune {prune} must not have by=after"),
    ("--capabilities {capabilities} needs nested parts:",
     lambda o: o.capabilities.startswith("online") and o.pruning.by != "server", "--prune must be by=server"),
    ("--prune {prune}: mean={pruning.mean} is about clients that hold different parts;",
     lambda o: o.pruning.mean != "holders" and not (o.has_levels or o.pruning.by == "client"),
     "it needs --capabilities, width or by=client"),
    ("--prune {prune}: rewind is for one mask of all clients,",
     lambda o: o.pruning.rewind and (o.has_levels or o.pruning.by != "server"), "by=server without --capabilities"),
    ("--recover {recover} lets the parts of smaller clients grow:",
     lambda o: o.recover != "none" and not (o.has_levels and o.limited),
     "it needs --capabilities and a --prune by=server"),
    ("--recover {recover} looks at the validation accuracy:",
     lambda o: o.recover.startswith("plateau") and not o.val_fraction, "--val-fraction must be above 0"),

    # Algorithms of clients and server.
    # What no algorithm but federated averaging goes with.
    _algorithm("--precision fp16", lambda o: o.algorithm != "fedavg" and o.precision == "fp16",
     "it scales gradients and may skip steps; use bf16 or fp32"),
    _algorithm("--mode step", lambda o: o.algorithm != "fedavg" and o.mode.name == "step",
     "it has no server; use sync"),
    _algorithm("--exchange hook", lambda o: o.algorithm != "fedavg" and not o.mode.sees_each_update,
     "the server must see every client's update; use server"),
    _algorithm("--engine deepspeed", lambda o: o.algorithm != "fedavg" and o.deepspeed,
     "it has steps and gradients of its own; use ddp or accelerate"),
    _algorithm("--engine fsdp", lambda o: o.algorithm in ("fedprox", "scaffold", "feddyn") and o.engine == "fsdp",
     "it corrects whole gradients; use ddp or accelerate"),
    # Sums of decoded updates that clients and server keep in common. Such a sum is error feedback already: what a client
    # could not send comes back as its next correction. Together with a residual it overshoots. Ten quadratics of 200
    # weights, all in every round: how much of the way to the optimum is left after 400 rounds of 5 steps.
    #
    #                             scaffold    feddyn:1
    # topk:0.5, none              2e-15       4e-10
    # topk:0.5, residual          1e-15       2e-15
    # topk:0.2, none              3e-10       9e-5
    # topk:0.2, residual          diverged    0.94
    # topk:0.05, none             1e-3        4e-2
    # topk:0.05, residual         diverged    8e4
    _algorithm("--mode {mode}", lambda o: o.together and o.mode.name != "sync",
     "every update must be of the round it arrives in; use sync"),
    _algorithm("--prune {prune}", lambda o: o.together and o.prune != "none", _WHOLE),
    _algorithm("--error-feedback {error_feedback} with --uplink {uplink}",
     lambda o: o.together and o.error_feedback != "none" and o.selects,
     "it makes up for what is not sent by itself; use --error-feedback none"),
    _algorithm("--accumulate {accumulate}",
     lambda o: o.accumulate > 1 and o.algorithm in ("fedprox", "scaffold", "feddyn"),
     "it corrects the gradient of a whole step; use fedavg or fednova"),
    _algorithm("--lr-schedule {lr_schedule}", lambda o: o.algorithm in ("scaffold", "fednova") and o.rate_by_step,
     "all steps of a round must have one rate; use a schedule by round"),
    _algorithm("--prune {prune}", lambda o: o.algorithm == "fedprox" and o.pruning.method in SMALLER,
     "it needs the parameters of the whole model; use magnitude"),
    _algorithm("--optimizer {optimizer}", lambda o: o.algorithm == "fednova" and o.optimizer != "sgd",
     "its norm of steps is that of sgd"),
    _algorithm("--local-state {local_state}", lambda o: o.algorithm == "fednova" and o.local_state == "keep",
     "its norm of steps is that of a momentum that begins anew; use fresh"),
    _algorithm("--mode {mode}", lambda o: o.algorithm == "fednova" and o.mode.name == "async",
     "it sends no models that could be mixed; use sync or buffered"),
    _algorithm("--prune {prune}", lambda o: o.algorithm == "fednova" and o.prune != "none", _WHOLE),
    # SCAFFOLD: a step must be lr times the corrected gradient; weight decay counts as gradient.
    _algorithm("--optimizer {optimizer}", lambda o: o.algorithm == "scaffold" and o.optimizer != "sgd",
     "steps must be those of plain sgd"),
    _algorithm("--momentum {momentum:g}", lambda o: o.algorithm == "scaffold" and o.momentum,
     "steps must be those of plain SGD; use 0"),
    _algorithm("--clip-norm {clip_norm:g}", lambda o: o.algorithm == "scaffold" and o.clip_norm,
     "variates would not be gradients; use 0"),
    _algorithm("--server {server}", lambda o: o.algorithm == "feddyn" and o.server != "fedavg",
     "the new weights follow from h; use fedavg"),
    _algorithm("--server-lr {server_lr}", lambda o: o.algorithm == "feddyn" and o.server_lr not in (None, 1.0),
     "the new weights follow from h; use 1"),

    # What the updates of a round come to.
    _aggregate("--mode step", lambda o: o.mode.name == "step", "it has no server; use sync"),
    _aggregate("--mode {mode}", lambda o: o.mode.name == "async", "it takes one update at a time; use buffered:K"),
    _aggregate("--exchange hook", lambda o: not o.mode.sees_each_update,
     "the server must see every client's update; use server"),
    _aggregate("--algorithm {algorithm}", lambda o: o.together, "it adds up all updates; use mean"),
    _aggregate("--prune {prune}", lambda o: o.differ and not o.rule.in_parts,
     "clients that hold different parts (by=client, width, --capabilities) cannot be compared; use mean or clip"),
    _aggregate("--deadline {deadline:g}", lambda o: o.deadline and o.fewest_updates > 1,
     "every round needs {fewest_updates} updates, whenever they arrive; use --over-select"),

    # Differential privacy: each client adds one clipped vector to a noisy sum, and nothing else of it counts.
    _dp("--seed {seed}", lambda o: o.seed == 0,
     "noise comes from it, and everybody knows the default; give one that nobody can guess"),
    _dp("{rounds}", lambda o: not (o.mode.has_server and o.mode.waits_for_all),
     "clients must take part in each round independently; use sync, without a deadline"),
    _dp("--exchange hook", lambda o: not o.mode.sees_each_update, "the server must clip every update; use server"),
    _dp("--sampling {sampling}", lambda o: o.sampling != "uniform",
     "all clients must take part with the same probability; use uniform"),
    _dp("--aggregate {aggregate}", lambda o: not o.averages, "noise is enough for a sum alone; use mean"),
    _dp("--algorithm {algorithm}", lambda o: o.algorithm not in ("fedavg", "fedprox"),
     "what it takes from clients beside the mean has no noise; use fedavg or fedprox:MU"),
    _dp("--prune {prune}", lambda o: o.differ or o.pruning.by == "after" or o.pruning.method in ("snip", "prunefl"),
     "what clients hold must not depend on their data; use a mask by the server's weights, as in magnitude:0.5"),
    _dp("--uplink-shares {uplink_shares}", lambda o: o.uplink_shares != "none",
     "what a client sends must not depend on other clients; use none"),

    # Clients that fail.
    ("--min-clients {min_clients} needs a server that sees each client's update:",
     lambda o: o.min_clients is not None and not o.mode.sees_each_update,
     "--mode must not be step, nor --exchange hook"),
    ("--min-clients {min_clients}: --aggregate {aggregate} needs {fewest_updates} updates in a round,",
     lambda o: o.min_clients is not None and o.mode.waits_for_all and o.min_clients < o.fewest_updates,
     "so let as many remain"),

    # One momentum.
    _dgc(lambda o: o.optimizer != "sgd", "corrects plain SGD: --optimizer must be sgd"),
    _dgc(lambda o: o.momentum, "brings its own momentum: --momentum {momentum:g} must be 0"),
    _dgc(lambda o: o.own_momentum, "brings its own momentum: {own_momentum} of --server {server} must be 0"),

    # Several clients on a rank, and what they keep.
    ("--clients-at-once {clients_at_once} is about clients of one rank:",
     lambda o: o.clients_at_once > 1 and not o.mode.sees_each_update, "--mode must not be step, nor --exchange hook"),
    ("--state-dtype {state_dtype} is about clients that take turns on a rank:",
     lambda o: o.state_dtype != "fp32" and not o.mode.sees_each_update, "--mode must not be step, nor --exchange hook"),
    ("--state-budget {state_budget} is about clients that take turns on a rank:",
     lambda o: o.state_budget != "auto" and not o.mode.sees_each_update, "--mode must not be step, nor --exchange hook"),

    # No server.
    _step("--server {server}", lambda o: o.server != "fedavg"),
    _step("--downlink {downlink}", lambda o: o.config.downlink != "none"),
    _step("--exchange {exchange}", lambda o: o.exchange != "server"),
    _step("--accumulate {accumulate}", lambda o: o.accumulate > 1),
    _step("--profiles {profiles}", lambda o: o.config.profiles != "none"),
    _step("--precision {precision}", lambda o: o.precision == "fp16"),
    _step("--engine {engine}", lambda o: o.engine in ("deepspeed", "accelerate")),
    _step("--deepspeed-config {deepspeed_config}", lambda o: o.deepspeed_config is not None),
    _step("--server-lr {server_lr}", lambda o: o.server_lr not in (None, 1.0)),
)
"""Checked in this order: what is told is the first that is wrong."""
# fmt: on
