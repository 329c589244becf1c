"""Clients whose loss is f_i(w) = 1/2 (w - b_i)^T A_i (w - b_i), and rounds of them through an algorithm.

The round is what the algorithms' interface promises: local SGD of torch with gradient hooks, a codec in between, clients
on any number of ranks.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from compression import Layout, Sender, make_codec
from fl.algorithms.base import Algorithm

SHAPES = ((3, 2), (4,))
LAYOUT = Layout(("matrix", "vector"), SHAPES)
N = LAYOUT.total


@dataclass
class Problem:
    """`a` [clients, n, n], `b` [clients, n] and `samples` [clients]."""

    a: np.ndarray
    b: np.ndarray
    samples: list[int]

    @classmethod
    def drawn(cls, clients: int, seed: int = 0) -> "Problem":
        """Different curvature and optimum for each client; eigenvalues between 0.5 and 2.5."""
        rng = np.random.default_rng(seed)
        a = np.empty((clients, N, N))
        for client in range(clients):
            basis, _ = np.linalg.qr(rng.normal(size=(N, N)))
            a[client] = basis @ np.diag(rng.uniform(0.5, 2.5, N)) @ basis.T
        return cls(a, rng.normal(size=(clients, N)), [int(s) for s in rng.integers(1, 9, clients)])

    def gradient(self, client: int, w: np.ndarray) -> np.ndarray:
        """Of f_i."""
        return self.a[client] @ (w - self.b[client])

    def optimum(self, shares: Sequence[float]) -> np.ndarray:
        """Of sum_i shares_i f_i."""
        weights = np.asarray(shares)[:, None, None]
        right = sum(s * a @ b for s, a, b in zip(shares, self.a, self.b, strict=True))
        return np.linalg.solve((weights * self.a).sum(0), right)


@dataclass(frozen=True)
class Round:
    """The local steps of each client that takes part, and the local learning rate."""

    steps: Mapping[int, int]
    lr: float


class Runner:
    """Rounds of `problem` on so many ranks as there are `algorithms`; `weights` is the global model, fp32 [n].

    The sender of each client keeps what `feedback` says.
    """

    def __init__(
        self,
        problem: Problem,
        *algorithms: Algorithm,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        codec: str = "none",
        feedback: str = "none",
        server_lr: float = 1.0,
    ) -> None:
        self.problem = problem
        self.algorithms = algorithms
        self.weights = torch.zeros(N)
        self.codec = make_codec(codec)
        self.feedback = feedback
        self.senders: dict[int, Sender] = {}
        self.own: dict[int, dict[str, Tensor]] = {}
        """What each client keeps."""
        self.server_lr = server_lr
        self.sgd: dict[str, Any] = {"momentum": momentum, "weight_decay": weight_decay}
        self.a = torch.tensor(problem.a, dtype=torch.float32)
        self.b = torch.tensor(problem.b, dtype=torch.float32)

    def run(self, rounds: Sequence[Round]) -> np.ndarray:
        """The global weights after each round, float64 [rounds, n]."""
        return np.stack([self.round(round_) for round_ in rounds])

    def round(self, round_: Round, *, fails: bool = False) -> np.ndarray:
        """One round; one that `fails` does so before the server's step. The global weights after it, float64 [n]."""
        server = self.algorithms[0]
        mean, weights, own = torch.zeros(N), [], dict(self.own)
        for client, steps in round_.steps.items():
            algorithm = self.algorithms[client % len(self.algorithms)]
            algorithm.begin(client, self.weights, steps, round_.lr, self.own.get(client, {}))
            update = algorithm.on_client(client, self.weights - self._train(algorithm, client, steps, round_.lr))
            sender = self.senders.setdefault(client, Sender(self.codec, self.feedback))
            payload, decoded = sender.encode(update, LAYOUT, key=client)
            sender.keep()
            own[client] = algorithm.sent(client, decoded, self.own.get(client, {}))
            received = self.codec.decode(payload, N, LAYOUT)
            server.receive(client, received, steps, round_.lr)
            weights.append(server.weight(self.problem.samples[client]))
            received.add_to(mean, weights[-1])
        mean = server.on_server(mean.div_(sum(weights)), weights, list(round_.steps.values()))
        if fails:
            for algorithm in self.algorithms:
                algorithm.rollback()
            return self.weights.double().numpy()
        self.weights, self.own = self.weights - self.server_lr * mean, own
        values = server.broadcast()
        for algorithm in self.algorithms:
            if values is not None:
                algorithm.apply_broadcast(values.clone())
            algorithm.commit()
        return self.weights.double().numpy()

    def _train(self, algorithm: Algorithm, client: int, steps: int, lr: float) -> Tensor:
        parameters = [nn.Parameter(view.clone()) for view in LAYOUT.views(self.weights)]
        for at, parameter in enumerate(parameters):
            parameter.register_hook(lambda grad, at=at, p=parameter: _corrected(algorithm, grad, at, p))
        optimizer = torch.optim.SGD(parameters, lr=lr, **self.sgd)
        for _ in range(steps):
            optimizer.zero_grad()
            away = torch.cat([p.reshape(-1) for p in parameters]) - self.b[client]
            (0.5 * away @ self.a[client] @ away).backward()
            optimizer.step()
        return LAYOUT.gather([p.detach() for p in parameters], torch.empty(N))


def _corrected(algorithm: Algorithm, grad: Tensor, at: int, parameter: Tensor) -> Tensor:
    extra = algorithm.correction(at, parameter)
    return grad if extra is None else grad + extra


def uneven_rounds(clients: int, rounds: int, *, cohort: int, lr: float, seed: int = 0) -> list[Round]:
    """Cohorts and steps (1 to 7) that differ from round to round, and a learning rate that falls."""
    rng = np.random.default_rng(seed)
    return [
        Round(
            {int(c): int(rng.integers(1, 8)) for c in sorted(rng.choice(clients, cohort, replace=False))},
            lr * 0.95**at,
        )
        for at in range(rounds)
    ]


def close(actual: np.ndarray, expected: np.ndarray) -> None:
    """Equal but for the rounding of fp32."""
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5)
