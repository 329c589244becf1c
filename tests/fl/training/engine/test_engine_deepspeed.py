"""The DeepSpeed engine. Oracles: the plain engine, and one client alone on a new engine."""

import copy
import json
import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from fl.common.config import Config
from fl.common.errors import ConfigError
from fl.run.loop import make_rounds
from fl.training.engine import deepspeed_engine, make_engine
from fl.training.engine.base import LocalEngine
from fl.training.engine.deepspeed_config import reconcile
from fl.training.engine.deepspeed_json import KNOWN_KEYS, REFUSED_KEYS
from fl.training.engine.plain import PlainEngine
from fl.training.schedule import first_learning_rate
from tests.fl.training.engine.deepspeed_files import ADAMW, AUTOCAST, AUTOCAST_FP16, BF16, FP16, FP32, SCHEDULE
from tests.support import make_worker

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")
RANKS = SimpleNamespace(rank=0, local_rank=0, device=CPU, launcher="deepspeed")


@pytest.fixture(autouse=True)
def group_of_one(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The process group that the program makes in a single process; DeepSpeed's environment is put back afterwards."""
    for name in ("LOCAL_RANK", "DS_ACCELERATOR"):
        monkeypatch.setenv(name, os.environ.get(name, "cpu" if name == "DS_ACCELERATOR" else "0"))
    created = not dist.is_initialized()
    if created:
        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    if created:
        dist.destroy_process_group()


@pytest.fixture
def fp16_on_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """DeepSpeed refuses fp16 models on CPUs without fp16 instructions, though torch computes them, slowly."""
    accelerator = pytest.importorskip("deepspeed.accelerator").get_accelerator()
    monkeypatch.setattr(accelerator, "is_fp16_supported", lambda: True)


def small_model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 5)
    )


def configure(folder: Path, contents: dict[str, Any], explicit: tuple[str, ...] = (), **options: Any) -> Config:
    path = folder / "ds.json"
    path.write_text(json.dumps(contents))
    return reconcile(Config(deepspeed_config=str(path), **({"batch_size": 8} | options)), frozenset(explicit))


def train(engine: LocalEngine, seed: int, *, lr: float = 0.1, scale: float = 1.0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    engine.start(lr)
    for _ in range(4):
        x = torch.randn(8, 3, 10, 10, generator=generator) * scale
        engine.step(x, torch.randint(0, 5, (8,), generator=generator))
    engine.finish()
    return {name: tensor.clone() for name, tensor in engine.model.state_dict().items()}


def test_the_environment_is_left_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Or the next run in this process would take this rank for one that a launcher has started."""
    monkeypatch.delenv("LOCAL_RANK")
    engine = make_engine(configure(tmp_path, FP32), small_model(), RANKS)
    train(engine, 0)
    assert "LOCAL_RANK" not in os.environ


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_shipped_file_follows_the_command_line(optimizer: str, precision: str) -> None:
    """Oracle: PlainEngine with the same options, bitwise: everything in the shipped file is "auto"."""
    shipped = Path(__file__).parents[4] / "deepspeed_config.json"
    config = Config(deepspeed_config=str(shipped), optimizer=optimizer, precision=precision, batch_size=8)
    assert reconcile(config, frozenset({"lr", "optimizer", "batch_size", "precision"})) == config
    engine = make_engine(config, small_model(), RANKS)
    assert engine.name == "deepspeed"
    assert same(train(engine, 1), train(PlainEngine(config, small_model(), CPU), 1))


@pytest.mark.parametrize(
    "contents",
    [FP32, AUTOCAST, AUTOCAST_FP16, BF16, BF16 | ADAMW, FP32 | ADAMW, FP32 | SCHEDULE],
    ids=["fp32", "autocast", "autocast fp16", "bf16", "bf16 adamw", "adamw", "schedule"],
)
def test_nothing_leaks_from_one_client_to_the_next(tmp_path: Path, contents: dict[str, Any]) -> None:
    """Oracle: client B alone on a new engine; B after A on a reused engine ends in the same bits."""
    config = configure(tmp_path, contents, clip_norm=1.0)
    alone = train(make_engine(config, small_model(), RANKS), 2)
    reused = make_engine(config, small_model(), RANKS)
    train(reused, 1, lr=0.3, scale=100.0)
    reused.model.load_state_dict(small_model().state_dict())
    assert same(alone, train(reused, 2))
    assert not same(alone, small_model().state_dict())


def test_fp16_scaler_and_masters_start_afresh(tmp_path: Path, fp16_on_cpu: None) -> None:
    """Oracle: as above, after a client whose gradients overflowed, so that its loss scale had fallen."""
    config = configure(tmp_path, FP16)
    alone = make_engine(config, small_model(), RANKS)
    reused = make_engine(config, small_model(), RANKS)
    train(reused, 1, scale=1e6)
    assert reused._engine.optimizer.loss_scale < 2**12  # type: ignore[attr-defined]
    reused.model.load_state_dict(small_model().state_dict())
    assert same(train(alone, 2), train(reused, 2))


@pytest.mark.parametrize("contents", [BF16, FP16], ids=["bf16", "fp16"])
def test_16_bit_models_keep_fp32_masters(tmp_path: Path, fp16_on_cpu: None, contents: dict[str, Any]) -> None:
    """Oracle: the plain engine in fp32, to 16-bit rounding, for updates far below what 16 bits resolve in a weight.

    It also shows that the loss scale is multiplied in as often as it is divided out.
    """
    scale = {"loss_scale_window": 1000} if "fp16" in contents else {}
    contents = {key: value | scale for key, value in contents.items()}
    config = configure(tmp_path, contents | {"optimizer": {"type": "SGD", "params": {"lr": 1e-6}}}, clip_norm=0.5)
    before = small_model().state_dict()
    after = train(make_engine(config, small_model(), RANKS), 1, lr=1e-6)
    plain = Config(precision="fp32", momentum=0.0, weight_decay=0.0, clip_norm=0.5)
    expected = train(PlainEngine(plain, small_model(), CPU), 1, lr=1e-6)
    assert all(tensor.dtype == before[name].dtype for name, tensor in after.items())
    moved, wanted = after["5.weight"] - before["5.weight"], expected["5.weight"] - before["5.weight"]
    assert 0 < wanted.abs().max() < 1e-5
    assert (moved - wanted).norm() < 0.05 * wanted.norm()
    for name in ("1.running_mean", "1.running_var"):
        torch.testing.assert_close(after[name], expected[name], rtol=0.02, atol=0.02)
    assert after["1.num_batches_tracked"] == 4


@pytest.mark.parametrize("contents", [FP32, AUTOCAST, BF16], ids=["fp32", "autocast", "bf16"])
def test_clipping_applies(tmp_path: Path, contents: dict[str, Any]) -> None:
    """Oracle: one SGD step at rate 1 moves the weights by the clipped norm, whatever the gradient."""
    optimizer = {"optimizer": {"type": "SGD", "params": {"lr": 1.0}}}
    config = configure(tmp_path, contents | optimizer | {"gradient_clipping": 0.01})
    assert config.clip_norm == 0.01
    engine = make_engine(config, small_model(), RANKS)
    start = [p.detach().clone() for p in engine.model.parameters()]
    engine.start(1.0)
    engine.step(torch.randn(8, 3, 10, 10) * 10, torch.zeros(8, dtype=torch.int64))
    engine.finish()
    moved = [p.detach() - q for p, q in zip(engine.model.parameters(), start, strict=True)]
    assert torch.cat([m.flatten() for m in moved]).norm().item() == pytest.approx(0.01, rel=0.02)


def test_optimizer_of_the_file_applies(tmp_path: Path) -> None:
    """Oracle: torch.optim.AdamW with the file's parameters, to rounding, and it is what the records will say."""
    config = configure(tmp_path, FP32 | ADAMW)
    assert (config.optimizer, config.lr, config.weight_decay, config.precision) == ("adamw", 0.01, 0.1, "fp32")
    engine = make_engine(config, small_model(), RANKS)
    engine.start(config.lr)
    basic = engine._engine.basic_optimizer  # type: ignore[attr-defined]
    assert type(basic) is torch.optim.AdamW
    assert basic.defaults["betas"] == (0.8, 0.9)
    assert basic.param_groups[0]["lr"] == 0.01


def test_other_optimizers_are_deepspeeds(tmp_path: Path) -> None:
    """Oracle: torch's Adagrad, which DeepSpeed itself makes for this type, at the round's rate."""
    config = configure(tmp_path, FP32 | {"optimizer": {"type": "Adagrad", "params": {"lr": 0.2}}})
    engine = make_engine(config, small_model(), RANKS)
    engine.start(0.1)
    basic = engine._engine.basic_optimizer  # type: ignore[attr-defined]
    assert type(basic) is torch.optim.Adagrad
    assert basic.param_groups[0]["lr"] == 0.1


@pytest.mark.parametrize(
    "contents",
    [
        SCHEDULE,
        {"scheduler": {"type": "WarmupLR", "params": {"warmup_num_steps": 9, "warmup_max_lr": 0.7}}},
        {"scheduler": {"type": "WarmupDecayLR", "params": {"total_num_steps": 20, "warmup_num_steps": 5}}},
        {"scheduler": {"type": "WarmupCosineLR", "params": {"total_num_steps": 20, "warmup_num_steps": 5}}},
        {
            "scheduler": {
                "type": "OneCycle",
                "params": {"cycle_min_lr": 0.1, "cycle_max_lr": 0.7, "cycle_first_step_size": 5},
            }
        },
        {"scheduler": {"type": "LRRangeTest", "params": {"lr_range_test_step_size": 3}}},
        {"scheduler": {"type": "CosineAnnealingLR", "params": {"T_max": 12}}},
    ],
    ids=lambda contents: contents["scheduler"]["type"],
)
@pytest.mark.filterwarnings("ignore:Detected call of")
def test_schedulers_go_on_over_the_rounds(tmp_path: Path, contents: dict[str, Any]) -> None:
    """Oracle: the rates of the scheduler taken step by step, 12 times, wherever clients start and whoever came before."""
    engine = make_engine(configure(tmp_path, FP32 | contents), small_model(), RANKS)
    deepspeed: Any = engine._engine  # type: ignore[attr-defined]
    engine.start(0.8)
    deepspeed.optimizer.param_groups[0]["lr"] = 0.8
    scheduler: Any = deepspeed._scheduler_from_config(deepspeed.optimizer)
    expected = [deepspeed.get_lr()]
    for _ in range(12):
        scheduler.step()
        expected.append(deepspeed.get_lr())
    x, y = torch.randn(8, 3, 10, 10), torch.zeros(8, dtype=torch.int64)
    for done in (0, 8, 4):
        engine.start(0.8, done)
        for step in range(4):
            assert deepspeed.get_lr() == pytest.approx(expected[done + step]), (done, step)
            engine.step(x, y)
        engine.finish()
        assert deepspeed.get_lr() == pytest.approx(expected[done + 4])
    assert len({tuple(rates) for rates in expected}) > 3


@pytest.mark.parametrize("contents", [FP32, BF16, AUTOCAST], ids=["fp32", "bf16", "autocast"])
def test_steps_have_the_rate_that_was_set(tmp_path: Path, contents: dict[str, Any]) -> None:
    """Oracle: gradients of one, by hand: after rates of 1/2, 1/4 and 0 the weights are 3/4 lower."""
    config = configure(tmp_path, contents, momentum=0.0, weight_decay=0.0)
    engine = make_engine(config, nn.Linear(2, 1, bias=False), RANKS, lambda outputs, targets: outputs.sum())
    before = engine.model.weight.detach().clone()
    engine.start(1.0)
    for rate in (0.5, 0.25, 0.0):
        engine.set_rate(rate)
        engine.step(torch.ones(1, 2), torch.zeros(1))
    engine.finish()
    torch.testing.assert_close(before - engine.model.weight, torch.full((1, 2), 0.75))


@pytest.mark.parametrize("contents", [FP32, BF16, AUTOCAST], ids=["fp32", "bf16", "autocast"])
def test_tokens_stay_whole_numbers(tmp_path: Path, contents: dict[str, Any]) -> None:
    """Oracle: token 257, which bf16 cannot tell from 256, moves its own row of the embedding and no other."""
    config = configure(tmp_path, contents, momentum=0.0, weight_decay=0.0)
    engine = make_engine(config, nn.Embedding(300, 2), RANKS, lambda outputs, targets: outputs.sum())
    before = engine.model.weight.detach().clone()
    engine.start(1.0)
    engine.step(torch.tensor([[257]]), torch.tensor([[0]]))
    engine.finish()
    assert (engine.model.weight != before).any(1).nonzero().flatten().tolist() == [257]


@pytest.mark.parametrize("contents", [FP16, AUTOCAST_FP16], ids=["fp16", "autocast fp16"])
@pytest.mark.parametrize("clip_norm", [0.0, 0.5])
def test_one_step_in_fp16_moves(tmp_path: Path, fp16_on_cpu: None, contents: dict[str, Any], clip_norm: float) -> None:
    """Oracle: the loss scale falls within the one step of a client until that can be taken; a schedule goes on by one."""
    schedule = {"scheduler": {"type": "WarmupLR", "params": {"warmup_max_lr": 0.1, "warmup_min_lr": 0.1}}}
    config = configure(tmp_path, contents | schedule, clip_norm=clip_norm, momentum=0.0, weight_decay=0.0)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(300, 5))
    before = model[1].weight.detach().clone()
    x, y = torch.randn(8, 3, 10, 10) * 1000, torch.zeros(8, dtype=torch.int64)
    plain = PlainEngine(
        Config(precision="fp32", clip_norm=clip_norm, momentum=0.0, weight_decay=0.0), copy.deepcopy(model), CPU
    )
    plain.start(0.1)
    plain.step(x, y)
    plain.finish()
    engine: Any = make_engine(config, model, RANKS)
    engine.start(0.1)
    assert not engine.moved
    engine.step(x, y)
    engine.finish()
    assert engine.moved
    assert engine._scheduler.last_batch_iteration == 0
    moved, wanted = engine.model[1].weight - before, plain.model[1].weight - before
    assert (moved - wanted).norm() < 0.02 * wanted.norm()


@pytest.mark.parametrize("contents", [FP32, BF16], ids=["fp32", "bf16"])
def test_weights_of_any_layout(tmp_path: Path, contents: dict[str, Any]) -> None:
    """Oracle: contiguous weights of the same values; DeepSpeed itself can send no others around."""
    models = [nn.Sequential(nn.Flatten(), nn.Linear(300, 5)) for _ in range(3)]
    weights = models[0][1].weight.detach()
    models[1][1].weight = nn.Parameter(weights.t().contiguous().t())
    models[2][1].weight = nn.Parameter(weights.repeat_interleave(2, 1)[:, ::2])
    for model in models[1:]:
        model[1].bias = nn.Parameter(models[0][1].bias.detach().clone())
    results = [train(make_engine(configure(tmp_path, contents), model, RANKS), 1) for model in models]
    assert same(results[0], results[1])
    assert same(results[0], results[2])


@pytest.mark.parametrize(
    ("contents", "option", "value", "message"),
    [
        (ADAMW, "lr", 0.1, r"--lr 0\.1 contradicts optimizer\.params\.lr 0\.01 in ds\.json: remove one"),
        (ADAMW, "optimizer", "sgd", r"--optimizer sgd contradicts optimizer\.type AdamW in ds\.json"),
        ({"optimizer": {"type": "Adam"}}, "optimizer", "adam", r"Adam \(which is adamw unless adam_w_mode is false\)"),
        ({"train_micro_batch_size_per_gpu": 16}, "batch_size", 8, r"--batch-size 8 .*_per_gpu 16 in ds\.json"),
        (
            ADAMW,
            "adam_beta2",
            0.95,
            r"--adam-beta2 0\.95 contradicts optimizer\.params\.betas \[0\.8, 0\.9\] in ds\.json",
        ),
        ({"train_batch_size": 16}, "batch_size", 8, r"--batch-size 8 contradicts train_batch_size 16"),
        ({"gradient_clipping": 1}, "clip_norm", 2.0, r"--clip-norm 2\.0 contradicts gradient_clipping 1"),
        (BF16, "precision", "fp32", r"--precision fp32 contradicts bf16\.enabled true"),
        (AUTOCAST, "precision", "fp16", r"--precision fp16 contradicts torch_autocast\.dtype bfloat16"),
        (FP32, "precision", "bf16", r"--precision bf16 contradicts bf16\.enabled false"),
        (SCHEDULE, "lr_schedule", "cosine", r"--lr-schedule cosine contradicts the scheduler in ds\.json"),
    ],
)
def test_contradictions_are_named(
    tmp_path: Path, contents: dict[str, Any], option: str, value: Any, message: str
) -> None:
    """Oracle: the message names the option with its value and the key with its value."""
    with pytest.raises(ConfigError, match=message):
        configure(tmp_path, contents, (option,), **{option: value})


def test_what_nobody_says_has_the_optimizers_default(tmp_path: Path) -> None:
    """Oracle: DeepSpeed's defaults for an optimizer that the file describes; the user's word where he gave one."""
    sgd = {"optimizer": {"type": "SGD", "params": {"lr": 0.3}}}
    config = configure(tmp_path, sgd)
    assert (config.lr, config.momentum, config.weight_decay) == (0.3, 0.0, 0.0)
    assert configure(tmp_path, sgd, ("momentum",), momentum=0.5).momentum == 0.5
    assert configure(tmp_path, {}) == configure(tmp_path, {"optimizer": {"type": "auto"}})
    assert configure(tmp_path, {}).momentum == Config().momentum


@pytest.mark.parametrize(
    ("kind", "rate"), [("SGD", 0.05), ("Adam", 1e-3), ("AdamW", 1e-3), ("Adagrad", 1e-3), ("auto", 0.05)]
)
def test_a_rate_left_to_the_command_line_suits_the_optimizer(tmp_path: Path, kind: str, rate: float) -> None:
    """Oracle: the default of `--lr` for that optimizer, DeepSpeed's where only DeepSpeed has it; or the user's word."""
    contents = {"optimizer": {"type": kind, "params": {"lr": "auto"}}}
    assert first_learning_rate(configure(tmp_path, contents)) == rate
    assert configure(tmp_path, contents, ("lr",), lr=0.3).lr == 0.3


def test_same_values_on_both_sides_are_no_contradiction(tmp_path: Path) -> None:
    """Oracle: equal values, and precision auto, which says nothing."""
    contents = ADAMW | BF16 | {"train_batch_size": 8}
    config = configure(tmp_path, contents, ("lr", "batch_size", "precision"), lr=0.01)
    assert (config.lr, config.batch_size, config.precision) == (0.01, 8, "bf16")


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        ({"gradient_compression": {"enabled": True}}, r"'gradient_compression' in ds\.json is no key of DeepSpeed"),
        ({"gradient_cliping": 1.0}, r"did you mean 'gradient_clipping'\?"),
        ({"zero_optimization": {"stage": 2}}, r"zero_optimization\.stage 2 .*stage 0, or --ranks-per-client"),
        ({"zero_optimization": {"stage": "0"}}, r"zero_optimization\.stage \"0\" .*must be 0, 1, 2 or 3"),
        ({"zero_optimization": {"stage": 4}}, r"zero_optimization\.stage 4 .*must be 0, 1, 2 or 3"),
        ({"zero_optimization": {"round_robin_gradients": True}}, r"round_robin_gradients in ds\.json .*remove the key"),
        ({"zero_optimization": {"stage": True}}, r"zero_optimization\.stage true .*must be 0, 1, 2 or 3"),
        (
            {"zero_optimization": {"zero_hpz_partition_size": 2}},
            r"zero_hpz_partition_size in ds\.json .*remove the key",
        ),
        (
            {"zero_optimization": {"offload_optimizer": {"device": "cpu"}}},
            r"offload_optimizer in ds\.json .*remove the key",
        ),
        ({"steps_per_print": "x"}, r"steps_per_print in ds\.json must be a whole number"),
        ({"optimizer": {"type": 3}}, r"optimizer\.type in ds\.json must be a name, not 3"),
        (
            {"optimizer": {"type": "AdamW", "params": {"betas": [0.9]}}},
            r"params\.betas .*list of two numbers, not \[0\.9\]",
        ),
        ({"optimizer": {"type": "AdamW", "params": {"eps": "1e-8"}}}, r"params\.eps .* must be a number"),
        ({"optimizer": {"type": "SGD", "params": {"nesterov": "yes"}}}, r"params\.nesterov .* must be true or false"),
        ({"scheduler": {"params": {"gamma": 0.1}}}, r"scheduler\.params in ds\.json needs a scheduler\.type"),
        ({"scheduler": {"type": "StepLR", "params": [1]}}, r"scheduler\.params in ds\.json must be an object"),
        ({"scheduler": {"type": "ReduceLROnPlateau"}}, r"ReduceLROnPlateau in ds\.json goes by a score"),
        ({"gradient_accumulation_steps": 4}, r"gradient_accumulation_steps 4 .*use 1"),
        ({"train_batch_size": 64, "train_micro_batch_size_per_gpu": 32}, r"train_batch_size 64 .* must equal"),
        ({"tensor_parallel": {"autotp_size": 2}}, r"'tensor_parallel' .*trains alone"),
        ({"optimizer": {"type": "SGD", "params": {"momentun": 0.9}}}, r"params\.momentun .*did you mean 'momentum'"),
        ({"optimizer": {"params": {"betas": [0.9, 0.99]}}}, r"optimizer\.params\.betas .* needs an optimizer\.type"),
        ({"optimizer": {"params": {"lr": "big"}}}, r"optimizer\.params\.lr .* must be a number"),
        ({"optimizer": {"params": {"momentum": 1.5}}}, r"optimizer\.params\.momentum 1\.5 .* must be between 0 and"),
        (BF16 | FP16, r"bf16\.enabled and fp16\.enabled are both true"),
        ({"bf16": {"enabled": "yes"}}, r"bf16\.enabled .*true, false or \"auto\""),
        ({"torch_autocast": {"enabled": True, "dtype": "int8"}}, r"torch_autocast\.dtype int8"),
        ({"bf16": True}, r"'bf16' in ds\.json must be an object"),
    ],
)
def test_files_that_cannot_work_are_refused(tmp_path: Path, contents: dict[str, Any], message: str) -> None:
    """Oracle: one sentence with key and value, before DeepSpeed is even imported."""
    with pytest.raises(ConfigError, match=message):
        configure(tmp_path, contents)


@pytest.mark.parametrize("contents", [FP32, BF16])
def test_pruned_weights_stay_zero_while_a_client_trains(tmp_path: Path, contents: dict[str, Any]) -> None:
    """Oracle: half of the weights, also where DeepSpeed trains a 16-bit copy of the model."""
    path = tmp_path / "ds.json"
    path.write_text(json.dumps(contents))
    options = {"prune": "magnitude:0.5", "precision": "bf16" if contents is BF16 else "fp32", "clients": 1}
    worker = make_worker(**options, deepspeed_config=str(path), limit_train=100, lr=0.02)
    rounds = make_rounds(worker)
    rounds.run(0)
    weights = torch.cat([parameter.flatten() for parameter in worker.engine.model.parameters()])
    assert 0.4 < weights.eq(0).float().mean() < 0.6


def test_the_ranks_of_a_client_share_its_batch(tmp_path: Path) -> None:
    """Oracle: DeepSpeed's equation, train_batch_size = train_micro_batch_size_per_gpu x ranks."""
    for contents in ({"train_batch_size": 16}, {"train_batch_size": 16, "train_micro_batch_size_per_gpu": 4}):
        assert configure(tmp_path, contents, ranks_per_client=4).batch_size == 4
    with pytest.raises(ConfigError, match=r"train_batch_size 6 in ds\.json .*multiple of --ranks-per-client 4"):
        configure(tmp_path, {"train_batch_size": 6}, ranks_per_client=4)
    with pytest.raises(ConfigError, match=r"gradient_allreduce_op \"sum\" in ds\.json: .*remove the key"):
        configure(tmp_path, {"gradient_allreduce_op": "sum"}, ranks_per_client=4)
    with pytest.raises(ConfigError, match=r"train_batch_size 4 .* must equal train_micro_batch_size_per_gpu 4, times"):
        configure(tmp_path, {"train_batch_size": 4, "train_micro_batch_size_per_gpu": 4}, ranks_per_client=4)


def test_what_zero_cannot_share_out(tmp_path: Path) -> None:
    """Oracle: one sentence that names the stage and what is in its way."""
    zero = {"zero_optimization": {"stage": 2}}
    with pytest.raises(ConfigError, match=r"stage 2 in ds\.json .* and --prune magnitude:0\.5 masks whole ones"):
        configure(tmp_path, zero, ranks_per_client=2, prune="magnitude:0.5")
    ranks = SimpleNamespace(**vars(RANKS), peers=None)
    with pytest.raises(ConfigError, match=r"stage 2 in ds\.json .*batch norm .*torch_autocast"):
        make_engine(configure(tmp_path, zero | BF16, ranks_per_client=2), small_model(), ranks)


@pytest.mark.parametrize("text", ["{", "[]", '{"bf16": {}, "bf16": {}}', None])
def test_unreadable_files(tmp_path: Path, text: str | None) -> None:
    """Oracle: ConfigError names the file."""
    path = tmp_path / "ds.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigError, match=r"--deepspeed-config .*ds\.json"):
        reconcile(Config(deepspeed_config=str(path)), frozenset())


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        ({"scheduler": {"type": "WarmupLR", "params": {"warmup_max_lr": "auto"}}}, r"params\.warmup_max_lr \"auto\""),
        ({"optimizer": {"type": "Nonesuch"}}, r"--deepspeed-config .*Nonesuch"),
        ({"optimizer": {"type": "OneBitAdam"}}, r"--deepspeed-config .*OneBitAdam"),
        (
            {"optimizer": {"type": "SGD", "params": {"nesterov": True}}},
            r"--deepspeed-config .*Nesterov momentum requires",
        ),
        ({"scheduler": {"type": "WarmupLR", "params": {"wormup": 3}}}, r"--deepspeed-config .*'wormup'"),
        ({"scheduler": {"type": "Nonesuch"}}, r"--deepspeed-config .*Nonesuch"),
        (
            {"zero_optimization": {"stage": 0, "bukket": 3}},
            r"--deepspeed-config .*bukket Extra inputs are not permitted.*\]$",
        ),
        ({"activation_checkpointing": True}, r"--deepspeed-config .*'bool' object"),
        ({"checkpoint": {"tag_validation": "foo"}}, r"--deepspeed-config .*tag_validation"),
        ({"csv_monitor": {"enabled": True, "output_path": "/proc/none"}}, r"--deepspeed-config .*/proc/none"),
        ({"data_types": {"grad_accum_dtype": "fp32"}} | BF16, r"--deepspeed-config .*unsupported mix"),
    ],
)
def test_what_deepspeed_itself_refuses(tmp_path: Path, contents: dict[str, Any], message: str) -> None:
    """Oracle: DeepSpeed's reason in a ConfigError."""
    config = configure(tmp_path, contents)
    with pytest.raises(ConfigError, match=message):
        make_engine(config, small_model(), RANKS)


def test_a_schedule_that_ends_too_early_is_told(tmp_path: Path) -> None:
    """Oracle: torch's reason in a ConfigError, in the step that its scheduler does not have."""
    contents = {"scheduler": {"type": "OneCycleLR", "params": {"max_lr": 0.1, "total_steps": 4}}}
    engine = make_engine(configure(tmp_path, FP32 | contents), small_model(), RANKS)
    train(engine, 1)
    with pytest.raises(ConfigError, match=r"--deepspeed-config .*total steps is 4"):
        engine.start(0.1, 8)


def test_errors_of_our_own_are_not_explained_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: a mistake in this program, called back by DeepSpeed, keeps its type."""

    def broken(*_: Any, **__: Any) -> None:
        raise KeyError("ours")

    broken.__code__ = broken.__code__.replace(co_filename=deepspeed_engine.__file__)
    monkeypatch.setattr(deepspeed_engine, "make_optimizer", broken)
    with pytest.raises(KeyError, match="ours"):
        make_engine(configure(tmp_path, FP32), small_model(), RANKS)


def test_known_keys_are_those_that_deepspeed_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: DeepSpeed's own parser, given a dictionary that notes which keys it is asked for."""
    from deepspeed.runtime import config as theirs

    # It looks at some keys only in a process group, which an earlier test may have made or not.
    monkeypatch.setattr(theirs.dist, "get_rank", lambda: 0)
    monkeypatch.setattr(theirs.dist, "get_world_size", lambda: 1)
    asked: set[str] = set()

    class Keys:
        def __contains__(self, key: str) -> bool:
            asked.add(key)
            return key == "train_batch_size"

    class Noting(dict):
        def get(self, key: str, default: Any = None) -> Any:
            asked.add(key)
            return super().get(key, default)

        def __contains__(self, key: object) -> bool:
            asked.add(str(key))
            return super().__contains__(key)

        def keys(self) -> Any:  # "key in d.keys()" must be noted too
            return Keys()

        def __copy__(self) -> "Noting":
            return Noting(self.items())

    theirs.DeepSpeedConfig(Noting(train_batch_size=1))
    # Beside a sequence-parallel size, deepspeed.initialize reads a data-parallel one, and the parser does not.
    assert asked - set(theirs._REMOVED_TOP_LEVEL_CONFIG_KEYS) == (KNOWN_KEYS | REFUSED_KEYS) - {"data_parallel_size"}
