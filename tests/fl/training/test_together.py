"""Several clients at once. Oracle: the same clients one after another, which is what the option leaves out."""

import contextlib
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fl.common.config import Config
from fl.data import Split
from fl.data.augment import Augment
from fl.data.normalise import make_normaliser
from fl.models.state import ModelState
from fl.models.update import Job, Update
from fl.training.engine.accelerated import AcceleratedEngine
from fl.training.engine.plain import PlainEngine
from fl.training.local_model import WholeModel
from fl.training.tasks import Regression
from fl.training.together import reason_for_one
from fl.training.trainer import ClientTrainer, Outcome

_CPU = torch.device("cpu")
_PARTS = (24, 24, 13, 3, 8)
"""Batches of 8, of 5 and of 3 samples, and one, two or three steps an epoch."""


def _layers() -> nn.Sequential:
    return nn.Sequential(nn.Flatten(), nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 4), nn.GELU(), nn.Linear(4, 3))


def _train(config: Config, at_once: int, y: torch.Tensor | None = None, loss: Any = F.cross_entropy) -> list[Outcome]:
    """Clients of so many samples as `_PARTS` says, in round 2."""
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(sum(_PARTS), 2, 3, generator=generator)
    data = Split(x, torch.arange(len(x)) % 3 if y is None else y)
    torch.manual_seed(0)
    network = _layers()
    if loss is not F.cross_entropy:
        network[-1] = nn.Linear(4, 1)
    network[1].weight.requires_grad_(False)
    engine = PlainEngine(config, network, _CPU, loss)
    whole = WholeModel(engine, ModelState(engine.model, _CPU))
    parts = list(torch.arange(len(x)).split(list(_PARTS)))
    trainer = ClientTrainer(
        config, data, parts, augment=Augment("none"), normalise=make_normaliser(x), seed=3, at_once=at_once
    )
    found = trainer.train_many(range(len(parts)), lambda client: (Job(client, 2, 2), whole), contextlib.nullcontext())
    numbers, outcomes = zip(*found, strict=True)
    assert numbers == tuple(range(len(parts)))
    return list(outcomes)


def _updates(outcomes: list[Outcome]) -> list[Update]:
    assert not any(isinstance(each, BaseException) for each in outcomes), outcomes
    return [each[1] for each in outcomes]  # type: ignore[index]


@pytest.mark.parametrize(
    "options",
    [
        {"momentum": 0.9, "weight_decay": 0.01, "lr": 0.1},
        {"momentum": 0.0, "clip_norm": 0.05, "lr": 0.5},
        {"optimizer": "adam", "weight_decay": 0.01},
        {"optimizer": "adamw", "clip_norm": 0.1, "lr_schedule": "cosine"},
        {"local_epochs": None, "local_steps": 5},
        {"precision": "bf16", "lr": 0.5},
    ],
    ids=["sgd", "clipped", "adam", "adamw", "steps", "bf16"],
)
def test_updates_are_those_of_one_after_another(options: dict[str, Any]) -> None:
    """But for rounding; and to the bit those of training them at once again. The seconds are shared out by steps."""
    config = Config(**{"precision": "fp32", "batch_size": 8, "local_epochs": 2, **options})
    single, many, again = (_updates(_train(config, each)) for each in (1, 3, 3))
    tolerance = {"rtol": 1e-4, "atol": 1e-6} if config.precision == "fp32" else {"rtol": 0.1, "atol": 2e-3}
    for one, other, same in zip(single, many, again, strict=True):
        assert (one.client, one.samples, one.moved) == (other.client, other.samples, other.moved)
        assert one.values.abs().max() > 10 * tolerance["atol"]
        torch.testing.assert_close(other.values, one.values, **tolerance)
        assert other.train_loss == pytest.approx(one.train_loss, rel=tolerance["rtol"])
        assert other.values.equal(same.values)
        assert other.train_loss == same.train_loss
    assert many[0].train_s == many[1].train_s > 0


def test_numbers_to_predict() -> None:
    """The loss of regression, which is in the unit of the targets."""
    config = Config(precision="fp32", batch_size=8, local_epochs=1)
    y, task = torch.arange(sum(_PARTS)).float(), Regression(30.0, 20.0)
    single, many = (_updates(_train(config, each, y, task.loss)) for each in (1, 8))
    for one, other in zip(single, many, strict=True):
        torch.testing.assert_close(other.values, one.values, rtol=1e-4, atol=1e-6)


def test_a_client_that_fails_fails_alone() -> None:
    """A target that is no class: what it raises is its own outcome, and the others have theirs."""
    config = Config(precision="fp32", batch_size=8, local_epochs=1)
    y = torch.arange(sum(_PARTS)) % 3
    y[30] = 7  # the second client's
    outcomes = _train(config, 8, y)
    assert isinstance(outcomes.pop(1), IndexError)
    single = _train(config, 1, y)
    del single[1]
    for one, other in zip(_updates(single), _updates(outcomes), strict=True):
        assert other.values.equal(one.values)


def test_a_client_that_diverges_diverges_alone() -> None:
    """Weights that become infinite, for a target that is nearly so, stay out of the others."""
    config = Config(precision="fp32", batch_size=8, local_epochs=3)
    y = torch.arange(sum(_PARTS)).float()
    y[30] = 3e38
    updates = _updates(_train(config, 8, y, Regression(30.0, 20.0).loss))
    assert [bool(each.values.isfinite().all()) for each in updates] == [True, False, True, True, True]


def _hooked() -> nn.Module:
    network = _layers()
    network[1].register_forward_hook(lambda module, inputs, outputs: outputs * 2)
    return network


def _observed() -> nn.Module:
    network = _layers()
    network[1].weight.register_hook(lambda grad: grad * 2)
    return network


class _Own(nn.Sequential):
    """Whose forward may do anything."""


@pytest.mark.parametrize(
    ("network", "options", "reason"),
    [
        (nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4)), {}, "a BatchNorm1d"),
        (nn.Sequential(nn.Linear(6, 4), nn.Dropout(0.5)), {}, "a Dropout"),
        (nn.Sequential(nn.Conv1d(2, 3, 1), nn.Flatten()), {}, "a Conv1d"),
        (_Own(nn.Linear(6, 4)), {}, "a _Own"),
        (nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(6, 4))), {}, "a ParametrizedLinear"),
        (nn.Sequential(nn.Linear(400, 400)), {}, "160,400 parameters"),
        (_hooked(), {}, "has hooks"),
        (_observed(), {}, "a hook on a parameter"),
        (_layers(), {"algorithm": "fedprox:0.1"}, "--algorithm fedprox:0.1"),
        (_layers(), {"prune": "magnitude:0.5"}, "--prune magnitude:0.5"),
        (_layers(), {"lr_schedule": "constant:warmup=5"}, "--lr-schedule constant:warmup=5"),
        (_layers(), {"accumulate": 2}, "--accumulate 2"),
        (_layers(), {"local_state": "keep"}, "--local-state keep"),
        (_layers(), {"ranks_per_client": 2}, "--ranks-per-client 2"),
        (_layers(), {"precision": "fp16"}, "--precision fp16"),
        (_layers(), {}, ""),
    ],
)
def test_what_trains_one_at_a_time(network: nn.Module, options: dict[str, Any], reason: str) -> None:
    """Whatever looks at single clients, draws, or remembers; the sentence names it."""
    config = Config(**{"precision": "fp32", **options})
    found = reason_for_one(config, PlainEngine(config, network, _CPU))
    assert reason in found
    assert bool(reason) == bool(found)


def test_other_engines_train_one_at_a_time() -> None:
    """Accelerate's."""
    config = Config(precision="fp32", engine="accelerate")
    assert "--engine accelerate" in reason_for_one(config, AcceleratedEngine(config, _layers(), _CPU))
