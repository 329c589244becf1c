"""FedDyn. Oracle: Acar et al. 2021, Algorithm 1, with gradient descent as the local solver, in NumPy float64."""

import numpy as np
import pytest
import torch

from fl.algorithms.base import Algorithm
from fl.algorithms.feddyn import FedDyn
from tests.fl.algorithms import stateful
from tests.fl.algorithms.quadratic import LAYOUT, N, Problem, Round, Runner, close, uneven_rounds

pytestmark = pytest.mark.slow


def make(alpha: float = 0.3, clients: int = stateful.CLIENTS) -> FedDyn:
    """For so many clients."""
    return FedDyn(LAYOUT, torch.device("cpu"), alpha, clients)


def paper(problem: Problem, rounds: list[Round], alpha: float, rho: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """theta after every round; h and the gradients of all clients at the end."""
    m = len(problem.samples)
    theta, h, gradients, trace = np.zeros(N), np.zeros(N), np.zeros((m, N)), []
    for round_ in rounds:
        models = []
        for k, steps in round_.steps.items():
            y, velocity = theta, np.zeros(N)
            for _ in range(steps):
                velocity = rho * velocity + problem.gradient(k, y) - gradients[k] + alpha * (y - theta)
                y = y - round_.lr * velocity
            gradients[k] = gradients[k] - alpha * (y - theta)
            models.append(y)
        h = h - alpha / m * sum(y - theta for y in models)
        theta = np.mean(models, axis=0) - h / alpha
        trace.append(theta)
    return np.array(trace), h, gradients


@pytest.mark.parametrize("cohort", [5, 2])
@pytest.mark.parametrize("alpha", [0.1, 1.0])
@pytest.mark.parametrize("rho", [0.0, 0.5])
def test_equals_the_paper(cohort: int, alpha: float, rho: float) -> None:
    """Eight rounds, also when only two of five take part; the states of all sides too."""
    problem, rounds = Problem.drawn(5, seed=8), uneven_rounds(5, 8, cohort=cohort, lr=0.05)
    runner = Runner(problem, make(alpha), momentum=rho)
    trace, h, gradients = paper(problem, rounds, alpha, rho)
    close(runner.run(rounds), trace)
    close(runner.algorithms[0].server_state()["total"].numpy(), h)
    for client in range(5):
        state = runner.own.get(client)
        close(state["gradient"].numpy() if state else np.zeros(N), gradients[client])


def test_the_state_is_the_gradient_at_the_minimum() -> None:
    """The first-order condition: after enough local steps g_k is the gradient of L_k where the client ended."""
    problem, alpha = Problem.drawn(1, seed=9), 0.5
    runner = Runner(problem, make(alpha, 1))
    runner.round(Round({0: 300}, 0.2))
    state = runner.own[0]["gradient"].numpy()
    close(state, problem.gradient(0, -state / alpha))


@pytest.mark.parametrize("codec", ["none", "topk:0.3", "int8", "randk:0.5"])
def test_both_sides_agree_for_every_codec(codec: str) -> None:
    """h is the mean of the clients' g_k, of which the server never sees one."""
    runner = Runner(Problem.drawn(5), make(), codec=codec)
    runner.run(uneven_rounds(5, 10, cohort=3, lr=0.05))
    own = [runner.own.get(client, {}).get("gradient", torch.zeros(N)) for client in range(5)]
    close(runner.algorithms[0].server_state()["total"].numpy(), torch.stack(own).mean(0).numpy())


@pytest.mark.parametrize("codec", ["none", "topk:0.5"])
def test_reaches_the_common_optimum(codec: str) -> None:
    """Where federated averaging stays away from it, and through a sparse codec without a residual."""
    problem, rounds = Problem.drawn(5, seed=7), [Round({0: 8, 1: 4, 2: 8, 3: 5, 4: 5}, 0.1)] * 80
    optimum = problem.optimum([1] * 5)
    assert np.linalg.norm(Runner(problem, make(1.0), codec=codec).run(rounds)[-1] - optimum) < 1e-4
    assert np.linalg.norm(Runner(problem, Algorithm(), codec=codec).run(rounds)[-1] - optimum) > 0.05


def test_ranks_resume_and_failure() -> None:
    """See each check."""
    stateful.check_ranks(make)
    stateful.check_resume(make)
    stateful.check_failed_round(make)


def test_a_residual_overshoots() -> None:
    """As `refusals` says."""
    stateful.check_residual_overshoots(lambda: make(1.0))
