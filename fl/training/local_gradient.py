"""The gradient of a client's loss, for masks that look at data before training."""

import torch
from torch import Tensor

from fl.models.state import ModelState
from fl.models.submodel import Submodel

from .engine.base import LocalEngine
from .local_model import zero_outside
from .trainer import ClientTrainer


def local_gradient(
    trainer: ClientTrainer, engine: LocalEngine, state: ModelState, client: int, round_: int, submodel: Submodel
) -> Tensor:
    """The mean gradient of the loss over the first batches of `client` in `round_`, at most 10, at the global
    weights of its `submodel` and zeros elsewhere, fp32 [n]; in fp32 whatever the precision of training."""
    model = engine.model
    state.load_into(model)
    zero_outside(model, state.layout, submodel)
    model.train()
    model.zero_grad()
    count = 0
    with trainer.seeded(client, round_):
        for x, y in trainer.first_batches(client, round_, engine):
            engine.loss(model(x), y).backward()
            count += 1
    named = dict(model.named_parameters())
    grads = [named[name].grad for name in state.layout.names]
    # A weight that nothing came through has no gradient.
    full = [
        torch.zeros_like(named[name]) if g is None else g for name, g in zip(state.layout.names, grads, strict=True)
    ]
    flat = state.layout.gather(full, torch.empty_like(state.parameters))
    model.zero_grad()
    return flat.div_(max(1, count))
