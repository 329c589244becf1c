"""Streaming DiLoCo. Oracles: the paper's rounds written out in NumPy, runs without fragments, the same run on two ranks, and
the uninterrupted run."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fl.pruning.fragments import Fragments
from tests.end_to_end.parts import remembered, run_with, same, start_rounds
from tests.end_to_end.replay import check_resumed, check_two_ranks, run_all_here
from tests.end_to_end.test_resume import OPTIONS
from tests.support import on_ranks, rows, run_here

_BASE = {**OPTIONS, "rounds": 6, "lr_schedule": "constant", "fragments": 3}
RUNS: dict[str, dict[str, Any]] = {
    "streaming": {
        **_BASE,
        "merge": 0.5,
        "server": "nesterov",
        "optimizer": "adamw",
        "lr": 0.001,
        "local_state": "keep",
    },
    "sparse": {
        **_BASE,
        "fragments": 4,
        "overlap": True,
        "profiles": "good",
        "uplink": "topk:0.1+log2+zstd",
        "downlink": "int8",
        "state_budget": "0",
    },
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of all runs in one process."""
    return run_all_here(tmp_path_factory.mktemp("whole"), RUNS)


def test_two_ranks_end_in_the_same_bits(whole: Path, tmp_path: Path) -> None:
    check_two_ranks(tmp_path, RUNS, whole)


def test_resumed_on_another_number_of_ranks(whole: Path, tmp_path: Path) -> None:
    """Two ranks, stopped in the middle of a cycle, go on in one process: clients' own weights are all there."""
    check_resumed(tmp_path, RUNS, whole, ranks=2, stop=4)


def _covered_once(rank: int, world_size: int, options: dict[str, Any]) -> None:
    """Invariant: a cycle exchanges every parameter once; fragments differ by at most one coordinate."""
    worker, _ = start_rounds()
    for parts in (7, 10, 64):
        plan = Fragments(worker.engine, worker.state, parts, 0.0)
        count = torch.zeros(worker.state.layout.total)
        for round_ in range(parts):
            count[plan.exchanged(round_)] += 1
        assert bool((count == 1).all())
        sizes = np.diff(plan.bounds)
        assert sizes.max() - sizes.min() <= 1


def _rounds_of_the_paper(rank: int, world_size: int, options: dict[str, Any]) -> None:
    """Douillard et al. 2025, Algorithm 2, in NumPy: a fragment's outer gradient is the mean of global minus local since it
    was last exchanged; the outer step moves that fragment and its momentum alone; clients go on with their own weights of
    all others. Client 3 sits out of two rounds."""
    merge, server = options["merge"], options["server"]
    worker, rounds = start_rounds(**options, fragments=3, server_lr=0.7)
    layout, starts = worker.state.layout, []
    start = worker.engine.start

    def watched(*args: Any) -> None:
        own = worker.engine.model.state_dict()
        starts.append(layout.gather([own[name] for name in layout.names], torch.empty(layout.total)).numpy())
        start(*args)

    worker.engine.start = watched
    n = layout.total
    model, momentum = worker.state.parameters.numpy().copy(), np.zeros(n, dtype=np.float32)
    locals_: dict[int, np.ndarray] = {}
    missed: dict[int, list[slice]] = {client: [] for client in range(4)}
    for number in range(6):
        cohort = [0, 1, 2] if number in (2, 3) else [0, 1, 2, 3]
        starts.clear()
        run_with(rounds, number, cohort)
        part = slice(number % 3 * n // 3, (number % 3 + 1) * n // 3)
        outer = np.zeros(n, dtype=np.float64)
        for at, client in enumerate(cohort):
            expected = locals_.get(client, model).copy()
            came = len(missed[client]) - options.get("overlap", False)
            for each in missed[client][: max(0, came)]:
                expected[each] = merge * expected[each] + (1 - merge) * model[each]
            assert np.allclose(starts[at], expected, atol=1e-6), (number, client)
            missed[client] = missed[client][max(0, came) :]
            locals_[client] = rounds.states.get(client)["weights"]["weights"].numpy().copy()
            assert not np.allclose(locals_[client], starts[at], atol=1e-4), "it has trained"
            outer += len(worker.parts[client]) * (model - locals_[client])
        outer /= sum(len(worker.parts[client]) for client in cohort)
        if server == "nesterov":
            momentum[part] = 0.9 * momentum[part] + outer[part]
            outer = outer + 0.9 * momentum
        model[part] -= 0.7 * outer[part]
        assert np.allclose(worker.state.parameters.numpy(), model, atol=1e-5), number
        model = worker.state.parameters.numpy().copy()
        for client in range(4):
            if client in locals_:
                missed[client].append(part)


def _one_fragment(rank: int, world_size: int, options: dict[str, Any]) -> None:
    """One fragment, and nothing of a client's own, is the plain run: the same bits in every round."""
    _, plain = start_rounds(server="nesterov", uplink="topk:0.1", downlink="topk:0.2")
    worker, streaming = start_rounds(server="nesterov", uplink="topk:0.1", downlink="topk:0.2")
    plan = Fragments(worker.engine, worker.state, 1, 0.0)
    streaming.participants[streaming.participants.index(streaming.plan)] = plan
    streaming.plan = plan
    for number in range(3):
        for rounds in (plain, streaming):
            run_with(rounds, number, [0, 1, 2, 3])
        left, right = (remembered(rounds, 4) for rounds in (plain, streaming))
        same({**left, "rest": ""}, {**{name: right[name] for name in left}, "rest": ""})


@pytest.mark.parametrize(
    ("check", "options"),
    [
        (_covered_once, {}),
        (_rounds_of_the_paper, {"merge": 0.0, "server": "fedavg"}),
        (_rounds_of_the_paper, {"merge": 0.5, "server": "nesterov"}),
        (_rounds_of_the_paper, {"merge": 0.25, "server": "nesterov", "overlap": True}),
        (_one_fragment, {}),
    ],
)
def test_inside(check: Callable[..., None], options: dict[str, Any]) -> None:
    """Each check, in a process of its own."""
    on_ranks(1, check, options)


def test_bytes_are_those_of_a_fragment(tmp_path: Path) -> None:
    """Exact fp32 both ways: after the first round, to which clients come without a model, each costs a quarter of the plain
    run's in each direction, to within 64 bytes a message."""
    exact = {**_BASE, "uplink": "none", "downlink": "none", "clients_per_round": 4, "fragments": 4}
    run_here(tmp_path, "streaming", **exact)
    run_here(tmp_path, "plain", **{**exact, "fragments": 1})
    ours, plain = rows(tmp_path / "streaming"), rows(tmp_path / "plain")
    for round_ in range(6):
        for column in ("uplink_bytes", "downlink_bytes"):
            first = round_ == 0 and column == "downlink_bytes"
            wanted = int(plain[round_][column]) / (1 if first else 4)
            assert int(ours[round_][column]) == pytest.approx(wanted, abs=8 * 64), (round_, column)
        assert float(ours[round_]["sparsity"]) == 0
