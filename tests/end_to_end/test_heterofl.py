"""HeteroFL's aggregation. Oracle: `combine` of the authors' program, transcribed in NumPy, clients weighted by samples."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from compression import Sender
from fl.pruning.nested import NestedSubmodels
from tests.end_to_end.parts import run_with, start_rounds
from tests.support import on_ranks

Tensors = dict[str, np.ndarray]
_WIDTHS = {"capabilities": "groups:1.0x2+0.5x2", "partition": "labels:3", "weight_decay": 0.1, "local_steps": 3}


def _combine(
    before: Tensors,
    local: dict[int, Tensors],
    held: dict[int, Tensors],
    labels: dict[int, np.ndarray],
    samples: list[int],
) -> Tensors:
    """The new global parameters. `held`: bool, which entries each client's model has; `labels`: the classes it has."""
    after = {name: value.copy() for name, value in before.items()}
    last = list(before)[-2:]  # weight and bias of the linear layer
    for name, value in after.items():
        total, count = np.zeros_like(value), np.zeros_like(value)
        for client in local:
            entries = held[client][name].copy()
            if name in last:
                rows = np.zeros(len(value), dtype=bool)
                rows[labels[client]] = True
                entries[~rows] = False
            total[entries] += samples[client] * local[client][name][entries]
            count[entries] += samples[client]
        value[count > 0] = total[count > 0] / count[count > 0]
    return after


def _named(layout: Any, flat: torch.Tensor) -> Tensors:
    return {name: view.numpy().copy() for name, view in zip(layout.names, layout.views(flat), strict=True)}


def _as_the_authors(rank: int, world_size: int, options: dict[str, Any]) -> None:
    worker, rounds = start_rounds(**_WIDTHS, **options)
    state, masks, train = worker.state, rounds.plan, rounds.trainer.train
    assert isinstance(masks, NestedSubmodels)
    counts = worker.label_counts()
    labels = {client: np.flatnonzero(row) for client, row in enumerate(counts[:3])}
    lacking = sorted(set(range(10)) - set(np.concatenate(list(labels.values())).tolist()))
    assert lacking, "only client 3 has some classes"
    local: dict[int, Tensors] = {}
    held: dict[int, Tensors] = {}

    def training(job: Any, model: Any) -> Any:
        client, update = job.client, train(job, model)
        local[client] = _named(state.layout, state.parameters - update.values)
        inside = masks._levels[masks.capability(client)].submodel.inside
        held[client] = _named(state.layout, inside.mask)
        return update

    rounds.trainer.train = training
    for round_ in range(3):
        before = _named(state.layout, state.parameters)
        run_with(rounds, round_, [0, 1, 2])
        wanted = _combine(before, local, held, labels, [len(part) for part in worker.parts])
        after = _named(state.layout, state.parameters)
        for name in wanted:
            np.testing.assert_allclose(after[name], wanted[name], rtol=1e-5, atol=1e-6, err_msg=name)
        for name in list(wanted)[-2:]:
            assert np.array_equal(after[name][lacking], before[name][lacking]), "rows that nobody has a say in stay"


def _nothing_is_owed(rank: int, world_size: int, options: dict[str, Any]) -> None:
    worker, rounds = start_rounds(**_WIDTHS, **options)
    layout = worker.state.layout
    for round_ in range(3):
        outcome = run_with(rounds, round_, [0, 1, 2, 3])
        assert all(report.kept > 0 for report in outcome.reports)
    for client, row in enumerate(worker.label_counts()):
        absent = torch.tensor(row) == 0
        whole = torch.zeros(layout.total)
        sender = Sender(rounds.encoder.uplink.codec, rounds.encoder.feedback)
        sender.load_state_dict(rounds.states.get(client)["sender"])
        sender.encode(whole, layout, within=rounds.plan.residual_mask(client))
        for view in layout.views(whole)[-2:]:
            assert not view[absent].any(), "rows that a client has no say in leave no residual"


@pytest.mark.parametrize(
    ("check", "options"),
    [
        (_as_the_authors, {"prune": "width:1"}),
        (_as_the_authors, {"prune": "width:1", "model": "tests.user_code:norm_model"}),
        (_as_the_authors, {"prune": "width:1,shift=rolling"}),
        (_nothing_is_owed, {"prune": "width:1", "uplink": "topk:0.05"}),
    ],
)
def test_clients_have_no_say_in_classes_that_they_lack(check: Callable[..., None], options: dict[str, Any]) -> None:
    """Static and rolling widths, with weight decay, which alone would move such rows; rows of classes that nobody has."""
    on_ranks(1, check, options)
