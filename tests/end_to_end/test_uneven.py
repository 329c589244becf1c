"""Clients and ranks that do not divide. Oracle: the same run on one rank, bit for bit."""

from itertools import product
from pathlib import Path
from typing import Any

import pytest

from fl.data.batches import batch_sizes
from tests.support import TIMES, rows, run_on_ranks

_COMMON: dict[str, Any] = {
    "rounds": 3,
    "limit_train": 300,
    "batch_size": 32,
    "uplink": "topk:0.05",
    "server": "fedyogi",
    "lr": 0.02,
}
_RUNS: dict[str, dict[str, Any]] = {
    "three": {**_COMMON, "clients": 3},
    "one": {**_COMMON, "clients": 1},
    "sampled": {**_COMMON, "rounds": 6, "clients": 5, "clients_per_round": 2, "partition": "dirichlet:0.5"},
    "downlink": {**_COMMON, "clients": 5, "downlink": "topk:0.1+bf16", "uplink": "prune:0.9+fp16"},
    "alone": {**_COMMON, "rounds": 6, "clients": 3, "clients_per_round": 1, "precision": "bf16"},
    "nothing": {**_COMMON, "clients": 3, "uplink": "threshold:1e9", "downlink": "threshold:1e9", "local_steps": 1},
    "many": {**_COMMON, "rounds": 1, "clients": 60, "limit_train": 70, "server": "fedavg"},
    "placed": {
        **{**_COMMON, "error_feedback": "none"},
        **{
            "rounds": 6,
            "clients": 9,
            "clients_per_round": 4,
            "partition": "quantity:1",
            "local_epochs": 2,
            "batch_size": 4,
        },
    },
    "warm": {
        **{**_COMMON, "uplink": "powersgd:2", "error_feedback": "none"},
        **{"rounds": 6, "clients": 5, "clients_per_round": 2, "partition": "quantity:1", "local_epochs": 1},
    },
    "norm": {**_COMMON, "clients": 3, "model": "tests.user_code:norm_model", "partition": "quantity:1"},
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """The runs on 1, 2 and 4 ranks."""
    made = {}
    for world_size in (1, 2, 4):
        made[world_size] = tmp_path_factory.mktemp(f"ranks{world_size}")
        run_on_ranks(world_size, made[world_size], _RUNS)
    return made


@pytest.mark.parametrize("world_size", [2, 4])
@pytest.mark.parametrize("name", list(_RUNS))
def test_any_number_of_ranks_ends_in_the_same_bits(folders: dict[int, Path], name: str, world_size: int) -> None:
    """Weights, metrics, and every client's bytes; only the rank that hosts a client may differ."""
    from json import loads

    one, many = folders[1] / name, folders[world_size] / name
    summaries = [loads((folder / "summary.json").read_text()) for folder in (one, many)]
    assert summaries[0]["model_sha256"] == summaries[1]["model_sha256"]
    assert summaries[1]["world_size"] == world_size
    assert (one / "final_model.safetensors").read_bytes() == (many / "final_model.safetensors").read_bytes()
    assert rows(one) == rows(many)
    assert rows(one, "clients", (*TIMES, "rank")) == rows(many, "clients", (*TIMES, "rank"))
    assert (one / "partition.json").read_text() == (many / "partition.json").read_text()


def test_clients_that_keep_nothing_are_shared_out_by_their_steps(folders: dict[int, Path]) -> None:
    """Oracle, Graham (1969): the busiest rank has at most 4/3 - 1/(3 ranks) times the steps that it has in the best of all
    ways to place the cohort."""
    for world_size in (2, 4):
        table, moved = rows(folders[world_size] / "placed", "clients"), 0
        for number in range(6):
            own = [row for row in table if row["round"] == str(number)]
            steps = [2 * len(batch_sizes(int(row["samples"]), 4)) for row in own]
            busiest = [
                max(sum(taken for taken, at in zip(steps, places, strict=True) if at == rank) for rank in places)
                for places in ([int(row["rank"]) for row in own], *product(range(world_size), repeat=len(own)))
            ]
            assert busiest[0] <= (4 / 3 - 1 / (3 * world_size)) * min(busiest)
            moved += sum(int(row["rank"]) != int(row["client"]) % world_size for row in own)
        assert moved, "by number alone they would be where they always are"


def test_a_client_belongs_to_one_rank(folders: dict[int, Path]) -> None:
    """clients.csv tells each client's rank: client mod ranks, in every round, where clients keep a residual."""
    for world_size, folder in folders.items():
        for row in rows(folder / "sampled", "clients"):
            assert int(row["rank"]) == int(row["client"]) % world_size
