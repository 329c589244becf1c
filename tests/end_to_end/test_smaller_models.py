"""Smaller models inside a run, looked at from within. Oracles: PyTorch itself, and the whole model."""

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from fl.data.batches import iterate_batches
from fl.models.submodel import WHOLE
from fl.models.update import Job
from fl.pruning.nested import NestedSubmodels
from fl.pruning.shared_mask import SharedMask
from fl.training.local_gradient import local_gradient
from fl.training.local_model import LocalSmallerModel
from fl.training.static_batchnorm import ask_statistics
from tests.end_to_end.parts import start_rounds
from tests.end_to_end.test_resume import OPTIONS
from tests.support import on_ranks


def _small_models(rank: int, world_size: int) -> None:
    worker, rounds = start_rounds(prune="structured:0.5", model="tests.user_code:norm_model")
    masks, state = rounds.plan, worker.state
    assert isinstance(masks, SharedMask)
    masks.begin(0, [0])
    local = masks.local(0, 0)
    assert isinstance(local, LocalSmallerModel)
    assert local.engine.model is not worker.engine.model
    whole = deepcopy(worker.engine.model)
    state.load_into(whole)
    local.load({})
    x = torch.randn(5, 3, 32, 32)
    torch.testing.assert_close(local.engine.model.eval()(x), whole.eval()(x))
    values, buffers = local.read()
    assert not values.any(), "untrained, it is the global model"
    part = masks.submodel(0)
    assert part.inside is not None
    assert torch.equal(buffers, part.gather_buffers(state.buffers))
    with torch.no_grad():
        for parameter in local.engine.model.parameters():
            parameter.sub_(1.0)
    values, _ = local.read()
    torch.testing.assert_close(values, part.inside.mask.float())


def _static_statistics(rank: int, world_size: int) -> None:
    worker, rounds = start_rounds(
        prune="width:1", capabilities="groups:1.0x2+0.5x2", model="tests.user_code:norm_model", partition="quantity:0.6"
    )
    cohort = rounds.cohort(0)
    before = worker.state.buffers.clone()
    outcome = rounds.run(0)
    assert torch.equal(worker.state.buffers, before), "nobody sends statistics"
    assert "buffers" not in outcome.published
    ask_statistics(worker, rounds.trainer, 0, cohort)
    wanted, samples = torch.zeros_like(before, dtype=torch.float64), 0
    for client in cohort:
        model = deepcopy(worker.engine.model)
        worker.state.load_into(model)
        norm = next(module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d))
        means, variances = [], []

        def look(module: Any, args: Any, output: Any, m: Any = means, v: Any = variances) -> None:
            m.append(args[0].mean((0, 2, 3)))
            v.append(args[0].transpose(0, 1).flatten(1).var(1))

        norm.register_forward_hook(look)
        with torch.no_grad():
            for x, _ in rounds.trainer.batches(client, 0, worker.engine):
                model.train()(x)
        count = len(worker.parts[client])
        wanted += count * torch.cat((torch.stack(means).mean(0), torch.stack(variances).mean(0))).double()
        samples += count
    torch.testing.assert_close(worker.state.buffers, (wanted / samples).float())
    assert rounds.query_bytes == (24 + 4 * before.numel(), 24 + 4 * worker.state.layout.total)


def _absent_classes(rank: int, world_size: int) -> None:
    worker, rounds = start_rounds(prune="width:1", partition="labels:3", momentum=0.0)
    assert isinstance(rounds.plan, NestedSubmodels)
    rounds.plan.begin(0, [0])
    update = rounds.trainer.train(Job(0, 0, 0), rounds.plan.local(0, 0))
    bias = update.values[-10:]
    counts = torch.tensor(worker.label_counts()[0])
    assert torch.equal(bias == 0, counts == 0), "a client says nothing of classes that it lacks"


def _rolling_windows(rank: int, world_size: int) -> None:
    worker, rounds = start_rounds(prune="width:0.5,shift=rolling", model="tests.user_code:norm_model")
    held = torch.zeros(worker.state.layout.total, dtype=torch.int64)
    for round_ in range(4):
        rounds.plan.begin(round_, [0])
        inside = rounds.plan.submodel(0).inside
        assert inside is not None
        held += inside.mask
    outputs = 10  # their bias is whole
    assert held.tolist() == [2] * (held.numel() - outputs) + [4] * outputs, (
        "two of four channels, one further each round"
    )


def _gradients_by_hand(rank: int, world_size: int) -> None:
    worker, rounds = start_rounds(prune="snip:0.5,by=client", local_steps=3)
    trainer, state = rounds.trainer, worker.state
    found = local_gradient(trainer, worker.engine, state, 1, 0, WHOLE)
    model = deepcopy(worker.engine.model)
    state.load_into(model)
    total = torch.zeros_like(found)
    for x, y in iterate_batches(
        worker.train,
        worker.parts[1],
        batch_size=8,
        steps=3,
        seed=_seed_of_batches(),
        augment=worker.augment,
        normalise=worker.normalise,
    ):
        grads = torch.autograd.grad(F.cross_entropy(model(x), y), list(model.parameters()))
        total += torch.cat([grad.flatten() for grad in grads])
    torch.testing.assert_close(found, total / 3, rtol=1e-4, atol=1e-6)


def _seed_of_batches() -> int:
    from fl.common.seeds import derive_seed

    return derive_seed(OPTIONS.get("seed", 0), "batches", 0, 1)


def _a_client_without_a_mask_yet(rank: int, world_size: int) -> None:
    model = "tests.user_code:norm_model"
    _, rounds = start_rounds(
        prune="structured:0.5,by=client", prune_schedule="oneshot:1", model=model, capabilities="groups:1.0x2+0.5x2"
    )
    for round_ in range(3):
        outcome = rounds.run(round_)
        assert len(outcome.reports) == 4


@pytest.mark.parametrize(
    "check",
    [
        _a_client_without_a_mask_yet,
        _small_models,
        _static_statistics,
        _absent_classes,
        _rolling_windows,
        _gradients_by_hand,
    ],
)
def test_inside(check: Callable[[int, int], None]) -> None:
    """Each check, in a process of its own."""
    on_ranks(1, check)
