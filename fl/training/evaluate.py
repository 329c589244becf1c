"""How good the global model is: on a split, the batches shared out among the ranks, and for each client.

`--client-eval` looks at samples of its own that a client does not train on. It is a measurement, as the test split is:
nothing is decided by it.
"""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from compression.phases import phase
from fl.common.generators import seeded
from fl.common.progress import work
from fl.common.ranks import Ranks
from fl.common.seeds import numpy_generator
from fl.data.dataset import Split
from fl.data.normalise import Normaliser
from fl.models.own_state import OwnState

from .tasks import ACCURACY, Score, Task


@dataclass(frozen=True)
class Forward:
    """The way from samples, as they lie in a split, to outputs, fp32. `autocast`: its arithmetic, None for fp32. `seed`: of
    what a model draws, the same for every batch."""

    model: nn.Module
    normalise: Normaliser
    autocast: torch.dtype | None
    memory_format: torch.memory_format
    seed: int = 0

    @phase("evaluation")
    @torch.no_grad()
    def __call__(self, x: Tensor) -> Tensor:
        """Outputs for the samples `x` [B, ...]; call it inside `evaluating`. The model keeps nothing of it, for the next
        batch may be another rank's."""
        own = OwnState(self.model)
        autocast = torch.autocast(x.device.type, dtype=self.autocast, enabled=self.autocast is not None)
        with autocast, seeded(self.seed, "evaluation"):
            outputs: Tensor = self.model(self.normalise(x, self.memory_format))
        own.put_back()
        return outputs.float()

    @contextlib.contextmanager
    def evaluating(self) -> Iterator[None]:
        """Without dropout, and with the running statistics of BatchNorm."""
        was_training = self.model.training
        self.model.eval()
        try:
            yield
        finally:
            self.model.train(was_training)


@dataclass(frozen=True)
class Evaluation:
    """`metrics`: the mean loss, as `loss`, and the task's own by name. `predictions`: of each sample, float64 [N]."""

    metrics: dict[str, float | None]
    predictions: Tensor


def evaluate(forward: Forward, split: Split, ranks: Ranks, task: Task) -> Evaluation:
    """Judge a model on `split`, which is not empty; the same on every rank, for any number of ranks. Collective.

    Batch i is computed on rank i mod world size. The batches' losses are added up in order, and metrics are worked out
    from all predictions at once, so the figures do not depend on the number of ranks.
    """
    size = task.at_once(split.y)
    batches = -(-len(split) // size)
    losses = torch.zeros(batches, 2, dtype=torch.float64)
    predictions = torch.zeros(len(split), dtype=torch.float64)
    found: dict[int, tuple[Tensor, Tensor]] = {}
    with forward.evaluating():
        for batch in range(ranks.rank, batches, ranks.world_size):
            work.steps += 1
            part = _part(batch, size)
            outputs = forward(split.x[part])
            found[batch] = task.loss_sum(outputs, split.y[part]), task.predict(outputs, split.y[part])
    if found:  # only now, and all at once: to read a figure makes the host wait for the device
        sums = torch.stack([loss for loss, _ in found.values()]).tolist()
        predicted = torch.cat([each for _, each in found.values()]).cpu()
        sizes = [len(each) for _, each in found.values()]
        for batch, loss, own in zip(found, sums, predicted.split(sizes), strict=True):
            losses[batch, 0], losses[batch, 1] = loss, len(own)
            predictions[_part(batch, size)] = own
    loss_sum, samples = ranks.sum(losses).sum(0).tolist()
    ranks.sum(predictions)
    return Evaluation({"loss": loss_sum / samples, **task.measure(predictions, split.y.cpu())}, predictions)


def _part(batch: int, size: int) -> slice:
    return slice(batch * size, (batch + 1) * size)


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
    """`samples`: held out by each client, int64 [C]; `scores` and mean `losses` of the model on them, float64 [C]; `score`:
    what these are.

    NaN where a client holds none out, and where a score is not defined.
    """

    samples: np.ndarray
    scores: np.ndarray
    losses: np.ndarray
    score: Score = ACCURACY

    @property
    def mean(self) -> float | None:
        """The mean score, weighted by samples; None if no client has one."""
        known = np.isfinite(self.scores)
        return float(np.average(self.scores[known], weights=self.samples[known])) if known.any() else None

    @property
    def worst(self) -> float | None:
        """The mean score over the tenth of the clients that have the worst, at least one client, each counting alike."""
        known = self.score.gain(np.sort(self.score.gain(self.scores[np.isfinite(self.scores)])))
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
    sizes, most = [len(part) for part in held], task.at_once(split.y)
    table = torch.zeros(len(held), 2, dtype=torch.float64)
    with forward.evaluating():
        for turn, clients in enumerate(_together(sizes, most)):
            if turn % ranks.world_size != ranks.rank:
                continue
            work.steps += 1
            at = torch.cat([held[client] for client in clients]).to(split.x.device)
            outputs = torch.cat([forward(split.x[batch]) for batch in at.split(most)])
            lengths = [sizes[client] for client in clients]
            targets = split.y[at]
            each = zip(outputs.split(lengths), targets.split(lengths), strict=True)
            # A GPU's host waits three times for all clients, not for each of them.
            losses = torch.stack([task.loss_sum(own, y) for own, y in each]).tolist()
            predictions, targets = task.predict(outputs, targets).cpu().split(lengths), targets.cpu().split(lengths)
            for client, loss, predicted, y in zip(clients, losses, predictions, targets, strict=True):
                score = task.rate(predicted, y)
                table[client, 0] = float("nan") if score is None else score
                table[client, 1] = loss / len(y)
    ranks.sum(table)
    samples = np.array(sizes, dtype=np.int64)
    table[torch.from_numpy(samples == 0)] = float("nan")
    return ClientScores(samples, table[:, 0].numpy(), table[:, 1].numpy(), task.score)


def _together(sizes: Sequence[int], most: int) -> Iterator[list[int]]:
    """Clients that go through the model together: as many as fill a batch of `most` samples, or a single one that needs
    several."""
    clients: list[int] = []
    for client, size in enumerate(sizes):
        if clients and sum(sizes[each] for each in clients) + size > most:
            yield clients
            clients = []
        if size:
            clients.append(client)
    if clients:
        yield clients


@dataclass(frozen=True)
class Evaluations:
    """The global model on both splits and on the clients' own samples; None: not evaluated."""

    validation: Evaluation | None = None
    test: Evaluation | None = None
    clients: ClientScores | None = None

    def score(self, task: Task) -> float | None:
        """What decisions are made by: the score on the validation split, so that higher is better."""
        value = None if self.validation is None else self.validation.metrics[task.score.name]
        return None if value is None else task.score.gain(value)

    def columns(self, task: Task) -> dict[str, float | None]:
        """The columns of metrics.csv (see `fl.output.record.metrics_columns`)."""
        found = {
            f"{split}_{name}": None if result is None else result.metrics[name]
            for split, result in (("val", self.validation), ("test", self.test))
            for name in ("loss", *task.metrics)
        }
        if self.clients is not None:
            found |= dict(zip(client_columns(task.score), (self.clients.mean, self.clients.worst), strict=True))
        return found

    def rows(self, round_: int) -> list[dict[str, Any]]:
        """The rows of client_eval.csv."""
        return [] if self.clients is None else self.clients.rows(round_)
