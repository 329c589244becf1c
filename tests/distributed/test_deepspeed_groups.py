"""Clients of several ranks each in DeepSpeed's engine, with ZeRO stages 0 to 3 (`--ranks-per-client`).

Oracle: as for the other engines, a client of G ranks with batches of B is the client of one rank with batches of G B.
"""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from fl.models.update import Job
from fl.training.local_model import WholeModel
from tests.distributed.test_client_groups import _BLOCKS, _COLUMNS, _OPTIONS, fail
from tests.support import make_worker, on_ranks, resume_here, rows, run_here, run_on_ranks

pytestmark = pytest.mark.timeout(180)  # a rank that waits for ever should not take the whole suite with it


def _files(folder: Path, **contents: Any) -> list[str]:
    """A DeepSpeed file of each stage, in which small weights are shared out too."""
    paths = [folder / f"stage{stage}.json" for stage in range(4)]
    for stage, path in enumerate(paths):
        zero = {"stage": stage, "stage3_param_persistence_threshold": 0}
        path.write_text(json.dumps({"zero_optimization": zero, **contents}))
    return [str(path) for path in paths]


def test_a_client_of_several_ranks_is_one_of_a_larger_batch(tmp_path: Path) -> None:
    """4 ranks as 2 x 2 with batches of 8, whose last one does not divide, against 2 ranks of the engine `ddp` with batches
    of 16. The bytes, costs and times of each client are the same, and the model is up to rounding."""
    cases: dict[str, dict[str, Any]] = {
        "sgd": {"uplink": "topk:0.1", "clip_norm": 1.0, "clients": 3, "lr_schedule": "cosine:warmup=2"},
        "adamw": {"uplink": "none", "optimizer": "adamw", "lr": 0.001, "weight_decay": 0.1},
    }
    ours = {
        f"{name} {stage}": {**_OPTIONS, **case, "ranks_per_client": 2, "batch_size": 8, "deepspeed_config": file}
        for name, case in cases.items()
        for stage, file in enumerate(_files(tmp_path))
    }
    run_on_ranks(4, tmp_path, ours)
    run_on_ranks(2, tmp_path, {name: {**_OPTIONS, **case, "batch_size": 16} for name, case in cases.items()})
    for name in ours:
        alone = name.split()[0]
        table, wanted = (rows(tmp_path / each, "clients") for each in (name, alone))
        assert [[row[key] for key in _COLUMNS] for row in table] == [[row[key] for key in _COLUMNS] for row in wanted]
        assert {row["rank"] for row in table} == {"0", "2"}
        models = [load_file(tmp_path / each / "final_model.safetensors") for each in (name, alone)]
        torch.testing.assert_close(*models, rtol=1e-4, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}")


def test_a_part_of_the_memory_trains_the_same(tmp_path: Path) -> None:
    """Oracle: the engine `ddp` on the same two ranks. Weights whose sizes do not divide, one of them frozen, running
    statistics and dropout; a client leaves nothing to the next. Of moments a rank has half, in stage 3 of weights too.
    Nothing of it loads torch's compiler."""
    on_ranks(2, _train_in_parts, _files(tmp_path))


def _train_in_parts(rank: int, world_size: int, files: list[str]) -> None:
    options = {**_OPTIONS, **_BLOCKS, "momentum": 0.9, "ranks_per_client": 2, "clients": 1, "batch_size": 8}
    updates = []
    for stage, file in ((0, None), *enumerate(files)):
        worker = make_worker(**options, deepspeed_config=file)
        trainer = worker.make_trainer()
        for _ in range(2):
            updates.append(trainer.train(Job(0, 0, 0), WholeModel(worker.engine, worker.state)))
            torch.testing.assert_close(updates[-1].values, updates[0].values, rtol=1e-4, atol=1e-6)
            torch.testing.assert_close(updates[-1].buffers, updates[0].buffers, rtol=1e-4, atol=1e-6)
            assert updates[-1].train_loss == pytest.approx(updates[0].train_loss, rel=1e-4)
        if stage:
            weights = list(worker.engine.network.parameters())
            trained = sum(weight.numel() for weight in worker.engine.model.parameters() if weight.requires_grad)
            moments = [each["momentum_buffer"] for each in worker.engine._engine.basic_optimizer.state.values()]
            assert sum(moment.numel() for moment in moments) <= trained / 2 + len(weights)
            assert sum(weight.numel() for weight in weights) == (
                0 if stage == 3 else sum(weight.numel() for weight in worker.engine.model.parameters())
            )
    assert "torch._inductor.compile_fx" not in sys.modules


def test_an_optimizer_with_a_state_from_the_start(tmp_path: Path) -> None:
    """Adagrad, which is DeepSpeed's to make. Oracle: stage 0, which makes it anew for each client."""
    adagrad = {"type": "Adagrad", "params": {"lr": 0.01, "initial_accumulator_value": 0.1}}
    on_ranks(2, _train_with_adagrad, _files(tmp_path, optimizer=adagrad))


def _train_with_adagrad(rank: int, world_size: int, files: list[str]) -> None:
    updates = []
    for file in files:
        worker = make_worker(**_OPTIONS, ranks_per_client=2, clients=1, batch_size=8, deepspeed_config=file)
        trainer = worker.make_trainer()
        updates += [trainer.train(Job(0, 0, 0), WholeModel(worker.engine, worker.state)).values for _ in range(2)]
    for update in updates:
        torch.testing.assert_close(update, updates[0], rtol=1e-4, atol=1e-5)


def test_replays_and_resumes(tmp_path: Path) -> None:
    """4 ranks as 2 x 2, with residuals, schedule and dropout: a second run, which stops after its first round, is the same
    bits."""
    schedule = {"type": "WarmupLR", "params": {"warmup_max_lr": 0.02, "warmup_num_steps": 10}}
    on_ranks(4, _replay_and_resume, tmp_path, _files(tmp_path, scheduler=schedule))
    for stage in range(4):
        models = [(tmp_path / f"{name}{stage}/final_model.safetensors").read_bytes() for name in ("one", "two")]
        assert models[0] == models[1]


def _replay_and_resume(rank: int, world_size: int, folder: Path, files: list[str]) -> None:
    options = {**_OPTIONS, **_BLOCKS, "ranks_per_client": 2, "uplink": "topk:0.1", "clients": 3}
    for stage, file in enumerate(files):
        run_here(folder, f"one{stage}", **options, deepspeed_config=file)
        run_here(folder, f"two{stage}", **{**options, "rounds": 1}, deepspeed_config=file)
        resume_here(folder, f"two{stage}", rounds=2, deepspeed_config=file)


def test_a_client_fails_on_all_of_its_ranks(tmp_path: Path) -> None:
    """It fails before its training, in the loss of a step or after it, on one of its ranks: the round is the one without
    it, and the next one is as if nothing had been."""
    on_ranks(4, _fail_with, _files(tmp_path)[2:])


def _fail_with(rank: int, world_size: int, files: list[str]) -> None:
    for file in files:
        fail(rank, [(2,), (3,)], deepspeed_config=file)


def test_16_bit_weights_keep_fp32_masters(tmp_path: Path) -> None:
    """Oracle: at a rate at which no step moves a bf16 weight, the fp32 weights it stands for move, as far as they would."""
    on_ranks(2, _train_in_16_bits, _files(tmp_path, bf16={"enabled": True}))


def _train_in_16_bits(rank: int, world_size: int, files: list[str]) -> None:
    options = {**_OPTIONS, "ranks_per_client": 2, "clients": 1, "batch_size": 8, "precision": "bf16", "momentum": 0.0}
    for file in files:
        updates = []
        for lr in (1e-3, 1e-6):
            worker = make_worker(**{**options, "lr": lr}, deepspeed_config=file)
            update = worker.make_trainer().train(Job(0, 0, 0), WholeModel(worker.engine, worker.state))
            updates.append(update.values / lr)
        assert updates[1].norm() == pytest.approx(updates[0].norm().item(), rel=0.01)
        assert torch.nn.functional.cosine_similarity(*updates, dim=0) > 0.95
