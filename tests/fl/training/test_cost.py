"""The declared cost of local training. Oracles: arithmetic by hand, and a real step on this machine, watched."""

import logging
import re
import warnings
from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from fl.common.config import Config
from fl.common.errors import ConfigError
from fl.data import Split
from fl.data.augment import Augment
from fl.data.batches import count_steps, iterate_batches
from fl.data.normalise import Normaliser
from fl.pruning.structured import shrink
from fl.pruning.width import AbsentClasses
from fl.training.cost import Costs, LocalCost, samples_trained
from fl.training.engine.optimizer import make_optimizer
from fl.training.tasks import Regression
from tests.fl.models.surgery.networks import network

pytestmark = pytest.mark.slow


def local_cost(
    model: nn.Module, shape: tuple[int, ...], options: Config, dtype: torch.dtype = torch.float32, **kinds: Any
) -> LocalCost | None:
    return Costs(options, shape, dtype, **kinds).of(model)


def _watched(model: nn.Module, shape: tuple[int, ...], options: Config, dtype: torch.dtype) -> int:
    """Bytes of a real step: weights, gradients, optimizer state, and what the backward pass needs, by address."""
    model = deepcopy(model).train()
    own = [*model.parameters(), *model.buffers()]
    saved: dict[int, Tensor] = {}

    def watch(tensor: Tensor) -> Tensor:
        saved[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    x, y = torch.zeros(options.batch_size, *shape), torch.zeros(options.batch_size, dtype=torch.int64)
    autocast = torch.autocast("cpu", dtype=dtype, enabled=dtype != torch.float32)
    with torch.autograd.graph.saved_tensors_hooks(watch, lambda tensor: tensor), autocast:
        loss = functional.cross_entropy(model(x), y)
    activations = set(saved) - {tensor.untyped_storage().data_ptr() for tensor in own}
    kept = sum(saved[key].untyped_storage().nbytes() for key in activations)
    loss.backward()
    optimizer = make_optimizer(options, model.parameters(), 0.1)
    optimizer.step()
    state = [v for one in optimizer.state.values() for v in one.values() if isinstance(v, Tensor)]
    return kept + sum(t.numel() * t.element_size() for t in [*own, *model.parameters(), *state])


@pytest.mark.parametrize(
    "options",
    [
        {"optimizer": "sgd", "momentum": 0.9},
        {"optimizer": "sgd", "momentum": 0.0},
        {"optimizer": "adam"},
        {"optimizer": "adamw"},
    ],
)
def test_memory_of_each_optimizer_is_that_of_a_real_step(options: dict[str, Any]) -> None:
    """LeNet-5, to the byte."""
    model, _ = network("lenet5")
    config = Config(batch_size=8, **options)
    cost = local_cost(model, (1, 28, 28), config)
    assert cost is not None
    assert cost.memory_bytes == _watched(model, (1, 28, 28), config, torch.float32)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_memory_of_a_residual_network(dtype: torch.dtype) -> None:
    """To the byte in fp32; under autocast to a part in a thousand (torch declares BatchNorm's statistics too short)."""
    model, _ = network("resnet18 batch")
    config = Config(batch_size=4)
    cost = local_cost(model, (3, 32, 32), config, dtype)
    real = _watched(model, (3, 32, 32), config, dtype)
    assert cost is not None
    assert cost.memory_bytes == pytest.approx(real, rel=0 if dtype is torch.float32 else 1e-3)


def test_by_hand() -> None:
    """A linear layer of 5 to 3 in a batch of 4: input and labels are kept, and what the loss needs."""
    cost = local_cost(nn.Linear(5, 3), (5,), Config(batch_size=4, momentum=0.0))
    weights = 4 * (5 * 3 + 3)
    log_softmax, total_weight = 4 * 4 * 3, 4
    assert cost == LocalCost(3 * 2 * 5 * 3, 2 * weights + 4 * 4 * 5 + 8 * 4 + log_softmax + total_weight)


@pytest.mark.parametrize("end", [nn.Identity(), nn.Flatten(0)])
def test_numbers_by_hand(end: nn.Module) -> None:
    """A linear layer of 5 to 1 in a batch of 4: input, outputs and scaled targets are kept; outputs [4, 1] and [4] alike."""
    model, options = nn.Sequential(nn.Linear(5, 1), end), Config(batch_size=4, momentum=0.0)
    cost = local_cost(model, (5,), options, loss=Regression(1.0, 2.0).loss, targets=torch.float32)
    assert cost == LocalCost(3 * 2 * 5, 2 * 4 * (5 + 1) + 4 * 4 * 5 + 4 * 4 + 4 * 4)


class _Lstm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(5, 6, batch_first=True), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(x)[0][:, -1])


def test_the_gates_of_an_lstm_are_counted() -> None:
    """At least four gates, a cell and an output for each of 7 steps; the CPU's own LSTM would hide them."""
    cost = local_cost(_Lstm(), (7, 5), Config(batch_size=4, momentum=0.0))
    assert cost is not None
    weights = 4 * sum(parameter.numel() for parameter in _Lstm().parameters())
    assert cost.memory_bytes > 2 * weights + 4 * 4 * 7 * 6 * 6
    assert cost.flops_per_sample == 3 * 2 * (7 * 4 * 6 * (5 + 6) + 6 * 3)


def test_a_smaller_model_costs_less() -> None:
    """Without 40 % of its channels ResNet-18 takes about a third of the operations, and less memory."""
    model, example = network("resnet18 batch")
    whole, part = (local_cost(m, (3, 32, 32), Config(batch_size=2)) for m in (model, shrink(model, 0.4, example).model))
    assert whole is not None
    assert part is not None
    assert 0.34 < part.flops_per_sample / whole.flops_per_sample < 0.38
    assert 0.3 < part.memory_bytes / whole.memory_bytes < 0.7


def test_a_hook_may_keep_a_tensor() -> None:
    """The classes that a narrow client lacks, no part of the model's state: only 8 bytes of numbers are kept besides."""
    plain, hooked = nn.Linear(5, 3), nn.Linear(5, 3)
    hook = AbsentClasses()
    hook.absent = torch.tensor([1])
    hooked.register_forward_hook(hook)
    one, other = local_cost(plain, (5,), Config()), local_cost(hooked, (5,), Config())
    assert one is not None
    assert other == LocalCost(one.flops_per_sample, one.memory_bytes + 8)


class _LooksAtValues(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x if float(x.sum()) > 0 else -x)


def test_a_model_that_needs_values_has_no_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    """Empty cells, and nothing is raised; the log and the refusal say why, in torch's words."""
    told: list[str] = []
    monkeypatch.setattr(logging.getLogger("leanfed"), "info", lambda words, *values: told.append(words % values))
    costs = Costs(Config(), (5,), torch.float32)
    model = _LooksAtValues(5, 3)
    assert costs.of(model) is None
    assert costs.flops([model, nn.Linear(5, 3)], [10, 20])[0] is None
    assert costs.memory_bytes([model, nn.Linear(5, 3)]) is None
    assert len(told) == 1
    assert re.fullmatch(r"the cost of training is not known: .*item\(\) cannot be called on meta tensors.*", told[0])
    with pytest.raises(
        ConfigError, match=r"operations cannot be counted \(.*item\(\) cannot be called on meta tensors"
    ):
        costs.each([model], [10])


def test_operations_of_each_client_and_the_largest_memory() -> None:
    """Two models; the second call of the same one costs nothing, since its answer is known."""
    costs = Costs(Config(batch_size=4), (5,), torch.float32)
    small, large = nn.Linear(5, 3), nn.Linear(5, 9)
    one, other = costs.of(small), costs.of(large)
    assert one is not None
    assert other is not None
    assert costs.of(nn.Linear(5, 3)) is one
    assert costs.flops([small, large], [10, 7]) == [10 * one.flops_per_sample, 7 * other.flops_per_sample]
    assert costs.memory_bytes([small, large]) == other.memory_bytes


def test_nothing_is_left_behind() -> None:
    """The model, the random numbers and the switch for the CPU's own operators are as before, and nothing is said."""
    model = nn.Sequential(nn.Linear(5, 3), nn.Dropout(0.5))
    before, enabled = torch.get_rng_state(), torch.backends.mkldnn.enabled
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert local_cost(model, (5,), Config()) is not None
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.backends.mkldnn.enabled == enabled
    assert all(torch.equal(tensor, weights[name]) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None and parameter.device.type == "cpu" for parameter in model.parameters())


@pytest.mark.parametrize("samples", [1, 7, 8, 9, 20])
@pytest.mark.parametrize(("epochs", "steps"), [(1, None), (3, None), (None, 1), (None, 2), (None, 11)])
def test_samples_are_those_of_the_batches(samples: int, epochs: int | None, steps: int | None) -> None:
    """Every batch that a client would train on, its samples counted."""
    split = Split(torch.zeros(samples, 1, 2, 2, dtype=torch.uint8), torch.zeros(samples, dtype=torch.int64))
    batches = iterate_batches(
        split,
        torch.arange(samples),
        batch_size=4,
        steps=count_steps(samples, 4, epochs, steps),
        seed=0,
        augment=Augment("none"),
        normalise=Normaliser(split.x),
    )
    config = Config(batch_size=4, local_epochs=epochs, local_steps=steps)
    assert samples_trained(config, [samples]) == [sum(len(y) for _, y in batches)]


def test_in_step_mode_every_rank_takes_as_many_steps_as_the_largest() -> None:
    """Nine samples in batches of 4 are two steps (a single one joins another), six are two, three are one."""
    config = Config(batch_size=4, local_epochs=1, mode="step")
    assert samples_trained(config, [9, 3]) == [9, 6]
