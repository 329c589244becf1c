"""Clients of several ranks each (`--ranks-per-client`).

Oracle: a client of G ranks with batches of B is the client of one rank with batches of G B, up to rounding.
"""

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from fl.common.errors import ConfigError, RoundError
from fl.models.update import Job, Update
from fl.run.loop import make_rounds
from fl.training.local_model import WholeModel
from tests.end_to_end.parts import remembered, run_with, same
from tests.support import make_worker, on_ranks, resume_here, rows, run_here, run_on_ranks

pytestmark = pytest.mark.timeout(180)  # a rank that waits for ever should not take the whole suite with it

_OPTIONS: dict[str, Any] = {"lr": 0.02, "rounds": 2, "limit_train": 150, "limit_test": 50}
_CASES: dict[str, dict[str, Any]] = {
    "plain": {"uplink": "none", "clip_norm": 1.0},
    "residual": {"uplink": "topk:0.1", "downlink": "topk:0.1", "clients": 5, "clients_per_round": 3},
    "mask": {"uplink": "bf16", "prune": "magnitude:0.5"},
    "own masks": {"uplink": "none", "prune": "snip:0.5,by=client", "local_state": "keep"},
    "smaller": {"uplink": "none", "prune": "width:0.5", "capabilities": "groups:1.0x1+0.5x1"},
    "corrected": {"uplink": "none", "algorithm": "fedprox:1", "engine": "accelerate"},
    "variates": {"uplink": "topk:0.2", "error_feedback": "none", "algorithm": "scaffold", "momentum": 0.0},
    "linear terms": {"uplink": "none", "algorithm": "feddyn:0.5", "clients": 3},
    "fragments": {"uplink": "none", "fragments": 2, "merge": 0.5},
    "in parts": {"uplink": "topk:0.1", "engine": "fsdp", "clip_norm": 1.0},
    "buffered": {"uplink": "none", "mode": "buffered:1", "profiles": "mix:good=0.5+2g=0.5"},
    "accumulated": {"uplink": "none", "accumulate": 2},
    "kept": {"uplink": "none", "local_state": "keep"},
    "experts": {"uplink": "none", "model": "tests.distributed.test_client_groups:experts", "weight_decay": 0.1},
}
_COLUMNS = ("round", "client", "samples", "train_flops", "uplink_bytes", "downlink_bytes", "arrive_s", "rejected")


class Experts(nn.Module):
    """A layer for bright images alone, of which there are few, and one for none."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(48, 20), nn.Linear(20, classes)
        self.bright, self.spare = nn.Linear(20, 20), nn.Linear(20, 20)

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.relu(self.first(nn.functional.adaptive_avg_pool2d(x, 4).flatten(1)))
        bright = x.mean((1, 2, 3)) > 0.2
        if bright.any():
            hidden = hidden.index_add(0, bright.nonzero()[:, 0], self.bright(hidden[bright]))
        return self.last(hidden)


def experts(classes: int, in_channels: int) -> nn.Module:
    return Experts(classes)


def test_a_client_of_several_ranks_is_one_of_a_larger_batch(tmp_path: Path) -> None:
    """4 ranks as 2 x 2 with batches of 8, whose last one does not divide, against 2 ranks with batches of 16.

    The bytes, costs and times of each client are the same, and the model is up to rounding.
    """
    groups, alone = tmp_path / "groups", tmp_path / "alone"
    shared = {"ranks_per_client": 2, "batch_size": 8}
    run_on_ranks(4, groups, {name: {**_OPTIONS, **case, **shared} for name, case in _CASES.items()})
    run_on_ranks(
        2, alone, {name: {**_OPTIONS, **case, "engine": "ddp", "batch_size": 16} for name, case in _CASES.items()}
    )
    for name in _CASES:
        ours, theirs = (rows(folder / name, "clients") for folder in (groups, alone))
        assert [[row[key] for key in _COLUMNS] for row in ours] == [[row[key] for key in _COLUMNS] for row in theirs], (
            name
        )
        assert {row["rank"] for row in ours} == {"0", "2"}, name
        models = [load_file(folder / name / "final_model.safetensors") for folder in (groups, alone)]
        torch.testing.assert_close(*models, rtol=1e-4, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}")


class Blocks(nn.Module):
    """Layers inside and outside of lists, whose sizes do not divide, one of them frozen, with statistics and dropout."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 5, 3, stride=2)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Conv2d(5, 5, 1), nn.BatchNorm2d(5), nn.Dropout(0.5)) for _ in range(2)
        )
        self.last = nn.Linear(5, classes)
        self.last.bias.requires_grad = False

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        for block in self.blocks:
            x = x + block(x)
        return self.last(x.mean((2, 3)))


def blocks(classes: int, in_channels: int) -> nn.Module:
    return Blocks(classes)


_BLOCKS = {"model": "tests.distributed.test_client_groups:blocks"}


def test_fsdp_trains_the_same_with_a_part_of_the_memory() -> None:
    """Oracle: the engine `ddp` on the same two ranks, with whole weights and moments. A rank has at most half of them, up to
    a row of each tensor."""
    on_ranks(2, _train_in_parts)


def _train_in_parts(rank: int, world_size: int) -> None:
    options = {
        **_OPTIONS,
        "ranks_per_client": 2,
        "clients": 1,
        "batch_size": 8,
        "momentum": 0.9,
        "lr_schedule": "cosine:warmup=2",
    }
    updates = []
    for engine in ("ddp", "fsdp"):
        worker = make_worker(**options, engine=engine, **_BLOCKS)
        trainer = worker.make_trainer()
        for _ in range(2):  # a client leaves nothing to the next
            updates.append(trainer.train(Job(0, 0, 0), WholeModel(worker.engine, worker.state)))
    for update in updates:
        torch.testing.assert_close(update.values, updates[0].values, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(update.buffers, updates[0].buffers, rtol=1e-4, atol=1e-6)
        assert update.train_loss == pytest.approx(updates[0].train_loss, rel=1e-4)
    worker.engine.start(0.1)
    worker.engine.step(torch.randn(4, 3, 32, 32), torch.zeros(4, dtype=torch.int64))
    optimizer = worker.engine._optimizer
    for parameter in worker.engine._params:
        for part in (parameter, *optimizer.state[parameter].values()):
            assert part.to_local().numel() <= part.numel() / 2 + part[0].numel()


def test_replays_and_resumes(tmp_path: Path) -> None:
    """4 ranks as 2 x 2, with residuals: a second run, which stops after its first round, is the same bits."""
    on_ranks(4, _replay_and_resume, tmp_path)
    models = [(tmp_path / name / "final_model.safetensors").read_bytes() for name in ("one", "two")]
    assert models[0] == models[1]
    checkpoints = [{path.name for path in (tmp_path / name / "checkpoints").iterdir()} for name in ("one", "two")]
    assert checkpoints[0] == checkpoints[1]


def _replay_and_resume(rank: int, world_size: int, folder: Path) -> None:
    options = {**_OPTIONS, **_BLOCKS, "ranks_per_client": 2, "uplink": "topk:0.1", "clients": 3}  # has dropout
    options |= {"optimizer": "adamw", "lr": 0.001, "local_state": "keep"}
    run_here(folder, "one", **options)
    run_here(folder, "two", **{**options, "rounds": 1})
    resume_here(folder, "two", rounds=2)


def test_the_ranks_of_a_client_draw_for_themselves() -> None:
    """Two ranks with the same samples in both shares of a batch: dropout leaves other units out of each share."""
    on_ranks(2, _draw)


def _draw(rank: int, world_size: int) -> None:
    worker = make_worker(**_OPTIONS, ranks_per_client=2, model="pfl_cnn", clients=2)
    left_out: list[Tensor] = []
    dropout = next(each for each in worker.engine.model.modules() if isinstance(each, nn.Dropout))
    dropout.register_forward_hook(lambda module, given, result: left_out.append(result.eq(0) & given[0].ne(0)))
    worker.make_trainer().train(Job(0, 0, 0), WholeModel(worker.engine, worker.state))
    both = worker.ranks.gather(left_out[0].to(torch.uint8))
    assert both[0].any()
    assert not both[0].equal(both[1])


def test_a_share_of_one_sample_is_refused_where_the_model_cannot_train_on_it() -> None:
    """BatchNorm over one value a sample. Of 19 samples the last batch has 3, and a rank 1 of them; of 20 each has 2."""
    on_ranks(2, _share_out)


def _share_out(rank: int, world_size: int) -> None:
    options: dict[str, Any] = {"ranks_per_client": 2, "clients": 1, "batch_size": 8, "val_fraction": 0.0}
    model = "tests.user_code:flat_norm_model"
    with pytest.raises(ConfigError, match="--ranks-per-client 2: a rank of client 0 trains on one sample at a time"):
        make_worker(**options, model=model, limit_train=19)
    rounds = make_rounds(make_worker(**options, model=model, limit_train=20))
    assert len(rounds.run(0).reports) == 1


_FAULTY: dict[str, Any] = {**_OPTIONS, "ranks_per_client": 2, "clients": 4, "batch_size": 8, "uplink": "topk:0.1"}
_CLIENT = 1  # of ranks 2 and 3


def _break(rounds: Any, way: str) -> None:
    """Have the client fail on this rank: before its training, in its second step, or after it."""
    train, engine, loss = rounds.trainer.train, rounds.worker.engine, rounds.worker.engine.loss
    steps = itertools.count()

    def failing_loss(outputs: Tensor, targets: Tensor) -> Tensor:
        if next(steps) == 1:
            raise SystemExit("this rank fails")
        return loss(outputs, targets)

    def failing(job: Job, model: Any) -> Update:
        if job.client != _CLIENT:
            return train(job, model)
        if way == "before":
            raise SystemExit("this rank fails")
        engine.loss = failing_loss if way == "step" else loss
        try:
            train(job, model)
        finally:
            engine.loss = loss
        raise SystemExit("this rank fails")

    rounds.trainer.train = failing


def test_a_client_fails_on_all_of_its_ranks() -> None:
    """It fails on the rank that hosts it, on the other, or on both: the round is the one without this client."""
    on_ranks(4, _fail)


def _fail(rank: int, world_size: int) -> None:
    fail(rank, [(2,), (3,), (2, 3)])


def fail(rank: int, cases: list[tuple[int, ...]], **options: Any) -> None:
    """On every rank: the client fails on these ranks, once in each case and way; then a round without a failure."""
    reference = make_rounds(make_worker(**_FAULTY, min_clients=1, **options))
    run_with(reference, 0, [0, 2, 3])
    reference.rejections.load_state_dict({"in_a_row": []})
    assert not reference.run(1).rejected
    expected = remembered(reference, 4)
    for victims, way in itertools.product(cases, ("before", "step", "after")):
        rounds = make_rounds(make_worker(**_FAULTY, min_clients=1, **options))
        train = rounds.trainer.train
        if rank in victims:
            _break(rounds, way)
        result = rounds.run(0)
        assert [(each.client, each.reason) for each in result.rejected] == [(_CLIENT, "SystemExit: this rank fails")]
        rounds.trainer.train = train
        rounds.rejections.load_state_dict({"in_a_row": []})
        assert not rounds.run(1).rejected
        same(remembered(rounds, 4), expected)
        assert rounds.worker.ranks.all_agree(float(rounds.state.parameters.double().sum()))


def test_a_round_that_needs_every_client_fails_on_every_rank() -> None:
    """The peer of a host fails in a step: its sentence is that of every rank, and the round can be run again."""
    on_ranks(4, _fail_round)


def _fail_round(rank: int, world_size: int) -> None:
    rounds = make_rounds(make_worker(**_FAULTY))
    train, before = rounds.trainer.train, remembered(rounds, 4)
    if rank == 3:
        _break(rounds, "step")
    with pytest.raises(RoundError, match="round 0: client 1 on rank 2: SystemExit: this rank fails"):
        rounds.run(0)
    same(remembered(rounds, 4), before)
    rounds.trainer.train = train
    assert len(rounds.run(0).reports) == 4
