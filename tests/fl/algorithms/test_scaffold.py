"""SCAFFOLD. Oracle: Karimireddy et al. 2020, Algorithm 1 with option II, in NumPy float64 with every c_i kept apart."""

import numpy as np
import pytest
import torch

from fl.algorithms.base import Algorithm
from fl.algorithms.scaffold import Scaffold
from tests.fl.algorithms import stateful
from tests.fl.algorithms.quadratic import LAYOUT, N, Problem, Round, Runner, close, uneven_rounds

pytestmark = pytest.mark.slow


def make(clients: int = stateful.CLIENTS) -> Scaffold:
    """For so many clients."""
    return Scaffold(LAYOUT, torch.device("cpu"), clients)


def paper(problem: Problem, rounds: list[Round], eta: float, decay: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """x after every round; c and all c_i at the end."""
    clients = len(problem.samples)
    x, c, own, trace = np.zeros(N), np.zeros(N), np.zeros((clients, N)), []
    for round_ in rounds:
        moved, changed = [], []
        for i, steps in round_.steps.items():
            y = x
            for _ in range(steps):
                y = y - round_.lr * (problem.gradient(i, y) + decay * y - own[i] + c)
            new = own[i] - c + (x - y) / (steps * round_.lr)
            moved.append(y - x)
            changed.append(new - own[i])
            own[i] = new
        x = x + eta * np.mean(moved, axis=0)
        c = c + len(moved) / clients * np.mean(changed, axis=0)
        trace.append(x)
    return np.array(trace), c, own


@pytest.mark.parametrize("cohort", [5, 2])
@pytest.mark.parametrize("eta", [1.0, 0.7])
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_equals_the_paper(cohort: int, eta: float, decay: float) -> None:
    """Eight rounds, also when only two of five take part; the variates of all sides too."""
    problem, rounds = Problem.drawn(5, seed=6), uneven_rounds(5, 8, cohort=cohort, lr=0.05)
    runner = Runner(problem, make(), weight_decay=decay, server_lr=eta)
    trace, c, own = paper(problem, rounds, eta, decay)
    close(runner.run(rounds), trace)
    close(runner.algorithms[0].server_state()["variate"].numpy(), c)
    for client in range(5):
        state = runner.own.get(client)
        close(state["variate"].numpy() if state else np.zeros(N), own[client])


def test_a_variate_is_the_mean_gradient_of_the_steps() -> None:
    """Option II's reason: after one round from zero variates, by hand from three gradients."""
    problem, runner = Problem.drawn(1), Runner(Problem.drawn(1), make(1))
    runner.round(Round({0: 3}, 0.1))
    y, gradients = np.zeros(N), []
    for _ in range(3):
        gradients.append(problem.gradient(0, y))
        y = y - 0.1 * gradients[-1]
    close(runner.own[0]["variate"].numpy(), np.mean(gradients, axis=0))


@pytest.mark.parametrize("codec", ["none", "topk:0.3", "int8", "randk:0.5"])
def test_both_sides_agree_for_every_codec(codec: str) -> None:
    """The server's variate is the mean of the clients', of which it never sees one."""
    runner = Runner(Problem.drawn(5), make(), codec=codec)
    runner.run(uneven_rounds(5, 10, cohort=3, lr=0.05))
    own = [runner.own.get(client, {}).get("variate", torch.zeros(N)) for client in range(5)]
    close(runner.algorithms[0].server_state()["variate"].numpy(), torch.stack(own).mean(0).numpy())


@pytest.mark.parametrize("codec", ["none", "topk:0.3"])
def test_reaches_the_common_optimum(codec: str) -> None:
    """Where federated averaging stays away from it, and through a sparse codec without a residual."""
    problem, rounds = Problem.drawn(5, seed=7), [Round({0: 8, 1: 2, 3: 5, 4: 5}, 0.05), Round({2: 8, 4: 3}, 0.05)] * 60
    optimum = problem.optimum([1] * 5)
    assert np.linalg.norm(Runner(problem, make(), codec=codec).run(rounds)[-1] - optimum) < 1e-4
    assert np.linalg.norm(Runner(problem, Algorithm(), codec=codec).run(rounds)[-1] - optimum) > 0.05


def test_a_learning_rate_of_zero_teaches_nothing() -> None:
    """No division by it: all variates stay."""
    runner = Runner(Problem.drawn(5), make())
    runner.run(uneven_rounds(5, 3, cohort=3, lr=0.05))
    before = stateful.state_of(runner)
    runner.round(Round({0: 2, 1: 3}, 0.0))
    stateful.assert_same_state(stateful.state_of(runner), before)


def test_ranks_resume_and_failure() -> None:
    """See each check."""
    stateful.check_ranks(make)
    stateful.check_resume(make)
    stateful.check_failed_round(make)


def test_a_residual_overshoots() -> None:
    """As `refusals` says."""
    stateful.check_residual_overshoots(make)
