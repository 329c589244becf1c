"""The Accelerate engine. Oracle: the plain engine, which must give the same bits."""

import os
import subprocess
import sys

import pytest
import torch
from torch import Tensor, nn

from fl.common.config import Config
from fl.common.errors import ConfigError
from fl.training.engine.accelerated import AcceleratedEngine
from fl.training.engine.base import LocalEngine
from fl.training.engine.plain import PlainEngine

CPU = torch.device("cpu")


def small_model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 5)
    )


def train(engine: LocalEngine, seed: int, *, lr: float = 0.1, scale: float = 1.0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    engine.start(lr)
    for _ in range(4):
        x = torch.randn(8, 3, 10, 10, generator=generator) * scale
        engine.step(x, torch.randint(0, 5, (8,), generator=generator))
    engine.finish()
    return {name: tensor.clone() for name, tensor in engine.model.state_dict().items()}


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("clip_norm", [0.0, 0.1])
def test_equals_the_plain_engine(precision: str, optimizer: str, clip_norm: float) -> None:
    """Oracle: PlainEngine, bitwise; the changes of precision also show that the process-wide state follows."""
    config = Config(precision=precision, optimizer=optimizer, clip_norm=clip_norm)
    accelerated = train(AcceleratedEngine(config, small_model(), CPU), 1)
    assert same(accelerated, train(PlainEngine(config, small_model(), CPU), 1))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_nothing_leaks_from_one_client_to_the_next(precision: str) -> None:
    """Oracle: client B alone on a new engine; B after A on a reused engine ends in the same bits."""
    config = Config(precision=precision, clip_norm=1.0)
    alone = train(AcceleratedEngine(config, small_model(), CPU), 2)
    reused = AcceleratedEngine(config, small_model(), CPU)
    train(reused, 1, lr=0.3, scale=100.0)
    reused.model.load_state_dict(small_model().state_dict())
    assert same(alone, train(reused, 2))


def test_prepared_optimizers_do_not_pile_up() -> None:
    """Oracle: Accelerate unscales every optimizer that it remembers, so it must remember none but the current one."""
    engine = AcceleratedEngine(Config(precision="fp32"), small_model(), CPU)
    for client in range(3):
        train(engine, client)
    assert engine._accelerator._optimizers == []


def test_engine_of_an_older_precision_is_refused() -> None:
    """Oracle: the state is one for the process; the older engine says so instead of changing its arithmetic."""
    older = AcceleratedEngine(Config(precision="fp32"), small_model(), CPU)
    AcceleratedEngine(Config(precision="bf16"), small_model(), CPU)
    with pytest.raises(RuntimeError, match="mixed precision bf16"):
        older.start(0.1)


def test_precision_of_the_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: `accelerate launch --mixed_precision` decides under auto, and must not be contradicted."""
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    assert AcceleratedEngine(Config(), small_model(), CPU).precision == "bf16"
    with pytest.raises(ConfigError, match=r"--precision fp32 contradicts --mixed_precision bf16"):
        AcceleratedEngine(Config(precision="fp32"), small_model(), CPU)


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("ACCELERATE_USE_DEEPSPEED", "true", "--use_deepspeed"),
        ("ACCELERATE_USE_FSDP", "true", "--use_fsdp"),
        ("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4", "--gradient_accumulation_steps 4"),
    ],
)
def test_launcher_settings_that_cannot_work(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, message: str
) -> None:
    """Oracle: each setting would change what a local step is; the message names it."""
    monkeypatch.setenv(variable, value)
    with pytest.raises(ConfigError, match=message):
        AcceleratedEngine(Config(precision="fp32"), small_model(), CPU)


def test_fp16_on_a_cpu_is_refused() -> None:
    """Oracle: Accelerate has no fp16 on CPUs."""
    with pytest.raises(ConfigError, match="--precision fp16"):
        AcceleratedEngine(Config(precision="fp16"), small_model(), CPU)


def test_the_first_step_of_fp16_is_taken() -> None:
    """Oracle: the same step without a loss scale, bitwise; the first scale, 65,536, makes its gradients overflow.

    In fp32, since Accelerate has no fp16 on CPUs.
    """
    results, batch = [], (torch.randn(8, 3, 10, 10), torch.zeros(8))
    for scaled in (False, True):
        engine = AcceleratedEngine(Config(precision="fp32"), small_model(), CPU, lambda x, y: (3e34 * x).sum())
        if scaled:
            engine._accelerator.scaler = torch.amp.GradScaler("cpu")
        start = engine.model[5].weight.detach().clone()
        engine.start(1e-36)
        assert engine.moved != scaled
        engine.step(*batch)
        engine.finish()
        assert engine.moved
        results.append(engine.model.state_dict())
        assert not torch.equal(results[-1]["5.weight"], start)
    assert same(*results)


@pytest.mark.parametrize(
    ("variable", "value"),
    [("ACCELERATE_DYNAMO_BACKEND", "nonesuch"), ("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "two")],
)
def test_what_accelerate_itself_refuses(monkeypatch: pytest.MonkeyPatch, variable: str, value: str) -> None:
    """Oracle: Accelerate's reason in a ConfigError."""
    monkeypatch.setenv(variable, value)
    with pytest.raises(ConfigError, match=f"accelerate launch: .*(?i:{value})"):
        AcceleratedEngine(Config(precision="fp32"), small_model(), CPU)


_TWO_RANKS = """
import os, sys
import torch, torch.distributed as dist
from torch import nn
from fl.common.config import Config
from fl.training.engine.accelerated import AcceleratedEngine
rank = int(sys.argv[1])
torch.set_num_threads(1)
dist.init_process_group("gloo", store=dist.FileStore(sys.argv[2], 2), rank=rank, world_size=2)
group = dist.group.WORLD
torch.manual_seed(rank)
engine = AcceleratedEngine(Config(precision="fp32", clip_norm=1.0), nn.Linear(4, 3), torch.device("cpu"))
before = group._get_sequence_number_for_group()
engine.start(0.1)
for _ in range(1 + 5 * rank):
    engine.step(torch.randn(6, 4), torch.randint(0, 3, (6,)))
engine.finish()
assert group._get_sequence_number_for_group() == before, "a local step has communicated"
assert dist.group.WORLD is group and torch.get_num_threads() == 1
dist.barrier()
dist.destroy_process_group()
"""


@pytest.mark.slow
def test_two_ranks_take_different_numbers_of_steps(tmp_path) -> None:
    """Oracle: two real gloo ranks under the launcher's environment: no collective, the same group, the same threads."""
    environment = os.environ | {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "ACCELERATE_USE_CPU": "true"}
    environment.pop("OMP_NUM_THREADS", None)
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", _TWO_RANKS, str(rank), str(tmp_path / "store")],
            env=environment | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    for process in processes:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
