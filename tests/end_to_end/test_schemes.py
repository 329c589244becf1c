"""The schemes that presets stand for, round by round. Oracle: their papers' formulas written out in NumPy."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

from fl.run.cli import parse
from tests.end_to_end.parts import start_rounds
from tests.support import ROOT, on_ranks

_ROUNDS = 4


def _chosen(values: np.ndarray, chunk: int, density: float) -> np.ndarray:
    """`values`, zero but for the largest magnitudes of each `chunk` in a row."""
    found = np.zeros_like(values)
    for at in range(0, len(values), chunk):
        part = values[at : at + chunk]
        kept = np.argsort(-np.abs(part), kind="stable")[: max(1, round(density * len(part)))]
        found[at + kept] = part[kept]
    return found


def _cosines(values: np.ndarray, block: int, *, back: bool = False) -> np.ndarray:
    """The orthonormal DCT-II of each `block`, or its inverse."""
    found = []
    for at in range(0, len(values), block):
        part = values[at : at + block]
        size, places = len(part), np.arange(len(part))
        matrix = np.cos(np.pi / size * np.outer(places, places + 0.5)) * np.sqrt(2 / size)
        matrix[0] /= np.sqrt(2)
        found.append((matrix.T if back else matrix) @ part)
    return np.concatenate(found)


@contextmanager
def _watched(rounds: Any) -> Iterator[dict[int, np.ndarray]]:
    """The update of each client, fp64 [n], before it is encoded."""
    found: dict[int, np.ndarray] = {}
    encode = rounds.encoder.encode

    def watch(job: Any, update: Any, *rest: Any) -> Any:
        found[job.client] = update.values.double().numpy()
        return encode(job, update, *rest)

    rounds.encoder.encode = watch
    yield found
    rounds.encoder.encode = encode


def _rounds_of(preset: str, **options: Any) -> tuple[Any, Any, list[int], np.ndarray]:
    """The worker, the rounds, the weights of clients in the mean, and the global model: lenet5 on digits with what the
    preset says of optimizers and error feedback."""
    config = parse(["--config", str(ROOT / "configs" / f"{preset}.yaml")])[0]
    names = ("optimizer", "momentum", "weight_decay", "local_state", "server", "server_momentum", "error_feedback")
    own = {name: getattr(config, name) for name in names}
    worker, rounds = start_rounds(**{**own, "local_steps": 2, **options})
    return worker, rounds, [len(part) for part in worker.parts], worker.state.parameters.double().numpy().copy()


def _diloco(rank: int, world_size: int) -> None:
    """Douillard et al. 2023, Algorithm 1: the outer gradient is the mean of global minus local; Nesterov momentum 0.9, rate
    0.7."""
    worker, rounds, weights, model = _rounds_of("diloco", server_lr=None, lr=0.001)
    momentum = np.zeros_like(model)
    for number in range(_ROUNDS):
        with _watched(rounds) as updates:
            rounds.run(number)
        outer = np.average([updates[client] for client in range(4)], axis=0, weights=weights)
        momentum = 0.9 * momentum + outer
        model -= 0.7 * (outer + 0.9 * momentum)
        assert np.allclose(worker.state.parameters.numpy(), model, atol=1e-5)


def _sparseloco(rank: int, world_size: int) -> None:
    """Sarfi et al. 2025, Algorithm 1: m <- 0.95 m + update; the largest 2 % of each chunk of m are sent and taken off m; a
    plain step on their mean. (Exact values; `log2` rounds them, which `tests/compression/values` checks.)"""
    worker, rounds, weights, model = _rounds_of("sparseloco", uplink="topk:0.02,chunk=4096", server_lr=None, lr=0.001)
    kept = {client: np.zeros_like(model) for client in range(4)}
    for number in range(_ROUNDS):
        with _watched(rounds) as updates:
            rounds.run(number)
        sent = []
        for client in range(4):
            total = 0.95 * kept[client] + updates[client]
            sent.append(_chosen(total.astype(np.float32), 4096, 0.02).astype(np.float64))
            kept[client] = total - sent[-1]
        model -= np.average(sent, axis=0, weights=weights)
        assert np.allclose(worker.state.parameters.numpy(), model, atol=1e-5)


def _demo(rank: int, world_size: int) -> None:
    """Peng et al. 2024, Algorithm 1: m <- 0.999 m + gradient; the largest of m's cosine coefficients in each chunk are sent,
    and what they stand for is taken off m; the step is the sign of their mean."""
    options = {"uplink": "dct:64+topk:0.03125,chunk=64", "lr": 1.0, "local_steps": 1, "server_lr": 0.001}
    worker, rounds, weights, model = _rounds_of("demo", **options)
    kept = {client: np.zeros_like(model) for client in range(4)}
    for number in range(_ROUNDS):
        with _watched(rounds) as updates:
            rounds.run(number)
        sent = []
        for client in range(4):
            total = 0.999 * kept[client] + updates[client]
            sent.append(_cosines(_chosen(_cosines(total, 64), 64, 0.03125), 64, back=True))
            kept[client] = total - sent[-1]
        mean = np.average(sent, axis=0, weights=weights)
        certain = np.abs(mean) > 1e-7  # rounding decides the sign of less
        model[certain] -= 0.001 * np.sign(mean[certain])
        found = worker.state.parameters.double().numpy()
        assert certain.mean() > 0.3
        assert np.allclose(found[certain], model[certain], atol=1e-6)
        model = found.copy()


@pytest.mark.parametrize("check", [_diloco, _sparseloco, _demo])
def test_the_formulas(check: Callable[[int, int], None]) -> None:
    """Each scheme, in a process of its own."""
    on_ranks(1, check)
