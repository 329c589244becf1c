"""Accuracy and loss of the global model, the batches shared out among the ranks."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from .data.dataset import Split
from .data.normalise import Normaliser
from .ranks import Ranks

_BATCH = 500


@torch.no_grad()
def evaluate(
    model: nn.Module,
    split: Split,
    ranks: Ranks,
    *,
    normalise: Normaliser,
    autocast: torch.dtype | None,
    memory_format: torch.memory_format,
) -> tuple[float, float]:
    """Mean cross-entropy and accuracy (0 ... 1) of `model` on `split`; the same on every rank, for any number of ranks.

    `autocast` is the arithmetic of local training, None for fp32. Batch i is computed on rank i mod world size and the
    batches' sums are added in order, so the figures do not depend on the number of ranks.
    """
    was_training = model.training
    model.eval()
    batches = -(-len(split) // _BATCH)
    results: dict[int, Tensor] = {}
    with torch.autocast(split.x.device.type, dtype=autocast, enabled=autocast is not None):
        for batch in range(ranks.rank, batches, ranks.world_size):
            part = slice(batch * _BATCH, (batch + 1) * _BATCH)
            labels = split.y[part]
            logits = model(normalise(split.x[part], memory_format)).float()
            loss = functional.cross_entropy(logits, labels, reduction="sum")
            results[batch] = torch.stack((loss.double(), (logits.argmax(1) == labels).sum().double()))
    model.train(was_training)
    table = torch.zeros(batches, 2, dtype=torch.float64)
    for batch, result in results.items():
        table[batch] = result.cpu()
    loss_sum, correct = ranks.sum(table).sum(0).tolist()
    return loss_sum / len(split), correct / len(split)
