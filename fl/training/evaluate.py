"""How good the global model is, the batches shared out among the ranks."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fl.common.ranks import Ranks
from fl.common.seeds import seeded
from fl.data.dataset import Split
from fl.data.normalise import Normaliser
from fl.models.own_state import OwnState

from .client_eval import ClientScores, client_columns
from .tasks import Task

BATCH = 500


@dataclass(frozen=True)
class Forward:
    """The way from samples, as they lie in a split, to outputs, fp32. `autocast`: its arithmetic, None for fp32. `seed`: of
    what a model draws, the same for every batch."""

    model: nn.Module
    normalise: Normaliser
    autocast: torch.dtype | None
    memory_format: torch.memory_format
    seed: int = 0

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
    batches = -(-len(split) // BATCH)
    losses = torch.zeros(batches, 2, dtype=torch.float64)
    predictions = torch.zeros(len(split), dtype=torch.float64)
    found: dict[int, tuple[Tensor, Tensor]] = {}
    with forward.evaluating():
        for batch in range(ranks.rank, batches, ranks.world_size):
            part = _part(batch)
            outputs = forward(split.x[part])
            found[batch] = task.loss_sum(outputs, split.y[part]), task.predict(outputs)
    if found:  # only now, and all at once: to read a figure makes the host wait for the device
        sums = torch.stack([loss for loss, _ in found.values()]).tolist()
        predicted = torch.cat([each for _, each in found.values()]).cpu()
        sizes = [len(each) for _, each in found.values()]
        for batch, loss, own in zip(found, sums, predicted.split(sizes), strict=True):
            losses[batch, 0], losses[batch, 1] = loss, len(own)
            predictions[_part(batch)] = own
    loss_sum, samples = ranks.sum(losses).sum(0).tolist()
    ranks.sum(predictions)
    return Evaluation({"loss": loss_sum / samples, **task.measure(predictions, split.y.cpu())}, predictions)


def _part(batch: int) -> slice:
    return slice(batch * BATCH, (batch + 1) * BATCH)


@dataclass(frozen=True)
class Judgement:
    """The global model on both splits and on the clients' own samples; None: not evaluated."""

    validation: Evaluation | None = None
    test: Evaluation | None = None
    clients: ClientScores | None = None

    def score(self, task: Task) -> float | None:
        """What decisions are made by: the score on the validation split."""
        return None if self.validation is None else self.validation.metrics[task.score.name]

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
