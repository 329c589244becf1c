"""The local optimizer in models of every kind. Oracle: torch's default classes, which take any gradient and any memory."""

import copy
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fl.common.config import Config
from fl.models.trial import want_dense_gradients
from fl.training.engine.optimizer import make_optimizer
from fl.training.engine.plain import PlainEngine
from tests.support import ROOT

CPU = torch.device("cpu")
CLASSES = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}


class LayerDrop(nn.Module):
    """Linear layers of which a batch goes through one or two: the second gets its first gradient in the third batch."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.calls = nn.Linear(6, 5), nn.Linear(5, 5), 0

    def forward(self, x: Tensor) -> Tensor:
        """[batch, 6] to [batch, 5]."""
        self.calls += 1
        hidden = torch.tanh(self.first(x))
        return self.second(hidden) if self.calls in (3, 4, 6) else hidden


def batches(count: int = 6) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [
        (torch.randn(8, 6, generator=generator), torch.randint(0, 5, (8,), generator=generator)) for _ in range(count)
    ]


def plainly(model: nn.Module, optimizer: torch.optim.Optimizer) -> nn.Module:
    for x, y in batches():
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
        optimizer.zero_grad()
    return model


@pytest.mark.parametrize(
    ("kind", "extra"),
    [
        ("sgd", {}),
        ("sgd", {"nesterov": True}),
        ("sgd", {"dampening": 0.5}),
        ("adam", {}),
        ("adam", {"amsgrad": True}),
        ("adamw", {}),
    ],
)
def test_first_gradients_that_come_late(kind: str, extra: dict[str, Any]) -> None:
    """Oracle: torch's class without fused kernels, to rounding."""
    torch.manual_seed(0)
    ours = LayerDrop()
    theirs = copy.deepcopy(ours)
    common = {"weight_decay": 0.01, **({"momentum": 0.9} if kind == "sgd" else {}), **extra}
    config = Config(optimizer=kind, weight_decay=0.01)
    plainly(ours, make_optimizer(config, ours.parameters(), 0.05, **extra))
    plainly(theirs, CLASSES[kind](theirs.parameters(), lr=0.05, **common))
    for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("nesterov", [False, True])
def test_the_momentum_before_the_first_step_changes_no_bit(nesterov: bool) -> None:
    """Oracle: fused SGD left to make its own, also for weights and gradients of minus zero, as masks leave them."""
    torch.manual_seed(0)
    ours = nn.Linear(6, 5)
    with torch.no_grad():
        ours.weight[:, ::2] = -0.0
    ours.weight.register_hook(lambda gradient: gradient * torch.tensor([-0.0, 1, 0, 1, -0.0, 1]))
    theirs = nn.Linear(6, 5)
    theirs.load_state_dict(ours.state_dict())
    theirs.weight.register_hook(lambda gradient: gradient * torch.tensor([-0.0, 1, 0, 1, -0.0, 1]))
    plainly(ours, make_optimizer(Config(), ours.parameters(), 0.05, nesterov=nesterov))
    fused = {"lr": 0.05, "momentum": 0.9, "weight_decay": 5e-4, "nesterov": nesterov, "fused": True}
    plainly(theirs, torch.optim.SGD(theirs.parameters(), **fused))
    assert torch.equal(ours.weight.view(torch.int32), theirs.weight.view(torch.int32))


@pytest.mark.parametrize("kind", ["sgd", "adam", "adamw"])
def test_weights_that_are_views_with_holes(kind: str) -> None:
    """Oracle: the same weights without holes, bitwise; what lies between them stays as it was."""
    torch.manual_seed(0)
    memory = torch.randn(5, 12)
    before = memory.clone()
    strided, dense = nn.Linear(6, 5), nn.Linear(6, 5)
    dense.load_state_dict({"weight": memory[:, ::2].clone(), "bias": strided.bias.detach()})
    strided.weight = nn.Parameter(memory[:, ::2])
    bare = make_optimizer(Config(optimizer=kind), nn.Linear(6, 5).parameters(), 0.05)
    assert bare.defaults["fused"]
    assert not make_optimizer(Config(optimizer=kind), strided.parameters(), 0.05).defaults["fused"]
    for model in (strided, dense):
        engine = PlainEngine(Config(optimizer=kind, precision="fp32"), model, CPU)
        engine.start(0.05)
        for x, y in batches():
            engine.step(x, y)
        engine.finish()
    assert torch.equal(strided.weight, dense.weight)
    assert torch.equal(memory, before)


class Words(nn.Module):
    """Tables of words, whose gradients are sparse where `sparse` says so: a layer, and a bag."""

    def __init__(self, *, sparse: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Embedding(7, 5, sparse=sparse)
        self.bag = nn.EmbeddingBag(7, 5, sparse=sparse, mode="sum")

    def forward(self, x: Tensor) -> Tensor:
        """[batch, 6] to [batch, 5]."""
        words = x.abs().mul(2).long().clamp(max=6)
        return self.layer(words).sum(1) + self.bag(words)


@pytest.mark.parametrize("kind", ["sgd", "adam", "adamw"])
@pytest.mark.parametrize(
    "options", [{}, {"clip_norm": 0.1}, {"momentum": 0.0, "weight_decay": 0.0}, {"precision": "fp16"}]
)
def test_sparse_gradients(kind: str, options: dict[str, Any]) -> None:
    """Oracle: the same tables with dense gradients, bitwise, also where hooks add to gradients and mask them."""
    models = [Words(sparse=False), Words(sparse=True)]
    for model in models:
        want_dense_gradients(model)
        engine = PlainEngine(Config(**{"precision": "fp32", "optimizer": kind, **options}), model, CPU)
        for parameter in model.parameters():  # as algorithms do, and masks
            parameter.register_hook(lambda gradient, parameter=parameter: gradient + 0.1 * parameter.detach())
            parameter.register_hook(lambda gradient: gradient * (torch.arange(5) > 0))
        engine.start(0.05)
        for x, y in batches():
            engine.step(x, y)
        engine.finish()
    for p, q in zip(*(model.parameters() for model in models), strict=True):
        assert torch.equal(p, q)


@pytest.mark.parametrize("kind", CLASSES)
def test_leaving_the_compiler_out_changes_no_bit(kind: str) -> None:
    """Oracle: torch's class itself, parameters and state."""
    torch.manual_seed(0)
    ours = nn.Linear(6, 5)
    theirs, config = copy.deepcopy(ours), Config(optimizer=kind)
    ran = [make_optimizer(config, model.parameters(), 0.05, exact=model is theirs) for model in (ours, theirs)]
    assert isinstance(ran[0], CLASSES[kind])
    assert type(ran[1]) is CLASSES[kind]
    for model, optimizer in zip((ours, theirs), ran, strict=True):
        plainly(model, optimizer)
    for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(p, q)
        own, other = (optimizer.state[parameter] for optimizer, parameter in zip(ran, (p, q), strict=True))
        assert own.keys() == other.keys()
        assert all(torch.equal(own[name], other[name]) for name in own)


@pytest.mark.slow
def test_local_training_does_not_import_the_compiler() -> None:
    """Oracle: the interpreter's own list of modules after a step."""
    program = """
import sys, torch
from fl.common.config import Config
from fl.training.engine.plain import PlainEngine
engine = PlainEngine(Config(precision="fp32"), torch.nn.Linear(3, 2), torch.device("cpu"))
engine.start(0.1)
engine.step(torch.ones(4, 3), torch.zeros(4, dtype=torch.int64))
print("torch._dynamo" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
