"""Networks for sequences. Oracles: counts worked out from the layers' shapes, the LSTM's equations written out, and what
zero weights leave."""

import pytest
import torch
from torch import nn

from fl.common.config import ModelOptions
from fl.models import build_model
from fl.models.sequence import ResidualBlock, SqueezeExcite
from fl.models.surgery.channels import find_groups


def build(name: str, *, classes: int, features: int, length: int, seed: int = 0) -> nn.Module:
    """The network for such windows, as a run builds it."""
    return build_model(
        ModelOptions(model=name),
        classes=classes,
        in_channels=features,
        image_size=length,
        sample_shape=(length, features),
        seed=seed,
    )


def count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def mental_state_count(features: int, classes: int) -> int:
    """By hand, layer by layer."""

    def block(before: int, after: int, middle: int) -> int:
        convolutions = 3 * before * after + 3 * after * after + before * after
        return convolutions + 3 * 2 * after + (after + 1) * middle + (middle + 1) * after

    stem = 7 * features * 64 + 2 * 64
    lstm = 2 * 4 * 64 * (256 + 64 + 2)
    attention = 4 * 129 * 128
    head = 257 * 256 + 257 * 128 + 129 * classes
    return stem + block(64, 128, 8) + block(128, 256, 16) + lstm + attention + head


@pytest.mark.parametrize(("features", "classes", "said"), [(20, 5, 761_885), (4, 3, 754_459)])
def test_mental_state_count(features: int, classes: int, said: int) -> None:
    """Oracle: the layers by hand, the number in the docstring, and that the published one, 772,733, is within 2 %."""
    found = count(build("mental_state", classes=classes, features=features, length=256))
    assert found == mental_state_count(features, classes) == said
    if features == 20:
        assert abs(found / 772_733 - 1) < 0.02


@pytest.mark.parametrize("length", [3, 24, 100])
def test_temperature_count(length: int) -> None:
    """Oracle: Keras's published 11,051 for four features, and the 200 numbers of torch's second bias vector."""
    assert count(build("temperature_lstm", classes=0, features=4, length=length)) == 11_051 + 4 * 50


def test_temperature_lstm_written_out() -> None:
    """Oracle: the LSTM's equations, step by step, and the linear map of the last state."""
    model = build("temperature_lstm", classes=0, features=4, length=5)
    weights = {name.removeprefix("lstm."): tensor for name, tensor in model.state_dict().items()}
    x = torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(1))
    state, cell = torch.zeros(3, 50), torch.zeros(3, 50)
    for step in x.unbind(1):
        gates = step @ weights["weight_ih_l0"].T + state @ weights["weight_hh_l0"].T
        gates = gates + weights["bias_ih_l0"] + weights["bias_hh_l0"]
        take, keep, candidate, show = gates.chunk(4, 1)
        cell = keep.sigmoid() * cell + take.sigmoid() * candidate.tanh()
        state = show.sigmoid() * cell.tanh()
    assert torch.allclose(model(x), state @ weights["fc.weight"].T + weights["fc.bias"], atol=1e-6)


def test_mlp_count() -> None:
    """Oracle: the three layers by hand."""
    assert count(build("mlp", classes=3, features=7, length=2)) == 15 * 64 + 65 * 64 + 65 * 3


@pytest.mark.parametrize("name", ["mental_state", "temperature_lstm", "mlp"])
@pytest.mark.parametrize("classes", [0, 3])
@pytest.mark.parametrize("length", [1, 17])
def test_shapes_and_gradients(name: str, classes: int, length: int) -> None:
    """Oracle: an output for each class, one for a number to predict; every parameter has a finite gradient; the same seed
    gives the same weights, another seed others."""
    model = build(name, classes=classes, features=4, length=length)
    result = model(torch.randn(5, length, 4))
    assert result.shape == (5, max(1, classes))
    result.square().sum().backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in model.parameters())
    same, other = (build(name, classes=classes, features=4, length=length, seed=seed) for seed in (0, 1))
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), same.parameters(), strict=True))
    assert any(not torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize("length", [1, 2, 7, 8])
def test_residual_block_halves_time(length: int) -> None:
    """Oracle: rounded up; with its last BatchNorm of the long way at zero, only the short way is left."""
    block = ResidualBlock(3, 6).eval()
    x = torch.randn(2, 3, length)
    assert block(x).shape == (2, 6, (length + 1) // 2)
    nn.init.zeros_(block.norm2.weight)
    assert torch.allclose(block(x), torch.relu(block.norm(block.shortcut(x))))


def test_gates_by_hand() -> None:
    """One unit reads the mean of channel 0, which is 3, and opens channel 1 by sigmoid(3); channel 0 is half open."""
    gate = SqueezeExcite(2)
    with torch.no_grad():
        for parameter in gate.parameters():
            parameter.zero_()
        gate.squeeze.weight[0, 0] = 1.0
        gate.excite.weight[1, 0] = 1.0
    x = torch.tensor([[[2.0, 4.0], [10.0, 20.0]]])
    wanted = torch.stack([x[0, 0] / 2, x[0, 1] * torch.tensor(3.0).sigmoid()])
    assert torch.allclose(gate(x)[0], wanted)


def test_what_pruning_can_drop() -> None:
    """Oracle: every layer's units but the outputs' are a group of their own: those of each direction of the BiLSTM, and the
    four heads of 32 channels each."""
    model = build("mental_state", classes=3, features=4, length=32).eval()
    groups = {group.makers[0]: (group.channels, group.block) for group in find_groups(model, torch.randn(2, 32, 4))}
    assert groups["lstm._l0"] == groups["lstm._l0_reverse"] == (64, 1)
    assert groups["attention.v"] == (128, 32)
    makers = {"stem.0", "blocks.0.conv1", "blocks.0.conv2", "blocks.0.gate.squeeze", "blocks.1.conv1", "blocks.1.conv2"}
    makers |= {
        "blocks.1.gate.squeeze",
        "lstm._l0",
        "lstm._l0_reverse",
        "attention.v",
        "attention.out",
        "head.0",
        "head.3",
    }
    assert groups.keys() == makers
