"""The server's work on several ranks (`--server-shards`).

Oracle: the same run on one: the same model, bytes and metrics, to the bit.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from compression import NonFiniteError
from fl.comm.message import Message
from fl.common.errors import RoundError
from fl.run.loop import make_rounds
from tests.end_to_end.parts import remembered, same
from tests.support import make_worker, on_ranks, resume_here, rows, run_here

pytestmark = pytest.mark.timeout(180)  # a rank that waits for ever should not take the whole suite with it

_OPTIONS: dict[str, Any] = {"lr": 0.02, "rounds": 2, "limit_train": 150, "limit_test": 50, "clients": 5}
_SLOW = {"profiles": "mix:good=0.5+2g=0.5"}  # some clients are late
_CASES: dict[str, dict[str, Any]] = {
    "residuals": {"uplink": "topk:0.1", "downlink": "topk:0.1", "server": "fedyogi", "clients_per_round": 3},
    "dense": {"uplink": "none", "server": "fedavgm", "algorithm": "fednova"},
    "median": {"uplink": "topk:0.1", "aggregate": "median", "mode": "buffered:3", "staleness": "poly:0.5", **_SLOW},
    "trimmed": {
        "uplink": "none",
        "aggregate": "trimmed:0.2",
        "deadline": 30,
        "late": "carry",
        "server": "fedadam",
        **_SLOW,
    },
    "small": {"uplink": "int8", "model": "tests.user_code:norm_model", "server": "fedadam"},  # in one block of a range
}


@pytest.mark.parametrize(
    ("shards", "cases"), [(2, ("residuals", "trimmed", "small")), (3, ("dense", "median", "small"))]
)
def test_the_same_bits_as_on_one_rank(tmp_path: Path, shards: int, cases: tuple[str, ...]) -> None:
    """On three ranks, all of them serve or two; moments and messages in flight also come back from a checkpoint."""
    on_ranks(3, _run_each, tmp_path, shards, cases)
    for name in cases:
        one = tmp_path / f"{name} on 1"
        for other in (tmp_path / f"{name} on {shards}", tmp_path / f"{name} resumed"):
            models = [(folder / "final_model.safetensors").read_bytes() for folder in (one, other)]
            assert models[0] == models[1], other.name
            for table in ("metrics", "clients"):
                assert rows(other, table) == rows(one, table), other.name


def _run_each(rank: int, world_size: int, folder: Path, shards: int, cases: tuple[str, ...]) -> None:
    for name in cases:
        options = {**_OPTIONS, **_CASES[name]}
        run_here(folder, f"{name} on 1", **options)
        run_here(folder, f"{name} on {shards}", **options, server_shards=shards)
        run_here(folder, f"{name} resumed", **{**options, "rounds": 1}, server_shards=shards)
        resume_here(folder, f"{name} resumed", rounds=2)


def test_the_memory_of_a_shard_is_a_part() -> None:
    """Sums and moments of LeNet-5 on two ranks: each has at most half of the coordinates, and a block."""
    on_ranks(2, _measure)


def _measure(rank: int, world_size: int) -> None:
    rounds = make_rounds(make_worker(**_OPTIONS, server="fedadam", server_shards=2))
    rounds.run(0)
    server, n = rounds.server, rounds.state.parameters.numel()
    kept: list[Tensor] = [server.aggregator.result().update, *server.optimizer.state[server._stepped].values()]
    assert len(kept) == 3
    assert all(tensor.numel() <= n // 2 + 1024 for tensor in kept)


def test_messages_and_steps_that_fail() -> None:
    """A message without its last byte is refused on all ranks that serve; a step that is not finite changes nothing."""
    on_ranks(3, _fail)


def _fail(rank: int, world_size: int) -> None:
    options = {**_OPTIONS, "server": "fedadam", "downlink": "topk:0.1", "min_clients": 2}
    one, two = (make_rounds(make_worker(**options, server_shards=shards)) for shards in (1, 2))
    for rounds in (one, two):
        _cut(rounds, 3)
        assert [each.client for each in rounds.run(0).rejected] == [3]
    _equal(one, two)
    before = remembered(two, 5)
    two.server.optimizer.param_groups[0]["lr"] = float("inf")
    with pytest.raises(NonFiniteError if rank == 0 else RoundError):
        two.run(1)
    two.server.optimizer.param_groups[0]["lr"] = one.server.optimizer.param_groups[0]["lr"]
    same(remembered(two, 5), before)
    for rounds in (one, two):
        rounds.run(1)
    _equal(one, two)


def _equal(one: Any, two: Any) -> None:
    """Rank 0, where all moments are collected, remembers the same of both; the others have the same model."""
    both = [remembered(each, 5) for each in (one, two)]
    if one.worker.ranks.is_server:
        same(*both)
    assert one.state.parameters.equal(two.state.parameters)


def _cut(rounds: Any, client: int) -> None:
    """The client's update arrives without its last byte."""
    receive = rounds.transport._receive

    def cutting(*given: Any) -> Iterator[Message]:
        for each in receive(*given):
            update = each.sections["update"]
            is_cut = each.report.client == client
            yield replace(each, sections={**each.sections, "update": update[:-1]}) if is_cut else each

    rounds.transport._receive = cutting
