"""Masks and parts inside a run, looked at from within. Oracles: invariants, a run without the failure, hand-made numbers."""

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch

from compression import make_codec
from compression.masks.payload import encode_mask
from fl.pruning.nested import NestedSubmodels
from fl.pruning.per_client import ClientMasks
from fl.pruning.plan import NewMask
from fl.pruning.prunefl import PruneFLMask
from tests.end_to_end.parts import run_with, start_rounds
from tests.support import on_ranks


def _own_masks(rank: int, world_size: int) -> None:
    worker, rounds = start_rounds(
        prune="magnitude:0.6,by=client",
        prune_schedule="oneshot:1",
        uplink="topk:0.1",
        capabilities="groups:1.0x2+0.5x2",
    )
    masks, layout, cohort = rounds.plan, worker.state.layout, rounds.cohort(0)
    assert isinstance(masks, ClientMasks)
    rounds.run(0)
    assert all(masks.held(client) == layout.total for client in cohort)
    before = {client: _residual(rounds, client) for client in cohort}
    weights, updates = worker.state.parameters.clone(), {}
    train = rounds.trainer.train

    def recording(job: Any, model: Any) -> Any:
        update = train(job, model)
        updates[job.client] = update.values.clone()
        return update

    rounds.trainer.train = recording
    outcome = rounds.run(1)
    codec = make_codec("topk:0.1")
    voted = torch.zeros(layout.total, dtype=torch.bool)
    for report in outcome.reports:
        client, part = report.client, masks.submodel(report.client)
        assert part.inside is not None
        mask = part.inside.mask
        voted |= mask
        after = _residual(rounds, client)
        assert torch.equal(after[~mask], before[client][~mask]), "outside its mask a residual waits"
        total = (updates[client] + before[client])[mask]
        payload, decoded = codec.encode(part.inside.gather(updates[client] + before[client]), part.inside.layout)
        assert torch.equal(decoded.dense() + after[mask], total), "what was sent and what is left are what there was"
        assert report.sizes == {"mask": encode_mask(mask).numel(), "update": payload.numel()}
    assert masks.held(3) < masks.held(0) < layout.total
    assert torch.equal(worker.state.parameters[~voted], weights[~voted]), "nobody held it: it stays"
    assert bool((~voted).any())
    again = rounds.run(2)
    assert all("mask" not in report.sizes for report in again.reports), "a mask is told once"


def _residual(rounds: Any, client: int) -> torch.Tensor:
    layout = rounds.worker.state.layout
    state = rounds.states.get(client)["sender"]
    return torch.cat([state[f"residual.{name}"].flatten() for name in layout.names])


def _rewound(rank: int, world_size: int) -> None:
    worker, rounds = start_rounds(prune="magnitude:0.7,rewind", prune_schedule="oneshot:2", server="fedadam")
    first = worker.state.parameters.clone()
    for round_ in range(2):
        rounds.run(round_)
    seen = []
    train = rounds.trainer.train
    rounds.trainer.train = lambda *given: (seen.append(worker.state.parameters.clone()), train(*given))[1]
    outcome = rounds.run(2)
    inside = rounds.plan.published.inside
    assert inside is not None
    assert torch.equal(seen[0], first * inside.mask)
    new_mask = outcome.held.new_mask
    assert new_mask == NewMask(encode_mask(inside.mask).numel(), 24 + 4 * inside.layout.total)
    moments = rounds.server.state_dict()["moments"]
    assert bool((moments["m"].abs() <= 0.1 * outcome.update_norm + 1e-6).all()), "moments begin anew"


def _prunefl(rank: int, world_size: int) -> None:
    worker, rounds = start_rounds(prune="prunefl:0.8,every=2,adjust=0.5,protect=none")
    masks, n = rounds.plan, worker.state.layout.total
    assert isinstance(masks, PruneFLMask)
    seen, sides = [], []
    for round_ in range(5):
        outcome = rounds.run(round_)
        assert masks.held(0) == n - round(0.8 * n)
        assert masks.published.inside is not None
        seen.append(masks.published.inside.mask)
        sides.append([report.sizes.get("squares", 0) for report in outcome.reports])
        assert not worker.state.parameters[~seen[-1]].any()
        if round_ == 0:
            assert outcome.held.new_mask == NewMask(encode_mask(seen[0]).numel(), chooser=0)
    assert torch.equal(seen[0], seen[1])
    assert bool((seen[2] & ~seen[1]).any()), "weights come back"
    assert bool((seen[4] & ~seen[3]).any())
    assert all(size == 0 for size in (*sides[0], *sides[2], *sides[4]))
    assert all(0.5 * n < size < 2 * n + 100 for size in (*sides[1], *sides[3])), "squared gradients in bf16"


def _what_comes_back_begins_anew(rank: int, world_size: int) -> None:
    _, rounds = start_rounds(prune="prunefl:0.8,every=2,adjust=0.5,protect=none", uplink="topk:0.1")
    masks, seen = rounds.plan, []
    assert isinstance(masks, PruneFLMask)
    for round_ in range(3):
        run_with(rounds, round_, [0, 1] if round_ == 0 else [0])
        seen.append(masks.published.inside.mask)
    came_in = seen[2] & ~seen[1]
    assert bool(came_in.any())
    assert torch.equal(masks.residual_mask(1), seen[2] & ~came_in), "client 1 was away when these came back"
    assert torch.equal(masks.residual_mask(0), seen[2]), "client 0 has sent an update since"


def _nested_and_growing(rank: int, world_size: int) -> None:
    for prune in ("magnitude:0", "structured:0"):
        _, rounds = start_rounds(prune=prune, capabilities="groups:1.0x1+0.6x1+0.3x1+0.1x1", recover="plateau:2,0.01")
        masks = rounds.plan
        assert isinstance(masks, NestedSubmodels)
        masks.begin(0, range(4))
        parts = [masks.submodel(client).inside for client in range(4)]
        assert all(part is not None for part in parts)
        for larger, smaller in itertools.pairwise(parts):
            assert not bool((smaller.mask & ~larger.mask).any())
        assert [masks.capability(client) for client in range(4)] == [1.0, 0.6, 0.3, 0.1]
        for round_, accuracy in enumerate([0.5, 0.505, None, 0.508]):
            masks.observe(round_, accuracy)
        assert [masks.capability(client) for client in range(4)] == [1.0, 1.0, 0.6, 0.3]
        masks.begin(4, range(4))
        grown = masks.submodel(3).inside
        assert torch.equal(grown.mask, parts[2].mask), "what all clients of a density hold is the same"
        holdings = masks.sizes(range(4))
        assert holdings[3].ranking == 1


def _fine_tuning(rank: int, world_size: int) -> None:
    after = {"prune": "magnitude:0.7,by=after", "error_feedback": "none"}
    for options in (after, {"prune": "magnitude:0.7", "prune_schedule": "oneshot:1"}):
        worker, rounds = start_rounds(rounds=2, finetune_rounds=2, **options)
        seen = []
        for round_ in range(4):
            rounds.run(round_)
            seen.append(worker.state.parameters == 0)
        assert torch.equal(seen[2], seen[3]), "the mask stays"
        assert int(seen[3].sum()) > 0.5 * worker.state.layout.total


def _chosen_from_what_is_there(rank: int, world_size: int) -> None:
    for prune in ("snip:0.6,by=client", "structured:0.6,by=client", "magnitude:0.6,by=client"):
        worker, rounds = start_rounds(prune=prune, prune_schedule="iterative:0,2,2")
        masks, weights = rounds.plan, worker.state.parameters
        assert isinstance(masks, ClientMasks)
        chosen = []
        for noise in (False, True):
            first = weights.clone()
            for round_ in (0, 2):
                masks.begin(round_, [0])
                masks.local(0, round_)
                if noise and round_ == 0:
                    inside = masks.submodel(0).inside
                    weights[~inside.mask] = torch.randn(int((~inside.mask).sum()))
            chosen.append(masks.submodel(0).inside.mask)
            masks.rollback()
            weights.copy_(first)
        assert torch.equal(*chosen), "a client knows nothing of weights that it does not hold"


def _residuals_of_thrown_away_weights(rank: int, world_size: int) -> None:
    worker, rounds = start_rounds(
        prune="magnitude:0.7,rewind", prune_schedule="oneshot:2", uplink="topk:0.1", clients_per_round=2
    )
    layout, codec = worker.state.layout, make_codec("topk:0.1")
    for round_ in range(2):
        run_with(rounds, round_, [0, 1])
    assert _residual(rounds, 1).any()
    updates = {}
    train = rounds.trainer.train

    def recording(job: Any, model: Any) -> Any:
        update = train(job, model)
        updates[job.client] = update.values.clone()
        return update

    rounds.trainer.train = recording
    for round_, client in ((2, 0), (3, 1)):
        run_with(rounds, round_, [client])
        inside = rounds.plan.published.inside
        sent = codec.encode(inside.gather(updates[client]), inside.layout)[1]
        assert torch.equal(sent.dense() + _residual(rounds, client)[inside.mask], inside.gather(updates[client]))
        assert layout.total == inside.n


def _a_failed_round_leaves_no_mask_behind(rank: int, world_size: int) -> None:
    ends = []
    for fails in (False, True):
        worker, rounds = start_rounds(prune="snip:0.5,by=client")
        if fails:
            step, calls = worker.engine.step, []

            def failing(x: Any, y: Any, step: Any = step, calls: list[int] = calls) -> Any:
                calls.append(1)
                if len(calls) == 2:
                    raise OSError("here")
                return step(x, y)

            worker.engine.step = failing
            with pytest.raises(OSError, match="here"):
                rounds.run(0)
            worker.engine.step = step
        rounds.run(0)
        ends.append(worker.state.parameters)
    assert torch.equal(*ends)


def _parts_stay_while_fine_tuning(rank: int, world_size: int) -> None:
    for options in (
        {"prune": "magnitude:0.5,by=client", "prune_schedule": "oneshot:2"},
        {"prune": "magnitude:0.5", "prune_schedule": "oneshot:2", "capabilities": "groups:1.0x2+0.5x2"},
        {"prune": "magnitude:0", "capabilities": "groups:1.0x2+0.3x2", "recover": "schedule:2,1"},
        {"prune": "width:0.5,shift=rolling"},
        {"prune": "prunefl:0.5,every=2"},
    ):
        worker, rounds = start_rounds(rounds=2, finetune_rounds=2, **options)
        masks, held = rounds.plan, []
        for round_ in range(4):
            rounds.run(round_)
            whole = torch.ones(worker.state.layout.total, dtype=torch.bool)
            parts = [masks.submodel(client).inside for client in range(4)]
            held.append(torch.stack([whole if part is None else part.mask for part in parts]))
            rounds.end(round_, 0.5)
        assert torch.equal(held[1], held[2]), options
        assert torch.equal(held[1], held[3]), options


@pytest.mark.parametrize(
    "check",
    [
        _chosen_from_what_is_there,
        _residuals_of_thrown_away_weights,
        _a_failed_round_leaves_no_mask_behind,
        _parts_stay_while_fine_tuning,
        _own_masks,
        _rewound,
        _prunefl,
        _what_comes_back_begins_anew,
        _nested_and_growing,
        _fine_tuning,
    ],
)
def test_inside(check: Callable[[int, int], None]) -> None:
    """Each check, in a process of its own."""
    on_ranks(1, check)
