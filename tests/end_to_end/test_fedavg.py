"""A whole run against FedAvg (McMahan et al. 2017, Algorithm 1) written out here, with its own SGD."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from fl.common.seeds import derive_seed
from fl.data.batches import count_steps, iterate_batches
from fl.training.worker import Worker
from tests.support import make_worker, on_ranks, run_here

_OPTIONS = {
    "clients": 4,
    "rounds": 3,
    "local_epochs": 2,
    "batch_size": 24,
    "lr": 0.02,
    "momentum": 0.9,
    "weight_decay": 1e-3,
    "limit_train": 300,
    "partition": "quantity:0.7",
    "uplink": "none",
    "server": "fedavg",
    "server_lr": 1.0,
}


def fedavg(worker: Worker) -> dict[str, Tensor]:
    """The weights after all rounds. Taken over from the program: the first weights, the parts, and their batches."""
    config, model = worker.config, worker.engine.model
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    everything = sum(len(part) for part in worker.parts)
    for round_ in range(config.rounds):
        mean = {name: torch.zeros_like(tensor, dtype=torch.float64) for name, tensor in weights.items()}
        for client, part in enumerate(worker.parts):
            model.load_state_dict(weights)
            model.train()
            velocity = [torch.zeros_like(parameter) for parameter in model.parameters()]
            for x, y in iterate_batches(
                worker.train,
                part,
                batch_size=config.batch_size,
                steps=count_steps(len(part), config.batch_size, config.local_epochs, None),
                seed=derive_seed(config.seed, "batches", round_, client),
                augment=worker.augment,
                normalise=worker.normalise,
            ):
                loss = -model(x).log_softmax(1)[torch.arange(len(y)), y].mean()
                gradients = torch.autograd.grad(loss, list(model.parameters()))
                with torch.no_grad():
                    for p, g, v in zip(model.parameters(), gradients, velocity, strict=True):
                        v.copy_(config.momentum * v + g + config.weight_decay * p)
                        p -= config.lr * v
            for name, tensor in model.state_dict().items():
                mean[name] += tensor.double() * len(part) / everything
        weights = {name: tensor.to(weights[name].dtype) for name, tensor in mean.items()}
    return weights


@pytest.mark.parametrize("model", ["lenet5", "tests.user_code:norm_model"])
def test_a_run_without_compression_is_fedavg(tmp_path: Path, model: str) -> None:
    """Weights, and BatchNorm's statistics where there are any, are equal up to fp32 rounding."""
    options = {**_OPTIONS, "model": model}
    run_here(tmp_path, "run", **options)
    on_ranks(1, _compare, tmp_path / "run" / "final_model.safetensors", options)


def _compare(rank: int, world_size: int, path: Path, options: dict[str, object]) -> None:
    worker = make_worker(**options)
    first = {name: tensor.clone() for name, tensor in worker.engine.model.state_dict().items()}
    expected, actual = fedavg(worker), load_file(path)
    assert expected.keys() == actual.keys()
    for name, tensor in expected.items():
        if not name.endswith("num_batches_tracked"):
            torch.testing.assert_close(actual[name], tensor, rtol=1e-5, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}")
    moved = max(float((first[name] - tensor).abs().max()) for name, tensor in expected.items() if tensor.ndim > 1)
    assert moved > 0.01, "the comparison means nothing unless training moved the weights"
