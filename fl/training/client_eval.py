"""How good the global model is for each client: on samples of its own that it does not train on (`--client-eval`).

A measurement, as the test split is: nothing is decided by it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fl.common.ranks import Ranks
from fl.common.seeds import numpy_generator
from fl.data.dataset import Split

from .evaluate import BATCH, Forward
from .tasks import Score, Task

COLUMNS = ("round", "client", "samples", "score", "loss")
"""The columns of client_eval.csv."""


def client_columns(score: Score) -> tuple[str, str]:
    """The columns of metrics.csv: over all clients, and over the worst of them."""
    return f"client_{score.name}", f"worst10_{score.name}"


def hold_out(parts: Sequence[Tensor], fraction: float, seed: int) -> tuple[list[Tensor], list[Tensor]]:
    """Each client's samples (int64 [M]) in two: those to train on, and those held out, both ascending.

    Held out is the nearest whole number to `fraction` of a client's samples, drawn by seed: at least one of two or more,
    and never all. With a fraction of 0, none.
    """
    train, held = [], []
    for client, part in enumerate(parts):
        count = min(max(round(fraction * len(part)), 1), len(part) - 1) if fraction else 0
        out = np.zeros(len(part), dtype=bool)
        out[numpy_generator(seed, "client_eval", client).choice(len(part), count, replace=False)] = True
        train.append(part[torch.from_numpy(~out)])
        held.append(part[torch.from_numpy(out)])
    return train, held


@dataclass(frozen=True)
class ClientScores:
    """`samples`: held out by each client, int64 [C]; `scores` and mean `losses` of the model on them, float64 [C].

    NaN where a client holds none out, and where a score is not defined.
    """

    samples: np.ndarray
    scores: np.ndarray
    losses: np.ndarray

    @property
    def mean(self) -> float | None:
        """The mean score, weighted by samples; None if no client has one."""
        known = np.isfinite(self.scores)
        return float(np.average(self.scores[known], weights=self.samples[known])) if known.any() else None

    @property
    def worst(self) -> float | None:
        """The mean score over the tenth of the clients that have the lowest, at least one client, each counting alike."""
        known = np.sort(self.scores[np.isfinite(self.scores)])
        return float(known[: max(1, len(known) // 10)].mean()) if len(known) else None

    def rows(self, round_: int) -> list[dict[str, Any]]:
        """The rows of client_eval.csv: the clients that hold samples out."""
        found = []
        for client in np.flatnonzero(self.samples):
            score, loss = float(self.scores[client]), float(self.losses[client])
            values = (round_, int(client), int(self.samples[client]), score if np.isfinite(score) else None, loss)
            found.append(dict(zip(COLUMNS, values, strict=True)))
        return found


def evaluate_clients(forward: Forward, split: Split, held: Sequence[Tensor], ranks: Ranks, task: Task) -> ClientScores:
    """Judge a model on the samples of `split` that each client holds out; the same for any number of ranks. Collective."""
    sizes = [len(part) for part in held]
    table = torch.zeros(len(held), 2, dtype=torch.float64)
    with forward.evaluating():
        for turn, clients in enumerate(_together(sizes)):
            if turn % ranks.world_size != ranks.rank:
                continue
            at = torch.cat([held[client] for client in clients]).to(split.x.device)
            outputs = torch.cat([forward(split.x[batch]) for batch in at.split(BATCH)])
            lengths = [sizes[client] for client in clients]
            targets = split.y[at]
            each = zip(outputs.split(lengths), targets.split(lengths), strict=True)
            # A GPU's host waits three times for all clients, not for each of them.
            losses = torch.stack([task.loss_sum(own, y) for own, y in each]).tolist()
            predictions, targets = task.predict(outputs).cpu().split(lengths), targets.cpu().split(lengths)
            for client, loss, predicted, y in zip(clients, losses, predictions, targets, strict=True):
                score = task.rate(predicted, y)
                table[client, 0] = float("nan") if score is None else score
                table[client, 1] = loss / len(y)
    ranks.sum(table)
    samples = np.array(sizes, dtype=np.int64)
    table[torch.from_numpy(samples == 0)] = float("nan")
    return ClientScores(samples, table[:, 0].numpy(), table[:, 1].numpy())


def _together(sizes: Sequence[int]) -> Iterator[list[int]]:
    """Clients that go through the model together: as many as fill a batch, or a single one that needs several."""
    clients: list[int] = []
    for client, size in enumerate(sizes):
        if clients and sum(sizes[each] for each in clients) + size > BATCH:
            yield clients
            clients = []
        if size:
            clients.append(client)
    if clients:
        yield clients
