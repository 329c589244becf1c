"""What holds for every algorithm whose clients remember something."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from fl.algorithms.base import Algorithm
from tests.fl.algorithms.quadratic import Problem, Round, Runner, uneven_rounds

Make = Callable[[], Algorithm]
CLIENTS = 5


def state_of(runner: Runner) -> dict[str, Tensor]:
    """Everything that the server and the clients remember, in one dictionary."""
    state = dict(runner.algorithms[0].server_state())
    for client, own in runner.own.items():
        state.update({f"{client}.{name}": value for name, value in own.items()})
    return state


def assert_same_state(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    """Bit for bit."""
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def rounds_of(count: int) -> list[Round]:
    """Cohorts of three of the five clients."""
    return uneven_rounds(CLIENTS, count, cohort=3, lr=0.05, seed=5)


def check_ranks(make: Make) -> None:
    """The same bits on one, two and three ranks, through a sparse codec."""
    problem, rounds = Problem.drawn(CLIENTS), rounds_of(6)
    traces = [Runner(problem, *(make() for _ in range(ranks)), codec="topk:0.3").run(rounds) for ranks in (1, 2, 3)]
    assert np.array_equal(traces[0], traces[1])
    assert np.array_equal(traces[0], traces[2])


def check_resume(make: Make) -> None:
    """Stopped after three rounds and continued on other ranks from what was saved: the same bits."""
    problem, rounds = Problem.drawn(CLIENTS), rounds_of(7)
    through = Runner(problem, make()).run(rounds)
    first = Runner(problem, make(), make())
    first.run(rounds[:3])
    second = Runner(problem, make(), make(), make())
    second.weights, second.own = first.weights.clone(), dict(first.own)
    server = first.algorithms[0].server_state()
    for algorithm in second.algorithms:
        algorithm.load_server_state(server)
    assert np.array_equal(second.run(rounds[3:]), through[3:])


def check_failed_round(make: Make) -> None:
    """A round that fails before the server's step leaves everything as it was, and can be run again."""
    problem, rounds = Problem.drawn(CLIENTS), rounds_of(4)
    through = Runner(problem, make()).run(rounds)
    runner = Runner(problem, make())
    runner.run(rounds[:2])
    before = state_of(runner)
    runner.round(rounds[3], fails=True)
    assert_same_state(state_of(runner), before)
    assert np.array_equal(runner.run(rounds[2:]), through[2:])


def check_residual_overshoots(make: Make) -> None:
    """Why a residual is refused: without one a sparse codec gets near the optimum, with one it goes far away."""
    problem, rounds = Problem.drawn(CLIENTS, seed=7), [Round(dict.fromkeys(range(CLIENTS), 3), 0.05)] * 100
    optimum = problem.optimum([1] * CLIENTS)
    near, far = (
        np.linalg.norm(Runner(problem, make(), codec="topk:0.1", feedback=feedback).run(rounds)[-1] - optimum)
        for feedback in ("none", "residual")
    )
    assert near < 0.1
    assert far > 10
