"""Static BatchNorm: running statistics of the global model, asked of clients that train models of different widths.

HeteroFL (Diao, Ding and Tarokh 2021, section 3, "Static Batch Normalization"): narrower models see other inputs, so their
statistics are not averaged; clients normalise by their batches, and the server asks for the statistics of the whole model
when it needs them.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from .trainer import ClientTrainer
from .worker import Worker


@torch.no_grad()
def ask_statistics(worker: Worker, trainer: ClientTrainer, round_: int, cohort: Sequence[int]) -> None:
    """Set the global model's buffers to the mean over this cohort, weighted as updates are, of each client's mean over its
    first batches of `round_`, at most 10. Collective; the same on any number of ranks."""
    state, engine, ranks = worker.state, worker.engine, worker.ranks
    layers = norms(engine.model)
    if not layers:
        return
    table = torch.zeros(len(cohort), state.buffers.numel(), dtype=torch.float64)
    for row, client in enumerate(cohort):
        if ranks.hosts(client):
            table[row] = _statistics(worker, trainer, round_, client, layers)
    ranks.sum(table)
    counts = [worker.local_plan.weight(len(trainer.parts[client])) for client in cohort]
    weights = torch.tensor(counts, dtype=torch.float64)
    mean = (table * weights[:, None]).sum(0) / weights.sum()
    state.buffers.copy_(mean.float())


def norms(model: nn.Module) -> list[_BatchNorm]:
    """The layers of `model` that keep running statistics."""
    return [layer for layer in model.modules() if isinstance(layer, _BatchNorm) and layer.track_running_stats]


def _statistics(
    worker: Worker, trainer: ClientTrainer, round_: int, client: int, layers: Sequence[_BatchNorm]
) -> Tensor:
    """The buffers [m] after a client's batches have gone through the global model."""
    state, engine = worker.state, worker.engine
    state.load_into(engine.model)
    momenta = [layer.momentum for layer in layers]
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None  # every batch counts alike
    engine.model.train()
    try:
        with trainer.seeded(client, round_):
            for x, _ in trainer.first_batches(client, round_, engine):
                engine.model(x)
    finally:
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum
    own, layout = dict(engine.model.named_buffers()), state.buffer_layout
    return layout.gather([own[name] for name in layout.names], torch.empty_like(state.buffers)).double().cpu()
