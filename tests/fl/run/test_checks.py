"""What is refused before anything starts, and the defaults that depend on other options."""

import pytest

from fl.common.config import Config
from fl.common.errors import ConfigError
from fl.run.checks import check_options, resolve

FP16 = "torch.distributed.algorithms.ddp_comm_hooks.default_hooks:fp16_compress_hook"


def test_defaults_and_the_presets_combinations_are_allowed():
    """What the README shows must pass."""
    for options in (
        {},
        {"dataset": "digits", "uplink": "topk:0.01,scope=layer+bf16", "server": "fedyogi"},
        {"exchange": "hook", "hook": FP16},
        {"mode": "step", "uplink": "prune:0.9"},
        {"partition": "dirichlet:0.3", "lr_schedule": "cosine", "augment": "crop:4+flip"},
    ):
        check_options(Config(**options))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"lr": -1.0}, "--lr -1.0 must be at least 0"),
        ({"lr": float("nan")}, "--lr nan"),
        ({"val_fraction": 0.9}, "--val-fraction 0.9 must be between 0 and 0.5"),
        ({"clients": 0}, "--clients 0 must be at least 1"),
        ({"threads": 1_000_000}, "--threads 1000000 must be between 1 and 1024"),
        ({"hang_timeout": 0.5}, "--hang-timeout 0.5 must be at least 1"),
        ({"local_epochs": 1, "local_steps": 1}, "--local-epochs and --local-steps"),
        ({"uplink": "topk"}, "--uplink 'topk'"),
        ({"uplink": "topk:2"}, "between"),
        ({"downlink": "bf16+topk:0.1"}, "--downlink"),
        ({"partition": "dirichlet:0"}, "--partition"),
        ({"lr_schedule": "cosin"}, "cosine"),
        ({"augment": "crop"}, "--augment"),
        ({"mode": "stepp"}, "'step'"),
        ({"dataset": "cifar"}, "cifar10"),
        ({"model": "resnet19"}, "resnet18"),
        ({"resume": "auto"}, "--run-name"),
        ({"run_name": "a/b"}, "--run-name"),
        ({"hook": FP16}, "--exchange hook"),
        ({"exchange": "hook", "hook": "no.such.module:hook"}, "no.such"),
        ({"mode": "step", "server": "fedadam"}, "--server fedadam"),
        ({"mode": "step", "downlink": "topk:0.1"}, "--downlink topk:0.1"),
        ({"mode": "step", "engine": "deepspeed"}, "--engine deepspeed"),
    ],
)
def test_impossible_options_are_refused_by_name(options, words):
    """One sentence that holds the option and the remedy."""
    with pytest.raises(ConfigError) as caught:
        check_options(Config(**options))
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_hook_and_an_uplink_given_by_the_user_contradict_each_other():
    """The default uplink does not count as given."""
    config = Config(exchange="hook", hook=FP16)
    check_options(config, frozenset({"hook", "exchange"}))
    with pytest.raises(ConfigError, match="--uplink"):
        check_options(config, frozenset({"hook", "exchange", "uplink"}))


def test_clients_default_to_ranks_and_to_four_in_a_single_process():
    """Hook and step mode have one client per rank, so one in a single process."""
    assert resolve(Config(), world_size=1, threads=1).clients == 4
    assert resolve(Config(), world_size=3, threads=1).clients == 3
    assert resolve(Config(mode="step"), world_size=1, threads=1).clients == 1
    assert resolve(Config(ranks_per_client=2), world_size=6, threads=1).clients == 3
    assert resolve(Config(ranks_per_client=2), world_size=2, threads=1).clients == 4
    done = resolve(Config(server="fedyogi"), world_size=2, threads=5)
    assert (done.clients_per_round, done.local_epochs, done.server_lr, done.threads) == (2, 1, 0.01, 5)
    assert resolve(Config(), world_size=2, threads=1).server_lr == 1.0


@pytest.mark.parametrize(
    "options",
    [
        {"clients": 3, "clients_per_round": 4},
        {"exchange": "hook", "clients": 3},
        {"mode": "step", "clients": 2, "clients_per_round": 1},
    ],
)
def test_what_does_not_fit_the_ranks_is_refused(options):
    """Two ranks."""
    with pytest.raises(ConfigError, match="--clients"):
        resolve(Config(**options), world_size=2, threads=1)


def test_ranks_that_make_no_whole_groups_are_refused():
    """Four ranks, three a client."""
    with pytest.raises(ConfigError, match="--ranks-per-client 3 must divide the number of ranks, 4"):
        resolve(Config(ranks_per_client=3), world_size=4, threads=1)


def test_more_shards_than_ranks_are_refused():
    """Two ranks."""
    with pytest.raises(ConfigError, match="--server-shards 3 is more than the number of ranks, 2"):
        resolve(Config(server_shards=3), world_size=2, threads=1)


def test_a_whole_number_beyond_all_floats():
    """As a stranger's config.json may hold it: refused by the range, or fine where there is none above."""
    check_options(Config(rounds=10**400))
    with pytest.raises(ConfigError, match=r"--qat 1000.* must be between 0 and 8"):
        check_options(Config(qat=10**400))
