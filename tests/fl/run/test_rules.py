"""The table of combinations that cannot work, and the options that are now said inside others."""

import json
from pathlib import Path
from typing import Any

import pytest

from fl import Config, ConfigError, train
from fl.common.config import MOVED, stored_options
from fl.experiment.spec import parse_experiment
from fl.run.cli import parse
from fl.run.rules import RULES, Options, check_rules

_TIMED = {"profiles": "good"}
_LEVELS = {"capabilities": "uniform:0.2,1"}
_AFTER = {"prune": "magnitude:0.5,by=after", "error_feedback": "none", "uplink": "none"}
_HOOK = {"exchange": "hook", "hook": "a.b:c"}
_DGC = {"error_feedback": "dgc:0.9", "momentum": 0.0}
_SCAFFOLD = {"algorithm": "scaffold", "momentum": 0.0, "uplink": "none"}
_DP = {"dp": "clip:1,noise=1,delta=1e-5", "seed": 7}
_DYN = {"algorithm": "feddyn:0.1", "uplink": "none"}

EXAMPLES: list[tuple[dict[str, Any], str]] = [
    ({"local_epochs": 1, "local_steps": 1}, "give one of them"),
    ({"context": 8}, "--context 8 is for text, not for --dataset"),
    (
        {"fragments": 2, "mode": "buffered:2"},
        "--mode buffered:2 does not go with --fragments 2 and --merge 0: use sync",
    ),
    ({"overlap": True}, "--overlap needs --fragments of at least 2"),
    ({"merge": 0.5, "exchange": "hook"}, "--exchange hook does not go with --fragments 1 and --merge 0.5: use server"),
    ({"fragments": 2, "prune": "magnitude:0.5"}, "--prune magnitude:0.5 does not go with --fragments 2"),
    ({"fragments": 2, "algorithm": "fedprox:0.1"}, "--algorithm fedprox:0.1 does not go with --fragments 2"),
    ({"fragments": 2, "aggregate": "median"}, "--aggregate median does not go with --fragments 2"),
    ({"fragments": 2, **_DP}, "it clips whole updates"),
    ({"fragments": 2, "server_shards": 2}, "--server-shards 2 does not go with --fragments 2"),
    ({"fragments": 2, "state_dtype": "bf16"}, "it would round clients' own weights every round: use fp32"),
    ({"fragments": 2, "uplink": "powersgd:2"}, "it codes whole matrices"),
    ({"fragments": 2, "downlink": "powersgd:2"}, "it codes whole matrices"),
    ({"fragments": 2, "error_feedback": "residual:0.9"}, "what waits for its turn would fade"),
    ({"ranks_per_client": 2, "mode": "step"}, "--mode must not be step"),
    ({"ranks_per_client": 2, "precision": "fp16"}, "use bf16 or fp32"),
    ({"engine": "fsdp"}, "--engine fsdp shares out a client among its ranks: --ranks-per-client must be at least 2"),
    ({"engine": "fsdp", "ranks_per_client": 2, "prune": "magnitude:0.5"}, "--engine fsdp has each gradient in parts"),
    ({"engine": "fsdp", "ranks_per_client": 2, "accumulate": 2}, "--engine fsdp takes one batch a step"),
    ({"engine": "fsdp", "ranks_per_client": 2, "local_state": "keep"}, "--engine fsdp has moments in parts"),
    ({"engine": "fsdp", "ranks_per_client": 2, **_SCAFFOLD}, "--engine fsdp does not go with --algorithm scaffold"),
    ({"ranks_per_client": 2, "prune": "prunefl:0.5,every=2"}, "it squares the gradient of a whole batch"),
    (
        {"local_state": "keep", "mode": "step"},
        "--local-state keep is about clients of a server: --mode must not be step",
    ),
    ({"local_state": "keep", "engine": "deepspeed"}, "--local-state keep: DeepSpeed's engine makes its optimizer anew"),
    ({"local_state": "keep", "prune": "width:0.5"}, "--local-state keep does not go with --prune width:0.5"),
    ({"local_state": "keep", "algorithm": "fednova"}, "--local-state keep does not go with --algorithm fednova"),
    ({"accumulate": 2, "engine": "deepspeed"}, "--accumulate 2: DeepSpeed's engine takes one batch a step"),
    ({"accumulate": 2, "precision": "fp16"}, "--accumulate 2 does not go with --precision fp16"),
    ({"accumulate": 2, "prune": "prunefl:0.5"}, "it squares the gradient of a whole step"),
    ({"accumulate": 2, "algorithm": "fedprox:1"}, "it corrects the gradient of a whole step"),
    (
        {"server_shards": 2, "mode": "async:0.5"},
        "--server-shards 2 does not go with --mode async:0.5: its server mixes",
    ),
    ({"server_shards": 2, "exchange": "hook"}, "it has no server"),
    ({"server_shards": 2, "aggregate": "krum:1"}, "which compares whole updates: use mean, median or trimmed:F"),
    ({"server_shards": 2, **_DP}, "which clips whole updates"),
    ({"server_shards": 2, **_SCAFFOLD}, "its server keeps whole vectors"),
    ({"server_shards": 2, "prune": "magnitude:0.5"}, "every client must hold the whole model"),
    ({"resume": "auto"}, "needs --run-name"),
    (
        {"model": "resnet12", "stem": "imagenet"},
        "--stem imagenet is for resnet18 and resnet50, not for --model resnet12",
    ),
    ({"model": "lenet5", "norm": "group"}, "--norm group is for resnet18 and resnet50, not for --model lenet5"),
    ({"engine": "ddp", "deepspeed_config": "a.json"}, "--engine ddp cannot use --deepspeed-config a.json"),
    ({"hook": "a.b:c"}, "--hook a.b:c works with --exchange hook"),
    ({**_HOOK, "uplink": "bf16"}, "--uplink bf16 both say"),
    ({**_HOOK, "uplink_warmup": 2}, "--uplink-warmup 2"),
    ({"mode": "step", "state_dtype": "bf16"}, "--state-dtype bf16 is about clients that take turns on a rank"),
    ({"mode": "step", "clients_at_once": 4}, "--clients-at-once 4 is about clients of one rank"),
    ({"exchange": "hook", "state_budget": "1GB"}, "--state-budget 1GB is about clients that take turns on a rank"),
    ({"uplink_shares": "online:0.1"}, "--profiles must not be none"),
    ({"uplink_shares": "online:0.1", "uplink": "int8", **_TIMED}, "a kept fraction"),
    ({"uplink_shares": "online:0.1", "exchange": "hook", **_TIMED}, "needs --exchange server"),
    ({"deadline": 2.0, "mode": "async:0.5"}, "--deadline 2 is about rounds that wait: --mode async:0.5 must be sync"),
    ({"deadline": 2.0, **_TIMED, "algorithm": "scaffold"}, "needs all of a round's updates"),
    ({"lost": 0.1}, "--lost 0.1: a round that waits"),
    ({"lost": 0.1, "over_select": 2.0, **_TIMED}, "--lost 0.1 needs a --deadline"),
    ({"lost": 0.1, "mode": "buffered:2"}, "--lost 0.1 needs a --timeout"),
    ({"timeout": 3.0}, "--timeout 3: a round that waits"),
    ({"timeout": 3.0, "deadline": 2.0, **_TIMED}, "at the end of a round already"),
    ({"timeout": 3.0, "mode": "buffered:2"}, "--profiles must not be none"),
    ({"staleness": "poly:1", "deadline": 2.0, **_TIMED}, "--late drop nothing comes late"),
    ({"profiles": "good,sparse", "mode": "buffered:2"}, "leave it out with --mode buffered:2"),
    ({"exchange": "hook", "mode": "buffered:2"}, "--exchange hook does not go with --mode buffered:2:"),
    ({"prune": "magnitude:0.5", "deadline": 2.0, **_TIMED}, "--mode sync and --deadline 2: updates come"),
    ({"mode": "async:0.5", "server_lr": 1.0}, "--server-lr 1.0 do not go with --mode async:0.5"),
    (_LEVELS, "--prune must not be none"),
    ({"recover": "schedule:1,1"}, "--prune must not be none"),
    ({"prune": "magnitude:0.5", "mode": "step"}, "needs --mode sync"),
    ({**_AFTER, "uplink": "topk:0.1"}, "sends weights"),
    ({**_AFTER, "error_feedback": "residual"}, "--error-feedback residual must be none"),
    ({**_AFTER, "prune": "snip:0.5,by=after"}, "one of magnitude, random, filters"),
    ({"prune": "gradient:0.5,by=client"}, "use snip,by=client"),
    ({"prune": "structured:0.5,score=gradient"}, "must begin after round 0"),
    ({"prune": "snip:0.5", **_LEVELS}, "use snip:S,by=client"),
    ({"prune": "magnitude:0.5", "uplink": "powersgd:2"}, "--uplink powersgd:2 codes whole matrices"),
    ({**_AFTER, "downlink": "powersgd:1", "finetune_rounds": 1}, "--downlink powersgd:1 codes whole matrices"),
    ({"prune": "structured:0.5", "deepspeed_config": "a.json"}, "--engine must be ddp or accelerate"),
    ({"prune": "width:0.5,shift=rolling", **_DGC}, "shift=rolling must be static"),
    ({"prune": "width:0.5", "prune_schedule": "oneshot:3"}, "it must be constant"),
    ({"prune": "prunefl:0.5", **_LEVELS}, "leave out --capabilities"),
    ({"prune": "prunefl:0.5,every=7", "prune_schedule": "oneshot:3"}, "every 7 rounds"),
    ({"prune": "prunefl:0.5", "precision": "fp16"}, "use bf16 or fp32"),
    ({"prune": "prunefl:0.5", "engine": "deepspeed"}, "looks at every gradient"),
    ({"prune": "structured:0", "capabilities": "online:0.1"}, "--profiles, which must not be none"),
    ({**_AFTER, **_LEVELS}, "must not have by=after"),
    ({"prune": "magnitude:0,by=client", "capabilities": "online:0.1", **_TIMED}, "--prune must be by=server"),
    ({"prune": "magnitude:0.5,mean=cohort"}, "mean=cohort is about clients that hold different parts"),
    ({"prune": "magnitude:0.5,rewind,by=client"}, "rewind is for one mask"),
    ({"prune": "magnitude:0.5", "recover": "schedule:1,1"}, "it needs --capabilities"),
    ({"prune": "magnitude:0", **_LEVELS, "recover": "plateau:3", "val_fraction": 0.0}, "must be above 0"),
    ({"algorithm": "fedprox:1", "precision": "fp16"}, "use bf16 or fp32"),
    (
        {"algorithm": "fedprox:1", "mode": "step"},
        "--mode step does not go with --algorithm fedprox:1: it has no server",
    ),
    ({"algorithm": "fednova", "exchange": "hook"}, "use server"),
    ({"algorithm": "fednova", "engine": "deepspeed"}, "use ddp or accelerate"),
    ({**_SCAFFOLD, "mode": "buffered:2"}, "use sync"),
    ({**_SCAFFOLD, "prune": "magnitude:0.5"}, "--prune magnitude:0.5 does not go with --algorithm scaffold"),
    ({**_SCAFFOLD, "uplink": "topk:0.1"}, "use --error-feedback none"),
    ({"algorithm": "fedprox:1", "prune": "width:0.5"}, "use magnitude"),
    ({**_SCAFFOLD, "lr_schedule": "constant:warmup=5"}, "all steps of a round must have one rate"),
    ({"algorithm": "fednova", "optimizer": "adam"}, "its norm of steps is that of sgd"),
    ({"algorithm": "fednova", "mode": "async:0.5"}, "use sync or buffered"),
    ({"algorithm": "fednova", "prune": "magnitude:0.5"}, "use none"),
    ({**_SCAFFOLD, "optimizer": "adam"}, "steps must be those of plain sgd"),
    ({**_SCAFFOLD, "momentum": 0.9}, "--momentum 0.9"),
    ({**_SCAFFOLD, "clip_norm": 1.0}, "--clip-norm 1"),
    ({**_DYN, "server": "fedadam"}, "use fedavg"),
    ({**_DYN, "server_lr": 0.5}, "--server-lr 0.5"),
    ({"aggregate": "median", "mode": "step"}, "--mode step does not go with --aggregate median: it has no server"),
    ({"aggregate": "median", "mode": "async:0.5"}, "use buffered:K"),
    ({"aggregate": "median", "exchange": "hook"}, "use server"),
    ({"aggregate": "median", **_SCAFFOLD}, "--algorithm scaffold does not go with --aggregate median"),
    ({"aggregate": "median", "prune": "magnitude:0.5,by=client"}, "use mean or clip"),
    ({**_DP, "seed": 0}, "--seed 0 does not go with --dp clip:1,noise=1,delta=1e-5: noise comes from it"),
    ({**_DP, "mode": "buffered:2"}, "--mode buffered:2 does not go with --dp"),
    ({**_DP, "exchange": "hook"}, "must clip every update"),
    ({**_DP, "sampling": "power:3"}, "--sampling power:3 does not go with --dp"),
    ({**_DP, "aggregate": "median"}, "--aggregate median does not go with --dp"),
    ({**_DP, **_SCAFFOLD}, "--algorithm scaffold does not go with --dp"),
    ({**_DP, "prune": "snip:0.5"}, "--prune snip:0.5 does not go with --dp"),
    ({**_DP, **_TIMED, "uplink_shares": "online:0.1"}, "--uplink-shares online:0.1 does not go with --dp"),
    ({"min_clients": 2, "mode": "step"}, "--min-clients 2 needs a server that sees each client's update"),
    ({"min_clients": 2, "aggregate": "krum:1"}, "--min-clients 2: --aggregate krum:1 needs 5 updates in a round"),
    ({"aggregate": "krum:1", "deadline": 2.0, **_TIMED}, "--deadline 2 does not go with --aggregate krum:1"),
    ({**_DGC, "optimizer": "adam"}, "--optimizer must be sgd"),
    ({**_DGC, "momentum": 0.5}, "--momentum 0.5 must be 0"),
    ({**_DGC, "server": "fedavgm"}, "--server-momentum 0.9 of --server fedavgm must be 0"),
    *(
        ({"mode": "step", **options}, f"{words} has no meaning there")
        for options, words in (
            ({"server": "fedadam"}, "--server fedadam"),
            ({"downlink": "int8"}, "--downlink int8"),
            ({"exchange": "hook"}, "--exchange hook"),
            ({"accumulate": 2}, "--accumulate 2"),
            (_TIMED, "--profiles good"),
            ({"precision": "fp16"}, "--precision fp16"),
            ({"engine": "accelerate"}, "--engine accelerate"),
            ({"deepspeed_config": "a.json"}, "--deepspeed-config a.json"),
            ({"server_lr": 0.5}, "--server-lr 0.5"),
        )
    ),
]
"""For every rule options that it refuses, and words of its sentence."""


@pytest.mark.parametrize(("options", "words"), EXAMPLES)
def test_what_cannot_work_is_refused_in_one_sentence(options: dict[str, Any], words: str) -> None:
    """The sentence names options and values as they were given."""
    with pytest.raises(ConfigError) as caught:
        check_rules(Config(**options), frozenset(options))
    sentence = str(caught.value)
    assert words in sentence
    assert sentence.startswith("--")
    assert "  " not in sentence
    assert "{" not in sentence


@pytest.mark.parametrize(
    "options",
    [
        {"mode": "step"},
        {"deadline": 2.0, **_TIMED},
        {"over_select": 1.5, **_TIMED},
        {"mode": "async:0.5"},
        {"sampling": "samples"},
        {"aggregate": "clip:1"},
        {"algorithm": "fednova"},
        _DYN,
        {"prune": "magnitude:0.5,by=client"},
        {"prune": "prunefl:0.5"},
        {"prune": "width:1"},
        {"prune": "magnitude:0.2", **_LEVELS},
        _AFTER,
    ],
)
def test_what_gives_no_guarantee_is_refused_with_dp(options: dict[str, Any]) -> None:
    """Whatever makes a client count twice, or its data count in another way than as a clipped vector in a noisy sum."""
    with pytest.raises(ConfigError, match="does not go with --dp clip:1,noise=1,delta=1e-5: "):
        check_rules(Config(**_DP, **options), frozenset(options))


@pytest.mark.parametrize(
    "options",
    [
        {"algorithm": "fedprox:0.1", "server": "fedyogi", "downlink": "topk:0.1"},
        {"uplink": "topk:0.01+log3+zstd", **_DGC},
        {"prune": "gradient:0.5", "prune_schedule": "oneshot:2"},
        {"prune": "magnitude:0.5,rewind", **_TIMED, "min_clients": 2},
    ],
)
def test_what_only_sees_the_noisy_mean_goes_with_dp(options: dict[str, Any]) -> None:
    """What follows from the noisy mean, or from one client's own data alone before it is clipped."""
    check_rules(Config(**_DP, **options), frozenset(options))


def test_every_rule_has_an_example() -> None:
    """Each is the first to refuse one of them; of a rule that can never be told there is none."""
    told = set()
    for given, _ in EXAMPLES:
        options = Options(Config(**given), frozenset(given))
        told.add(next(at for at, (_, wrong, _) in enumerate(RULES) if wrong(options)))
    assert [f"{option} {right}" for at, (option, _, right) in enumerate(RULES) if at not in told] == []


@pytest.mark.parametrize(
    ("name", "value", "old", "sentence"),
    [
        ("buffer", "latest", ["--buffer", "latest"], "--buffer is now part of --mode: write --mode buffered:5,latest"),
        ("part_mean", "cohort", ["--part-mean=cohort"], "write --prune magnitude:0.5,mean=cohort"),
        ("prune_rewind", True, ["--prune-rewind"], "--prune-rewind is now part of --prune: write --prune"),
        ("prune_rewind", False, ["--no-prune-rewind"], "--prune-rewind is now part of --prune: write --prune"),
        ("cost_model", "sparse", ["--cost_model", "sparse"], "write --profiles poor_3g,sparse"),
    ],
)
def test_an_option_that_moved_says_where(
    name: str, value: Any, old: list[str], sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the command line, in a file, in the environment, from Python, in an experiment, and in an old run's config.json."""
    (tmp_path / "old.yaml").write_text(f"{name}: {value}\n")
    (tmp_path / "config.json").write_text(json.dumps({"rounds": 3, name: value}))
    arms = {"name": "a", "base": {name: value}, "vary": [], "arms": {"b": {}}, "seeds": [0]}
    ways = [
        lambda: parse(old),
        lambda: parse(["--config", str(tmp_path / "old.yaml")]),
        lambda: train(**{name: value}),
        lambda: parse_experiment(arms),
        lambda: stored_options(tmp_path),
    ]
    for way in ways:
        with pytest.raises(ConfigError) as caught:
            way()
        assert sentence in str(caught.value)
        assert "\n" not in str(caught.value)
    monkeypatch.setenv(f"LEANFED_{name.upper()}", str(value))
    with pytest.raises(ConfigError, match=f"LEANFED_{name.upper()}.*is now part of") as caught:
        parse([])
    assert sentence in str(caught.value)


def test_the_new_spellings_are_read() -> None:
    """Those that the sentences about the old ones give."""
    for moved in MOVED.values():
        option, spec = moved.rpartition("write --")[2].split()
        parsed = Options(Config(**{option: spec}))
        assert parsed.mode.latest or parsed.pruning.mean == "cohort" or parsed.pruning.rewind or parsed.profiles.sparse
