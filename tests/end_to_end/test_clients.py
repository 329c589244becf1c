"""What a client computes and keeps depends on (seed, round, client) and its own history alone."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from fl.models.state import ModelState
from fl.models.update import Job, Update
from fl.run.loop import make_rounds
from fl.training.local_model import WholeModel
from fl.training.worker import Worker
from tests.support import make_worker, on_ranks

_DROPOUT: dict[str, Any] = {
    "model": "pfl_cnn",
    "augment": "crop:2+flip",
    "clients": 4,
    "limit_train": 120,
    "local_steps": 2,
    "batch_size": 8,
}


def _train(worker: Worker, client: int, round_: int, state: ModelState | None = None) -> Update:
    model = WholeModel(worker.engine, state or worker.state)
    return worker.make_trainer().train(Job(client, round_, round_), model)


def test_dropout_and_augmentation_are_the_clients_own() -> None:
    """Client 3's update, alone, after others, and after the global generators were disturbed: the same bits."""
    on_ranks(1, _train_in_other_company)


def _train_in_other_company(rank: int, world_size: int) -> None:
    alone = make_worker(**_DROPOUT)
    expected = _train(alone, 3, 5)
    worker = make_worker(**_DROPOUT)
    trainer, whole = worker.make_trainer(), WholeModel(worker.engine, worker.state)
    torch.manual_seed(99)
    np.random.seed(99)
    before = torch.get_rng_state()
    others = [trainer.train(Job(client, 5, 5), whole) for client in (0, 1, 2)]
    torch.rand(7)
    actual = trainer.train(Job(3, 5, 5), whole)
    assert torch.equal(actual.values, expected.values)
    assert actual.train_loss == expected.train_loss
    assert not any(torch.equal(actual.values, other.values) for other in others)
    assert not torch.equal(trainer.train(Job(3, 6, 6), whole).values, expected.values), "rounds must differ"
    after = make_worker(**_DROPOUT, seed=1)
    assert not torch.equal(_train(after, 3, 5, alone.state).values, expected.values), "seeds must differ"
    torch.set_rng_state(before)
    trainer.train(Job(0, 0, 0), whole)
    assert torch.equal(torch.get_rng_state(), before), "training must leave the global generator alone"


def test_dropout_and_augmentation_are_at_work() -> None:
    """Otherwise the test above would pass without them: each changes the update."""
    on_ranks(1, _train_without)


def _train_without(rank: int, world_size: int) -> None:
    worker = make_worker(**_DROPOUT)
    plain = make_worker(**{**_DROPOUT, "augment": "none"})
    values = [_train(each, 0, 0).values for each in (worker, plain)]
    assert not torch.equal(*values)
    for module in worker.engine.model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.forward = lambda x: x  # its probability would be put back for every client
    assert not torch.equal(_train(worker, 0, 0).values, values[0])


_COHORTS: dict[str, Any] = {
    "clients": 5,
    "clients_per_round": 2,
    "limit_train": 100,
    "local_steps": 1,
    "batch_size": 8,
    "uplink": "topk:0.05",
}


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_a_client_keeps_its_residual(world_size: int) -> None:
    """In every round: new residual + what was sent = update + old residual, bit for bit, and a client that sits out
    keeps what it has, whatever the cohorts and however many ranks."""
    on_ranks(world_size, _follow_residuals)


def _follow_residuals(rank: int, world_size: int) -> None:
    worker = make_worker(**_COHORTS)
    rounds = make_rounds(worker)
    train, trained = rounds.trainer.train, {}

    def recording(job: Any, state: Any) -> Any:
        update = train(job, state)
        trained[job.client] = update.values.clone()
        return update

    rounds.trainer.train = recording
    returned, residuals = 0, dict[int, Tensor]()
    for round_ in range(8):
        old = dict(residuals)
        trained.clear()
        cohort = rounds.cohort(round_)
        rounds.run(round_)
        assert set(trained) == {client for client in cohort if worker.ranks.hosts(client)}
        for client in set(old) | set(trained):
            state = rounds.states.get(client)["sender"]
            names = [f"residual.{name}" for name in worker.state.layout.names]
            residuals[client] = torch.cat([state[name].flatten() for name in names])
        for client, residual in residuals.items():
            if client not in trained:
                assert torch.equal(residual, old[client])
                continue
            returned += client in old
            total = trained[client] + old[client] if client in old else trained[client]
            sent = residual != total
            assert int((residual[sent] != 0).sum()) == 0, "what was sent exactly leaves nothing"
            assert int((total != 0).sum()) - int((residual != 0).sum()) == round(0.05 * total.numel())
    assert int(worker.ranks.sum(torch.tensor(returned))), (
        "the test means nothing unless some client came back to its residual"
    )
