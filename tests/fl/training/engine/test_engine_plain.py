"""The plain engine, and what all engines share. Oracle: the same loop written out with torch."""

import contextlib
import copy
import types
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fl.common.config import Config
from fl.training.engine import choose_engine, make_engine
from fl.training.engine.accelerated import AcceleratedEngine
from fl.training.engine.optimizer import make_optimizer
from fl.training.engine.plain import PlainEngine
from fl.training.engine.precision import cpu_has_bf16, memory_format_for, resolve_precision

CPU = torch.device("cpu")


def small_model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 5)
    )


def batches(seed: int, count: int = 4, samples: int = 8) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    return [
        (torch.randn(samples, 3, 10, 10, generator=generator), torch.randint(0, 5, (samples,), generator=generator))
        for _ in range(count)
    ]


def state(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
@pytest.mark.parametrize("clip_norm", [0.0, 0.1])
def test_equals_a_bare_loop(optimizer: str, clip_norm: float) -> None:
    """Oracle: forward, backward, clip and step written out, with the same optimizer kernels: bitwise."""
    config = Config(precision="fp32", optimizer=optimizer, clip_norm=clip_norm)
    bare = small_model()
    fused = make_optimizer(config, bare.parameters(), 0.1)
    losses = []
    for x, y in batches(1):
        loss = F.cross_entropy(bare(x), y)
        losses.append(loss.item())
        loss.backward()
        if clip_norm:
            nn.utils.clip_grad_norm_(bare.parameters(), clip_norm)
        fused.step()
        fused.zero_grad()
    engine = PlainEngine(config, small_model(), CPU)
    engine.start(0.1)
    assert [engine.step(x, y).item() for x, y in batches(1)] == losses
    engine.finish()
    assert same(state(engine.model), state(bare))


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
def test_optimizer_is_the_one_of_torch(optimizer: str) -> None:
    """Oracle: torch's default (unfused) class with the same hyperparameters, to rounding."""
    config = Config(optimizer=optimizer, momentum=0.8, adam_beta2=0.7, weight_decay=0.01)
    # No batch norm: gradients that are zero but for rounding would be blown up by Adam.
    ours = nn.Sequential(nn.Flatten(), nn.Linear(300, 5))
    theirs = copy.deepcopy(ours)
    classes = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
    extra: dict[str, Any] = {"momentum": 0.8} if optimizer == "sgd" else {"betas": (0.9, 0.7)}
    pair = (
        (ours, make_optimizer(config, ours.parameters(), 0.05)),
        (theirs, classes[optimizer](theirs.parameters(), lr=0.05, weight_decay=0.01, **extra)),
    )
    for model, local in pair:
        for x, y in batches(3):
            F.cross_entropy(model(x), y).backward()
            local.step()
            local.zero_grad()
    for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_nothing_leaks_from_one_client_to_the_next(precision: str) -> None:
    """Oracle: client B alone on a new engine; B after A on a reused engine ends in the same bits."""
    config = Config(precision=precision, clip_norm=1.0)
    start = state(small_model())
    alone = PlainEngine(config, small_model(), CPU)
    reused = PlainEngine(config, small_model(), CPU)
    reused.start(0.2)
    for x, y in batches(1):
        reused.step(x * 1e3, y)
    reused.finish()
    reused.model.load_state_dict(start)
    for engine in (alone, reused):
        engine.start(0.1)
        for x, y in batches(2):
            engine.step(x, y)
        engine.finish()
    assert same(state(alone.model), state(reused.model))
    assert not same(state(alone.model), start)


def test_loss_stays_on_the_device_detached() -> None:
    """Oracle: the interface: a scalar fp32 tensor without history."""
    engine = PlainEngine(Config(precision="bf16"), small_model(), CPU)
    engine.start(0.1)
    loss = engine.step(*batches(1, 1)[0])
    assert loss.shape == ()
    assert loss.dtype == torch.float32
    assert not loss.requires_grad


def test_channels_last_only_with_16_bits_on_a_cpu() -> None:
    """Oracle: the rule that the measurements gave, with its exception for GroupNorm."""
    plain, grouped = nn.Linear(2, 2), nn.Sequential(nn.GroupNorm(1, 2))
    assert memory_format_for(CPU, "bf16", grouped) == torch.contiguous_format
    assert memory_format_for(torch.device("cuda"), "bf16", grouped) == torch.channels_last
    assert memory_format_for(CPU, "fp32", plain) == torch.contiguous_format
    assert memory_format_for(CPU, "bf16", plain) == torch.channels_last
    assert memory_format_for(torch.device("cuda"), "fp16", plain) == torch.channels_last
    assert resolve_precision("auto", CPU) == ("bf16" if cpu_has_bf16() else "fp32")
    assert resolve_precision("fp16", CPU) == "fp16"
    engine = PlainEngine(Config(precision="bf16"), small_model(), CPU)
    assert engine.model[0].weight.is_contiguous(memory_format=torch.channels_last)


def test_auto_precision_without_torch_probes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: another torch version may have none of the probes; then fp32, without an error."""
    monkeypatch.delattr(torch.cpu, "_is_avx512_bf16_supported", raising=False)
    monkeypatch.delattr(torch.cpu, "_is_amx_tile_supported", raising=False)
    assert cpu_has_bf16() in (True, False)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert resolve_precision("auto", CPU) == "fp32"


@pytest.mark.parametrize(
    ("engine", "file", "launcher", "chosen"),
    [
        ("auto", None, "python", "ddp"),
        ("auto", None, "torchrun", "ddp"),
        ("auto", None, "accelerate", "accelerate"),
        ("auto", None, "deepspeed", "deepspeed"),
        ("auto", "ds.json", "torchrun", "deepspeed"),
        ("ddp", None, "deepspeed", "ddp"),
        ("accelerate", None, "python", "accelerate"),
    ],
)
def test_choice_of_engine(engine: str, file: str | None, launcher: str, chosen: str) -> None:
    """Oracle: the table above, from the documentation of --engine."""
    assert choose_engine(Config(engine=engine, deepspeed_config=file), launcher) == chosen


def test_make_engine_gives_the_plain_one() -> None:
    """Oracle: python's launcher without a DeepSpeed file means plain PyTorch."""
    ranks = types.SimpleNamespace(rank=0, local_rank=0, device=CPU, launcher="python")
    engine = make_engine(Config(precision="fp32"), small_model(), ranks)
    assert isinstance(engine, PlainEngine)
    assert engine.name == "ddp"


def hot_model() -> nn.Module:
    """Gradients that overflow fp16 at the first loss scale, 65,536, and down to some hundreds."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(300, 5))


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
@pytest.mark.parametrize("clip_norm", [0.0, 0.1])
def test_one_step_in_fp16_moves(optimizer: str, clip_norm: float) -> None:
    """Oracle: the same step in fp32, to fp16's rounding; and nothing more than once: BatchNorm counts one batch."""
    options = {"optimizer": optimizer, "clip_norm": clip_norm}
    start, moved = state(hot_model()), []
    x, y = batches(1, 1)[0]
    for precision in ("fp32", "fp16"):
        engine = PlainEngine(Config(precision=precision, **options), nn.Sequential(Counting(), *hot_model()), CPU)
        engine.start(0.01)
        assert engine.moved == (precision == "fp32")
        engine.step(x * 100, y)
        engine.finish()
        assert engine.moved
        assert engine.model[0].passes == 1
        moved.append(engine.model[2].weight.detach() - start["1.weight"])
    assert moved[0].norm() > 0
    if optimizer == "sgd":  # Adam's first step is the sign of every gradient, however small
        assert (moved[1] - moved[0]).norm() < 0.01 * moved[0].norm()
    assert (moved[1] != 0).float().mean() > 0.9


class Counting(nn.Module):
    """Hands on what it gets, and counts."""

    passes = 0

    def forward(self, x: Tensor) -> Tensor:
        """`x`."""
        self.passes += 1
        return x


def test_momentum_in_fp16_is_no_uninitialised_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: what is in the memory that torch hands out changes nothing, in first steps and in later skipped ones."""
    empty_like, results = torch.empty_like, []
    for fill in (0.0, float("nan")):
        monkeypatch.setattr(torch, "empty_like", lambda t, fill=fill, **options: empty_like(t, **options).fill_(fill))
        engine = PlainEngine(Config(precision="fp16"), hot_model(), CPU)
        engine.start(0.001)
        for scale, (x, y) in zip((100, 1, 1e5, 1), batches(1), strict=True):
            engine.step(x * scale, y)
        engine.finish()
        results.append(state(engine.model))
    assert same(*results)
    assert all(bool(tensor.isfinite().all()) for tensor in results[0].values())


def test_a_loss_that_no_scale_helps() -> None:
    """Oracle: infinite inputs move nothing, as with GradScaler alone, and the client says so until it has taken a step."""
    engine = PlainEngine(Config(precision="fp16"), hot_model(), CPU)
    start = state(engine.model)
    engine.start(0.01)
    (x, y), *_ = batches(1)
    for _ in range(2):
        engine.step(x * float("inf"), y)
    assert not engine.moved
    assert same(state(engine.model), start)
    assert engine._scaler is not None
    assert engine._scaler.get_scale() == 65536 / 4
    engine.step(x, y)
    assert engine.moved
    assert not same(state(engine.model), start)


class Volumes(nn.Module):
    """Convolutions over volumes, images and signals."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.volumes, self.images, self.signals = nn.Conv3d(2, 4, 3), nn.Conv2d(4, 4, 3), nn.Conv1d(4, 4, 3)
        self.norm, self.last = nn.BatchNorm3d(4), nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        """[batch, 2, 6, 8, 8] to [batch, 5]."""
        images = self.images(self.norm(self.volumes(x)).mean(2))
        return self.last(self.signals(images.mean(2)).mean(2))


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_inputs_of_every_rank(precision: str) -> None:
    """Oracle: the same steps in fp32, to 16-bit rounding; only what has the rank of images is channels-last."""
    moved = []
    for chosen in ("fp32", precision):
        engine = PlainEngine(Config(precision=chosen), Volumes(), CPU)
        start = torch.cat([p.detach().flatten() for p in engine.model.parameters()])
        engine.start(0.05)
        for seed in range(3):
            x = torch.randn(8, 2, 6, 8, 8, generator=torch.Generator().manual_seed(seed))
            engine.step(x, torch.arange(8) % 5)
        engine.finish()
        moved.append(torch.cat([p.detach().flatten() for p in engine.model.parameters()]) - start)
    assert engine.model.volumes.weight.is_contiguous()
    assert engine.model.images.weight.is_contiguous(memory_format=engine.memory_format)
    assert (moved[1] - moved[0]).norm() < 0.1 * moved[0].norm()


@pytest.mark.parametrize("engine_class", [PlainEngine, AcceleratedEngine])
@pytest.mark.parametrize("size", [8, 7, 1])
def test_halves_have_the_gradient_of_the_whole_batch(engine_class: Any, size: int) -> None:
    """A batch in two halves, 4 and 3 samples of 7, gives the loss and the step of the whole one but for rounding: the mean
    over the batch is the mean over each half, weighted by its samples. One sample has no halves. (No BatchNorm here.)"""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(300, 20), nn.ReLU(), nn.Linear(20, 5))
    results = []
    for halves in (False, True):
        engine = engine_class(Config(precision="fp32", clip_norm=0.5), copy.deepcopy(model), CPU)
        assert engine.can_halve
        engine.start(0.1)
        with engine.halves() if halves else contextlib.nullcontext():
            losses = torch.stack([engine.step(x[:size], y[:size]) for x, y in batches(1)])
        engine.finish()
        results.append((losses, *engine.model.parameters()))
    for whole, halved in zip(*results, strict=True):
        torch.testing.assert_close(halved, whole, rtol=1e-5, atol=1e-6)


def test_a_gradient_that_is_looked_at_is_not_halved() -> None:
    """What a hook adds to a gradient would be added twice."""
    model = small_model()
    engine = PlainEngine(Config(precision="fp32"), model, CPU)
    handle = next(model.parameters()).register_hook(lambda gradient: gradient + 1)
    assert not engine.can_halve
    handle.remove()
    assert engine.can_halve


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
@pytest.mark.parametrize(
    ("kind", "precision"), [(PlainEngine, "bf16"), (PlainEngine, "fp16"), (AcceleratedEngine, "fp32")]
)
def test_moments_go_on_as_if_never_interrupted(optimizer: str, kind: Any, precision: str) -> None:
    """Oracle: one start and four steps, bitwise; the kept ones may be read more than once. Some weights have no gradient in
    the first half."""
    config = Config(precision=precision, optimizer=optimizer, weight_decay=0.1, local_state="keep")
    ends = []
    for interrupted in (False, True, True):
        engine = kind(config, small_model(), CPU)
        engine.start(0.01)
        for at, batch in enumerate(batches(1)):
            engine.model[-1].bias.requires_grad_(at >= 2)
            if interrupted and at == 2:
                moments = engine.moments()
                engine.finish()
                engine.start(0.01)
                engine.remember(moments)
            engine.step(*batch)
        ends.append(state(engine.model))
        engine.finish()
    assert same(ends[0], ends[1])
    assert same(ends[0], ends[2])
    assert sum(moment.numel() for name, moment in moments.items() if name != "step") == (
        (1 if optimizer == "sgd" else 2) * sum(parameter.numel() for parameter in engine.model.parameters())
    )


@pytest.mark.parametrize(
    ("kind", "precision"), [(PlainEngine, "fp32"), (PlainEngine, "fp16"), (AcceleratedEngine, "bf16")]
)
def test_steps_have_the_rate_that_was_set(kind: Any, precision: str) -> None:
    """Oracle: gradients of one, by hand: after rates of 1/2, 1/4 and 0 the weights are 3/4 lower."""
    config = Config(precision=precision, momentum=0.0, weight_decay=0.0)
    engine = kind(config, nn.Linear(2, 1, bias=False), CPU, lambda outputs, targets: outputs.float().sum())
    before = engine.model.weight.detach().clone()
    engine.start(1.0)
    for rate in (0.5, 0.25, 0.0):
        engine.set_rate(rate)
        engine.step(torch.ones(1, 2), torch.zeros(1))
    engine.finish()
    torch.testing.assert_close(before - engine.model.weight, torch.full((1, 2), 0.75))


@pytest.mark.parametrize("kind", [PlainEngine, AcceleratedEngine])
@pytest.mark.parametrize(("size", "pieces"), [(8, [3, 3, 2]), (9, [3, 3, 3]), (4, [2, 2]), (1, [1])])
def test_accumulated_batches_are_one_step(kind: Any, size: int, pieces: list[int]) -> None:
    """Oracle: steps on the whole batch, but for rounding: gradients are of the mean over all samples, and clipped once. No
    more than a batch of 3 goes through the model at a time, in pieces as equal as can be."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(300, 20), nn.ReLU(), nn.Linear(20, 5))
    results, seen = [], []
    for options in ({"batch_size": 9}, {"batch_size": 3, "accumulate": 3}):
        engine = kind(Config(precision="fp32", clip_norm=0.5, **options), copy.deepcopy(model), CPU)
        engine.start(0.1)
        seen.clear()
        engine.model[0].register_forward_hook(lambda module, given, result: seen.append(len(result)))
        losses = torch.stack([engine.step(x[:size], y[:size]) for x, y in batches(1, 2, samples=9)])
        engine.finish()
        results.append((losses, *engine.model.parameters()))
    assert seen == 2 * pieces
    for whole, accumulated in zip(*results, strict=True):
        torch.testing.assert_close(accumulated, whole, rtol=1e-5, atol=1e-6)
